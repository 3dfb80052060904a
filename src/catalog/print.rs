//! Fingerprints of tool definitions: whether a definition has changed, and whether its texts contain
//! invisible characters.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::merge::Item;
use super::retold::Members;
use metamcp_core::frame::DEPTH_MAX;

/// A tool as its server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTool {
    /// The server's own name of the tool.
    pub name: String,
    pub print: Print,
    /// The invisible characters in its texts; see [`is_invisible`].
    pub odd: BTreeSet<char>,
}

/// The SHA-256 digest of a tool definition, and a short digest of each part, which tells what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Print {
    digest: [u8; DIGEST_BYTES],
    parts: [[u8; PART_BYTES]; PARTS.len()],
}

/// The text is not a fingerprint.
#[derive(Debug, thiserror::Error)]
#[error("it is not the print of a tool")]
pub struct NotAPrint;

/// The parts that a model receives. Icons and `_meta` may change.
const PARTS: [&str; 5] = ["title", "description", "inputSchema", "outputSchema", "annotations"];

const DIGEST_BYTES: usize = 32;

/// Enough to tell which of five parts changed when the whole digest differs.
const PART_BYTES: usize = 8;

impl SeenTool {
    /// Reads a list item; `None` if it is not an object.
    pub fn read(item: &Item) -> Option<Self> {
        let Members(members) = serde_json::from_slice(&item.raw).ok()?;
        let mut odd = BTreeSet::new();
        // A duplicate member counts twice: readers differ in which of the two they take.
        let told: Vec<_> = members
            .iter()
            .filter(|(name, _)| name == "name" || PARTS.contains(&name.as_ref()))
            .map(|(name, value)| (name.as_ref(), canonical(value.get(), &mut odd)))
            .collect();
        let of = |name: &str| {
            let mut hash = Sha256::new();
            for (_, value) in told.iter().filter(|(other, _)| *other == name) {
                hash.update((value.len() as u64).to_le_bytes());
                hash.update(value);
            }
            hash.finalize()
        };
        let mut whole = Sha256::new();
        whole.update(of("name"));
        let mut parts = [[0; PART_BYTES]; PARTS.len()];
        for (part, name) in parts.iter_mut().zip(PARTS) {
            let digest = of(name);
            whole.update(digest);
            part.copy_from_slice(&digest[..PART_BYTES]);
        }
        let print = Print { digest: whole.finalize().into(), parts };
        Some(Self { name: item.key.clone(), print, odd })
    }
}

impl Print {
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

impl From<Print> for String {
    fn from(print: Print) -> Self {
        hex(&print.digest) + ":" + &hex(print.parts.as_flattened())
    }
}

impl TryFrom<String> for Print {
    type Error = NotAPrint;

    fn try_from(text: String) -> Result<Self, NotAPrint> {
        let (digest, parts) = text.split_once(':').ok_or(NotAPrint)?;
        let mut print = Self { digest: [0; DIGEST_BYTES], parts: [[0; PART_BYTES]; PARTS.len()] };
        unhex(digest, &mut print.digest).ok_or(NotAPrint)?;
        unhex(parts, print.parts.as_flattened_mut()).ok_or(NotAPrint)?;
        Ok(print)
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
pub fn is_odd(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e01ef}')
}

/// An object or array that is not closed yet.
enum Open {
    Array(Vec<u8>),
    /// The members, and the name of the next one.
    Object(Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>),
}

/// Returns the canonical form of a JSON text: no white space, members sorted by name, strings without
/// needless escapes, numbers as written. A value that is nested deeper than [`DEPTH_MAX`] stays as written.
fn canonical(text: &str, odd: &mut BTreeSet<char>) -> Vec<u8> {
    let mut open: Vec<Open> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let (value, len) = match first {
            b'{' | b'[' if open.len() == DEPTH_MAX => {
                odd.extend(text.chars().filter(|c| is_odd(*c)));
                return text.into();
            }
            b'{' => {
                open.push(Open::Object(Vec::new(), None));
                (None, 1)
            }
            b'[' => {
                open.push(Open::Array(Vec::new()));
                (None, 1)
            }
            b'}' | b']' => (open.pop().map(Open::close), 1),
            b'"' => {
                let len = string_len(rest);
                (Some(string(&rest[..len], odd)), len)
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
            Some(whole) => whole.take(value),
            None => return value,
        }
    }
    // Not JSON. Cannot happen: the list was parsed before.
    text.into()
}

impl Open {
    fn take(&mut self, value: Vec<u8>) {
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

fn string(written: &str, odd: &mut BTreeSet<char>) -> Vec<u8> {
    // Half of a surrogate pair is not text; it stays as written.
    let Ok(text) = serde_json::from_str::<String>(written) else { return written.into() };
    odd.extend(text.chars().filter(|c| is_odd(*c)));
    serde_json::to_vec(&text).unwrap_or_else(|_| written.into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(json: &str) -> SeenTool {
        let item = Item {
            key: "t".to_owned(),
            raw: Bytes::copy_from_slice(json.as_bytes()),
            key_start: 0,
            key_end: 0,
        };
        SeenTool::read(&item).expect("an object")
    }

    /// Which parts of two tools differ; `None`: they are the same.
    #[track_caller]
    fn check(one: &str, other: &str, expected: Option<&[&str]>) {
        let (one, other) = (read(one).print, read(other).print);
        let found = (one != other).then(|| other.changed_since(&one));
        assert_eq!(found.as_deref(), expected);
        assert_eq!(Print::try_from(String::from(one)).expect("as it was written"), one);
    }

    #[test]
    fn what_says_the_same_is_the_same() {
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
    fn what_is_deep_or_torn_is_told_apart_all_the_same() {
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
            assert!(Print::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_nobody_sees_is_found() {
        let check = |json: &str, expected: &str| {
            let found: String = read(json).odd.into_iter().collect();
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
