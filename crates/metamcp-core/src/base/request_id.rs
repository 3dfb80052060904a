//! The id of a request in the log and for its client.

use std::fmt;

use super::hex::write_hex;

/// Identifies a message in the log, in the header `X-Request-Id` of errors, and in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Unix time in seconds.
    pub second: u64,
    pub worker: usize,
    /// Counts the ids of the worker.
    pub count: u64,
}

impl RequestId {
    /// Appends the text of the id, as `Display` writes it.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        write_hex(out, self.second, 1);
        out.push(b'-');
        write_hex(out, self.worker as u64, 1);
        out.push(b'-');
        write_hex(out, self.count, 1);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.second, self.worker, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_are_the_same() {
        for (second, worker, count) in [(0, 0, 0), (1_785_240_000, 15, 16), (u64::MAX, usize::MAX, u64::MAX)]
        {
            let id = RequestId { second, worker, count };
            let mut text = Vec::new();
            id.append_to(&mut text);
            assert_eq!(String::from_utf8(text).unwrap(), id.to_string());
        }
    }
}
