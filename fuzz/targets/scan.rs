#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    metamcp_core::frame::fuzz::scan(bytes);
    metamcp_core::protocol::texts_agree(bytes);
});
