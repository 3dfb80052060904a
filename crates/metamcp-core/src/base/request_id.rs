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
    /// Appends the text of the id: three numbers in hexadecimal, with hyphens between them.
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
        let mut text = Vec::new();
        self.append_to(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_three_numbers() {
        let check = |second, worker, count, expected: &str| {
            assert_eq!(RequestId { second, worker, count }.to_string(), expected);
        };
        check(0, 0, 0, "0-0-0");
        check(0x6a68_99c0, 15, 16, "6a6899c0-f-10");
        check(u64::MAX, usize::MAX, u64::MAX, "ffffffffffffffff-ffffffffffffffff-ffffffffffffffff");
    }
}
