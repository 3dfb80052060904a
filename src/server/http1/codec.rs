//! Parses HTTP/1.1 requests of the common form: a small POST to an MCP path with a `Content-Length`, or a
//! DELETE without a body. All others are left to hyper.
//!
//! Invariant: hyper would parse such a request in the same way. Both use httparse.

use std::mem::MaybeUninit;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::fields::{Field, FieldName, Fields};
use super::receive::RequestBody;
use super::request::EndpointRequest;
use crate::route::RouteTable;
use metamcp_config::sections::HttpConfig;
use metamcp_core::frame::Span;
use metamcp_core::http1::{is_misspelt_framing_field, is_valid_host};
use metamcp_core::protocol::header;

/// Header fields of a request. Clients send about a dozen.
const FIELDS_MAX: usize = 32;

/// Bytes of a request head. A token and a session id take about a kilobyte.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Bytes of a request body. Longer bodies are not worth copying here.
const BODY_BYTES_MAX: usize = 32 << 10;

/// The result of parsing the received bytes.
pub enum ParseOutcome {
    /// A complete request, and its length in bytes.
    Usual(EndpointRequest, usize),
    /// The request is incomplete.
    Partial,
    /// The request is left to hyper.
    Unusual,
}

/// The beginnings of supported requests. The first letter determines the method.
const OPENINGS: [(Method, &[u8]); 2] = [(Method::POST, b"POST /"), (Method::DELETE, b"DELETE /")];

/// The method of a request that begins like a supported one. For less than a whole beginning: the method that
/// it may become.
fn usual_method(received: &[u8]) -> Option<Method> {
    let is_it = |opening: &[u8]| {
        let seen = received.len().min(opening.len());
        received[..seen] == opening[..seen]
    };
    OPENINGS.into_iter().find_map(|(method, opening)| is_it(opening).then_some(method))
}

/// Parses a request of the common form.
pub fn read_request(config: &HttpConfig, table: &RouteTable, received: &[u8]) -> ParseOutcome {
    let Some(method) = usual_method(received) else { return ParseOutcome::Unusual };
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        received,
        &mut lines,
    );
    let head_bytes = match parsed {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if received.len() <= HEAD_BYTES_MAX => return ParseOutcome::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return ParseOutcome::Unusual,
    };
    // What the standard forbids is refused on hyper's side (`StrictFeed`).
    if !has_strict_lines(received, head_bytes, request.headers) {
        return ParseOutcome::Unusual;
    }
    let is_small = head_bytes <= HEAD_BYTES_MAX.min(config.header_bytes_max)
        && request.headers.len() <= config.header_count_max;
    let endpoint = request.path.and_then(|path| table.find_by_path(path));
    let (Some(endpoint), Some(1), true) = (endpoint, request.version, is_small) else {
        return ParseOutcome::Unusual;
    };
    let Ok((mut fields, length)) = read_fields(request.headers, received) else {
        return ParseOutcome::Unusual;
    };
    if fields.any_doubled() || !fields.has(Field::Host) {
        return ParseOutcome::Unusual;
    }
    let bytes_max = config.body_bytes_max.min(BODY_BYTES_MAX);
    let body_bytes = match (method == Method::POST, length) {
        // A POST has a body, even if it will be refused. A DELETE has none.
        (true, Some(bytes)) if (1..=bytes_max).contains(&bytes) => bytes,
        (false, None | Some(0)) => 0,
        _ => return ParseOutcome::Unusual,
    };
    let bytes = head_bytes + body_bytes;
    if received.len() < bytes {
        return ParseOutcome::Partial;
    }
    let text = Bytes::copy_from_slice(&received[..bytes]);
    let body = text.slice(head_bytes..);
    fields.set_text(text);
    let (endpoint, body) = (Arc::clone(endpoint), RequestBody::Whole(body));
    let request = EndpointRequest { method, authority: None, endpoint, fields, body };
    ParseOutcome::Usual(request, bytes)
}

