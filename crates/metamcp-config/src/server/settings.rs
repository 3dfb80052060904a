//! The settings of a server, each declared once for `metamcp.toml`, `mcp.json`, the REST API and their documentation.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::server::{ProcessLimits, ProcessSettings, Sharing};
use metamcp_core::base::units;

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
        Self { default, ..self }
    }

    /// Returns a range with a default.
    pub fn new(range: &RangeInclusive<T>, default: T) -> Self {
        Self { default, min: *range.start(), max: *range.end() }
    }
}

/// Declares the settings of a server: the struct that holds them, their defaults, and the table from which every format
/// is read, shown and documented.
macro_rules! server_settings {
    ($($(#[doc = $line:literal])+ $key:ident: $type:ty = $default:expr, $values:ident($permitted:expr);)+) => {
        /// Settings that `[backend]` sets for all servers and that each server may override.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct ServerSettings {
            $($(#[doc = $line])+ pub $key: $type,)+
        }

        /// The settings of a server unless `[backend]` or the server itself sets others.
        pub const DEFAULTS: ServerSettings = ServerSettings { $($key: $default,)+ };

        /// Every setting of a server, in the order of reading.
        pub const SETTINGS: &[ServerSetting] = &[$(ServerSetting {
            key: stringify!($key),
            description: concat!($($line),+).trim_ascii_start(),
            values: SettingValues::$values($permitted, |settings| &mut settings.$key),
        },)+];
    };
}

// Each with its description, which the REST API shows too, its default, and the permitted values.
server_settings! {
    /// The protocol revisions to use.
    era: EraChoice = EraChoice::Auto, Era(&ERAS);

    /// What to do with a tool whose definition changed since it was approved.
    // Honest servers change tools with every release: changes should be visible without interrupting clients.
    changed_tools: ToolPinPolicy = ToolPinPolicy::Warn, ChangedTools(&TOOL_PIN_POLICIES);

    /// Time to establish a connection, with a unit.
    // From the first SYN to an established connection, TLS included. A lost SYN is sent again after 1 s; after the
    // second one the host is unreachable.
    connect_timeout: Duration = secs(2), Duration(millis(10)..=secs(300));

    /// Time to the head of a response.
    // From the last byte of the request. A long tool call without a stream sends nothing until it is done. The longest
    // seen in use took five minutes.
    first_byte_timeout: Duration = secs(300), Duration(millis(10)..=secs(86_400));

    /// Time between two reads of a response.
    // Only bytes from the server count. Twice the first-byte timeout: a server that streams has already shown that it
    // is alive.
    stream_idle_timeout: Duration = secs(600), Duration(millis(10)..=secs(86_400));

    /// Time for a whole response after its head; each message of an event stream restarts it.
    // It ends what arrives byte by byte and would hold a call for ever. Longer than any honest server takes to write one
    // message.
    call_timeout: Duration = secs(900), Duration(millis(10)..=secs(86_400));

    /// Time a request may be queued.
    // Enough to absorb a burst. A longer wait exceeds the timeout of most clients.
    queue_timeout: Duration = secs(5), Duration(secs(0)..=secs(300));

    /// Time an idle connection is kept: less than the server's own keep-alive.
    // Otherwise a request meets a closing connection. Node closes an idle connection after 5 s.
    idle_age_max: Duration = secs(4), Duration(secs(0)..=secs(3600));

    /// Requests in flight; further requests are queued.
    // Over all workers. More than one server process usually handles at once, fewer than its sockets.
    in_flight_max: usize = 256, Count(1..=1_000_000);

    /// Requests that may be queued.
    // As many as may be in flight. Further requests are refused at once.
    queue_max: usize = 256, Count(0..=1_000_000);

    /// Idle connections kept open, per worker.
    // As many as may be in flight: with fewer, a busy worker would open and close connections all the time.
    idle_connections_max: usize = 256, Count(0..=IDLE_CONNECTIONS_MAX);

    /// Whether HTTP/1.1 responses of the usual shape are read without hyper.
    fast_lane: bool = true, Flag(());
}

/// One setting of a server.
pub struct ServerSetting {
    pub key: &'static str,
    pub description: &'static str,
    pub values: SettingValues,
}

/// The values that a setting may have, and the field that holds it.
pub enum SettingValues {
    Duration(RangeInclusive<Duration>, SettingField<Duration>),
    Count(RangeInclusive<usize>, SettingField<usize>),
    Era(Keywords<EraChoice>, SettingField<EraChoice>),
    ChangedTools(Keywords<ToolPinPolicy>, SettingField<ToolPinPolicy>),
    /// True or false. In `metamcp.toml` only: it says how the gateway works, not what it does.
    Flag((), SettingField<bool>),
}

type SettingField<T> = fn(&mut ServerSettings) -> &mut T;

/// The words for the values of a setting.
pub type Keywords<T> = &'static [(&'static str, T)];

/// A document that settings are read from. Each function replaces the value of a setting if the document sets it, and
/// reports what is wrong.
pub trait SettingSource {
    fn duration(&mut self, key: &'static str, range: &RangeInclusive<Duration>, value: &mut Duration);
    fn count(&mut self, key: &'static str, range: &RangeInclusive<usize>, value: &mut usize);
    fn keyword<T: Copy>(&mut self, key: &'static str, keywords: Keywords<T>, value: &mut T);
    fn flag(&mut self, key: &'static str, value: &mut bool);
}

impl ServerSettings {
    /// Returns the settings in a document; those that it does not set are as in `self`.
    #[must_use]
    pub fn override_from(self, source: &mut impl SettingSource) -> Self {
        let mut read = self;
        for ServerSetting { key, values, .. } in SETTINGS {
            if *key == "idle_connections_max" {
                read.idle_connections_max = self.default_idle_connections(read.in_flight_max);
            }
            match values {
                SettingValues::Duration(range, field) => source.duration(key, range, field(&mut read)),
                SettingValues::Count(range, field) => source.count(key, range, field(&mut read)),
                SettingValues::Era(words, field) => source.keyword(key, words, field(&mut read)),
                SettingValues::ChangedTools(words, field) => source.keyword(key, words, field(&mut read)),
                SettingValues::Flag((), field) => source.flag(key, field(&mut read)),
            }
        }
        read
    }

    /// The number of idle connections for a server that does not set it: its in-flight limit, unless the
    /// setting for all servers differs from their in-flight limit.
    fn default_idle_connections(&self, in_flight_max: usize) -> usize {
        let follows = self.idle_connections_max == self.in_flight_max.min(IDLE_CONNECTIONS_MAX);
        if follows { in_flight_max.min(IDLE_CONNECTIONS_MAX) } else { self.idle_connections_max }
    }
}

impl ServerSetting {
    /// Returns the value of this setting as it is written in JSON and, the same, in TOML.
    pub fn to_json(&self, mut settings: ServerSettings) -> Value {
        match &self.values {
            SettingValues::Duration(_, field) => units::format_duration(*field(&mut settings)).into(),
            SettingValues::Count(_, field) => (*field(&mut settings)).into(),
            SettingValues::Era(words, field) => keyword_of(words, *field(&mut settings)).into(),
            SettingValues::ChangedTools(words, field) => keyword_of(words, *field(&mut settings)).into(),
            SettingValues::Flag((), field) => (*field(&mut settings)).into(),
        }
    }
}

fn keyword_of<T: Copy + PartialEq>(words: Keywords<T>, value: T) -> Option<&'static str> {
    words.iter().find(|(_, meaning)| *meaning == value).map(|(word, _)| *word)
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

/// The settings of a child process unless others are set.
pub fn default_process_settings() -> ProcessSettings {
    ProcessSettings {
        sharing: Sharing::Auto,
        prewarm: None,
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

pub const ERAS: [(&str, EraChoice); 3] =
    [("auto", EraChoice::Auto), ("modern", EraChoice::Modern), ("legacy", EraChoice::Legacy)];

pub const TOOL_PIN_POLICIES: [(&str, ToolPinPolicy); 3] = [
    ("allow", ToolPinPolicy::Allow),
    ("warn", ToolPinPolicy::Warn),
    ("quarantine", ToolPinPolicy::Quarantine),
];

/// More than any server accepts.
pub const IDLE_CONNECTIONS_MAX: usize = 65_536;

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
