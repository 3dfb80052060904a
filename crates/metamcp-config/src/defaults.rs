//! Every default with its reason, and its permitted range.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::sections::MetricsAccess;
use crate::server::settings::SettingRange;

/// The port of the product that metamcp re-implements, so that its users keep their URLs.
pub(super) const PORT: u16 = 12009;
/// A gateway that is being tried out is not reachable from the network.
pub(super) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Startup, shutdown, rejected requests and faults; no line per request.
pub(super) const LOG_FILTER: &str = "info";
/// HMAC-SHA256 requires a key of at least the length of the hash (RFC 7518, section 3.2).
pub(super) const JWT_SECRET_BYTES_MIN: usize = 32;

/// More threads than the largest machines have cores only cost memory. The default is one per core.
pub(super) const WORKERS: SettingRange<usize> = SettingRange { default: 1, min: 1, max: 1024 };
/// Enough for a tool call with a picture or a file. A few hundred at once still fit into a small machine.
pub(super) const BODY_BYTES: SettingRange<usize> =
    SettingRange { default: 4 << 20, min: 1 << 10, max: 1 << 30 };
/// Twice the 8 KiB that nginx and Apache accept, for long bearer tokens.
pub(super) const HEADER_BYTES: SettingRange<usize> =
    SettingRange { default: 16 << 10, min: 1 << 10, max: 1 << 20 };
/// Browsers and proxies together send about 30.
pub(super) const HEADER_COUNT: SettingRange<usize> = SettingRange { default: 64, min: 16, max: 1024 };
/// A head is one or two packets; a client that takes longer holds the connection on purpose.
pub(super) const HEADER_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(10), min: millis(100), max: secs(300) };
/// 4 MiB at 140 KB/s, a slow mobile link.
pub(super) const BODY_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(30), min: millis(100), max: secs(3600) };
/// Longer than the 60 s of common load balancers, so that they close connections first.
pub(super) const IDLE_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(75), min: millis(100), max: secs(86_400) };
/// Ten thousand clients with two connections each.
pub(super) const CONNECTIONS: SettingRange<usize> = SettingRange { default: 20_000, min: 1, max: 10_000_000 };
/// Shorter than every known idle timeout on the way (proxies of mobile networks: 30 s).
pub(super) const KEEP_ALIVE: SettingRange<Duration> =
    SettingRange { default: secs(15), min: secs(1), max: secs(600) };
/// Not needed without a load balancer; with one, set it to its probe interval.
pub(super) const DRAIN_DELAY: SettingRange<Duration> =
    SettingRange { default: secs(0), min: secs(0), max: secs(600) };
/// Below the 30 s of Kubernetes. All but the longest calls complete within the 10 s of Docker.
pub(super) const DRAIN_DEADLINE: SettingRange<Duration> =
    SettingRange { default: secs(10), min: secs(0), max: secs(3600) };
/// The default of `call_timeout`, so that calls complete: the address is served meanwhile, so nobody waits for the end.
pub(super) const HANDOVER_DEADLINE: SettingRange<Duration> =
    SettingRange { default: secs(900), min: secs(0), max: secs(86_400) };

/// An agent runs tens of calls at once; 512 leaves room for many agents with one key.
pub(super) const KEY_IN_FLIGHT: SettingRange<usize> = SettingRange { default: 512, min: 1, max: 1_000_000 };
/// Half of the default connections: over HTTP/1.1 each stream has one, and some are left for calls. A silent
/// stream costs some KiB.
pub(super) const KEY_EVENT_STREAMS: SettingRange<usize> =
    SettingRange { default: 10_000, min: 1, max: 10_000_000 };

/// The default is half of the memory that the process may use: the rest is for connections, sessions, lists and
/// programs. The least leaves room for one request and one answer of some hundred KiB.
pub(super) const MEMORY: SettingRange<usize> =
    SettingRange { default: 1 << 30, min: 4 << 20, max: usize::MAX / 2 };

