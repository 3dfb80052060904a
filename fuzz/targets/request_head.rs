#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp::server::fuzz::request_head(bytes));
