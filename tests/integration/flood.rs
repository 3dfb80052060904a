//! A thousand bogus keys a second: malformed ones, ones that nobody made, and wrong secrets of a key that is in use. Half of
//! the latter ask for a token.
//! Good requests are as fast as before, argon2 runs for new keys and hardly for guesses, and only where it may, the store
//! is asked now and then, and memory stays.
//!
//! How it is measured on a machine where other things run: in short windows, in turn one of each kind, again and again.
//! In the windows without a bogus key the flood goes on, to a server that refuses everything: whoever floods shares the
//! machine with the gateway, and what that costs is no doing of the gateway's. The median over the windows of a kind is
//! compared with that of the windows without. That is asserted by the long form, for which nothing else runs: the short
//! one asserts what holds however busy the machine is, which is all the rest.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Cluster, Gateway, Peer, Request, is_long, modern_call, run, with_checksum};
use metamcp_store::auth::ApiKey;

/// What is sent. The first goes elsewhere.
const KINDS: [&str; 4] = ["none", "malformed", "unknown", "wrong secret"];

/// Windows of each kind in one try: five seconds, and thirty.
const SHORT_WINDOWS: usize = 10;
const LONG_WINDOWS: usize = 60;

const WINDOW: Duration = Duration::from_millis(500);

/// Of a window, for what the one before has begun.
const SETTLE: Duration = Duration::from_millis(100);

/// A second, of all that flood.
const FLOOD_RATE: u32 = 1000;

/// Those that flood: one that waits for an answer keeps no other from asking.
const FLOODERS: u32 = 64;

/// Good clients, and the time between two calls of one.
const CALLERS: usize = 2;
const CALL_PACE: Duration = Duration::from_millis(3);

/// p99 of good requests under the flood, as a multiple of without.
const RATIO_MAX: f64 = 1.2;

/// Below it the clock and the scheduler say more than the gateway. A debug build refuses a few requests in this time; a run
/// of argon2 where requests are answered would take ten times as long. The claim itself is held against a release build,
/// by `tools/proofs --release flood`.
const NOISE: Duration = Duration::from_micros(if cfg!(debug_assertions) { 4_000 } else { 100 });

/// Looks into the store that made-up keys may cause in a second.
const LOOKS_PER_SECOND_MAX: i64 = 50;

/// Of its own accord it looks once a second.
const POLLS_PER_SECOND_MAX: i64 = 2;

/// One run of argon2 more than before, and what allocators keep.
const GROWTH_BYTES_MAX: usize = 32 << 20;

/// Keys of a moment ago, used for the first time while others guess: argon2 has to run for each.
const NEWCOMERS: usize = 3;

/// Of the time that all takes, one part in so many is what argon2 may take of one core. Newcomers take half of that; if it
/// ran for guesses, it would run for a quarter of all time.
const HASHING_PART_MAX: u32 = 40;

/// One of [`KINDS`] at a time, in whose window the others wait.
struct Stage {
    kind: AtomicUsize,
    over: AtomicBool,
    /// Bogus keys sent, of each kind.
    sent: [AtomicU64; 4],
    /// Of them, those that were told to come again.
    put_off: [AtomicU64; 4],
    /// When it was asked, and how long it took.
    calls: Mutex<Vec<(Instant, Duration)>>,
    gateway: SocketAddr,
    sink: SocketAddr,
    key: String,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A good client.
    fn call(&self) {
        let request =
            modern_call("/mcp", "a__echo", "{}").with("Authorization", format!("Bearer {}", self.key));
        let (bytes, mut client) = (request.bytes(), Client::connect(self.gateway));
        while !self.is_over() {
            let asked = Instant::now();
            assert!(client.send(&bytes));
            assert_eq!(client.response().status, 200, "a good key is refused");
            self.calls.lock().unwrap().push((asked, asked.elapsed()));
            thread::park_timeout(CALL_PACE);
        }
    }

    /// New keys, each of which is to be let in however many guess at another.
    fn enter(&self, newcomers: &[String]) {
        let mut client = Client::connect(self.gateway);
        for key in newcomers {
            let request = modern_call("/mcp", "a__echo", "{}");
            let status = client.ask(&request.with("Authorization", format!("Bearer {key}"))).status;
            assert_eq!(status, 200, "a new key is refused");
        }
    }

