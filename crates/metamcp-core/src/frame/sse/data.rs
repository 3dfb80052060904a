//! The data of an event that passes in parts.

use memchr::memchr2;

use super::BYTE_ORDER_MARK;

/// Finds the data in an event too long to be kept (WHATWG HTML, 9.2.6).
#[derive(Debug, Default)]
pub struct DataReader {
    line: LineState,
}

/// The state of the current line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineState {
    /// The first line of a stream, which may begin with a byte order mark. This many bytes of the mark were read.
    Mark(usize),
    /// This many bytes of it, all of them as in [`FIELD`].
    Field(usize),
    Data,
    Other,
}

impl Default for LineState {
    fn default() -> Self {
        Self::Mark(0)
    }
}

const LINE_START: LineState = LineState::Field(0);

/// The start of a line of data. One space after it is no part of the data.
const FIELD: &[u8] = b"data: ";

impl DataReader {
    /// Creates a reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a reader between two events of a stream, where a byte order mark has no meaning (WHATWG HTML, 9.2.6).
    pub fn mid_stream() -> Self {
        Self { line: LINE_START }
    }

    /// Reads the next bytes of the event. Calls `each` with the data in them, and with a line feed after each line of data.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(&first) = bytes.first() {
            match self.line {
                LineState::Mark(read) if BYTE_ORDER_MARK.get(read) == Some(&first) => {
                    self.line = LineState::Mark(read + 1);
                }
                LineState::Mark(read) if read == 0 || read == BYTE_ORDER_MARK.len() => {
                    self.line = LINE_START;
                    continue;
                }
                LineState::Mark(_) | LineState::Field(_) if matches!(first, b'\n' | b'\r') => {
                    self.line = LINE_START;
                }
                LineState::Field(read) if first == FIELD[read] => {
                    let is_whole = read + 1 == FIELD.len();
                    self.line = if is_whole { LineState::Data } else { LineState::Field(read + 1) };
                }
                // The space is optional.
                LineState::Field(read) if read + 1 == FIELD.len() => {
                    self.line = LineState::Data;
                    continue;
                }
                LineState::Mark(_) | LineState::Field(_) => self.line = LineState::Other,
                LineState::Data | LineState::Other => {
                    let end = memchr2(b'\n', b'\r', bytes);
                    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    let is_data = self.line == LineState::Data;
                    if is_data && !line.is_empty() {
                        each(line);
                    }
                    if end.is_some() {
                        if is_data {
                            each(b"\n");
                        }
                        self.line = LINE_START;
                    }
                    bytes = rest.get(1..).unwrap_or_default();
                    continue;
                }
            }
            bytes = &bytes[1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_found_however_the_event_is_cut() {
        let check = |event: &str, expected: &str| {
            let read = |parts: &[&[u8]]| {
                let (mut reader, mut data) = (DataReader::new(), Vec::new());
                for part in parts {
                    reader.push(part, |bytes| data.extend_from_slice(bytes));
                }
                String::from_utf8(data).expect("whole characters")
            };
            let bytes = event.as_bytes();
            assert_eq!(read(&[bytes]), expected, "{event:?}");
            assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), expected, "{event:?}");
            for at in 0..bytes.len() {
                assert_eq!(read(&[&bytes[..at], &bytes[at..]]), expected, "{at} of {event:?}");
            }
        };
        check("data: {}", "{}");
        check("data:{}", "{}");
        check("data:  {}", " {}");
        check("event: message\nid: data: 7\ndata: {\"a\":\ndata: 1}\n\n", "{\"a\":\n1}\n");
        check("event: m\r\n: data:\r\ndata:{\r\ndata:}\r\n\r\n", "{\n}\n");
        check("data\ndat\ndatax: 1\n\rdata: 2\r", "2\n");
        check("\u{feff}data: {}", "{}");
        check("\u{feff}\u{feff}data: {}", "");
        check("data: 1\n\u{feff}data: 2\ndata: 3\n", "1\n3\n");
        check("", "");
    }

    #[test]
    fn a_byte_order_mark_is_skipped_only_at_the_start_of_a_stream() {
        let mut data = Vec::new();
        DataReader::mid_stream().push("\u{feff}data: {}".as_bytes(), |bytes| data.extend_from_slice(bytes));
        assert_eq!(data, b"");
    }
}
