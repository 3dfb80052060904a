//! Where the messages of a session go: the event `endpoint` (MCP 2024-11-05, transports).

use http::uri::PathAndQuery;
use url::Url;

use metamcp_http::{FailureStage, UpstreamError};

/// The request line must fit into what servers accept as a head, usually 8 KiB.
const ENDPOINT_BYTES_MAX: usize = 8 << 10;

/// Resolves the data of an `endpoint` event against the URL of the stream. The origins must be the same,
/// because every message carries the server's credentials.
///
/// Errors quote no more than the origin: the rest of such a URL names the session, and is as good as a key to
/// it.
pub fn resolve_message_endpoint(stream_url: &Url, data: &[u8]) -> Result<PathAndQuery, UpstreamError> {
    let invalid =
        |reason: &str| UpstreamError::new(FailureStage::NoEndpoint, format!("the endpoint {reason}"));
    if data.len() > ENDPOINT_BYTES_MAX {
        return Err(invalid("is longer than 8 KiB"));
    }
    let text = str::from_utf8(data).map_err(|_| invalid("is not UTF-8"))?.trim_matches(' ');
    // A URL parser drops line breaks and tabs: what is checked would not be what was written.
    if text.is_empty() || text.contains(char::is_control) {
        return Err(invalid("is empty, or contains a line break or another control character"));
    }
    let url = stream_url.join(text).map_err(|_| invalid("is not a URL"))?;
    let (expected, origin) = (stream_url.origin(), url.origin());
    if origin != expected {
        let text = format!(
            "the endpoint is at {}, not at {}",
            origin.ascii_serialization(),
            expected.ascii_serialization()
        );
        return Err(UpstreamError::new(FailureStage::ForeignEndpoint, text));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("contains a user name or password"));
    }
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    path.parse().map_err(|_| invalid("has no valid request path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(base: &str, data: impl AsRef<[u8]>, expected: Result<&str, FailureStage>) {
        let data = data.as_ref();
        let found = resolve_message_endpoint(&base.parse().expect("a URL"), data);
        let found = found.map(|path| path.to_string()).map_err(|error| error.stage);
        assert_eq!(found.as_deref().map_err(|stage| *stage), expected, "{:?}", String::from_utf8_lossy(data));
    }

    const BASE: &str = "http://a.example:3001/api/sse?token=t";

    #[test]
    fn accepts_the_same_origin() {
        check(BASE, "/message?sessionId=1", Ok("/message?sessionId=1"));
        check(BASE, " /message ", Ok("/message"));
        check(BASE, "message?sessionId=1", Ok("/api/message?sessionId=1"));
        check(BASE, "../m", Ok("/m"));
        check(BASE, "?sessionId=1", Ok("/api/sse?sessionId=1"));
        check(BASE, "#only", Ok("/api/sse?token=t"));
        check(BASE, "http://a.example:3001/m#x", Ok("/m"));
        check(BASE, "HTTP://A.EXAMPLE:3001/m", Ok("/m"));
        check(BASE, "//a.example:3001/m", Ok("/m"));
        check(BASE, "/m?q=a b\"<ä", Ok("/m?q=a%20b%22%3C%C3%A4"));
        check("https://a.example/sse", "https://a.example:443/m", Ok("/m"));
        check("http://[::1]:80/sse", "http://[0:0:0:0:0:0:0:1]/m", Ok("/m"));
    }

    #[test]
    fn refuses_other_origins() {
        for foreign in [
            "http://b.example:3001/m",
            "http://a.example/m",
            "http://a.example:3002/m",
            "https://a.example:3001/m",
            "//b.example/m",
            "\\\\b.example\\m",
            "/\\b.example/m",
            "http:\\\\b.example/m",
            "http://a.example:3001@b.example/m",
            "http://a.example.b.example:3001/m",
            "http://169.254.169.254/latest",
            "http://127.0.0.1:3001/m",
            "file:///etc/passwd",
            "data:,x",
            "javascript:x",
            "unix:/run/x.sock",
        ] {
            check(BASE, foreign, Err(FailureStage::ForeignEndpoint));
        }
    }

    #[test]
    fn refuses_invalid_endpoints() {
        for wrong in
            ["", "  ", "/a\n/b", "/a\r\nX: y", "/a\tb", "/a\0", "http://", "http://u:p@a.example:3001/m"]
        {
            check(BASE, wrong, Err(FailureStage::NoEndpoint));
        }
        check(BASE, b"/\xff", Err(FailureStage::NoEndpoint));
        check(
            BASE,
            format!("/{}", "x".repeat(ENDPOINT_BYTES_MAX - 1)),
            Ok(&format!("/{}", "x".repeat(8191))),
        );
        check(BASE, format!("/{}", "x".repeat(ENDPOINT_BYTES_MAX)), Err(FailureStage::NoEndpoint));
    }

    #[test]
    fn errors_do_not_leak_the_session() {
        for text in
            ["http://b.example/m?sessionId=hunter2", "http://u:hunter2@a.example:3001/m", "/hunter2\n"]
        {
            let error = resolve_message_endpoint(&BASE.parse().expect("a URL"), text.as_bytes())
                .expect_err("refused");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
