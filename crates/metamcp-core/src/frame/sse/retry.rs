//! The value of a `retry` line.

/// The milliseconds; `None` unless all of it are ASCII digits (WHATWG HTML, 9.2.6). A number that is too large is the largest.
pub fn parse_milliseconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |&byte: &u8| u64::from(byte - b'0');
    Some(value.iter().map(digit).fold(0, |all, digit| all.saturating_mul(10).saturating_add(digit)))
}
