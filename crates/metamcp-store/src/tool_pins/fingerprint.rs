//! Fingerprints of tool definitions: whether a definition has changed, and whether its texts contain
//! invisible characters.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use metamcp_core::frame::DEPTH_MAX;

use super::raw_members::RawMembers;

/// A tool as its server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTool {
    /// The server's own name of the tool.
    pub name: String,
    pub fingerprint: ToolFingerprint,
    /// The invisible characters in its texts: those that a person does not see and a model reads.
    pub invisible_chars: BTreeSet<char>,
}

/// The SHA-256 digest of a tool definition, and a short digest of each part, which tells what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ToolFingerprint {
    digest: [u8; DIGEST_BYTES],
    parts: [[u8; PART_BYTES]; PARTS.len()],
}

/// The text is not a fingerprint.
#[derive(Debug, thiserror::Error)]
#[error("the text is not a tool fingerprint")]
pub struct InvalidFingerprint;

/// The parts that a model receives. Icons and `_meta` may change.
const PARTS: [&str; 5] = ["title", "description", "inputSchema", "outputSchema", "annotations"];

/// Code points that are listed of one tool.
const CODE_POINTS_MAX: usize = 20;

const DIGEST_BYTES: usize = 32;

/// Enough to tell which of five parts changed when the whole digest differs.
const PART_BYTES: usize = 8;

impl ListedTool {
    /// Reads the definition of a tool as listed; `None` if it is not an object.
    pub fn parse(name: &str, definition: &[u8]) -> Option<Self> {
        let RawMembers(members) = serde_json::from_slice(definition).ok()?;
        let mut invisible_chars = BTreeSet::new();
        // A duplicate member counts twice: readers differ in which of the two they take.
        let canonical: Vec<_> = members
            .iter()
            .filter(|(name, _)| name == "name" || PARTS.contains(&name.as_ref()))
            .map(|(name, value)| (name.as_ref(), canonicalize(value.get(), &mut invisible_chars)))
            .collect();
        let digest_of = |name: &str| {
            let mut hash = Sha256::new();
            for (_, value) in canonical.iter().filter(|(other, _)| *other == name) {
                hash.update((value.len() as u64).to_le_bytes());
                hash.update(value);
            }
            hash.finalize()
        };
        let mut whole = Sha256::new();
        whole.update(digest_of("name"));
        let mut parts = [[0; PART_BYTES]; PARTS.len()];
        for (part, name) in parts.iter_mut().zip(PARTS) {
            let digest = digest_of(name);
            whole.update(digest);
            part.copy_from_slice(&digest[..PART_BYTES]);
        }
        let fingerprint = ToolFingerprint { digest: whole.finalize().into(), parts };
        Some(Self { name: name.to_owned(), fingerprint, invisible_chars })
    }
}

impl ToolFingerprint {
    /// Returns the digest as hexadecimal text.
    pub fn digest(&self) -> String {
        hex(&self.digest)
    }

    /// Returns the names of the parts that differ.
    pub fn changed_since(&self, before: &Self) -> Vec<&'static str> {
        let pairs = self.parts.iter().zip(&before.parts).zip(PARTS);
        pairs.filter(|((one, other), _)| one != other).map(|(_, name)| name).collect()
    }
}

impl From<ToolFingerprint> for String {
    fn from(fingerprint: ToolFingerprint) -> Self {
        hex(&fingerprint.digest) + ":" + &hex(fingerprint.parts.as_flattened())
    }
}

impl TryFrom<String> for ToolFingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: String) -> Result<Self, InvalidFingerprint> {
        let (digest, parts) = text.split_once(':').ok_or(InvalidFingerprint)?;
        let mut fingerprint = Self { digest: [0; DIGEST_BYTES], parts: [[0; PART_BYTES]; PARTS.len()] };
        unhex(digest, &mut fingerprint.digest).ok_or(InvalidFingerprint)?;
        unhex(parts, fingerprint.parts.as_flattened_mut()).ok_or(InvalidFingerprint)?;
        Ok(fingerprint)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str, to: &mut [u8]) -> Option<()> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != to.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in to.iter_mut().zip(pairs) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(())
}

/// Whether a person does not see a character that a model reads: control characters except line breaks and
/// tabs, characters that change the writing direction, characters without width, tags, and variation
/// selectors that carry hidden bytes. Emoji are joined by a character without width; it counts as well.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e01ef}')
}

/// Returns the code points of invisible characters, as people look them up. At most `CODE_POINTS_MAX`.
pub fn format_code_points(invisible_chars: &BTreeSet<char>) -> Vec<String> {
    invisible_chars.iter().take(CODE_POINTS_MAX).map(|c| format!("U+{:04X}", u32::from(*c))).collect()
}

/// An object or array that is not closed yet.
enum OpenContainer {
    Array(Vec<u8>),
    /// The members, and the name of the next one.
    Object(Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>),
}

/// Returns the canonical form of a JSON text: no white space, members sorted by name, strings without
/// needless escapes, numbers as written. A value that is nested deeper than [`DEPTH_MAX`] stays as written.
fn canonicalize(text: &str, invisible_chars: &mut BTreeSet<char>) -> Vec<u8> {
    let mut open: Vec<OpenContainer> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let (value, len) = match first {
            b'{' | b'[' if open.len() == DEPTH_MAX => {
                invisible_chars.extend(text.chars().filter(|c| is_invisible(*c)));
                return text.into();
            }
            b'{' => {
                open.push(OpenContainer::Object(Vec::new(), None));
                (None, 1)
            }
            b'[' => {
                open.push(OpenContainer::Array(Vec::new()));
                (None, 1)
            }
            b'}' | b']' => (open.pop().map(OpenContainer::close), 1),
            b'"' => {
                let len = string_len(rest);
                (Some(canonical_string(&rest[..len], invisible_chars)), len)
            }
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => (None, 1),
            _ => {
                let len = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
                (Some(rest[..len].into()), len)
            }
        };
        rest = &rest[len..];
        let Some(value) = value else { continue };
        match open.last_mut() {
            Some(container) => container.push(value),
            None => return value,
        }
    }
    // Not JSON. Cannot happen: the list was parsed before.
    text.into()
}

