//! Request headers that a server is given.

use http::{HeaderName, HeaderValue};

use super::secrets::SEALED;

/// Who has a say in a header of a request to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The configuration.
    Configured,
    /// metamcp writes it on each request: a configured one is left out, and it is said. Client files hold
    /// such headers (`Content-Type`, `Accept`) since they do no harm there.
    Gateway,
    /// It frames the message or belongs to the connection: a configured one would break either.
    Connection,
}

/// Whose a header is.
pub(crate) fn owner(name: &HeaderName) -> Owner {
    match name.as_str() {
        "connection" | "content-length" | "expect" | "host" | "http2-settings" | "keep-alive"
        | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" => Owner::Connection,
        "accept"
        | "accept-encoding"
        | "content-encoding"
        | "content-type"
        | "last-event-id"
        | "mcp-method"
        | "mcp-name"
        | "mcp-protocol-version"
        | "mcp-session-id" => Owner::Gateway,
        // Modern clients send tool parameters under names of this form; they are checked against the body.
        name if name.starts_with("mcp-param-") => Owner::Gateway,
        _ => Owner::Configured,
    }
}

/// A header as it will be sent. Every configured value is marked sensitive: it is never logged, nor put into
/// a shared HPACK table. The error never quotes the value.
pub(crate) fn parse(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| "is not a header name; use letters, digits and hyphens")?;
    if owner(&name) == Owner::Connection {
        return Err("is a header of the connection, which metamcp sets itself; leave it out");
    }
    let trimmed = value.trim_matches([' ', '\t']);
    if trimmed == SEALED {
        return Err("has `(sealed)` for a value, which stands for what is not shown: write the value itself");
    }
    if trimmed.len() > VALUE_BYTES_MAX {
        return Err("has a value longer than 8 KiB");
    }
    if !trimmed.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
        return Err("has a value with line breaks, control or non-ASCII characters in it");
    }
    let mut value = HeaderValue::from_str(trimmed).map_err(|_| "has a value that no header can hold")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// What servers take for the whole head, usually.
const VALUE_BYTES_MAX: usize = 8 << 10;

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
    fn takes_and_refuses() {
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
        let check = |name, expected| assert_eq!(owner(&HeaderName::from_static(name)), expected, "{name}");
        check("accept", Owner::Gateway);
        check("mcp-param-region", Owner::Gateway);
        check("x-mcp", Owner::Configured);
        check("authorization", Owner::Configured);
        check("host", Owner::Connection);
    }
}
