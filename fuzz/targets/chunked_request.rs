#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp_core::http1::fuzz::chunked_request(bytes));
