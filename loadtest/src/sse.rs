//! Event streams: bytes in any pieces, the `data` of each event out. Knows nothing of MCP.

use crate::answer::{Kind, Wrong};

/// Takes pieces, keeps what is not whole yet.
#[derive(Debug, Default)]
pub struct Events {
    /// The line under way.
    line: Vec<u8>,
    /// The data of the event under way.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was `\r`, which may be half of `\r\n`.
    after_return: bool,
}

/// One event; as long as the longest answer.
pub const EVENT_BYTES_MAX: usize = 64 << 20;

impl Events {
    /// Takes the next piece; gives the data of each event that ends in it.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut event: impl FnMut(&[u8]) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let completes_return = self.after_return && end == 0 && bytes[0] == b'\n';
            self.after_return = bytes[end] == b'\r';
            if !completes_return {
                self.take(&bytes[..end])?;
                self.line_ends(&mut event)?;
            }
            bytes = &bytes[end + 1..];
        }
        if !bytes.is_empty() {
            self.after_return = false;
        }
        self.take(bytes)
    }

    /// An event is under way that has not ended.
    pub fn is_partial(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        if self.line.len() + self.data.len() + bytes.len() > EVENT_BYTES_MAX {
            let text = format!("an event is longer than {EVENT_BYTES_MAX} bytes");
            return Err(Wrong::new(Kind::Malformed, text));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn line_ends(&mut self, event: &mut impl FnMut(&[u8]) -> Result<(), Wrong>) -> Result<(), Wrong> {
        if self.line.is_empty() {
            let whole = std::mem::take(&mut self.has_data);
            let data = std::mem::take(&mut self.data);
            return if whole { event(&data) } else { Ok(()) };
        }
        if let Some(value) = self.line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed whole, byte by byte, and cut in two at every offset, the events are the same.
    #[track_caller]
    fn check(stream: &str, expected: &[&str], partial: bool) {
        let read = |pieces: &[&[u8]]| {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for piece in pieces {
                let keep = |data: &[u8]| {
                    found.push(String::from_utf8(data.to_vec()).unwrap());
                    Ok(())
                };
                events.feed(piece, keep).unwrap();
            }
            (found, events.is_partial())
        };
        let right = (expected.iter().map(|data| (*data).to_owned()).collect::<Vec<_>>(), partial);
        let bytes = stream.as_bytes();
        assert_eq!(read(&[bytes]), right, "{stream:?}");
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), right, "{stream:?} byte by byte");
        for cut in 0..bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), right, "{stream:?} cut at {cut}");
        }
    }

    #[test]
    fn events_end_with_an_empty_line() {
        check("data: a\n\ndata:b\n\n", &["a", "b"], false);
        check("event: message\r\nid: 1\r\ndata: a\r\n\r\n", &["a"], false);
        check("data: a\r\rdata: b\r\r", &["a", "b"], false);
        check("data: a\ndata: b\n\n", &["a\nb"], false);
        check(": keep-alive\n\nid: 3\n\ndata:\n\n", &[""], false);
        check("data: a\n\ndata: b\n", &["a"], true);
        check("data: a", &[], true);
    }
}
