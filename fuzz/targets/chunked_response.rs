#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp_http::client::fuzz::chunked_response(bytes));