    fn flood(&self, number: u32) {
        let mut clients = [self.sink, self.gateway].map(Client::connect);
        let pace = Duration::from_secs(1) * FLOODERS / FLOOD_RATE;
        let mut due = Instant::now() + pace * number / FLOODERS;
        while !self.is_over() {
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
            due = Instant::now().max(due + pace);
            let kind = self.kind.load(Ordering::Relaxed);
            let bogus = self.bogus(kind, number);
            let request = if kind == 3 && number.is_multiple_of(2) {
                Request::post("/api/v1/auth/token", format!(r#"{{"api_key":"{bogus}"}}"#))
            } else {
                modern_call("/mcp", "a__echo", "{}").with("Authorization", format!("Bearer {bogus}"))
            };
            let status = clients[usize::from(kind > 0)].ask(&request).status;
            // Unknown ones that find no place among those that wait for a look are told to come again.
            assert!(status == 401 || (kind == 2 && status == 503), "{} is answered {status}", KINDS[kind]);
            self.sent[kind].fetch_add(1, Ordering::Relaxed);
            self.put_off[kind].fetch_add(u64::from(status == 503), Ordering::Relaxed);
        }
    }

    fn bogus(&self, kind: usize, number: u32) -> String {
        let made_up = ApiKey::generate();
        let text = made_up.expose();
        match kind {
            0 | 2 => text.to_owned(),
            1 => match number % 4 {
                0 => text[..40].to_owned(),
                1 => format!("{}!", &text[..text.len() - 1]),
                2 => format!("{}{}", &text[1..], &text[..1]),
                _ => format!("eyJhbGciOiJub25lIn0.{text}."),
            },
            _ => with_checksum(&format!("{}{}", &self.key[..17], &text[17..60])),
        }
    }
}

/// Refuses whatever comes, as cheaply as can be.
fn sink() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                // A request comes in one piece: it is small, and its sender waits for the answer.
                while client.read(&mut bytes).is_ok_and(|count| count > 0) {
                    if client.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What the gateway does for one try.
struct Seen {
    /// The median of the windows' p99, of each kind.
    p99: [Duration; 4],
    sent: [u64; 4],
    put_off: [u64; 4],
    elapsed: Duration,
    looks: i64,
    grown_bytes: usize,
    /// CPU time of the threads that verify, and of all others.
    hashing: Duration,
    serving: Duration,
}

fn measure(gateway: &Gateway, cluster: &Cluster, key: &str, cycles: usize) -> Seen {
    let mut newcomers: Vec<String> = (0..NEWCOMERS).map(|_| cluster.database().key("new").1).collect();
    let stage = Stage {
        kind: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        sent: Default::default(),
        put_off: Default::default(),
        calls: Mutex::default(),
        gateway: gateway.address,
        sink: sink(),
        key: key.to_owned(),
    };
    let (begun, looks) = (Instant::now(), looks(cluster));
    let (memory, [hashing, serving]) = (gateway.resident_bytes(), cpu(gateway));
    let mut windows: Vec<(usize, Instant)> = Vec::new();
    thread::scope(|scope| {
        (0..CALLERS).for_each(|_| drop(scope.spawn(|| stage.call())));
        let stage = &stage;
        (0..FLOODERS).for_each(|number| drop(scope.spawn(move || stage.flood(number))));
        thread::park_timeout(WINDOW);
        for cycle in 0..cycles {
            // Each comes behind each other.
            for kind in [0, 1, 2, 3].map(|place| (place * (1 + cycle % 2 * 2) + cycle) % KINDS.len()) {
                stage.kind.store(kind, Ordering::Relaxed);
                windows.push((kind, Instant::now() + SETTLE));
                if kind == 3 {
                    // In the first window of the kind, which is one of many.
                    let newcomers = std::mem::take(&mut newcomers);
                    scope.spawn(move || stage.enter(&newcomers));
                }
                let until = Instant::now() + WINDOW;
                while Instant::now() < until {
                    thread::park_timeout(until.saturating_duration_since(Instant::now()));
                }
            }
        }
        stage.over.store(true, Ordering::Relaxed);
    });
    let calls = stage.calls.into_inner().unwrap();
    let p99 = |kind| {
        let begins = windows.iter().filter(|window| window.0 == kind).map(|window| window.1);
        let of_window = |begin: Instant| {
            let within =
                calls.iter().filter(|(at, _)| (begin..begin + WINDOW.saturating_sub(SETTLE)).contains(at));
            rank(within.map(|(_, took)| *took).collect(), 99)
        };
        rank(begins.map(of_window).collect(), 50)
    };
    let [more_hashing, more_serving] = cpu(gateway);
    Seen {
        p99: [0, 1, 2, 3].map(p99),
        sent: stage.sent.map(AtomicU64::into_inner),
        put_off: stage.put_off.map(AtomicU64::into_inner),
        elapsed: begun.elapsed(),
        looks: self::looks(cluster) - looks,
        grown_bytes: gateway.resident_bytes().saturating_sub(memory),
        hashing: more_hashing.saturating_sub(hashing),
        serving: more_serving.saturating_sub(serving),
    }
}

/// Of a window in which nobody asked, because all waited, the whole of it.
fn rank(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100);
    at.checked_sub(1).map_or(WINDOW, |at| times[at])
}

/// Transactions that looked into the store, ever.
fn looks(cluster: &Cluster) -> i64 {
    run(async {
        let (client, connection) =
            tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql =
            "SELECT coalesce(sum(calls), 0)::BIGINT FROM pg_stat_statements WHERE query LIKE '%FROM epochs%'
                   AND query NOT LIKE '%pg_stat_statements%'";
        client.query_one(sql, &[]).await.unwrap().get(0)
    })
}

/// Of the gateway's threads: name, and CPU time.
fn threads(gateway: &Gateway) -> Vec<(String, Duration)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    // A thread may end while it is looked at.
    let tasks = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let thread = |stat: String| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
        Some((name.to_owned(), Duration::from_millis(ticks * TICK_MS)))
    };
    tasks.filter_map(thread).collect()
}

