//! The words of MCP: revisions, method-independent keys, error codes, log levels.
//!
//! Invariant: everything here is a constant or a plain value; nothing knows HTTP connections or content.

use serde_json::{Value, json};

/// The one stateless revision.
pub const MODERN: &str = "2026-07-28";

/// The revisions that begin with `initialize`, oldest first.
pub const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY_NEWEST];

/// What a client that asks for an unknown revision is offered instead.
pub const LEGACY_NEWEST: &str = "2025-11-25";

/// Keys of `params._meta` and `result._meta`.
pub mod meta {
    /// The revision that a Modern request speaks.
    pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// What the sender of a Modern request can do.
    pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// Who sends a Modern request.
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// The lowest level of log messages that a Modern request wants.
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// Who answers.
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// The `subscriptions/listen` request that a notification belongs to.
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
}

/// JSON-RPC error codes.
pub mod code {
    /// The body is not JSON.
    pub const PARSE: i64 = -32700;
    /// The body is JSON but not a JSON-RPC message.
    pub const INVALID_REQUEST: i64 = -32600;
    /// Nobody here knows the method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The method is known, its parameters are wrong.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The server's own fault.
    pub const INTERNAL: i64 = -32603;
    /// A transport fault of a Legacy session (what the SDKs send; the specification names no code).
    pub const SESSION: i64 = -32000;
    /// Legacy: no such resource. Modern says `INVALID_PARAMS`.
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// Legacy (2025-11-25): the user has to visit a URL first.
    pub const URL_ELICITATION_REQUIRED: i64 = -32042;
    /// Modern: a header is missing, malformed, or disagrees with the body.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// Modern: the client did not declare a capability that the request needs.
    pub const MISSING_CAPABILITY: i64 = -32021;
    /// Modern: this revision is not spoken here.
    pub const UNSUPPORTED_VERSION: i64 = -32022;
}

/// Which of the two families of revisions a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Up to 2025-11-25: sessions.
    Legacy,
    /// 2026-07-28: every request stands alone.
    Modern,
}

impl Era {
    /// `legacy` or `modern`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// Which eras a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eras {
    /// Each request is answered in the era it speaks.
    #[default]
    Dual,
    /// Only sessions, as servers before 2026-07-28.
    Legacy,
    /// Only stateless requests.
    Modern,
}

/// Severity of a log message, lowest first (RFC 5424).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Detail for debugging.
    Debug,
    /// General information.
    Info,
    /// Normal but significant.
    Notice,
    /// Might become an error.
    Warning,
    /// Something failed.
    Error,
    /// A component failed.
    Critical,
    /// Act at once.
    Alert,
    /// Unusable.
    Emergency,
}

impl Level {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Debug, "debug"),
        (Self::Info, "info"),
        (Self::Notice, "notice"),
        (Self::Warning, "warning"),
        (Self::Error, "error"),
        (Self::Critical, "critical"),
        (Self::Alert, "alert"),
        (Self::Emergency, "emergency"),
    ];

    /// The level that is written `name` on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(level, _)| *level)
    }

    /// The word on the wire.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// The `error` member of a JSON-RPC response.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// See [`code`].
    pub code: i64,
    /// One sentence for the person who reads it.
    pub message: String,
    /// Machine-readable detail.
    pub data: Option<Value>,
}

impl RpcError {
    /// An error without `data`.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same error with `data`.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// -32602.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }

    /// -32601. The method's name is the client's own text and is not repeated.
    pub fn method_not_found() -> Self {
        Self::new(code::METHOD_NOT_FOUND, "Method not found")
    }

    /// No such resource, in the words of the era.
    pub fn resource_not_found(era: Era, uri: &str) -> Self {
        let code = match era {
            Era::Legacy => code::RESOURCE_NOT_FOUND,
            Era::Modern => code::INVALID_PARAMS,
        };
        Self::new(code, "Resource not found").with_data(json!({ "uri": uri }))
    }

    /// -32021 with the capabilities that were missing, in the shape of `ClientCapabilities`.
    pub fn missing_capability(required: &Value) -> Self {
        Self::new(code::MISSING_CAPABILITY, "The client did not declare a capability that this request needs")
            .with_data(json!({ "requiredCapabilities": required }))
    }

    /// -32022 with what is spoken here.
    pub fn unsupported_version(requested: &str) -> Self {
        Self::new(code::UNSUPPORTED_VERSION, "Unsupported protocol version")
            .with_data(json!({ "supported": [MODERN], "requested": requested }))
    }

    /// The value of the `error` member.
    pub fn to_value(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<Level>) {
        assert_eq!(Level::parse(name), expected, "{name}");
        if let Some(level) = expected {
            assert_eq!(level.name(), name);
        }
    }

    #[test]
    fn levels() {
        check("debug", Some(Level::Debug));
        check("warning", Some(Level::Warning));
        check("emergency", Some(Level::Emergency));
        check("warn", None);
        check("", None);
        assert!(Level::Error > Level::Warning);
    }
}
