//! The vocabulary of MCP: revisions, keys of `_meta`, error codes, log levels. Constants and plain values only.

use serde_json::{Value, json};

/// The revision without sessions.
pub const MODERN: &str = "2026-07-28";

/// The revisions that begin with `initialize`, oldest first.
pub const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY_NEWEST];

/// The revision that is offered to a client which requests an unknown one.
pub const LEGACY_NEWEST: &str = "2025-11-25";

/// Keys of `params._meta` and `result._meta`.
pub mod meta {
    /// The revision of a Modern request.
    pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// The capabilities of the client that sends a Modern request.
    pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// The name and version of the client that sends a Modern request.
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// The lowest level of log messages that a Modern request asks for.
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// The name and version of the server.
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// The `subscriptions/listen` request that a notification belongs to.
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
}

pub mod code {
    /// The body is not JSON.
    pub const PARSE: i64 = -32700;
    /// The body is JSON but not a JSON-RPC message.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The method is unknown.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i64 = -32602;
    pub const INTERNAL: i64 = -32603;
    /// A transport error of a Legacy session. The specification names no code; SDKs send this one.
    pub const SESSION: i64 = -32000;
    /// Legacy: no such resource. The Modern era uses `INVALID_PARAMS`.
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// Legacy (2025-11-25): the user has to visit a URL first.
    pub const URL_ELICITATION_REQUIRED: i64 = -32042;
    /// Modern: a header is missing, malformed, or disagrees with the body.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// Modern: the client did not declare a capability that the request needs.
    pub const MISSING_CAPABILITY: i64 = -32021;
    /// Modern: the server does not support the revision.
    pub const UNSUPPORTED_VERSION: i64 = -32022;
}

/// One of the two families of protocol revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Revisions up to 2025-11-25, with sessions.
    Legacy,
    /// Revision 2026-07-28, with independent requests.
    Modern,
}

impl Era {
    /// Returns `legacy` or `modern`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// The eras that a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SupportedEras {
    /// Both eras, chosen for each request.
    #[default]
    Dual,
    /// Only the Legacy era, as servers before 2026-07-28.
    Legacy,
    /// Only the Modern era.
    Modern,
}

/// Severity of a log message, lowest first (RFC 5424).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    /// Normal, but worth a notice.
    Notice,
    /// Might become an error.
    Warning,
    Error,
    Critical,
    /// Action must be taken at once.
    Alert,
    /// The system is unusable.
    Emergency,
}

impl LogLevel {
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

    /// Parses the name on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(level, _)| *level)
    }

    /// Returns the name on the wire.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// The `error` member of a JSON-RPC response.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// One of the constants in [`code`].
    pub code: i64,
    /// One sentence for people.
    pub message: String,
    pub data: Option<Value>,
}

impl RpcError {
    /// Creates an error without `data`.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Creates the error -32602.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }

    /// Creates the error -32601. The method's name is not repeated, since the client chose it.
    pub fn method_not_found() -> Self {
        Self::new(code::METHOD_NOT_FOUND, "Method not found")
    }

    /// Creates the era's error for an unknown resource.
    pub fn resource_not_found(era: Era, uri: &str) -> Self {
        let code = match era {
            Era::Legacy => code::RESOURCE_NOT_FOUND,
            Era::Modern => code::INVALID_PARAMS,
        };
        Self::new(code, "Resource not found").with_data(json!({ "uri": uri }))
    }

    /// Creates the error -32021 with the missing capabilities, in the form of `ClientCapabilities`.
    pub fn missing_capability(required: &Value) -> Self {
        Self::new(code::MISSING_CAPABILITY, "The client did not declare a capability that this request needs")
            .with_data(json!({ "requiredCapabilities": required }))
    }

    /// Creates the error -32022 with the supported revisions.
    pub fn unsupported_version(requested: &str) -> Self {
        Self::new(code::UNSUPPORTED_VERSION, "Unsupported protocol version")
            .with_data(json!({ "supported": [MODERN], "requested": requested }))
    }

    /// Returns the value of the `error` member.
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

    fn check(name: &str, expected: Option<LogLevel>) {
        assert_eq!(LogLevel::parse(name), expected, "{name}");
        if let Some(level) = expected {
            assert_eq!(level.name(), name);
        }
    }

    #[test]
    fn levels() {
        check("debug", Some(LogLevel::Debug));
        check("warning", Some(LogLevel::Warning));
        check("emergency", Some(LogLevel::Emergency));
        check("warn", None);
        check("", None);
        assert!(LogLevel::Error > LogLevel::Warning);
    }
}
