//! Checks request heads as strictly as RFC 9110 and RFC 9112 allow, and finds out how the body is framed.
//!
//! Two parsers that read the same bytes differently disagree about where a request ends, and what the one
//! takes for a body is a request to the other. So nothing that a parser might read in two ways is accepted.
//!
//! Does not know: limits of size and number, which the parser behind it has; what a field means beyond
//! framing.

use super::host::HostReader;
use super::strict_bytes::{MalformedRequest, is_token_byte, is_value_byte};

/// Where the body of a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// After so many bytes; 0 if there is no body.
    Length(u64),
    Chunked,
}

/// Follows one request head, in pieces of any size.
#[derive(Debug, Default)]
pub struct HeadReader {
    state: HeadState,
    empty_lines: u8,
    word: Word,
    fields: FramingFields,
}

/// What was read last.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum HeadState {
    /// Nothing, or empty lines.
    #[default]
    Start,
    EmptyLineCr,
    Method,
    TargetStart,
    Target,
    Version,
    RequestLineCr,
    /// The end of a line.
    LineEnd,
    Name,
    ValueStart,
    Value,
    ValueCr,
    EndCr,
    End,
}

/// Empty lines before a request line, which some clients send after a body (RFC 9112, section 2.2).
const EMPTY_LINES_MAX: u8 = 2;

impl HeadReader {
    /// Reads on. Returns how many bytes belong to the head, and the framing of the body once it is complete.
    /// An error comes with the number of bytes before the one that is wrong.
    pub fn read(&mut self, input: &[u8]) -> Result<(usize, Option<BodyFraming>), (usize, MalformedRequest)> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            // Most of a head is text that only has to be free of control characters.
            let skipped = match self.state {
                HeadState::Target => input[at..].iter().take_while(|byte| is_target_byte(**byte)).count(),
                HeadState::Value if self.fields.current == FieldKind::Other => {
                    input[at..].iter().take_while(|byte| is_value_byte(**byte)).count()
                }
                _ => 0,
            };
            if skipped > 0 {
                at += skipped;
                continue;
            }
            self.step(byte).map_err(|malformed| (at, malformed))?;
            at += 1;
            if self.state == HeadState::End {
                return Ok((at, Some(self.fields.framing())));
            }
        }
        Ok((at, None))
    }

    fn step(&mut self, byte: u8) -> Result<(), MalformedRequest> {
        use HeadState as S;
        self.state = match (self.state, byte) {
            (S::Start, b'\r') if self.empty_lines < EMPTY_LINES_MAX => S::EmptyLineCr,
            (S::EmptyLineCr, b'\n') => {
                self.empty_lines += 1;
                S::Start
            }
            (S::Start | S::Method, _) if is_token_byte(byte) => {
                self.word.push(byte);
                S::Method
            }
            (S::Method, b' ') => {
                if self.word.take() == b"CONNECT" {
                    return Err(MalformedRequest::Connect);
                }
                S::TargetStart
            }
            (S::TargetStart | S::Target, _) if is_target_byte(byte) => S::Target,
            (S::Target, b' ') => S::Version,
            (S::Version, b'\r') => {
                self.fields.is_http_10 = match self.word.take() {
                    b"HTTP/1.1" => false,
                    b"HTTP/1.0" => true,
                    _ => return Err(MalformedRequest::RequestLine),
                };
                S::RequestLineCr
            }
            (S::Version, _) if byte.is_ascii_graphic() => {
                self.word.push(byte);
                S::Version
            }
            (S::RequestLineCr | S::ValueCr, b'\n') => S::LineEnd,
            (S::RequestLineCr | S::ValueCr | S::EmptyLineCr, _) => return Err(MalformedRequest::LineEnd),
            (S::Start | S::Method | S::TargetStart | S::Target | S::Version, _) => {
                return Err(MalformedRequest::RequestLine);
            }
            (S::LineEnd | S::Name | S::ValueStart | S::Value | S::EndCr | S::End, _) => {
                return self.step_fields(byte);
            }
        };
        Ok(())
    }

    fn step_fields(&mut self, byte: u8) -> Result<(), MalformedRequest> {
        use HeadState as S;
        self.state = match (self.state, byte) {
            (S::LineEnd, b'\r') => S::EndCr,
            (S::LineEnd, b' ' | b'\t') => return Err(MalformedRequest::FoldedLine),
            (S::LineEnd | S::Name, _) if is_token_byte(byte) => {
                self.word.push(byte);
                S::Name
            }
            (S::Name, b':') => {
                self.fields.begin(self.word.take())?;
                S::ValueStart
            }
            (S::ValueStart, b' ' | b'\t') => S::ValueStart,
            (S::ValueStart | S::Value, b'\r') => {
                self.fields.end(self.word.take())?;
                S::ValueCr
            }
            (S::ValueStart | S::Value, _) if is_value_byte(byte) => {
                // Blanks at the end of a value are not part of it, however many there are (RFC 9112, section 5.1).
                let is_repeated = is_blank(byte) && self.word.ends_with_blank();
                if self.fields.current == FieldKind::Host {
                    if !self.fields.host.push(byte) {
                        return Err(MalformedRequest::Host);
                    }
                } else if self.fields.current != FieldKind::Other && !is_repeated {
                    self.word.push(byte);
                }
                S::Value
            }
            (S::EndCr, b'\n') => {
                self.fields.check()?;
                S::End
            }
            (S::LineEnd | S::ValueStart | S::Value | S::EndCr, _) if matches!(byte, b'\n' | b'\r') => {
                return Err(MalformedRequest::LineEnd);
            }
            (S::EndCr, _) => return Err(MalformedRequest::LineEnd),
            (S::ValueStart | S::Value, _) => return Err(MalformedRequest::FieldValue),
            _ => return Err(MalformedRequest::FieldName),
        };
        Ok(())
    }
}

