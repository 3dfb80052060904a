//! JSON with the comments and trailing commas that editors allow.

/// Replaces comments and trailing commas with spaces, so that line numbers are preserved.
pub fn strip_comments(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    let mut comma = None;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'"', _) => {
                comma = None;
                at = string_end(&bytes, at);
                continue;
            }
            (b'/', Some(b'/')) => {
                let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
                bytes[at..end].fill(b' ');
                at = end;
                continue;
            }
            (b'/', Some(b'*')) => {
                let end = memchr::memmem::find(&bytes[at + 2..], b"*/").map_or(bytes.len(), |n| at + n + 4);
                bytes[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
                continue;
            }
            (b',', _) => comma = Some(at),
            (b'}' | b']', _) => {
                if let Some(comma) = comma.take() {
                    bytes[comma] = b' ';
                }
            }
            (byte, _) if !byte.is_ascii_whitespace() => comma = None,
            _ => {}
        }
        at += 1;
    }
    // Lossless: only complete comments and commas were replaced, so the text is still UTF-8.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the offset after the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_comments_and_trailing_commas() {
        let check = |text: &str, expected: &str| {
            let stripped = strip_comments(text);
            assert_eq!(stripped.len(), text.len());
            assert_eq!(stripped.split_whitespace().collect::<String>(), expected, "{text}");
        };
        check(r#"{"a": 1}"#, r#"{"a":1}"#);
        check("{\"a\": 1, // one, }\n}", r#"{"a":1}"#);
        check("{/* , */\"a\": [1, 2, /* 3 */ ], }", r#"{"a":[1,2]}"#);
        check(r#"{"a": "//no /*comment*/ ,}"}"#, r#"{"a":"//no/*comment*/,}"}"#);
        check(r#"{"a": "\"//",}"#, r#"{"a":"\"//"}"#);
        check("// ä\n{}", "{}");
        check("{} /* open", "{}");
        check("/*/", "");
        check("\"\\", "\"\\");
    }
}
