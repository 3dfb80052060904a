//! Where an HTTP/1.1 response ends, and what its body is.

use std::borrow::Cow;

/// What the received bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Not the whole of a response.
    Partial,
    /// A response.
    Whole {
        /// Its status.
        status: u16,
        /// Its body, out of its chunks.
        body: Cow<'a, [u8]>,
        /// With head and body.
        len: usize,
    },
    /// No response, or one of a form that no server here has.
    Wrong,
}

/// A response with its head; a right one has some hundred bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Those of the gateways here have a dozen.
const HEADERS_MAX: usize = 32;

/// How a body is told from what follows it.
enum Framing {
    Length(usize),
    Chunked,
}

/// Looks for a whole response at the beginning.
pub fn next(received: &[u8]) -> Answer<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let begin = match head.parse(received) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Answer::Partial,
        Err(_) => return Answer::Wrong,
    };
    let (Some(status), Some(framing)) = (head.code, framing(head.headers)) else { return Answer::Wrong };
    let rest = &received[begin..];
    match framing {
        Framing::Length(length) if length > ANSWER_BYTES_MAX => Answer::Wrong,
        Framing::Length(length) => match rest.get(..length) {
            Some(body) => Answer::Whole { status, body: body.into(), len: begin + length },
            None => Answer::Partial,
        },
        Framing::Chunked => out_of_chunks(status, begin, rest),
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Option<Framing> {
    let find = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if let Some(encoding) = find("transfer-encoding") {
        return encoding.value.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked);
    }
    let length = str::from_utf8(find("content-length")?.value).ok()?;
    Some(Framing::Length(length.parse().ok()?))
}

fn out_of_chunks(status: u16, begin: usize, rest: &[u8]) -> Answer<'static> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line, size) = match httparse::parse_chunk_size(&rest[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Answer::Partial,
            Err(_) => return Answer::Wrong,
        };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= ANSWER_BYTES_MAX) else {
            return Answer::Wrong;
        };
        let Some(chunk) = rest.get(at + line..at + line + size + 2) else { return Answer::Partial };
        let Some(chunk) = chunk.strip_suffix(b"\r\n") else { return Answer::Wrong };
        body.extend_from_slice(chunk);
        at += line + size + 2;
        if size == 0 {
            return Answer::Whole { status, body: body.into(), len: begin + at };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut anywhere, it is partial.
    fn check(received: &str, expected: Option<(u16, &str)>) {
        let found = next(received.as_bytes());
        let Some((status, body)) = expected else {
            assert_eq!(found, Answer::Wrong, "{received}");
            return;
        };
        let len = received.len();
        assert_eq!(found, Answer::Whole { status, body: body.as_bytes().into(), len }, "{received}");
        for cut in 0..len {
            assert_eq!(next(&received.as_bytes()[..cut]), Answer::Partial, "{received} at {cut}");
        }
        let more = format!("{received}HTTP");
        assert!(matches!(next(more.as_bytes()), Answer::Whole { len: found, .. } if found == len));
    }

    #[test]
    fn tells_responses_apart() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX: y\r\n\r\n{}", Some((200, "{}")));
        check("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", Some((202, "")));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
            Some((200, "abcd")),
        );
        check("HTTP/1.1 200 OK\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff0\r\n", None);
        check("nonsense\r\n\r\n", None);
    }
}