/// The beginning of a word: enough to compare it with those that matter.
#[derive(Debug, Default)]
struct Word {
    bytes: [u8; WORD_BYTES],
    /// Counts bytes beyond the buffer too, up to its own bound.
    length: u8,
}

/// Longer than each framing field's name, and than the 20 digits of the greatest length.
const WORD_BYTES: usize = 24;

impl Word {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn ends_with_blank(&self) -> bool {
        let last = usize::from(self.length).checked_sub(1).and_then(|at| self.bytes.get(at));
        last.is_some_and(|byte| is_blank(*byte))
    }

    /// The word, which begins anew. One that is too long to matter is empty.
    fn take(&mut self) -> &[u8] {
        let length = usize::from(std::mem::take(&mut self.length));
        self.bytes.get(..length).unwrap_or_default()
    }
}

/// A part of a request target: no fragment (RFC 9112, section 3.2).
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// Optional white space (RFC 9110, section 5.6.3).
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The fields of a head that decide where the message ends.
#[derive(Debug, Default)]
struct FramingFields {
    /// That of the line being read.
    current: FieldKind,
    is_http_10: bool,
    has_host: bool,
    host: HostReader,
    is_chunked: bool,
    length: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum FieldKind {
    #[default]
    Other,
    Host,
    ContentLength,
    TransferEncoding,
}

/// Names that concern the message, its connection or its route, and that another spelling might be taken for.
const GUARDED: [&str; 10] = [
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "host",
    "connection",
    "upgrade",
    "expect",
    "trailer",
];

/// Whether a name with underscores equals the name of a field that concerns framing or the route, but for underscores
/// in place of hyphens, or before or after it. Servers that pass fields on as environment variables (RFC 3875, section
/// 4.1.18) cannot tell such a name from the real one, or trim it.
pub fn is_misspelt_framing_field(name: &[u8]) -> bool {
    // Few names have any.
    if !name.contains(&b'_') {
        return false;
    }
    let Some(start) = name.iter().position(|byte| *byte != b'_') else { return false };
    let end = name.iter().rposition(|byte| *byte != b'_').map_or(start, |last| last + 1);
    let equals = |wanted: &&str| {
        let dashed =
            name[start..end].iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
        dashed.eq(wanted.bytes())
    };
    GUARDED.iter().any(equals)
}

impl FramingFields {
    fn begin(&mut self, name: &[u8]) -> Result<(), MalformedRequest> {
        if is_misspelt_framing_field(name) {
            return Err(MalformedRequest::FieldName);
        }
        self.current = FieldKind::Other;
        if name.eq_ignore_ascii_case(b"content-length") {
            self.current = FieldKind::ContentLength;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.current = FieldKind::TransferEncoding;
        } else if name.eq_ignore_ascii_case(b"host") {
            self.current = FieldKind::Host;
            if std::mem::replace(&mut self.has_host, true) {
                return Err(MalformedRequest::Host);
            }
        }
        Ok(())
    }

