//! The next request in received bytes.

use std::iter::once;
use std::ops::Range;

use memchr::memmem;

use crate::mode::{self, Mode};

/// What was found at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// It is not all there.
    Partial {
        /// Bytes of the body that have not come, where its length is known; else 0.
        missing: usize,
    },
    /// It is all there, body included.
    Whole {
        /// What it asks for.
        head: Head,
        /// The body: one range, or one for each chunk.
        body: Vec<Range<usize>>,
        /// Bytes it takes up.
        len: usize,
    },
    /// No request that this server can find the end of.
    Wrong,
}

/// What a head asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// From the request line.
    pub verb: Verb,
    /// From `Mcp-Method`, which only the newer era has; in the older the body says it.
    pub method: Option<Method>,
}

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A message.
    Post,
    /// The end of a session.
    Delete,
    /// `PUT /mode?…`: how calls are to be answered from now on.
    Switch(Mode),
    /// An event stream, where there are such.
    Get,
    /// Nothing that is known here.
    Other,
}

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
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

impl Method {
    /// By its name.
    pub fn of(name: &[u8]) -> Self {
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

/// Proxies send some 500 bytes; one more read makes room for longer ones.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

const HEAD_END: &[u8] = b"\r\n\r\n";
const LINE_END: &[u8] = b"\r\n";

/// Reads the request at the front.
pub fn next(received: &[u8]) -> Request {
    let searched = &received[..received.len().min(HEAD_BYTES_MAX)];
    let Some(end) = memmem::find(searched, HEAD_END) else {
        return if received.len() > HEAD_BYTES_MAX {
            Request::Wrong
        } else {
            Request::Partial { missing: 0 }
        };
    };
    let mut lines = received[..end].split(|byte| *byte == b'\n');
    let Some(verb) = lines.next().and_then(verb) else { return Request::Wrong };
    let mut head = Head { verb, method: None };
    let (mut body_len, mut is_chunked) = (0, false);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Request::Wrong };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let Some(len) = number(value, 10) else { return Request::Wrong };
            body_len = len;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"mcp-method") {
            head.method = Some(Method::of(value));
        }
    }
    let body = end + HEAD_END.len();
    if is_chunked {
        return chunked(received, head, body);
    }
    match body.checked_add(body_len) {
        Some(len) if len <= received.len() => Request::Whole { head, body: once(body..len).collect(), len },
        Some(len) => Request::Partial { missing: len - received.len() },
        None => Request::Wrong,
    }
}

/// With the body in chunks that begin there.
fn chunked(received: &[u8], head: Head, mut at: usize) -> Request {
    let mut body = Vec::new();
    loop {
        let Some(line) = memmem::find(&received[at..], LINE_END) else {
            return Request::Partial { missing: 0 };
        };
        let Some(len) = number(&received[at..at + line], 16) else { return Request::Wrong };
        let begin = at + line + LINE_END.len();
        let Some(end) = begin.checked_add(len).and_then(|end| end.checked_add(LINE_END.len())) else {
            return Request::Wrong;
        };
        if end > received.len() {
            return Request::Partial { missing: end - received.len() };
        }
        at = end;
        if len == 0 {
            return Request::Whole { head, body, len: at };
        }
        body.push(begin..begin + len);
    }
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// `None` for a mode that there is not.
fn verb(line: &[u8]) -> Option<Verb> {
    if line.starts_with(b"POST ") {
        return Some(Verb::Post);
    }
    if line.starts_with(b"DELETE ") {
        return Some(Verb::Delete);
    }
    if line.starts_with(b"GET ") {
        return Some(Verb::Get);
    }
    let Some(rest) = line.strip_prefix(b"PUT /mode?") else { return Some(Verb::Other) };
    let query = std::str::from_utf8(rest).ok()?.split(' ').next()?;
    mode::parse(query).map(Verb::Switch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(received: &str, expected: &Request) {
        assert_eq!(next(received.as_bytes()), *expected, "{received:?}");
    }

    fn whole(verb: Verb, method: Option<Method>, body: usize, len: usize) -> Request {
        Request::Whole { head: Head { verb, method }, body: once(body..len).collect(), len }
    }

    #[test]
    fn requests() {
        let call = "POST /mcp HTTP/1.1\r\nmcp-method: tools/call\r\nContent-Length: 2\r\n\r\n{}";
        let expected = whole(Verb::Post, Some(Method::Call), call.len() - 2, call.len());
        check(call, &expected);
        check(&[call, "POST"].concat(), &expected);
        for cut in 0..call.len() {
            let missing = if cut < call.len() - 2 { 0 } else { call.len() - cut };
            check(&call[..cut], &Request::Partial { missing });
        }
    }

    #[test]
    fn what_is_asked_for() {
        let list = "POST / HTTP/1.1\r\nMcp-Method: tools/list\r\n\r\n";
        check(list, &whole(Verb::Post, Some(Method::List), 43, 43));
        check("POST / HTTP/1.1\r\n\r\n", &whole(Verb::Post, None, 19, 19));
        check("GET / HTTP/1.1\r\n\r\n", &whole(Verb::Get, None, 18, 18));
        check("PUT / HTTP/1.1\r\n\r\n", &whole(Verb::Other, None, 18, 18));
        check("DELETE / HTTP/1.1\r\n\r\n", &whole(Verb::Delete, None, 21, 21));
        let mode = Mode { bytes: 7, ..Mode::default() };
        check("PUT /mode?bytes=7 HTTP/1.1\r\n\r\n", &whole(Verb::Switch(mode), None, 30, 30));
        check("PUT /mode?bytes=x HTTP/1.1\r\n\r\n", &Request::Wrong);
    }

    #[test]
    fn chunks() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let request = format!("{head}2\r\n{{}}\r\nA\r\n0123456789\r\n0\r\n\r\n");
        let at = head.len();
        let (body, len) = (vec![at + 3..at + 5, at + 10..at + 20], request.len());
        check(&request, &Request::Whole { head: Head { verb: Verb::Post, method: None }, body, len });
        for cut in 0..len {
            assert!(matches!(next(&request.as_bytes()[..cut]), Request::Partial { .. }), "{cut}");
        }
    }

    #[test]
    fn what_has_no_end() {
        check("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nno colon\r\n\r\n", &Request::Wrong);
        check(&"x".repeat(HEAD_BYTES_MAX + 1), &Request::Wrong);
    }
}
