//! The parser of requests.

use std::iter::once;
use std::ops::Range;

use memchr::memmem;

use crate::mode::{self, Mode};

/// The result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedRequest {
    /// The request is not complete.
    Partial {
        /// The missing bytes of the body, if its length is known; otherwise 0.
        missing: usize,
    },
    /// A complete request.
    Whole {
        head: RequestHead,
        /// The body: one range, or one per chunk.
        body: Vec<Range<usize>>,
        /// The length of the request in bytes.
        len: usize,
    },
    /// An invalid request.
    Invalid,
}

/// The head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// From the request line.
    pub verb: RequestVerb,
    /// From `Mcp-Method`, which only the Modern era has.
    pub method: Option<RequestMethod>,
}

/// The kind of an HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestVerb {
    /// A message.
    Post,
    /// The end of a session.
    Delete,
    /// `PUT /mode?…`: sets the response mode.
    Switch(Mode),
    /// An event stream.
    Get,
    /// Anything else.
    Other,
}

/// The method of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestMethod {
    /// `tools/call`
    Call,
    /// `server/discover`
    Discover,
    /// `initialize`
    Initialize,
    /// `tools/list`
    List,
    /// `ping`
    Ping,
    /// Any `notifications/…`
    Notification,
    /// Anything else.
    Unknown,
}

impl RequestMethod {
    /// Parses the name of a method.
    pub fn parse(name: &[u8]) -> Self {
        match name {
            b"tools/call" => Self::Call,
            b"server/discover" => Self::Discover,
            b"initialize" => Self::Initialize,
            b"tools/list" => Self::List,
            b"ping" => Self::Ping,
            _ if name.starts_with(b"notifications/") => Self::Notification,
            _ => Self::Unknown,
        }
    }
}

/// The longest head. Proxies send some 500 bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

const HEAD_END: &[u8] = b"\r\n\r\n";
const LINE_END: &[u8] = b"\r\n";

/// Parses the request at the start of the received bytes.
pub fn parse_request(received: &[u8]) -> ParsedRequest {
    let searched = &received[..received.len().min(HEAD_BYTES_MAX)];
    let Some(end) = memmem::find(searched, HEAD_END) else {
        return if received.len() > HEAD_BYTES_MAX {
            ParsedRequest::Invalid
        } else {
            ParsedRequest::Partial { missing: 0 }
        };
    };
    let mut lines = received[..end].split(|byte| *byte == b'\n');
    let Some(verb) = lines.next().and_then(parse_verb) else { return ParsedRequest::Invalid };
    let mut head = RequestHead { verb, method: None };
    let (mut body_len, mut is_chunked) = (0, false);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return ParsedRequest::Invalid };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let Some(len) = number(value, 10) else { return ParsedRequest::Invalid };
            body_len = len;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"mcp-method") {
            head.method = Some(RequestMethod::parse(value));
        }
    }
    let body = end + HEAD_END.len();
    if is_chunked {
        return parse_chunks(received, head, body);
    }
    match body.checked_add(body_len) {
        Some(len) if len <= received.len() => {
            ParsedRequest::Whole { head, body: once(body..len).collect(), len }
        }
        Some(len) => ParsedRequest::Partial { missing: len - received.len() },
        None => ParsedRequest::Invalid,
    }
}

