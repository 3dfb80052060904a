//! Settings of a server with their defaults, the reason for each default, and the permitted range. The same
//! for `metamcp.toml` and the control plane.

use std::time::Duration;

use crate::server::{ProcessLimits, ProcessSettings, Sharing};

/// A default, and the inclusive range a setting may be given in.
#[derive(Debug, Clone, Copy)]
pub struct SettingRange<T> {
    pub default: T,
    pub min: T,
    pub max: T,
}

impl<T: Copy> SettingRange<T> {
    /// Returns the same range with another default.
    #[must_use]
    pub const fn with_default(self, default: T) -> Self {
        Self { default, min: self.min, max: self.max }
    }
}

/// Settings that `[backend]` sets for all servers and that each server may override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSettings {
    /// The protocol era used with the server.
    pub era: EraChoice,
    /// Time to establish a connection.
    pub connect_timeout: Duration,
    /// Time to the head of a response.
    pub first_byte_timeout: Duration,
    /// Time between two reads of a response.
    pub stream_idle_timeout: Duration,
    /// Requests in flight; further requests are queued.
    pub in_flight_max: usize,
    /// Time a request may be queued.
    pub queue_timeout: Duration,
    /// Requests that may be queued.
    pub queue_max: usize,
    /// Idle connections kept open, per worker.
    pub idle_connections_max: usize,
    /// Time an idle connection is kept.
    pub idle_age_max: Duration,
    /// Whether HTTP/1.1 responses of the usual shape are read without hyper.
    pub fast_lane: bool,
    /// What to do with tools that changed since they were approved.
    pub changed_tools: ToolPinPolicy,
}

/// The configured era of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraChoice {
    /// Detected by a probe and remembered.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

/// What happens to a tool that differs from its pin: what the server listed first, or what an administrator
/// approved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolPinPolicy {
    /// Nothing. No tool is pinned.
    Allow,
    /// A warning is given, and the changed tool is pinned.
    Warn,
    /// The tool is neither listed nor called until an administrator approves it.
    Quarantine,
}

impl ServerSettings {
    /// The number of idle connections for a server that does not set it: its in-flight limit, unless the
    /// setting for all servers differs from their in-flight limit.
    pub fn default_idle_connections(&self, in_flight_max: usize) -> usize {
        let follows = self.idle_connections_max == self.in_flight_max.min(IDLE_CONNECTIONS.max);
        if follows { in_flight_max.min(IDLE_CONNECTIONS.max) } else { self.idle_connections_max }
    }
}

/// The settings of a server unless `[backend]` or the server itself sets others.
pub const DEFAULTS: ServerSettings = ServerSettings {
    era: EraChoice::Auto,
    connect_timeout: CONNECT_TIMEOUT.default,
    first_byte_timeout: FIRST_BYTE_TIMEOUT.default,
    stream_idle_timeout: STREAM_IDLE_TIMEOUT.default,
    in_flight_max: IN_FLIGHT.default,
    queue_timeout: QUEUE_TIMEOUT.default,
    queue_max: QUEUE.default,
    idle_connections_max: IDLE_CONNECTIONS.default,
    idle_age_max: IDLE_AGE.default,
    fast_lane: true,
    // Honest servers change tools with every release: changes should be visible without interrupting clients.
    changed_tools: ToolPinPolicy::Warn,
};

/// The settings of a child process unless others are set.
pub fn default_process_settings() -> ProcessSettings {
    ProcessSettings {
        sharing: Sharing::Key,
        prewarm: false,
        start_timeout: START_TIMEOUT.default,
        idle_timeout: PROCESS_IDLE.default,
        processes_max: PROCESSES.default,
        line_bytes_max: LINE_BYTES.default,
        uid: None,
        gid: None,
        limits: ProcessLimits::default(),
        confinement: None,
    }
}

/// A lost SYN is sent again after 1 s; after the second one the host is unreachable.
pub const CONNECT_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(2), min: millis(10), max: secs(300) };
/// A long tool call without a stream sends nothing until it is done. The longest seen in use took five
/// minutes.
pub const FIRST_BYTE_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(300), min: millis(10), max: secs(86_400) };
/// Twice the first-byte timeout: a server that streams has already shown that it is alive.
pub const STREAM_IDLE_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(600), min: millis(10), max: secs(86_400) };
/// More than one server process usually handles at once, fewer than its sockets.
pub const IN_FLIGHT: SettingRange<usize> = SettingRange { default: 256, min: 1, max: 1_000_000 };
/// Enough to absorb a burst. A longer wait exceeds the timeout of most clients.
pub const QUEUE_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(5), min: secs(0), max: secs(300) };
/// As many as may be in flight.
pub const QUEUE: SettingRange<usize> = SettingRange { default: 256, min: 0, max: 1_000_000 };
/// As many as may be in flight: with fewer, a busy worker would open and close connections all the time.
pub const IDLE_CONNECTIONS: SettingRange<usize> = SettingRange { default: 256, min: 0, max: 65_536 };
/// Node closes an idle connection after 5 s.
pub const IDLE_AGE: SettingRange<Duration> = SettingRange { default: secs(4), min: secs(0), max: secs(3600) };

/// Time from the start of a program to its first answer. `npx` and `uvx` may download it first.
pub const START_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(60), min: millis(100), max: secs(3600) };
/// A process with no calls in flight and no subscribers for this long is ended.
pub const PROCESS_IDLE: SettingRange<Duration> =
    SettingRange { default: secs(600), min: secs(1), max: secs(30 * 86_400) };
/// Processes of one server at once. A Node process takes 50 MB or more.
pub const PROCESSES: SettingRange<usize> = SettingRange { default: 64, min: 1, max: 10_000 };
/// Length of one message: twice the largest that the gateway reads itself.
pub const LINE_BYTES: SettingRange<usize> = SettingRange { default: 32 << 20, min: 1 << 10, max: 1 << 30 };

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