impl OpenContainer {
    fn push(&mut self, value: Vec<u8>) {
        match self {
            Self::Array(items) => {
                if !items.is_empty() {
                    items.push(b',');
                }
                items.extend(value);
            }
            Self::Object(members, name) => match name.take() {
                None => *name = Some(value),
                Some(name) => members.push((name, value)),
            },
        }
    }

    fn close(self) -> Vec<u8> {
        match self {
            Self::Array(items) => [b"[", &items[..], b"]"].concat(),
            Self::Object(mut members, _) => {
                // Stable, so that duplicate members stay in their order.
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                let mut whole = vec![b'{'];
                for (at, (name, value)) in members.iter().enumerate() {
                    whole.extend_from_slice(if at > 0 { b"," } else { b"" });
                    whole.extend_from_slice(name);
                    whole.push(b':');
                    whole.extend_from_slice(value);
                }
                whole.push(b'}');
                whole
            }
        }
    }
}

/// Returns the length of the string that the text begins with, quotes included.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

fn canonical_string(written: &str, invisible_chars: &mut BTreeSet<char>) -> Vec<u8> {
    // Half of a surrogate pair is not text; it stays as written.
    let Ok(text) = serde_json::from_str::<String>(written) else { return written.into() };
    invisible_chars.extend(text.chars().filter(|c| is_invisible(*c)));
    serde_json::to_vec(&text).unwrap_or_else(|_| written.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ListedTool {
        ListedTool::parse("t", json.as_bytes()).expect("an object")
    }

    /// Checks which parts of two tools differ; `None` if they are equal.
    #[track_caller]
    fn check(one: &str, other: &str, expected: Option<&[&str]>) {
        let (one, other) = (read(one).fingerprint, read(other).fingerprint);
        let found = (one != other).then(|| other.changed_since(&one));
        assert_eq!(found.as_deref(), expected);
        assert_eq!(ToolFingerprint::try_from(String::from(one)).expect("as it was written"), one);
    }

    #[test]
    fn equal_definitions_have_equal_fingerprints() {
        let tool = r#"{"name":"t","description":"d","inputSchema":{"a":[1,{"b":2,"c":3}]}}"#;
        check(
            tool,
            r#"{ "inputSchema" : {"a":[1, {"c":3,"b":2} ]}, "description":"\u0064","name":"t"}"#,
            None,
        );
        check(tool, &tool.replace("\"name\"", "\"_meta\":{\"x\":1},\"icons\":[],\"name\""), None);
        check(tool, &tool.replace("\"d\"", "\"D\""), Some(&["description"]));

        check(tool, &tool.replace("[1,", "[1.0,"), Some(&["inputSchema"]));
        check(tool, &tool.replace("[1,{\"b\":2,\"c\":3}]", "[{\"b\":2,\"c\":3},1]"), Some(&["inputSchema"]));
        check(tool, &tool.replace("{\"name\"", "{\"description\":\"x\",\"name\""), Some(&["description"]));
        check(tool, &tool.replace("\"name\":\"t\"", "\"name\":\"u\""), Some(&[]));
        check(tool, &tool.replace("{\"name\"", "{\"title\":\"\",\"name\""), Some(&["title"]));
        let added = "{\"annotations\":{\"readOnlyHint\":true},\"outputSchema\":{},\"name\"";
        check(tool, &tool.replace("{\"name\"", added), Some(&["outputSchema", "annotations"]));
    }

    #[test]
    fn deep_and_broken_texts_are_distinguished() {
        let deep = |inner: &str| {
            let depth = DEPTH_MAX * 1000;
            format!(r#"{{"name":"t","inputSchema":{}{inner}{}}}"#, "[".repeat(depth), "]".repeat(depth))
        };
        check(&deep("1"), &deep("1"), None);
        check(&deep("1"), &deep("2"), Some(&["inputSchema"]));
        let half = |text: &str| format!(r#"{{"name":"t","description":"{text}"}}"#);
        check(&half(r"\ud800"), &half(r"\ud801"), Some(&["description"]));
        check(&half(r#"\\\""#), &half(r#"\\\"\""#), Some(&["description"]));
        for wrong in ["", ":", "00:00", &"0".repeat(145)] {
            assert!(ToolFingerprint::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn invisible_characters_are_found() {
        let check = |json: &str, expected: &str| {
            let found: String = read(json).invisible_chars.into_iter().collect();
            assert_eq!(found, expected, "{}", json.escape_unicode());
        };
        check("{\"name\":\"t\",\"description\":\"line\\n\\ttab, Grüße, ⚠️ 日本\"}", "");
        check(r#"{"name":"t","description":"\u001b[31mred\u202e\u200b\u202e"}"#, "\u{1b}\u{200b}\u{202e}");
        check("{\"name\":\"t\u{feff}\",\"title\":\"\u{e0041}\u{e0100}\"}", "\u{feff}\u{e0041}\u{e0100}");
        let schema = r#"{"name":"t","inputSchema":{"properties":{"a":{"description":"\u2066"},"\u0000":1}}}"#;
        check(schema, "\0\u{2066}");
        check(r#"{"name":"t","_meta":{"x":"\u202e"}}"#, "");
    }
}
