//! Reads HTTP/1.1 requests of the usual shape: a small POST to an MCP path with a length that was said, or the DELETE of
//! a session, without a body.
//!
//! Invariant: what is read here, hyper would read in the same way. The parser is the same.

use std::mem::MaybeUninit;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::fields::Fields;
use super::receive::RequestBody;
use super::request::Asked;
use crate::route::RouteTable;
use crate::server::config::Config;
use metamcp_core::frame::Span;
use metamcp_core::protocol::header;

/// Fields of a request; clients send a dozen.
const FIELDS_MAX: usize = 32;

/// The head of a request: a token and a session id have a kilobyte.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// The body of a request; bigger ones are not copied together here.
const BODY_BYTES_MAX: usize = 32 << 10;

/// What the bytes that came are.
pub enum Read {
    /// A request of a usual shape, and of how many bytes.
    Usual(Asked, usize),
    /// More has to come.
    Partial,
    /// A request for hyper.
    Unusual,
}

/// What usual requests begin with. Each tells its method by its first letter.
const OPENINGS: [(Method, &[u8]); 2] = [(Method::POST, b"POST /"), (Method::DELETE, b"DELETE /")];

/// What the beginning of a request asks to be done, when that is usual; of less than a whole one: what it may come to ask.
fn usual_method(came: &[u8]) -> Option<Method> {
    let is_it = |opening: &[u8]| {
        let seen = came.len().min(opening.len());
        came[..seen] == opening[..seen]
    };
    OPENINGS.into_iter().find_map(|(method, opening)| is_it(opening).then_some(method))
}

/// Reads a request, when it is of a usual shape and came whole.
pub fn read_request(config: &Config, table: &RouteTable, came: &[u8]) -> Read {
    let Some(method) = usual_method(came) else { return Read::Unusual };
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, came, &mut lines);
    let head_bytes = match parsed {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if came.len() <= HEAD_BYTES_MAX => return Read::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Read::Unusual,
    };
    let is_small = head_bytes <= HEAD_BYTES_MAX.min(config.header_bytes_max)
        && request.headers.len() <= config.header_count_max;
    let endpoint = request.path.and_then(|path| table.find_by_path(path));
    let (Some(endpoint), Some(1), true) = (endpoint, request.version, is_small) else {
        return Read::Unusual;
    };
    let bytes_max = config.body_bytes_max.min(BODY_BYTES_MAX);
    let body_bytes = match (method == Method::POST, length_of(request.headers)) {
        // A POST has a body, even if it is refused; nothing else has one.
        (true, Ok(Some(bytes))) if (1..=bytes_max).contains(&bytes) => bytes,
        (false, Ok(None | Some(0))) => 0,
        _ => return Read::Unusual,
    };
    let bytes = head_bytes + body_bytes;
    if came.len() < bytes {
        return Read::Partial;
    }
    let text = Bytes::copy_from_slice(&came[..bytes]);
    let body = text.slice(head_bytes..);
    let mut fields = Fields::of(text);
    for line in request.headers.iter() {
        fields.note(place(line.name.as_bytes(), came), place(line.value, came));
    }
    if fields.any_doubled() {
        return Read::Unusual;
    }
    let (endpoint, body) = (Arc::clone(endpoint), RequestBody::Whole(body));
    let asked = Asked { method, authority: None, endpoint, fields, body };
    Read::Usual(asked, bytes)
}

/// Something is said about a message or its connection that is not usual.
struct Unusual;

/// How long the body is, if that is said, when nothing else is said about the message or the connection than that it
/// is kept.
fn length_of(lines: &[httparse::Header<'_>]) -> Result<Option<usize>, Unusual> {
    let mut length = None;
    for line in lines {
        let is = |name: &str| line.name.eq_ignore_ascii_case(name);
        match line.name.len() {
            14 if is("content-length") => {
                if length.is_some() {
                    return Err(Unusual);
                }
                let said =
                    header::parse_content_length(line.value).and_then(|bytes| usize::try_from(bytes).ok());
                length = Some(said.ok_or(Unusual)?);
            }
            10 if is("connection") && !line.value.eq_ignore_ascii_case(b"keep-alive") => return Err(Unusual),
            17 if is("transfer-encoding") => return Err(Unusual),
            7 if is("upgrade") => return Err(Unusual),
            6 if is("expect") => return Err(Unusual),
            _ => {}
        }
    }
    Ok(length)
}

/// Where a part lies in the whole it is a part of.
fn place(part: &[u8], whole: &[u8]) -> Span {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    // A head is bounded far below 4 GiB.
    let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    Span { start: at(start), end: at(start + part.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{EndpointConfig, EndpointMembers, NamePrefix};
    use crate::server::http1::fields::Field;
    use metamcp_core::base::{EndpointName, ServerName};

    fn read(came: &[u8]) -> Read {
        let config = Config {
            body_bytes_max: 64 << 10,
            header_bytes_max: 16 << 10,
            header_count_max: 64,
            ..crate::server::http1::guard::tests::config("127.0.0.1:0")
        };
        let servers = [ServerName::new("a").expect("valid")];
        let name = EndpointName::new("default").expect("valid");
        let endpoint = EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Always };
        let table = RouteTable::build(&servers, &[endpoint]).expect("all servers exist");
        read_request(&config, &table, came)
    }

    /// The scope of the endpoint, the body and what is left behind it; or why not.
    #[track_caller]
    fn check(came: &[u8], expected: Result<(&str, &[u8], usize), &str>) {
        let read = read(came);
        let got = match &read {
            Read::Partial => Err("partial"),
            Read::Unusual => Err("unusual"),
            Read::Usual(asked, bytes) => {
                let RequestBody::Whole(body) = &asked.body else { panic!("a body that was read") };
                assert!(came.starts_with(asked.method.as_str().as_bytes()) && asked.authority.is_none());
                Ok((&*asked.endpoint.scope, &body[..], came.len() - bytes))
            }
        };
        assert_eq!(got, expected, "{}", came.escape_ascii());
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
        let Read::Usual(asked, _) = read(usual.as_bytes()) else { panic!("it is usual") };
        assert_eq!(asked.fields.get(Field::Host), Some(&b"localhost"[..]));
        assert_eq!(asked.fields.get(Field::Origin), None);
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
    fn what_is_for_hyper() {
        let usual = head("Content-Length: 2\r\n") + "{}";
        for (from, to) in [
            ("POST", "GET"),
            ("POST", "post"),
            ("POST", "\r\nPOST"),
            ("POST /", "POST  /"),
            ("/mcp", "http://localhost/mcp"),
            ("/mcp", "/mcp?x=1"),
            ("/mcp", "/mcp/"),
            ("/mcp", "/nope"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "HTTP/2.0"),
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
            // These are what an end of a session usually has.
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
        // Refused before the end of the head came.
        check(&[b"POST /mcp HTTP/1.1\r\nX: ", &[b'x'; HEAD_BYTES_MAX][..]].concat(), Err("unusual"));
    }
}
