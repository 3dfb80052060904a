//! Requests on one connection: the cuts between reads make no difference.

use crate::http1::{MalformedRequest, read_all};

/// Places at which an input is cut.
const CUTS: usize = 32;

/// Reads all requests, whole and in pieces.
pub fn requests(input: &[u8]) {
    let whole = read_all(input, usize::MAX);
    for at_a_time in [1, 2, 7] {
        assert_eq!(read_all(input, at_a_time), whole, "{at_a_time} bytes at a time");
    }
    // A long input is cut at a few places only, for a bounded time.
    for at in (1..input.len()).step_by(1 + input.len() / CUTS) {
        assert_eq!(read_all(input, at), whole, "{at} bytes at a time");
        let (seen, refused) = read_all(&input[..at], usize::MAX);
        assert!(whole.0.starts_with(&seen), "what is seen of the beginning is the beginning");
        assert!(refused.is_none() || refused == whole.1, "what was refused stays refused");
    }
    check_refusal(input, &whole.0, whole.1);
}

/// What is seen is a part of the input, and the reason has a text.
fn check_refusal(input: &[u8], seen: &[u8], refused: Option<MalformedRequest>) {
    assert!(seen.len() <= input.len());
    let mut rest = input.iter();
    assert!(seen.iter().all(|byte| rest.any(|other| other == byte)), "nothing is added");
    assert!(refused.is_none_or(|malformed| !malformed.as_str().is_empty()));
}
