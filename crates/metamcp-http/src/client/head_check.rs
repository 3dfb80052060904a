//! Checks the heads of responses that hyper reads, which accepts more than RFC 9112 allows: what two parsers could read
//! differently is refused, since another request's response would follow on the connection (RFC 9112, sections 2.2 and
//! 6.3).

use std::error::Error;
use std::fmt;

use metamcp_core::http1::is_misspelt_framing_field;

/// Follows the head of one response, and the interim responses before it, in pieces of any size.
#[derive(Debug, Default)]
pub struct HeadCheck {
    state: LineState,
    /// Whose head is being read.
    of: StatusKind,
    has_length: bool,
    is_coded: bool,
    /// The beginning of the line, in lower case: enough to compare names of framing fields.
    line: [u8; LINE_BYTES],
    line_bytes: usize,
}

/// What the status line says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum StatusKind {
    /// It has not been read.
    #[default]
    Unknown,
    /// Another head follows this one.
    Interim,
    Final,
}

/// Where in a line the next byte is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LineState {
    #[default]
    Text,
    /// Behind a carriage return.
    Cr,
    /// The head has been read.
    End,
}

/// The longest guarded name, with some underscores around it and its colon; and a status line up to its status.
const LINE_BYTES: usize = 24;

/// A head that two parsers could read differently.
#[derive(Debug, PartialEq, Eq)]
pub struct AmbiguousHead;

impl Error for AmbiguousHead {}

impl fmt::Display for AmbiguousHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a response head with a bare line end, or with ambiguous framing")
    }
}

impl HeadCheck {
    /// Reads on. What follows the head is not read.
    pub fn read(&mut self, input: &[u8]) -> Result<(), AmbiguousHead> {
        for &byte in input {
            match (self.state, byte) {
                (LineState::End, _) => return Ok(()),
                (LineState::Cr, b'\n') => self.end_line()?,
                (LineState::Cr, _) | (LineState::Text, b'\n') => return Err(AmbiguousHead),
                (LineState::Text, b'\r') => self.state = LineState::Cr,
                // Of underscores at the start, one is enough to misspell a name.
                (LineState::Text, b'_') if self.line[..self.line_bytes.min(LINE_BYTES)] == *b"_" => {}
                (LineState::Text, _) => {
                    if let Some(place) = self.line.get_mut(self.line_bytes) {
                        *place = byte.to_ascii_lowercase();
                    }
                    self.line_bytes += 1;
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), AmbiguousHead> {
        self.state = LineState::Text;
        let line = &self.line[..self.line_bytes.min(LINE_BYTES)];
        let is_empty = self.line_bytes == 0;
        self.line_bytes = 0;
        match (self.of, is_empty) {
            // Empty lines before a status line are ignored.
            (StatusKind::Unknown, true) => {}
            (StatusKind::Unknown, false) => {
                // `HTTP/1.1 1xx`; after 101 there are no more responses.
                let is_interim = line.get(8..10) == Some(b" 1") && line.get(9..12) != Some(b"101");
                self.of = if is_interim { StatusKind::Interim } else { StatusKind::Final };
            }
            (StatusKind::Interim, true) => *self = Self::default(),
            (StatusKind::Final, true) => self.state = LineState::End,
            (StatusKind::Interim | StatusKind::Final, false) => {
                let name = line.iter().position(|byte| *byte == b':').map_or(line, |colon| &line[..colon]);
                let is_refused = match name {
                    // hyper refuses several that differ.
                    b"content-length" => {
                        self.has_length = true;
                        false
                    }
                    b"transfer-encoding" => std::mem::replace(&mut self.is_coded, true),
                    name => is_misspelt_framing_field(name),
                };
                if is_refused || (self.has_length && self.is_coded) {
                    return Err(AmbiguousHead);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a response in pieces of every size.
    #[track_caller]
    fn check(response: &str, is_ambiguous: bool) {
        for at_a_time in 1..=response.len() {
            let mut check = HeadCheck::default();
            let read = response.as_bytes().chunks(at_a_time).try_for_each(|part| check.read(part));
            assert_eq!(read.is_err(), is_ambiguous, "{response:?}, {at_a_time} bytes at a time");
        }
    }

    #[test]
    fn heads() {
        for lines in [
            "",
            "Content-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Transfer-Encoding: chunked\r\n",
            "X_Any: 1\r\nContent-Length-X: 1\r\nX-Transfer-Encoding: 1\r\nContent-Length: 1\r\n",
            "X: content_length: 1\r\n",
            "content-length-and-a-long-name: 1\r\nTransfer-Encoding: chunked\r\n",
        ] {
            check(&format!("HTTP/1.1 200 OK\r\n{lines}\r\nbody\nof\rany\n\nkind"), false);
            check(&format!("\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n{lines}\r\n\n"), false);
            check(
                &format!("HTTP/1.1 103 x\r\nContent-Length: 1\r\n\r\nHTTP/1.1 200\r\n{lines}\r\n\n"),
                false,
            );
        }
        check("HTTP/1.1 101 Switching Protocols\r\n\r\n\n", false);
        for lines in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding:chunked\r\nX: 1\r\nCONTENT-LENGTH: 1\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer_Encoding: chunked\r\n",
            "____________Transfer_Encoding: chunked\r\n",
            "Transfer_Encoding____________: chunked\r\n",
            "content_length: 1\r\n",
            "Content-Length: 1\n",
            "X: a\rb\r\n",
            "\n",
            "\r",
        ] {
            check(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), true);
            check(&format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n{lines}\r\n"), true);
        }
        check("HTTP/1.1 200 OK\n\r\n", true);
        check("\nHTTP/1.1 200 OK\r\n\r\n", true);
        check("HTTP/1.1 100 Continue\n\r\n", true);
    }
}