    fn end(&mut self, value: &[u8]) -> Result<(), MalformedRequest> {
        match self.current {
            FieldKind::Other => {}
            FieldKind::Host if self.host.is_valid() => {}
            FieldKind::Host => return Err(MalformedRequest::Host),
            FieldKind::ContentLength => {
                let length = parse_length(value.trim_ascii_end()).ok_or(MalformedRequest::Framing)?;
                if self.length.replace(length).is_some() {
                    return Err(MalformedRequest::Framing);
                }
            }
            FieldKind::TransferEncoding => {
                let is_chunked = value.trim_ascii_end().eq_ignore_ascii_case(b"chunked");
                if !is_chunked || std::mem::replace(&mut self.is_chunked, true) || self.is_http_10 {
                    return Err(MalformedRequest::Framing);
                }
            }
        }
        if self.is_chunked && self.length.is_some() { Err(MalformedRequest::Framing) } else { Ok(()) }
    }

    /// Checks what is known only at the end of the head (RFC 9112, section 3.2).
    fn check(&self) -> Result<(), MalformedRequest> {
        if self.has_host || self.is_http_10 { Ok(()) } else { Err(MalformedRequest::Host) }
    }

    fn framing(&self) -> BodyFraming {
        if self.is_chunked { BodyFraming::Chunked } else { BodyFraming::Length(self.length.unwrap_or(0)) }
    }
}

/// `1*DIGIT` (RFC 9110, section 8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use MalformedRequest as M;

    /// Reads `head` and what follows it, `at_a_time` bytes at a time: bytes of the head, and the framing.
    fn read(head: &[u8], at_a_time: usize) -> Result<(usize, Option<BodyFraming>), (usize, M)> {
        let (mut reader, mut count) = (HeadReader::default(), 0);
        for part in head.chunks(at_a_time) {
            match reader.read(part) {
                Ok((bytes, None)) => {
                    assert_eq!(bytes, part.len(), "bytes are left before the end");
                    count += bytes;
                }
                Ok((bytes, framing)) => return Ok((count + bytes, framing)),
                Err((at, malformed)) => return Err((count + at, malformed)),
            }
        }
        Ok((count, None))
    }

    /// Checks a head in pieces of every size, and each beginning of it. `wrong`: the bytes from the one that is
    /// wrong.
    #[track_caller]
    fn check(head: &str, expected: Result<BodyFraming, (M, &str)>) {
        let expected = match expected {
            Ok(framing) => Ok((head.len(), Some(framing))),
            Err((malformed, wrong)) => {
                assert!(head.ends_with(wrong), "{head:?} does not end with {wrong:?}");
                Err((head.len() - wrong.len(), malformed))
            }
        };
        for at_a_time in (1..=head.len()).chain([usize::MAX]) {
            let got = read(head.as_bytes(), at_a_time);
            assert_eq!(got, expected, "{head:?}, {at_a_time} bytes at a time");
        }
        let end = expected.map_or_else(|(at, _)| at, |(bytes, _)| bytes - 1);
        for cut in 0..=end {
            assert_eq!(read(&head.as_bytes()[..cut], usize::MAX), Ok((cut, None)), "{head:?} cut at {cut}");
        }
        if expected.is_ok() {
            let longer = format!("{head}behind\n\r\0");
            assert_eq!(read(longer.as_bytes(), usize::MAX), expected, "{head:?}");
        }
    }

