use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of an MCP server behind the gateway. It is the prefix before `__` in an advertised tool name.
///
/// 1 to 64 characters of `[A-Za-z0-9_-]`, without a double underscore, which separates server from tool, and without an
/// underscore at either end, which would make the separator ambiguous.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Arc<str>);

/// The name of an endpoint, the last segment of the path `/mcp/{endpoint}`.
///
/// 1 to 64 characters of `[A-Za-z0-9_-]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointName(Arc<str>);

/// A text is not a name. `Display` says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

/// A tool name may have 128 characters (MCP 2026-07-28, tools). Half of them are left to the tool itself.
const NAME_BYTES_MAX: usize = 64;

impl ServerName {
    /// Parses the name of a server.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| Err(InvalidName { kind: "server name", text: truncate(text), rule });
        if !is_plain(text) {
            return invalid("use 1 to 64 characters of A-Z a-z 0-9 _ -");
        }
        if text.contains("__") || text.starts_with('_') || text.ends_with('_') {
            return invalid("no double underscore and none at either end: `__` separates server and tool");
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EndpointName {
    /// The endpoint behind the bare path `/mcp`.
    pub const DEFAULT: &'static str = "default";

    /// Parses the name of an endpoint.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if is_plain(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName {
                kind: "endpoint name",
                text: truncate(text),
                rule: "use 1 to 64 characters of A-Z a-z 0-9 _ -",
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Bounds the text in an error.
fn truncate(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX + 1).collect()
}

/// Allows lookups by `str` in maps keyed by names.
impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for EndpointName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl InvalidName {
    /// The error without the text, which may be a pasted secret.
    pub fn redacted(&self) -> String {
        format!("is not a {}: {}", self.kind, self.rule)
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a {}: {}", self.text, self.kind, self.rule)
    }
}

impl std::error::Error for InvalidName {}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, server: bool, endpoint: bool) {
        assert_eq!(ServerName::new(text).is_ok(), server, "server {text:?}");
        assert_eq!(EndpointName::new(text).is_ok(), endpoint, "endpoint {text:?}");
    }

    #[test]
    fn names_are_validated() {
        check("a", true, true);
        check("GitHub-2_x", true, true);
        check("", false, false);
        check("a__b", false, true);
        check("_a", false, true);
        check("a_", false, true);
        check("a b", false, false);
        check("ä", false, false);
        check("a/b", false, false);
        check(&"a".repeat(64), true, true);
        check(&"a".repeat(65), false, false);
    }
}
