#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metamcp::session::fuzz::event_id(bytes));