    #[track_caller]
    fn check_fields(fields: &str, expected: Result<BodyFraming, (M, &str)>) {
        let head = format!("POST /mcp HTTP/1.1\r\nHost: a\r\n{fields}");
        check(&head, expected);
    }

    #[test]
    fn heads() {
        const NONE: Result<BodyFraming, (M, &str)> = Ok(BodyFraming::Length(0));
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", NONE);
        check("\r\nGET / HTTP/1.1\r\nhost:a:80 \r\n\r\n", NONE);
        check("GET / HTTP/1.1\r\nHost:\t[::1]:80\t \t\r\n\r\n", NONE);
        check("\r\n\r\nx!~ http://a/?b=c HTTP/1.1\r\nHOST:a\r\n\r\n", NONE);
        check("GET / HTTP/1.0\r\n\r\n", NONE);
        check("OPTIONS * HTTP/1.0\r\nA: \t\r\nB:b\t b \t\r\nC: \u{e9}\r\n\r\n", NONE);
        check_fields("Content-Length: 12\r\n\r\n", Ok(BodyFraming::Length(12)));
        check_fields("content-length:\t 012\t \r\n\r\n", Ok(BodyFraming::Length(12)));
        check_fields("Content-Length: 18446744073709551615\r\n\r\n", Ok(BodyFraming::Length(u64::MAX)));
        check_fields("Transfer-Encoding: chunked\r\n\r\n", Ok(BodyFraming::Chunked));
        check_fields("TRANSFER-ENCODING:Chunked \r\n\r\n", Ok(BodyFraming::Chunked));
        check_fields("Content-Length-X: x\r\nX_Any: 1\r\nMcp_Name: 1\r\n\r\n", NONE);
    }

    #[test]
    fn malformed_request_lines() {
        for (head, malformed, wrong) in [
            ("\nGET / HTTP/1.1", M::RequestLine, "\nGET / HTTP/1.1"),
            ("\r\r\n", M::LineEnd, "\r\n"),
            ("\r\n\r\n\r\n", M::RequestLine, "\r\n"),
            (" GET / HTTP/1.1", M::RequestLine, " GET / HTTP/1.1"),
            ("GET\r\n / HTTP/1.1", M::RequestLine, "\r\n / HTTP/1.1"),
            ("GET\t/ HTTP/1.1", M::RequestLine, "\t/ HTTP/1.1"),
            ("G\0ET / HTTP/1.1", M::RequestLine, "\0ET / HTTP/1.1"),
            ("G(T / HTTP/1.1", M::RequestLine, "(T / HTTP/1.1"),
            ("GET  / HTTP/1.1", M::RequestLine, " / HTTP/1.1"),
            ("GET /\tb HTTP/1.1", M::RequestLine, "\tb HTTP/1.1"),
            ("GET /#b HTTP/1.1", M::RequestLine, "#b HTTP/1.1"),
            ("GET # HTTP/1.1", M::RequestLine, "# HTTP/1.1"),
            ("GET /\u{e9} HTTP/1.1", M::RequestLine, "\u{e9} HTTP/1.1"),
            ("GET /\r\nHost: a\r\n\r\n", M::RequestLine, "\r\nHost: a\r\n\r\n"),
            ("GET / a HTTP/1.1\r\n", M::RequestLine, " HTTP/1.1\r\n"),
            ("GET / HTTP/1.1 \r\n", M::RequestLine, " \r\n"),
            ("GET / HTTP/1.1\n", M::RequestLine, "\n"),
            ("GET / HTTP/1.1\r\r\n", M::LineEnd, "\r\n"),
            ("GET / HTTP/1.2\r\n", M::RequestLine, "\r\n"),
            ("GET / HTTP/2.0\r\n", M::RequestLine, "\r\n"),
            ("GET / http/1.1\r\n", M::RequestLine, "\r\n"),
            ("GET / \r\n", M::RequestLine, "\r\n"),
            ("CONNECT a:80 HTTP/1.1\r\n", M::Connect, " a:80 HTTP/1.1\r\n"),
        ] {
            check(head, Err((malformed, wrong)));
        }
        let long = format!("GET / HTTP/1.1{}", "1".repeat(300));
        check(&format!("{long}\r"), Err((M::RequestLine, "\r")));
    }

