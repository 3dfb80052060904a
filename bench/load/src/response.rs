//! The parser of HTTP/1.1 responses.

use std::borrow::Cow;

/// The result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedResponse<'a> {
    /// The response is not complete.
    Partial,
    /// A complete response.
    Complete {
        status: u16,
        /// The body, joined from its chunks.
        body: Cow<'a, [u8]>,
        /// The length of head and body.
        len: usize,
    },
    /// Not a response, or one with an unsupported framing.
    Invalid,
}

/// The longest response with its head. A correct one has a few hundred bytes.
pub const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// Headers per response. The gateways of the comparison send a dozen.
const HEADERS_MAX: usize = 32;

/// The framing of a body.
enum BodyFraming {
    Length(usize),
    Chunked,
}

/// Parses the response at the start of the received bytes.
pub fn parse_response(received: &[u8]) -> ParsedResponse<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let begin = match head.parse(received) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return ParsedResponse::Partial,
        Err(_) => return ParsedResponse::Invalid,
    };
    let (Some(status), Some(framing)) = (head.code, body_framing(head.headers)) else {
        return ParsedResponse::Invalid;
    };
    let rest = &received[begin..];
    match framing {
        BodyFraming::Length(length) if length > RESPONSE_BYTES_MAX => ParsedResponse::Invalid,
        BodyFraming::Length(length) => match rest.get(..length) {
            Some(body) => ParsedResponse::Complete { status, body: body.into(), len: begin + length },
            None => ParsedResponse::Partial,
        },
        BodyFraming::Chunked => parse_chunks(status, begin, rest),
    }
}

fn body_framing(headers: &[httparse::Header<'_>]) -> Option<BodyFraming> {
    let find = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if let Some(encoding) = find("transfer-encoding") {
        return encoding.value.eq_ignore_ascii_case(b"chunked").then_some(BodyFraming::Chunked);
    }
    let length = str::from_utf8(find("content-length")?.value).ok()?;
    Some(BodyFraming::Length(length.parse().ok()?))
}

fn parse_chunks(status: u16, begin: usize, rest: &[u8]) -> ParsedResponse<'static> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line, size) = match httparse::parse_chunk_size(&rest[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return ParsedResponse::Partial,
            Err(_) => return ParsedResponse::Invalid,
        };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= RESPONSE_BYTES_MAX) else {
            return ParsedResponse::Invalid;
        };
        let Some(chunk) = rest.get(at + line..at + line + size + 2) else { return ParsedResponse::Partial };
        let Some(chunk) = chunk.strip_suffix(b"\r\n") else { return ParsedResponse::Invalid };
        body.extend_from_slice(chunk);
        at += line + size + 2;
        if size == 0 {
            return ParsedResponse::Complete { status, body: body.into(), len: begin + at };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a response, and that it is incomplete when truncated anywhere.
    fn check(received: &str, expected: Option<(u16, &str)>) {
        let found = parse_response(received.as_bytes());
        let Some((status, body)) = expected else {
            assert_eq!(found, ParsedResponse::Invalid, "{received}");
            return;
        };
        let len = received.len();
        assert_eq!(
            found,
            ParsedResponse::Complete { status, body: body.as_bytes().into(), len },
            "{received}"
        );
        for cut in 0..len {
            assert_eq!(
                parse_response(&received.as_bytes()[..cut]),
                ParsedResponse::Partial,
                "{received} at {cut}"
            );
        }
        let more = format!("{received}HTTP");
        assert!(
            matches!(parse_response(more.as_bytes()), ParsedResponse::Complete { len: found, .. } if found == len)
        );
    }

    #[test]
    fn responses_are_parsed() {
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
