//! The ids under which clients see the requests of one process.
//!
//! Programs count their requests, so a program that was restarted uses the same ids again. A client may answer a request of
//! the process before at that time. So each id carries a tag of its process, and an answer with another tag is for no
//! request of this one.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use metamcp_core::base::unix_seconds;

/// Tags the ids of one process.
pub struct RequestIds {
    /// 64 random bits: no two processes that a client meets have the same.
    tag: String,
}

/// Marks an id that is a string, and one that is a number.
const STRING: char = 's';
const NUMBER: char = 'n';

impl RequestIds {
    /// What an id for the client is longer than that of the process: the tag, the mark and two quotes.
    pub const ADDED_BYTES: usize = 16 + 1 + 2;

    /// With a random tag.
    pub fn new() -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        // Without random bytes, it is at least that of no other process.
        let number = (unix_seconds() << 24).wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed));
        let mut bytes = number.to_ne_bytes();
        let _ = getrandom::fill(&mut bytes);
        let tag = format!("{:016x}", u64::from_ne_bytes(bytes));
        Self { tag }
    }

    /// The raw id for the client, of the raw id that the process gave its request.
    pub fn to_client(&self, id: &[u8]) -> Bytes {
        let (kind, text) = match id.strip_prefix(b"\"").and_then(|id| id.strip_suffix(b"\"")) {
            Some(text) => (STRING, text),
            None => (NUMBER, id),
        };
        [format!("\"{}{kind}", self.tag).as_bytes(), text, b"\""].concat().into()
    }

    /// The raw id that the process gave its request, of the raw id in a client's answer. `None` if this process has given no
    /// such id.
    pub fn to_process(&self, id: &[u8]) -> Option<Bytes> {
        let tagged = id.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let (kind, text) = tagged.strip_prefix(self.tag.as_bytes())?.split_first()?;
        match char::from(*kind) {
            STRING => Some([b"\"", text, b"\""].concat().into()),
            NUMBER => Some(Bytes::copy_from_slice(text)),
            _ => None,
        }
    }
}

#[cfg(test)]
impl RequestIds {
    /// A text in which the tags of this process are left out.
    pub fn untagged(&self, text: &str) -> String {
        text.replace(&format!("{}{STRING}", self.tag), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_one_process() {
        let (ids, others) = (RequestIds::new(), RequestIds::new());
        let mut seen = Vec::new();
        for id in ["1", "\"1\"", "-1.5e3", "\"\"", "\"n1\"", r#""\u0061\"""#] {
            let tagged = ids.to_client(id.as_bytes());
            assert!(serde_json::from_slice::<String>(&tagged).is_ok(), "{id} becomes a string");
            assert_eq!(ids.to_process(&tagged).as_deref(), Some(id.as_bytes()));
            assert_eq!(others.to_process(&tagged), None, "{id} of another process");
            assert!(!seen.contains(&tagged), "{id}");
            seen.push(tagged);
        }
        for id in ["1", "\"1\"", "\"\"", "null"] {
            assert_eq!(ids.to_process(id.as_bytes()), None, "{id}");
        }
    }
}
