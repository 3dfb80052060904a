//! Request headers configured for a server.

use http::{HeaderName, HeaderValue};

/// Who sets a header of the requests to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderOwner {
    /// The configuration sets it.
    Configured,
    /// metamcp sets it on each request; a configured value is left out with a warning. Client files contain
    /// such headers (`Content-Type`, `Accept`), and there they do no harm.
    Gateway,
    /// It frames the message or belongs to the connection; a configured value would break either.
    Connection,
}

/// Returns who sets a header.
pub fn header_owner(name: &HeaderName) -> HeaderOwner {
    match name.as_str() {
        "connection" | "content-length" | "expect" | "host" | "http2-settings" | "keep-alive"
        | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" => HeaderOwner::Connection,
        "accept"
        | "accept-encoding"
        | "content-encoding"
        | "content-type"
        | "last-event-id"
        | "mcp-method"
        | "mcp-name"
        | "mcp-protocol-version"
        | "mcp-session-id" => HeaderOwner::Gateway,
        // Modern clients send tool parameters as headers of this form, and servers compare them with the
        // body.
        name if name.starts_with("mcp-param-") => HeaderOwner::Gateway,
        _ => HeaderOwner::Configured,
    }
}

/// Parses a header as it will be sent. Every configured value is marked sensitive: it is never logged, nor
/// entered into a shared HPACK table. The error never quotes the value.
pub fn parse(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| "is not a header name; use letters, digits and hyphens")?;
    if header_owner(&name) == HeaderOwner::Connection {
        return Err("is a header of the connection, set by metamcp itself; leave it out");
    }
    let trimmed = value.trim_matches([' ', '\t']);
    if trimmed == SEALED_PLACEHOLDER {
        return Err("has the value `(sealed)`, the placeholder for a secret: write the value itself");
    }
    if trimmed.len() > VALUE_BYTES_MAX {
        return Err("has a value longer than 8 KiB");
    }
    if !trimmed.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
        return Err("has a value that contains line breaks, control characters or non-ASCII characters");
    }
    let mut value = HeaderValue::from_str(trimmed).map_err(|_| "has an invalid value")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The usual limit of servers for the whole head.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// Shown in place of a secret. Sent back in a request, it keeps the stored value.
pub const SEALED_PLACEHOLDER: &str = "(sealed)";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: Result<&str, &str>) {
        match (parse(name, value), expected) {
            (Ok((found, value)), Ok(expected)) => {
                assert_eq!((found.as_str(), value.is_sensitive()), (name.to_lowercase().as_str(), true));
                assert_eq!(value, expected);
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{name}: {found}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }

    #[test]
    fn accepts_and_rejects() {
        check("Authorization", "Bearer x", Ok("Bearer x"));
        check("X-A", " b\t", Ok("b"));
        check("X-Empty", "", Ok(""));
        check("Content-Type", "application/json", Ok("application/json"));
        check("", "x", Err("not a header name"));
        check("a b", "x", Err("not a header name"));
        check("a:", "x", Err("not a header name"));
        check("X-A", "(sealed)", Err("write the value itself"));
        check("X-A", "a\r\nb: c", Err("line breaks"));
        check("X-A", "\u{e4}", Err("non-ASCII"));
        check("X-A", &"x".repeat((8 << 10) + 1), Err("8 KiB"));
        for name in ["Host", "Content-Length", "Transfer-Encoding", "Connection", "TE", "Upgrade"] {
            check(name, "x", Err("of the connection"));
        }
    }

    #[test]
    fn owners() {
        let check =
            |name, expected| assert_eq!(header_owner(&HeaderName::from_static(name)), expected, "{name}");
        check("accept", HeaderOwner::Gateway);
        check("mcp-param-region", HeaderOwner::Gateway);
        check("x-mcp", HeaderOwner::Configured);
        check("authorization", HeaderOwner::Configured);
        check("host", HeaderOwner::Connection);
    }
}
