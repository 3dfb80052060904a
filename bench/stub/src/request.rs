//! The next request in received bytes.

/// What was found at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// It is not all there.
    Partial,
    /// It is all there, body included.
    Whole {
        /// What it asks for.
        method: Method,
        /// Bytes it takes up.
        len: usize,
    },
    /// No request that this server can find the end of.
    Wrong,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `tools/call`
    Call,
    /// `server/discover`
    Discover,
    /// `tools/list`
    List,
    /// A POST of anything else, `initialize` included.
    Unknown,
    /// Not a POST: there is no stream and no session here.
    NotPost,
}

/// Proxies send some 500 bytes; one more read makes room for longer ones.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Reads the request at the front. Only bodies with a Content-Length have an end here.
pub fn next(received: &[u8]) -> Request {
    let Some(end) = received.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
        return if received.len() > HEAD_BYTES_MAX { Request::Wrong } else { Request::Partial };
    };
    let mut method = if received.starts_with(b"POST ") { Method::Unknown } else { Method::NotPost };
    let mut body_len = 0;
    for line in received[..end].split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Request::Wrong };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let Some(len) = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) else {
                return Request::Wrong;
            };
            body_len = len;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Request::Wrong;
        } else if name.eq_ignore_ascii_case(b"mcp-method") && method == Method::Unknown {
            method = match value {
                b"tools/call" => Method::Call,
                b"server/discover" => Method::Discover,
                b"tools/list" => Method::List,
                _ => Method::Unknown,
            };
        }
    }
    match (end + HEAD_END.len()).checked_add(body_len) {
        Some(len) if len <= received.len() => Request::Whole { method, len },
        Some(_) => Request::Partial,
        None => Request::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(received: &str, expected: &Request) {
        assert_eq!(next(received.as_bytes()), *expected, "{received:?}");
    }

    #[test]
    fn requests() {
        let call = "POST /mcp HTTP/1.1\r\nmcp-method: tools/call\r\nContent-Length: 2\r\n\r\n{}";
        let whole = |method, len| Request::Whole { method, len };
        check(call, &whole(Method::Call, call.len()));
        check(&[call, "POST"].concat(), &whole(Method::Call, call.len()));
        for cut in 0..call.len() {
            check(&call[..cut], &Request::Partial);
        }
        check("POST / HTTP/1.1\r\nMcp-Method: tools/list\r\n\r\n", &whole(Method::List, 43));
        check("POST / HTTP/1.1\r\nMcp-Method: initialize\r\n\r\n", &whole(Method::Unknown, 43));
        check("GET / HTTP/1.1\r\nMcp-Method: tools/list\r\n\r\n", &whole(Method::NotPost, 42));
        check("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", &Request::Wrong);
        check("POST / HTTP/1.1\r\nno colon\r\n\r\n", &Request::Wrong);
        check(&"x".repeat(HEAD_BYTES_MAX + 1), &Request::Wrong);
    }
}