    #[test]
    fn malformed_fields() {
        for (fields, malformed, wrong) in [
            (" A: b\r\n", M::FoldedLine, " A: b\r\n"),
            ("A: b\r\n\tc\r\n", M::FoldedLine, "\tc\r\n"),
            ("A : b\r\n", M::FieldName, " : b\r\n"),
            (": b\r\n", M::FieldName, ": b\r\n"),
            ("A\r\n", M::FieldName, "\r\n"),
            ("A\nB: c", M::FieldName, "\nB: c"),
            ("\u{e9}: b\r\n", M::FieldName, "\u{e9}: b\r\n"),
            ("A: b\nB: c", M::LineEnd, "\nB: c"),
            ("A:\nB: c", M::LineEnd, "\nB: c"),
            ("A: b\rB: c", M::LineEnd, "B: c"),
            ("A: b\0\r\n", M::FieldValue, "\0\r\n"),
            ("A: b\u{7f}\r\n", M::FieldValue, "\u{7f}\r\n"),
            ("\n", M::LineEnd, "\n"),
            ("\r\r\n", M::LineEnd, "\r\n"),
            ("\rA", M::LineEnd, "A"),
            ("Content_Length: 1\r\n", M::FieldName, ": 1\r\n"),
            ("TRANSFER_encoding: chunked\r\n", M::FieldName, ": chunked\r\n"),
            ("Keep_Alive: 1\r\n", M::FieldName, ": 1\r\n"),
            ("Proxy_Connection: 1\r\n", M::FieldName, ": 1\r\n"),
            ("host: a\r\n", M::Host, ": a\r\n"),
            ("Host_: a\r\n", M::FieldName, ": a\r\n"),
            ("_HOST: a\r\n", M::FieldName, ": a\r\n"),
            ("__Transfer_Encoding_: a\r\n", M::FieldName, ": a\r\n"),
            ("Connection_: close\r\n", M::FieldName, ": close\r\n"),
        ] {
            check_fields(fields, Err((malformed, wrong)));
        }
        check("GET / HTTP/1.1\r\n\r\n", Err((M::Host, "\n")));
        for (host, wrong) in [
            ("", "\r\n"),
            (" \t", "\r\n"),
            ("a b", "b\r\n"),
            ("a,b", ",b\r\n"),
            ("u@a", "@a\r\n"),
            ("a:b", "b\r\n"),
            ("[::1", "\r\n"),
            (":80", ":80\r\n"),
            ("http://a", "//a\r\n"),
        ] {
            check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n"), Err((M::Host, wrong)));
            check(&format!("GET / HTTP/1.0\r\nHost: {host}\r\n"), Err((M::Host, wrong)));
        }
        check("GET / HTTP/1.1\r\n Host: a\r\n", Err((M::FoldedLine, " Host: a\r\n")));
    }

    #[test]
    fn ambiguous_framing() {
        for fields in [
            "Content-Length:",
            "Content-Length: ",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1 1",
            "Content-Length: 1, 1",
            "Content-Length: 18446744073709551616",
            "Content-Length: 0000000000000000000000001",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\ncontent-length: 2",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding:",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked;a=b",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunkedchunkedchunkedchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            check_fields(&format!("{fields}\r\n"), Err((M::Framing, "\r\n")));
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n";
        check(old, Err((M::Framing, "\r\n")));
    }
}
