#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp::bridge::fuzz::request_state(bytes));
