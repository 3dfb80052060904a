//! The types of events, which the configuration and the log of events share.

/// What happened, which also is the type of its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A program of a server was started.
    ServerStarted,
    /// A program was ended by the gateway, for instance because nobody used it.
    ServerStopped,
    /// A program ended by itself, or could not be started.
    ServerFailed,
    /// A program was started after one of the same server had failed.
    ServerRestarted,
    /// Requests do not reach the server, or its lists cannot be fetched.
    ServerUnhealthy,
    ServerHealthy,
    /// The server lists other tools than before.
    ServerToolsChanged,
    /// Requests to the server fail at once for a while.
    ServerBreakerOpened,
    ServerBreakerClosed,
    CallStarted,
    CallEnded,
    KeyCreated,
    /// Its grants, limits, name or expiry.
    KeyChanged,
    /// Revoked, deleted, or no longer valid for another reason than its expiry.
    KeyRevoked,
    ConfigurationReloaded,
    /// Other servers or endpoints are served than before, whoever changed them.
    ConfigurationChanged,
    /// Changed files have a mistake; the last configuration stays in force.
    ConfigurationRefused,
}

/// How much an operator should care. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl EventKind {
    pub const ALL: [Self; 17] = [
        Self::ServerStarted,
        Self::ServerStopped,
        Self::ServerFailed,
        Self::ServerRestarted,
        Self::ServerUnhealthy,
        Self::ServerHealthy,
        Self::ServerToolsChanged,
        Self::ServerBreakerOpened,
        Self::ServerBreakerClosed,
        Self::CallStarted,
        Self::CallEnded,
        Self::KeyCreated,
        Self::KeyChanged,
        Self::KeyRevoked,
        Self::ConfigurationReloaded,
        Self::ConfigurationChanged,
        Self::ConfigurationRefused,
    ];

    /// The group and the name within it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerStarted => "server.started",
            Self::ServerStopped => "server.stopped",
            Self::ServerFailed => "server.failed",
            Self::ServerRestarted => "server.restarted",
            Self::ServerUnhealthy => "server.unhealthy",
            Self::ServerHealthy => "server.healthy",
            Self::ServerToolsChanged => "server.tools_changed",
            Self::ServerBreakerOpened => "server.breaker_opened",
            Self::ServerBreakerClosed => "server.breaker_closed",
            Self::CallStarted => "call.started",
            Self::CallEnded => "call.ended",
            Self::KeyCreated => "key.created",
            Self::KeyChanged => "key.changed",
            Self::KeyRevoked => "key.revoked",
            Self::ConfigurationReloaded => "configuration.reloaded",
            Self::ConfigurationChanged => "configuration.changed",
            Self::ConfigurationRefused => "configuration.refused",
        }
    }

    /// The types that are named in a list, separated by commas: names, or groups such as `server.*`. `None` if one of them is
    /// neither.
    pub fn parse_list(text: &str) -> Option<Vec<Self>> {
        let mut found = Vec::new();
        for name in text.split(',').map(str::trim) {
            let is_meant = |kind: &Self| match name.strip_suffix('*') {
                Some(group) => group.ends_with('.') && kind.as_str().starts_with(group),
                None => kind.as_str() == name,
            };
            let mut meant = Self::ALL.into_iter().filter(is_meant).peekable();
            meant.peek()?;
            found.extend(meant);
        }
        // Those that are named twice are wanted once.
        Some(Self::ALL.into_iter().filter(|kind| found.contains(kind)).collect())
    }

    pub const fn severity(self) -> Severity {
        match self {
            Self::ServerFailed | Self::ServerUnhealthy | Self::ConfigurationRefused => Severity::Error,
            Self::ServerRestarted | Self::ServerBreakerOpened => Severity::Warning,
            _ => Severity::Info,
        }
    }

    /// Whether it is about one call. These are logged only while somebody reads them.
    pub const fn is_of_call(self) -> bool {
        matches!(self, Self::CallStarted | Self::CallEnded)
    }
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let found = EventKind::parse_list(text);
        let names = found.map(|kinds| kinds.into_iter().map(EventKind::as_str).collect::<Vec<_>>().join(" "));
        assert_eq!(names.as_deref(), expected, "{text}");
    }

    #[test]
    fn lists_of_types_are_read() {
        check("key.created", Some("key.created"));
        check("call.ended, key.*,call.ended", Some("call.ended key.created key.changed key.revoked"));
        for text in ["", "*", "key.", "key*", "key.made", "call.*,", ",call.*", "CALL.ENDED"] {
            check(text, None);
        }
    }
}