/// Clients give up on a list after about 10 s; later changes are announced with `list_changed`.
pub(super) const LIST_DEADLINE: SettingRange<Duration> =
    SettingRange { default: secs(5), min: millis(100), max: secs(300) };
/// For servers that change their lists without announcing it.
pub(super) const REFRESH_AFTER: SettingRange<Duration> =
    SettingRange { default: secs(300), min: secs(1), max: secs(86_400) };
/// Only a pagination loop has more pages.
pub(super) const PAGES: SettingRange<usize> = SettingRange { default: 1000, min: 1, max: 100_000 };
/// A hundred times what a model can choose from.
pub(super) const ITEMS: SettingRange<usize> = SettingRange { default: 10_000, min: 1, max: 1_000_000 };
/// 10,000 items of 1.6 KiB, the mean size of a described tool.
pub(super) const LIST_BYTES: SettingRange<usize> =
    SettingRange { default: 16 << 20, min: 1 << 10, max: 1 << 30 };
/// Most clients read only the first page, so it should usually be the last one.
pub(super) const PAGE_ITEMS: SettingRange<usize> = SettingRange { default: 1000, min: 1, max: 100_000 };

/// A working day and the following night; then the client opens another session.
pub(super) const SESSION_LIFETIME: SettingRange<Duration> =
    SettingRange { default: secs(86_400), min: secs(1), max: secs(2_592_000) };
/// An evicted session is rebuilt on the next request, at the cost of one round trip.
pub(super) const SESSION_IDLE: SettingRange<Duration> =
    SettingRange { default: secs(1800), min: secs(1), max: secs(2_592_000) };
/// 100 MiB at about 1 KiB each.
pub(super) const SESSIONS: SettingRange<usize> = SettingRange { default: 100_000, min: 1, max: 10_000_000 };

/// A few hundred streams in the middle of long responses, or tens of thousands with one short response each.
/// Reserved on disk; memory is used only as needed.
pub(super) const RESUME_BYTES: SettingRange<usize> =
    SettingRange { default: 64 << 20, min: 1 << 20, max: 64 << 30 };
/// The data in flight between gateway and client when a connection breaks: the largest socket buffer on
/// Linux.
pub(super) const RESUME_STREAM_BYTES: SettingRange<usize> =
    SettingRange { default: 4 << 20, min: 64 << 10, max: 1 << 30 };
/// The SDKs reconnect after one second and give up after a few. A machine that slept or changed networks
/// takes minutes.
pub(super) const RESUME_FOR: SettingRange<Duration> =
    SettingRange { default: secs(300), min: millis(100), max: secs(86_400) };
/// Zero means never, because idle connections cost next to nothing. If an intermediary closes long
/// connections, set a shorter time than its limit.
pub(super) const POLL_AFTER: SettingRange<Duration> =
    SettingRange { default: secs(0), min: secs(0), max: secs(86_400) };

/// Time for a person to read a form, look something up, and fill it in. Longer than the timeout of most
/// clients.
pub(super) const HOLD_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(300), min: secs(1), max: secs(3600) };
/// Each holds a connection to a server, the request, and the server's question: some KiB.
pub(super) const HOLDS: SettingRange<usize> = SettingRange { default: 1024, min: 1, max: 100_000 };
/// A person answers one form at a time; several people may share a key with many agents.
pub(super) const HOLDS_PER_KEY: SettingRange<usize> = SettingRange { default: 64, min: 1, max: 100_000 };
/// Each has an event stream to its server, and therefore a file descriptor.
pub(super) const BRIDGE_SESSIONS: SettingRange<usize> =
    SettingRange { default: 4096, min: 1, max: 1_000_000 };
/// Clients choose among 64 combinations of capabilities. A client that tries all of them at every server must
/// not displace others.
pub(super) const BRIDGE_SESSIONS_PER_KEY: SettingRange<usize> =
    SettingRange { default: 256, min: 1, max: 1_000_000 };
