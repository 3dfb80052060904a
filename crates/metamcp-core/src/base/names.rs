use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of one MCP server behind the gateway, as it stands before `__` in an advertised tool name.
///
/// 1 to 64 characters of `[A-Za-z0-9_-]`, without a double underscore (which separates
/// server from tool) and without an underscore at either end (which would make the separator ambiguous).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Arc<str>);

/// The name of an endpoint, as it stands in the path `/mcp/{endpoint}`.
///
/// 1 to 64 characters of `[A-Za-z0-9_-]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointName(Arc<str>);

/// Why a text is not a name; the `Display` form says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// A tool name may have 128 characters (MCP 2026-07-28, tools); half is left to the tool itself.
const NAME_BYTES_MAX: usize = 64;

impl ServerName {
    /// Checks and takes a server's name.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| Err(InvalidName { what: "server name", text: clip(text), rule });
        if !is_plain(text) {
            return invalid("use 1 to 64 characters of A-Z a-z 0-9 _ -");
        }
        if text.contains("__") || text.starts_with('_') || text.ends_with('_') {
            return invalid("no double underscore and none at either end: `__` parts server from tool");
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EndpointName {
    /// The endpoint behind the bare path `/mcp`.
    pub const DEFAULT: &'static str = "default";

    /// Checks and takes an endpoint's name.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if is_plain(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName {
                what: "endpoint name",
                text: clip(text),
                rule: "use 1 to 64 characters of A-Z a-z 0-9 _ -",
            })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// An error must not carry a megabyte of what was wrong.
fn clip(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX + 1).collect()
}

/// So that a map keyed by names is asked with plain text; equal texts are equal names.
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
    /// What to write instead, without what was written: that may be anything that somebody pasted.
    pub fn redacted(&self) -> String {
        format!("is not a {}: {}", self.what, self.rule)
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a {}: {}", self.text, self.what, self.rule)
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
    fn takes_and_refuses() {
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
