//! Every default with its reason, and the smallest and largest value that makes sense.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::admin::Scrapes;
use crate::admin::definition::bounds::Bound;

/// The port of the product that metamcp re-implements, so that its users keep their URLs.
pub(super) const PORT: u16 = 12009;
/// Nobody else on the network reaches a gateway that was just tried out.
pub(super) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Starts and ends of parts, refusals and faults; no line per request.
pub(super) const LOG_FILTER: &str = "info";
/// HMAC-SHA256 takes a key of the hash's length at least (RFC 7518, section 3.2).
pub(super) const JWT_SECRET_BYTES_MIN: usize = 32;

/// More threads than the largest machines have cores only cost memory. The default is one per core.
pub(super) const WORKERS: Bound<usize> = Bound { default: 1, min: 1, max: 1024 };
/// A tool call with a picture or a file in it; a few hundred at once still fit into a small machine.
pub(super) const BODY_BYTES: Bound<usize> = Bound { default: 4 << 20, min: 1 << 10, max: 1 << 30 };
/// Twice the 8 KiB that nginx and Apache take, for long bearer tokens.
pub(super) const HEADER_BYTES: Bound<usize> = Bound { default: 16 << 10, min: 1 << 10, max: 1 << 20 };
/// Browsers and proxies together send some 30.
pub(super) const HEADER_COUNT: Bound<usize> = Bound { default: 64, min: 16, max: 1024 };
/// A head is one packet or two; who takes longer holds a connection on purpose.
pub(super) const HEADER_TIMEOUT: Bound<Duration> =
    Bound { default: secs(10), min: millis(100), max: secs(300) };
/// 4 MiB at 140 KB/s, a slow mobile link.
pub(super) const BODY_TIMEOUT: Bound<Duration> =
    Bound { default: secs(30), min: millis(100), max: secs(3600) };
/// Longer than the 60 s after which the usual load balancers close, so that they close first.
pub(super) const IDLE_TIMEOUT: Bound<Duration> =
    Bound { default: secs(75), min: millis(100), max: secs(86_400) };
/// Ten thousand clients with two connections each.
pub(super) const CONNECTIONS: Bound<usize> = Bound { default: 20_000, min: 1, max: 10_000_000 };
/// Shorter than every idle timeout on the way that is known (proxies of phone networks: 30 s).
pub(super) const KEEP_ALIVE: Bound<Duration> = Bound { default: secs(15), min: secs(1), max: secs(600) };
/// Without a load balancer nobody needs the time; with one, set it to its probe interval.
pub(super) const DRAIN_DELAY: Bound<Duration> = Bound { default: secs(0), min: secs(0), max: secs(600) };
/// Under the 30 s that Kubernetes waits, and the 10 s of Docker are met for all but the longest calls.
pub(super) const DRAIN_DEADLINE: Bound<Duration> = Bound { default: secs(10), min: secs(0), max: secs(3600) };

/// An agent runs tens of calls at once; 512 leaves room for many agents behind one key.
pub(super) const KEY_IN_FLIGHT: Bound<usize> = Bound { default: 512, min: 1, max: 1_000_000 };

/// Clients give up on a list after some 10 s; what comes later is told by `list_changed`.
pub(super) const LIST_DEADLINE: Bound<Duration> =
    Bound { default: secs(5), min: millis(100), max: secs(300) };
/// For servers that change their list and never say so.
pub(super) const REFRESH_AFTER: Bound<Duration> =
    Bound { default: secs(300), min: secs(1), max: secs(86_400) };
/// Only a loop has more pages.
pub(super) const PAGES: Bound<usize> = Bound { default: 1000, min: 1, max: 100_000 };
/// A hundred times what a model can choose from.
pub(super) const ITEMS: Bound<usize> = Bound { default: 10_000, min: 1, max: 1_000_000 };
/// 10,000 items of 1.6 KiB, the mean size of a described tool.
pub(super) const LIST_BYTES: Bound<usize> = Bound { default: 16 << 20, min: 1 << 10, max: 1 << 30 };
/// Most clients take the first page only; so it should be the last as well.
pub(super) const PAGE_ITEMS: Bound<usize> = Bound { default: 1000, min: 1, max: 100_000 };

/// A working day and the night after it; then a client opens another.
pub(super) const SESSION_LIFETIME: Bound<Duration> =
    Bound { default: secs(86_400), min: secs(1), max: secs(2_592_000) };
/// What is dropped is rebuilt on the next request: the cost of being wrong is one round trip.
pub(super) const SESSION_IDLE: Bound<Duration> =
    Bound { default: secs(1800), min: secs(1), max: secs(2_592_000) };