/// Opening another session takes one and a half round trips.
pub(super) const BRIDGE_SESSION_IDLE: SettingRange<Duration> =
    SettingRange { default: secs(300), min: secs(1), max: secs(86_400) };

/// Metrics name every server and endpoint, and show the load of each.
pub(super) const METRICS_ACCESS: MetricsAccess = MetricsAccess::Key;

/// Standard Webhooks recommends 15 to 30 seconds at most; a receiver only has to accept an event.
pub(super) const WEBHOOK_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(10), min: millis(100), max: secs(30) };
/// The default of OpenTelemetry: a collector is nearby and responds quickly.
pub(super) const TRACES_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(10), min: millis(100), max: secs(60) };
/// Two spans of a kilobyte each: enough to find an example, and a bounded load on gateway and collector
/// whatever clients request.
pub(super) const TRACES_PER_SECOND: SettingRange<usize> = SettingRange { default: 100, min: 1, max: 10_000 };
/// The service name that distinguishes traces of the gateway from others.
pub(super) const SERVICE: &str = "metamcp";

/// The syslog daemon and journald listen here.
pub(super) const SYSLOG_SOCKET: &str = "/dev/log";
/// In the data directory.
pub(super) const RECORDS_FILE: &str = "calls.jsonl";
/// Some 300,000 calls; with the renamed files, 1.1 GiB.
pub(super) const RECORDS_FILE_BYTES: SettingRange<usize> =
    SettingRange { default: 100 << 20, min: 64 << 10, max: 1 << 40 };
pub(super) const RECORDS_FILES_KEPT: SettingRange<usize> = SettingRange { default: 10, min: 1, max: 1000 };
/// A quarter of a second at 60,000 calls per second. A record has some 300 bytes, and at most a kilobyte.
pub(super) const RECORDS_QUEUE: SettingRange<usize> = SettingRange { default: 16_384, min: 64, max: 1 << 22 };

/// A leaked token is usable for a quarter of an hour.
pub(super) const TOKEN_LIFETIME: SettingRange<Duration> =
    SettingRange { default: secs(900), min: secs(1), max: secs(86_400) };
/// Half of the cores, so that a flood of new keys leaves the other half for requests.
pub(super) const HASH_PERMITS: SettingRange<usize> = SettingRange { default: 1, min: 1, max: 1024 };
/// 64 hashes of 50 ms: with one permit, the last one in the queue waits for 3 s.
pub(super) const HASH_QUEUE: SettingRange<usize> = SettingRange { default: 64, min: 0, max: 65_536 };
/// argon2 runs about once per key and quarter of an hour.
pub(super) const VERIFIED_FOR: SettingRange<Duration> =
    SettingRange { default: secs(900), min: secs(0), max: secs(86_400) };

/// Thirteen months and some days, so that a month can be compared with the same month of the year before. A
/// hundred years mean for ever.
pub(super) const RETENTION: SettingRange<Duration> =
    SettingRange { default: secs(400 * 86_400), min: secs(86_400), max: secs(36_500 * 86_400) };

/// `metamcp connect`: longer than any server takes for a call, because the client decides when to give up.
pub(super) const CONNECT_TIMEOUT: SettingRange<Duration> =
    SettingRange { default: secs(3600), min: secs(1), max: secs(86_400) };

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

const _: () = assert!(BODY_BYTES.default <= LIST_BYTES.default, "a list is made of answers of one body each");
const _: () = assert!(SESSION_IDLE.default.as_secs() <= SESSION_LIFETIME.default.as_secs());
const _: () = assert!(RESUME_STREAM_BYTES.default <= RESUME_BYTES.default);
const _: () = assert!(HOLDS_PER_KEY.default <= HOLDS.default);
const _: () = assert!(BRIDGE_SESSIONS_PER_KEY.default <= BRIDGE_SESSIONS.default);
const _: () = assert!(PAGE_ITEMS.default <= ITEMS.default);
const _: () = assert!(KEY_EVENT_STREAMS.default < CONNECTIONS.default, "calls need connections too");
