#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    metamcp_core::frame::fuzz::generated(bytes);
});