/// At about 1 KiB each, 100 MiB.
pub(super) const SESSIONS: Bound<usize> = Bound { default: 100_000, min: 1, max: 10_000_000 };

/// Some hundred streams in the middle of long answers, or some ten thousand with one small answer each. It is reserved on
/// the disk, and in memory only as far as it is used.
pub(super) const RESUME_BYTES: Bound<usize> = Bound { default: 64 << 20, min: 1 << 20, max: 64 << 30 };
/// What lies between the gateway and its client when a connection breaks: what a socket holds at most on Linux.
pub(super) const RESUME_STREAM_BYTES: Bound<usize> = Bound { default: 4 << 20, min: 64 << 10, max: 1 << 30 };
/// The SDKs come back after a second and give up after some. A machine that slept, or that moved to another network, takes
/// minutes.
pub(super) const RESUME_FOR: Bound<Duration> =
    Bound { default: secs(300), min: millis(100), max: secs(86_400) };
/// Zero is never: an idle connection costs next to nothing here. Where something between cuts long connections, less than
/// it takes for that.
pub(super) const POLL_AFTER: Bound<Duration> = Bound { default: secs(0), min: secs(0), max: secs(86_400) };

/// A person reads a form, looks something up, and fills it in. Longer than the silence that most clients bear.
pub(super) const HOLD_TIMEOUT: Bound<Duration> = Bound { default: secs(300), min: secs(1), max: secs(3600) };
/// Each is a connection to a server, and the request and what the server asks: some KiB.
pub(super) const HOLDS: Bound<usize> = Bound { default: 1024, min: 1, max: 100_000 };
/// A person answers one form at a time; many agents behind one key have several people.
pub(super) const HOLDS_PER_KEY: Bound<usize> = Bound { default: 64, min: 1, max: 100_000 };
/// Each has an event stream to its server, which is one of the file descriptors.
pub(super) const BRIDGE_SESSIONS: Bound<usize> = Bound { default: 4096, min: 1, max: 1_000_000 };
/// Clients decide on their capabilities, of which there are 64 combinations: one that tries them all at all servers must
/// not take the place of others.
pub(super) const BRIDGE_SESSIONS_PER_KEY: Bound<usize> = Bound { default: 256, min: 1, max: 1_000_000 };
/// Opening another is one round trip and a half.
pub(super) const BRIDGE_SESSION_IDLE: Bound<Duration> =
    Bound { default: secs(300), min: secs(1), max: secs(86_400) };

/// The numbers name every server and endpoint, and tell how much everybody does.
pub(super) const SCRAPES: Scrapes = Scrapes::Key;

/// A collector is near, and its answer is short (OpenTelemetry's own default).
pub(super) const TRACES_TIMEOUT: Bound<Duration> =
    Bound { default: secs(10), min: millis(100), max: secs(60) };
/// Two spans of a kilobyte each: whoever looks for an example finds one, and neither the gateway nor the collector has much
/// to do, whatever clients ask for.
pub(super) const TRACES_PER_SECOND: Bound<usize> = Bound { default: 100, min: 1, max: 10_000 };
/// As traces are told apart where there are those of others.
pub(super) const SERVICE: &str = "metamcp";

/// A leaked token is of use for a quarter of an hour.
pub(super) const TOKEN_LIFETIME: Bound<Duration> =
    Bound { default: secs(900), min: secs(1), max: secs(86_400) };
/// Half of the cores, so that a flood of new keys leaves the other half to the requests.
pub(super) const HASH_PERMITS: Bound<usize> = Bound { default: 1, min: 1, max: 1024 };
/// 64 hashes of 50 ms: the last in the queue waits 3 s on one permit.
pub(super) const HASH_QUEUE: Bound<usize> = Bound { default: 64, min: 0, max: 65_536 };
/// argon2 runs about once per key and quarter of an hour.
pub(super) const VERIFIED_FOR: Bound<Duration> =
    Bound { default: secs(900), min: secs(0), max: secs(86_400) };

/// Thirteen months, so that a month can be compared with that of the year before, and some days. A hundred years are for
/// ever.
pub(super) const RETENTION: Bound<Duration> =
    Bound { default: secs(400 * 86_400), min: secs(86_400), max: secs(36_500 * 86_400) };

/// `metamcp connect`: longer than any server takes for a call, since the client knows best when to give it up.
pub(super) const CONNECT_TIMEOUT: Bound<Duration> =
    Bound { default: secs(3600), min: secs(1), max: secs(86_400) };

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
