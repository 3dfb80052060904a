//! A parser of event streams: takes bytes in any chunks, returns the `data` of each event. Knows nothing of MCP.

use crate::error::{ErrorKind, RequestError};

/// Parses chunks and buffers the event that is not complete.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    /// The data of the incomplete event.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was `\r`, which may be half of `\r\n`.
    after_cr: bool,
}

/// Bytes of one event. The longest response has the same limit.
pub const EVENT_BYTES_MAX: usize = 64 << 20;

impl EventParser {
    /// Parses the next chunk and calls `on_event` with the data of each event that it completes.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_event: impl FnMut(&[u8]) -> Result<(), RequestError>,
    ) -> Result<(), RequestError> {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let completes_crlf = self.after_cr && end == 0 && bytes[0] == b'\n';
            self.after_cr = bytes[end] == b'\r';
            if !completes_crlf {
                self.append(&bytes[..end])?;
                self.end_line(&mut on_event)?;
            }
            bytes = &bytes[end + 1..];
        }
        if !bytes.is_empty() {
            self.after_cr = false;
        }
        self.append(bytes)
    }

    /// Whether the stream ended within an event.
    pub fn is_partial(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        if self.line.len() + self.data.len() + bytes.len() > EVENT_BYTES_MAX {
            let text = format!("an event is longer than {EVENT_BYTES_MAX} bytes");
            return Err(RequestError::new(ErrorKind::Malformed, text));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(
        &mut self,
        on_event: &mut impl FnMut(&[u8]) -> Result<(), RequestError>,
    ) -> Result<(), RequestError> {
        if self.line.is_empty() {
            let has_data = std::mem::take(&mut self.has_data);
            let data = std::mem::take(&mut self.data);
            return if has_data { on_event(&data) } else { Ok(()) };
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

    /// Checks that the events are the same for the whole stream, byte by byte, and split at every offset.
    #[track_caller]
    fn check(stream: &str, expected: &[&str], partial: bool) {
        let read = |chunks: &[&[u8]]| {
            let (mut parser, mut found) = (EventParser::default(), Vec::new());
            for chunk in chunks {
                let keep = |data: &[u8]| {
                    found.push(String::from_utf8(data.to_vec()).unwrap());
                    Ok(())
                };
                parser.feed(chunk, keep).unwrap();
            }
            (found, parser.is_partial())
        };
        let expected = (expected.iter().map(|data| (*data).to_owned()).collect::<Vec<_>>(), partial);
        let bytes = stream.as_bytes();
        assert_eq!(read(&[bytes]), expected, "{stream:?}");
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), expected, "{stream:?} byte by byte");
        for cut in 0..bytes.len() {
            assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), expected, "{stream:?} cut at {cut}");
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