/// Whether each line ends with CRLF. httparse accepts a line feed alone too.
fn has_strict_lines(received: &[u8], head_bytes: usize, lines: &[httparse::Header<'_>]) -> bool {
    let ends_before = |at: usize| at >= 2 && received[at - 2..at] == *b"\r\n";
    let begins = |line: &httparse::Header<'_>| line.name.as_ptr().addr() - received.as_ptr().addr();
    // Each line ends where the next one begins, and the last one two bytes before the end of the head.
    lines.iter().all(|line| ends_before(begins(line)))
        && ends_before(head_bytes)
        && ends_before(head_bytes.saturating_sub(2))
}

/// A header field concerns the message's framing or its connection in an unsupported way.
struct UnsupportedFraming;

/// The fields of a request that stays on its connection, and its `Content-Length`. The text of the fields is to be set.
fn read_fields(
    lines: &[httparse::Header<'_>],
    received: &[u8],
) -> Result<(Fields, Option<usize>), UnsupportedFraming> {
    let mut fields = Fields::of(Bytes::new());
    let mut length = None;
    for line in lines {
        let name = line.name.as_bytes();
        let kind = FieldName::of(name);
        let is_supported = match kind {
            FieldName::Known(Field::ContentLength) => {
                let bytes = header::parse_content_length(line.value);
                length = bytes.and_then(|bytes| usize::try_from(bytes).ok());
                length.is_some()
            }
            FieldName::Known(Field::Host) => is_valid_host(line.value),
            FieldName::Known(_) => true,
            FieldName::Param | FieldName::Other => !is_unsupported(line),
        };
        if !is_supported {
            return Err(UnsupportedFraming);
        }
        fields.add_kind(kind, place(name, received), place(line.value, received));
    }
    Ok((fields, length))
}

/// Whether a field that is no [`Field`] concerns the message's framing or its connection in an unsupported way.
fn is_unsupported(line: &httparse::Header<'_>) -> bool {
    let is = |name: &str| line.name.eq_ignore_ascii_case(name);
    match line.name.len() {
        10 if is("connection") => !line.value.eq_ignore_ascii_case(b"keep-alive"),
        17 if is("transfer-encoding") => true,
        7 if is("upgrade") => true,
        6 if is("expect") => true,
        _ => is_misspelt_framing_field(line.name.as_bytes()),
    }
}

/// The span of `part` in `whole`, which contains it.
fn place(part: &[u8], whole: &[u8]) -> Span {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    // A head is bounded far below 4 GiB.
    let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    Span { start: at(start), end: at(start + part.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_config::sections::{EndpointConfig, EndpointMembers, NamePrefix};
    use metamcp_core::base::{EndpointName, ServerName};

    fn read(received: &[u8]) -> ParseOutcome {
        let config = HttpConfig {
            body_bytes_max: 64 << 10,
            header_bytes_max: 16 << 10,
            header_count_max: 64,
            ..crate::server::http1::guard::tests::config("127.0.0.1:0")
        };
        let servers = [ServerName::new("a").expect("valid")];
        let name = EndpointName::new("default").expect("valid");
        let endpoint = EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Always };
        let table = RouteTable::build(&servers, &[endpoint]).expect("all servers exist");
        read_request(&config, &table, received)
    }

    /// Checks the endpoint's scope, the body and the number of bytes after the request, or why it was not
    /// parsed.
    #[track_caller]
    fn check(received: &[u8], expected: Result<(&str, &[u8], usize), &str>) {
        let read = read(received);
        let got = match &read {
            ParseOutcome::Partial => Err("partial"),
            ParseOutcome::Unusual => Err("unusual"),
            ParseOutcome::Usual(request, bytes) => {
                let RequestBody::Whole(body) = &request.body else { panic!("a body that was read") };
                assert!(
                    received.starts_with(request.method.as_str().as_bytes()) && request.authority.is_none()
                );
                Ok((&*request.endpoint.scope, &body[..], received.len() - bytes))
            }
        };
        assert_eq!(got, expected, "{}", received.escape_ascii());
    }

    fn head(lines: &str) -> String {
        format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
    }

    #[test]
    fn usual_requests() {
        let usual = head("content-length: 2\r\n") + "{}";
        check(usual.as_bytes(), Ok(("e/default", b"{}", 0)));
        check((usual.clone() + "POST").as_bytes(), Ok(("e/default", b"{}", 4)));
        check(usual.replace("/mcp", "/servers/a/mcp").as_bytes(), Ok(("s/a", b"{}", 0)));
        let more = "Connection: Keep-Alive\r\nX-Any: \u{e9}\r\nX-Any: again\r\nContent-Length:  02\t\r\n";
        check((head(more) + "{}").as_bytes(), Ok(("e/default", b"{}", 0)));
        for at in 0..usual.len() {
            check(&usual.as_bytes()[..at], Err("partial"));
        }
        let ParseOutcome::Usual(request, _) = read(usual.as_bytes()) else { panic!("it is usual") };
        assert_eq!(request.fields.get(Field::Host), Some(&b"localhost"[..]));
        assert_eq!(request.fields.get(Field::Origin), None);
        for lines in ["", "Content-Length: 0\r\n", "Content-Length: 00\r\nConnection: keep-alive\r\n"] {
            let end = delete(lines);
            check(end.as_bytes(), Ok(("e/default", b"", 0)));
            check((end.clone() + &end).as_bytes(), Ok(("e/default", b"", end.len())));
            for at in 0..end.len() {
                check(&end.as_bytes()[..at], Err("partial"));
            }
        }
    }

    fn delete(lines: &str) -> String {
        head(lines).replacen("POST", "DELETE", 1)
    }

    #[test]
    fn uncommon_requests_are_left_to_hyper() {
        let usual = head("Content-Length: 2\r\n") + "{}";
        for (from, to) in [
            ("POST", "GET"),
            ("POST", "post"),
            ("POST", "\r\nPOST"),
            ("POST /", "POST  /"),
            ("/mcp", "http://localhost/mcp"),
            ("/mcp", "/mcp?x=1"),
            ("/mcp", "/mcp//"),
            ("/mcp", "/nope"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "HTTP/2.0"),
            (" HTTP/1.1\r\n", " HTTP/1.1\n"),
            ("Host: localhost\r\n", "Host: localhost\n"),
            ("\r\n\r\n", "\n\r\n"),
            ("\r\n\r\n", "\r\n\n"),
            ("\r\n\r\n", "\n\n"),
            ("Host:", "X-Host:"),
            ("Host:", "Content_Length: 2\r\nHost:"),
            ("Host:", "transfer_Encoding: chunked\r\nHost:"),
            ("Host:", "Keep_Alive: 5\r\nHost:"),
            ("Host:", "Proxy_Connection: close\r\nHost:"),
            ("Host:", "HTTP2_Settings: x\r\nHost:"),
            ("Host:", "Host_: a\r\nHost:"),
            ("Host:", "_Connection: close\r\nHost:"),
            ("Host: localhost", "Host:"),
            ("Host: localhost", "Host: a b"),
            ("Host: localhost", "Host: a,b"),
            ("/mcp", "/mcp#x"),
            ("Host:", "Host :"),
            ("Host: ", "Host: \u{0}"),
            ("Host: localhost", "Host: localhost\r\n folded"),
            ("Host: localhost", "Host: localhost\r\nhost: localhost"),
        ] {
            check(usual.replacen(from, to, 1).as_bytes(), Err("unusual"));
        }
        for lines in [
            "",
            "Content-Length: 0\r\n",
            "Content-Length:\r\n",
            "Content-Length: +2\r\n",
            "Content-Length: 2, 2\r\n",
            "Content-Length: 2\r\nContent-Length: 2\r\n",
            "Content-Length: 32769\r\n",
            "Content-Length: 0000000000000002\r\n",
            "Content-Length: 18446744073709551618\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 2\r\nTransfer-Encoding: x\r\n",
            "Content-Length: 2\r\nConnection: close\r\n",
            "Content-Length: 2\r\nConnection: keep-alive, close\r\n",
            "Content-Length: 2\r\nUpgrade: h2c\r\n",
            "Content-Length: 2\r\nExpect: 100-continue\r\n",
            "Content-Length: 2\r\nAccept: a\r\nACCEPT: b\r\n",
        ] {
            check((head(lines) + "{}").as_bytes(), Err("unusual"));
            // These are common for a DELETE.
            if !["", "Content-Length: 0\r\n"].contains(&lines) {
                check((delete(lines) + "{}").as_bytes(), Err("unusual"));
            }
        }
        for other in
            ["DELETE ", "DELETE\t/", "Delete /", "delete /", "DELETED /", "DEL /", "PUT /", "GET /", "X"]
        {
            check(head("").replacen("POST /", other, 1).as_bytes(), Err("unusual"));
        }
        check((head(&"X: x\r\n".repeat(FIELDS_MAX)) + "{}").as_bytes(), Err("unusual"));
        // Left to hyper before the head is complete.
        check(&[b"POST /mcp HTTP/1.1\r\nX: ", &[b'x'; HEAD_BYTES_MAX][..]].concat(), Err("unusual"));
    }
}
