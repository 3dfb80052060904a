//! When two JSON-RPC ids are the same.

use std::borrow::Cow;

/// Whether two raw JSON ids are equal (JSON-RPC 2.0, section 4). A string may be escaped in several ways.
pub fn is_same_id(one: &[u8], other: &[u8]) -> bool {
    one == other || canonical_id(one) == canonical_id(other)
}

/// Returns the canonical form of a raw JSON id: equal ids have the same canonical form, byte for byte. A string
/// is written with the fewest escapes; anything else stays as it is, since peers return a number as it was written.
pub(super) fn canonical_id(raw: &[u8]) -> Cow<'_, [u8]> {
    // Without escapes there is one way to write a string. Nearly all ids are numbers or plain strings.
    if memchr::memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let text = serde_json::from_slice::<String>(raw);
    text.and_then(|text| serde_json::to_vec(&text)).map_or(Cow::Borrowed(raw), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_compared_by_value() {
        let check = |one: &str, other: &str, expected: bool| {
            assert_eq!(is_same_id(one.as_bytes(), other.as_bytes()), expected, "{one} {other}");
            assert_eq!(is_same_id(other.as_bytes(), one.as_bytes()), expected, "{other} {one}");
        };
        check("1", "1", true);
        check("1", "\"1\"", false);
        check("1", "1.0", false);
        check("null", "\"null\"", false);
        check("9007199254740993", "9007199254740992", false);
        check(r#""a""#, r#""\u0061""#, true);
        check(r#""a""#, r#""b""#, false);
        check(r#""req/1""#, r#""req\/1""#, true);
        check(r#""\n\"""#, r#""\u000a\u0022""#, true);
        check(r#""\u00e9""#, r#""é""#, true);
        check(r#""\ud83d\ude00""#, r#""😀""#, true);
        // No text, so only itself.
        check(r#""\ud800""#, r#""\ud800""#, true);
        check(r#""\ud800""#, r#""\uD800""#, false);
        check("", "", true);
    }

    #[test]
    fn canonical_ids_have_no_needless_escapes() {
        let check = |raw: &str, expected: &str| {
            let canonical = canonical_id(raw.as_bytes());
            assert_eq!(canonical, expected.as_bytes(), "{raw}");
            assert_eq!(canonical_id(&canonical), canonical, "{raw}: twice");
        };
        for same in
            ["1", "1.0", "-0", "1e2", "null", "\"1\"", "\"\"", "\"\u{7f}é\"", "\"\\\"\"", "\"\\n\"", "", "\\"]
        {
            check(same, same);
        }
        check(r#""\u0061\/b""#, r#""a/b""#);
        check(r#""\u0022\u005c\u0008""#, r#""\"\\\b""#);
        check(r#""\ud800""#, r#""\ud800""#);
    }
}