/// Parses a chunked body that starts at `at`.
fn parse_chunks(received: &[u8], head: RequestHead, mut at: usize) -> ParsedRequest {
    let mut body = Vec::new();
    loop {
        let Some(line) = memmem::find(&received[at..], LINE_END) else {
            return ParsedRequest::Partial { missing: 0 };
        };
        let Some(len) = number(&received[at..at + line], 16) else { return ParsedRequest::Invalid };
        let begin = at + line + LINE_END.len();
        let Some(end) = begin.checked_add(len).and_then(|end| end.checked_add(LINE_END.len())) else {
            return ParsedRequest::Invalid;
        };
        if end > received.len() {
            return ParsedRequest::Partial { missing: end - received.len() };
        }
        at = end;
        if len == 0 {
            return ParsedRequest::Whole { head, body, len: at };
        }
        body.push(begin..begin + len);
    }
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// Parses a request line. `None` for an invalid mode.
fn parse_verb(line: &[u8]) -> Option<RequestVerb> {
    if line.starts_with(b"POST ") {
        return Some(RequestVerb::Post);
    }
    if line.starts_with(b"DELETE ") {
        return Some(RequestVerb::Delete);
    }
    if line.starts_with(b"GET ") {
        return Some(RequestVerb::Get);
    }
    let Some(rest) = line.strip_prefix(b"PUT /mode?") else { return Some(RequestVerb::Other) };
    let query = std::str::from_utf8(rest).ok()?.split(' ').next()?;
    mode::parse(query).map(RequestVerb::Switch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(received: &str, expected: &ParsedRequest) {
        assert_eq!(parse_request(received.as_bytes()), *expected, "{received:?}");
    }

    fn whole(verb: RequestVerb, method: Option<RequestMethod>, body: usize, len: usize) -> ParsedRequest {
        ParsedRequest::Whole { head: RequestHead { verb, method }, body: once(body..len).collect(), len }
    }

    #[test]
    fn requests_are_parsed() {
        let call = "POST /mcp HTTP/1.1\r\nmcp-method: tools/call\r\nContent-Length: 2\r\n\r\n{}";
        let expected = whole(RequestVerb::Post, Some(RequestMethod::Call), call.len() - 2, call.len());
        check(call, &expected);
        check(&[call, "POST"].concat(), &expected);
        for cut in 0..call.len() {
            let missing = if cut < call.len() - 2 { 0 } else { call.len() - cut };
            check(&call[..cut], &ParsedRequest::Partial { missing });
        }
    }

    #[test]
    fn heads_are_parsed() {
        let list = "POST / HTTP/1.1\r\nMcp-Method: tools/list\r\n\r\n";
        check(list, &whole(RequestVerb::Post, Some(RequestMethod::List), 43, 43));
        check("POST / HTTP/1.1\r\n\r\n", &whole(RequestVerb::Post, None, 19, 19));
        check("GET / HTTP/1.1\r\n\r\n", &whole(RequestVerb::Get, None, 18, 18));
        check("PUT / HTTP/1.1\r\n\r\n", &whole(RequestVerb::Other, None, 18, 18));
        check("DELETE / HTTP/1.1\r\n\r\n", &whole(RequestVerb::Delete, None, 21, 21));
        let mode = Mode { bytes: 7, ..Mode::default() };
        check("PUT /mode?bytes=7 HTTP/1.1\r\n\r\n", &whole(RequestVerb::Switch(mode), None, 30, 30));
        check("PUT /mode?bytes=x HTTP/1.1\r\n\r\n", &ParsedRequest::Invalid);
    }

    #[test]
    fn chunks_are_parsed() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let request = format!("{head}2\r\n{{}}\r\nA\r\n0123456789\r\n0\r\n\r\n");
        let at = head.len();
        let (body, len) = (vec![at + 3..at + 5, at + 10..at + 20], request.len());
        check(
            &request,
            &ParsedRequest::Whole { head: RequestHead { verb: RequestVerb::Post, method: None }, body, len },
        );
        for cut in 0..len {
            assert!(
                matches!(parse_request(&request.as_bytes()[..cut]), ParsedRequest::Partial { .. }),
                "{cut}"
            );
        }
    }

    #[test]
    fn invalid_requests_are_rejected() {
        check("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", &ParsedRequest::Invalid);
        check("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", &ParsedRequest::Invalid);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", &ParsedRequest::Invalid);
        check(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            &ParsedRequest::Invalid,
        );
        check("POST / HTTP/1.1\r\nno colon\r\n\r\n", &ParsedRequest::Invalid);
        check(&"x".repeat(HEAD_BYTES_MAX + 1), &ParsedRequest::Invalid);
    }
}
