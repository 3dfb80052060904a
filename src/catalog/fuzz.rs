//! The body of the fuzz target for page cursors. It panics if an invariant does not hold.

use super::cursor::{encode, parse};
use super::list::ListKind;

const KINDS: [ListKind; 4] = [ListKind::Tools, ListKind::Prompts, ListKind::Resources, ListKind::Templates];

/// Parses any text, which is a cursor of one list at most and in one form only, and makes a cursor of any key.
pub fn cursor(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let found: Vec<_> = KINDS.iter().filter_map(|kind| Some((*kind, parse(*kind, &text)?))).collect();
    assert!(found.len() <= 1, "{text:?} is a cursor of several lists");
    for (kind, key) in found {
        assert_eq!(encode(kind, &key), text, "a cursor has one form");
    }
    // As long as the longest key that a cursor is made of.
    let key: String = text.chars().take(KEY_CHARS_MAX).collect();
    for kind in KINDS {
        for other in KINDS {
            let expected = (other.cursor_letter() == kind.cursor_letter()).then(|| key.clone());
            assert_eq!(parse(other, &encode(kind, &key)), expected);
        }
    }
}

/// Four bytes for each character stay below the limit of a cursor, encoded.
const KEY_CHARS_MAX: usize = 700;

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        metamcp_core::fuzz::run_corpus("cursor", super::cursor);
    }
}
