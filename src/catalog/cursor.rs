//! Stateless page cursors: every replica can read them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::list::ListKind;

/// Longer than any cursor of the gateway (a key has at most [`super::list::KEY_BYTES_MAX`] bytes).
const CURSOR_BYTES_MAX: usize = 4096;

/// Returns the cursor of the page that begins after this key.
pub fn encode(kind: ListKind, last_key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}{last_key}", kind.cursor_letter()))
}

/// Returns the key after which the page begins; `None` if the text is not a cursor of this list.
pub fn parse(kind: ListKind, cursor: &str) -> Option<String> {
    if cursor.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    plain.strip_prefix(kind.cursor_letter()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_belong_to_one_list() {
        let cursor = encode(ListKind::Tools, "a__ö");
        assert_eq!(parse(ListKind::Tools, &cursor), Some("a__ö".to_owned()));
        assert_eq!(parse(ListKind::Prompts, &cursor), None);
        assert_eq!(parse(ListKind::Tools, ""), None);
        assert_eq!(parse(ListKind::Tools, "!!"), None);
        assert_eq!(parse(ListKind::Tools, &"A".repeat(5000)), None);
    }
}