/// The kernel's unit of CPU time: 100 a second, whatever the machine.
const TICK_MS: u64 = 10;

/// CPU time of the threads that verify, and of all others.
fn cpu(gateway: &Gateway) -> [Duration; 2] {
    let (hashing, serving): (Vec<_>, Vec<_>) =
        threads(gateway).into_iter().partition(|(name, _)| name.starts_with("argon2"));
    [hashing, serving].map(|threads| threads.iter().map(|(_, time)| *time).sum())
}

fn is_good(seen: &Seen) -> bool {
    let Seen { p99, sent, put_off, elapsed, looks, grown_bytes, hashing, serving } = seen;
    println!(
        "{:.1?}: {looks} looks into the store, {} KiB of memory more, argon2 {hashing:.1?} of CPU, others {serving:.1?}",
        elapsed,
        grown_bytes >> 10,
    );
    let mut good = true;
    for (kind, name) in KINDS.iter().enumerate() {
        let ratio = p99[kind].as_secs_f64() / p99[0].as_secs_f64();
        // Each has its share of the time.
        let rate = u128::from(sent[kind]) * 1000 * KINDS.len() as u128 / elapsed.as_millis();
        let put_off = put_off[kind] * 100 / sent[kind].max(1);
        println!(
            "{name}: {rate} a second, {put_off} % told to come again, good requests' p99 {:.2?}, {ratio:.2} of without",
            p99[kind]
        );
        good &= ratio <= RATIO_MAX || p99[kind] < p99[0] + NOISE;
    }
    good
}

#[test]
fn bogus_keys_cost_good_requests_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    crate::support::sql(&cluster.url(), "CREATE EXTENSION pg_stat_statements");
    let (database, peer) = (cluster.database(), Peer::script([]));
    let permits = 1;
    let setup =
        database.gateway().server("a", peer.address).with(&format!("[auth]\nhash_permits = {permits}"));
    let gateway = setup.start();
    let (_, key) = database.key("good");
    let cycles = if is_long() { LONG_WINDOWS } else { SHORT_WINDOWS };
    // Everything is known, and everything was allocated that a guess takes.
    measure(&gateway, &cluster, &key, 1);
    let seen = measure(&gateway, &cluster, &key, cycles);
    let good = is_good(&seen);
    let (millis, kinds) =
        (i64::try_from(seen.elapsed.as_millis()).unwrap(), i64::try_from(KINDS.len()).unwrap());
    let looks_max = millis * (LOOKS_PER_SECOND_MAX / kinds + POLLS_PER_SECOND_MAX) / 1000 + kinds;
    assert!(seen.looks <= looks_max, "{} looks into the store, over {looks_max}", seen.looks);
    assert!(seen.grown_bytes < GROWTH_BYTES_MAX, "{} bytes of memory more", seen.grown_bytes);
    assert!(seen.sent.iter().all(|sent| *sent > 0), "{:?}", seen.sent);
    // On threads of its own, as many as there are permits, and nowhere else.
    let hashers = threads(&gateway).iter().filter(|(name, _)| name.starts_with("argon2")).count();
    assert_eq!(hashers, permits);
    assert!(!seen.hashing.is_zero(), "nothing was verified, so nothing was shown");
    let hashing_max = seen.elapsed / HASHING_PART_MAX;
    assert!(
        seen.hashing < hashing_max,
        "argon2 took {:?}, over {hashing_max:?}: it runs for guesses",
        seen.hashing
    );
    // Those that find a place are looked for, so that a new key is let in meanwhile.
    assert!(seen.put_off[2] < seen.sent[2], "no unknown key was looked for");
    assert!(good || !is_long(), "p99 of good requests under a flood is over {RATIO_MAX} of without");
}
