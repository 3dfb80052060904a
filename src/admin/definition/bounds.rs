//! What may be said of every server, with its defaults, their reasons, and the smallest and largest value that makes
//! sense. The same in `metamcp.toml` and in the control plane.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::base::ServerName;
use crate::child::Limits;
use crate::upstream::stdio::{self, Sharing};
use crate::upstream::{self, ChangedTools, EraChoice};

/// A value with the range it may be set in, both ends included.
#[derive(Debug, Clone, Copy)]
pub struct Bound<T> {
    /// Where nothing is said.
    pub default: T,
    /// The smallest.
    pub min: T,
    /// The largest.
    pub max: T,
}

impl<T: Copy> Bound<T> {
    /// The same range around another default.
    #[must_use]
    pub const fn or(self, default: T) -> Self {
        Self { default, min: self.min, max: self.max }
    }
}

/// What may be said once for every server, in `[backend]`, and again for one.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Which era it is asked in.
    pub era: EraChoice,
    /// To an established connection.
    pub connect_timeout: Duration,
    /// To the head of an answer.
    pub first_byte_timeout: Duration,
    /// Between two reads of an answer.
    pub stream_idle_timeout: Duration,
    /// Requests to it at once.
    pub in_flight_max: usize,
    /// How long more may wait.
    pub queue_timeout: Duration,
    /// How many more may wait.
    pub queue_max: usize,
    /// Connections kept open to it, per worker.
    pub idle_connections_max: usize,
    /// How long they are kept.
    pub idle_age_max: Duration,
    /// Whether answers of the usual shape are read without hyper.
    pub fast_lane: bool,
    /// What becomes of tools that change.
    pub changed_tools: ChangedTools,
}

impl Settings {
    /// A server with these settings.
    pub fn server(
        self,
        name: ServerName,
        address: upstream::Address,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> upstream::Config {
        upstream::Config {
            name,
            address,
            headers,
            era: self.era,
            connect_timeout: self.connect_timeout,
            first_byte_timeout: self.first_byte_timeout,
            stream_idle_timeout: self.stream_idle_timeout,
            in_flight_max: self.in_flight_max,
            queue_timeout: self.queue_timeout,
            queue_max: self.queue_max,
            idle_connections_max: self.idle_connections_max,
            idle_age_max: self.idle_age_max,
            fast_lane: self.fast_lane,
            // Whoever writes the configuration of a machine knows what is on it.
            private_addresses: true,
            may_be_sse: false,
            left_alone: true,
            alias: None,
            changed_tools: self.changed_tools,
        }
    }
}

impl Settings {
    /// How many connections are kept where nobody says it for the server: as many as it may have calls under way, unless
    /// what is said for all servers is another number than that.
    pub fn usual_idle_connections(&self, in_flight_max: usize) -> usize {
        let follows = self.idle_connections_max == self.in_flight_max.min(IDLE_CONNECTIONS.max);
        if follows { in_flight_max.min(IDLE_CONNECTIONS.max) } else { self.idle_connections_max }
    }
}

/// What every server is given unless `[backend]` or the server itself says otherwise.
pub const DEFAULTS: Settings = Settings {
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
    // Tools of honest servers change with every release of theirs: it is to be seen, and keeps nobody from work.
    changed_tools: ChangedTools::Warn,
};

/// How a program is run unless something else is said.
pub fn program() -> stdio::Settings {
    stdio::Settings {
        sharing: Sharing::Key,
        prewarm: false,
        start_timeout: START_TIMEOUT.default,
        idle_timeout: PROCESS_IDLE.default,
        processes_max: PROCESSES.default,
        line_bytes_max: LINE_BYTES.default,
        uid: None,
        gid: None,
        limits: Limits::default(),
        confinement: None,
    }
}

/// One lost SYN is sent again after 1 s; two mean that nobody is there.
pub const CONNECT_TIMEOUT: Bound<Duration> = Bound { default: secs(2), min: millis(10), max: secs(300) };
/// A long tool call without a stream is silent until it is done; five minutes is the longest seen in use.
pub const FIRST_BYTE_TIMEOUT: Bound<Duration> =
    Bound { default: secs(300), min: millis(10), max: secs(86_400) };
/// Twice that: a server that streams has said that it is alive.
pub const STREAM_IDLE_TIMEOUT: Bound<Duration> =
    Bound { default: secs(600), min: millis(10), max: secs(86_400) };
/// More at once than one server process usually bears, fewer than its sockets.
pub const IN_FLIGHT: Bound<usize> = Bound { default: 256, min: 1, max: 1_000_000 };
/// A burst is waited out; longer, and the client's own patience ends first.
pub const QUEUE_TIMEOUT: Bound<Duration> = Bound { default: secs(5), min: secs(0), max: secs(300) };
/// As many again as run.
pub const QUEUE: Bound<usize> = Bound { default: 256, min: 0, max: 1_000_000 };
/// As many as may be under way: fewer, and a busy worker opens and closes connections all the time.
pub const IDLE_CONNECTIONS: Bound<usize> = Bound { default: 256, min: 0, max: 65_536 };
/// Node closes an idle connection after 5 s.
pub const IDLE_AGE: Bound<Duration> = Bound { default: secs(4), min: secs(0), max: secs(3600) };

/// A server that is a program, from its start to its first answer: `npx` and `uvx` may download it first.
pub const START_TIMEOUT: Bound<Duration> = Bound { default: secs(60), min: millis(100), max: secs(3600) };
/// A process that nobody has asked anything for so long, and nobody listens to, is ended.
pub const PROCESS_IDLE: Bound<Duration> = Bound { default: secs(600), min: secs(1), max: secs(30 * 86_400) };
/// Of one server at once. A Node process takes 50 MB and more.
pub const PROCESSES: Bound<usize> = Bound { default: 64, min: 1, max: 10_000 };
/// One message of it: twice the largest that the gateway reads itself.
pub const LINE_BYTES: Bound<usize> = Bound { default: 32 << 20, min: 1 << 10, max: 1 << 30 };

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
