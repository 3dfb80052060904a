#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp::catalog::fuzz::cursor(bytes));
