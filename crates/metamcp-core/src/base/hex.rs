/// Appends a number in hexadecimal, with at least `digits_min` digits, up to 16. As [`super::write_decimal`], for lines that are
/// written for every call.
pub fn write_hex(out: &mut Vec<u8>, number: u64, digits_min: usize) {
    const DIGITS_MAX: usize = 16;
    let mut digits = [b'0'; DIGITS_MAX];
    let mut rest = number;
    let mut start = DIGITS_MAX;
    while rest > 0 {
        start -= 1;
        digits[start] = b"0123456789abcdef"[(rest % 16) as usize];
        rest /= 16;
    }
    out.extend_from_slice(&digits[start.min(DIGITS_MAX.saturating_sub(digits_min))..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_hexadecimal() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 0x1234_5678, u64::from(u32::MAX), u64::MAX] {
            let written = |digits_min| {
                let mut out = b"x".to_vec();
                write_hex(&mut out, number, digits_min);
                String::from_utf8(out).unwrap()
            };
            assert_eq!(written(1), format!("x{number:x}"));
            assert_eq!(written(2), format!("x{number:02x}"));
            assert_eq!(written(99), format!("x{number:016x}"));
        }
    }
}
