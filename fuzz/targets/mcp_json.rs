#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp_config::fuzz::mcp_json(bytes));
