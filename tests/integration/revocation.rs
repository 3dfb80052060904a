//! How soon a key that was switched off opens nothing any more, on two replicas: the next request is refused, and the
//! streams that it has open are cut. With PostgreSQL telling of it, and without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Cluster, Database, Gateway, PATIENCE, Peer, Request, Step, chunk, events, is_long, legacy_call,
    modern, modern_call, open_session, sealer, sql, within,
};
use metamcp_store::store::{Audit, KeyStatus, Store};

/// What is timed at each replica.
const SEEN: [&str; 4] = ["request refused", "GET stream cut", "subscription cut", "stream of a call cut"];

/// Switches keys off and on over a connection of its own, as `keyadm` does.
struct Admin {
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Admin {
    fn new(database: &Database) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(Store::open(database.url())).unwrap().bound_by(sealer());
        Self { runtime, store }
    }

    fn set(&self, key_id: &str, status: KeyStatus) {
        let set = self.store.set_key_status(key_id, status, Audit::by("test"));
        assert!(self.runtime.block_on(set).unwrap());
    }
}

/// What a key has open at one replica.
struct Streams {
    address: std::net::SocketAddr,
    key: String,
    get: Client,
    listen: Client,
    call: Client,
}

impl Streams {
    fn open(gateway: &Gateway, number: usize, key: &str) -> Self {
        let with_key = |request: Request| request.with("Authorization", format!("Bearer {key}"));
        let session = open_session(gateway, "/mcp", Some(key));
        let get = Request::new("GET", "/mcp").with("Accept", "text/event-stream");
        let get = get.with("Mcp-Session-Id", session.clone()).with("MCP-Protocol-Version", "2025-11-25");
        let listen = r#""notifications":{"toolsListChanged":true},"#;
        // The events of one are read one by one, those of the other pass untouched.
        let long = match number {
            0 => legacy_call("/mcp", &session, "1", "a__echo", "{}"),
            _ => modern_call("/mcp", "a__echo", "{}"),
        };
        let opened = [get, modern("/mcp", "subscriptions/listen", listen), long].map(|request| {
            let mut client = Client::connect(gateway.address);
            assert!(client.send(&with_key(request).bytes()));
            assert_eq!(client.head().status, 200);
            assert!(client.chunk().unwrap().is_some(), "its first event or comment");
            client
        });
        let [get, listen, call] = opened;
        Self { address: gateway.address, key: key.to_owned(), get, listen, call }
    }

    /// Waits until all of it is over.
    fn ends(self, begun: &AtomicBool) -> [Instant; 4] {
        let Self { address, key, get, listen, call } = self;
        thread::scope(|scope| {
            let streams = [get, listen, call].map(|client| scope.spawn(|| cut(client)));
            let refused = refused(address, &key, begun);
            let [get, listen, call] = streams.map(|stream| stream.join().unwrap());
            [refused, get, listen, call]
        })
    }
}

/// When a stream ended, however it did.
fn cut(mut client: Client) -> Instant {
    let deadline = Instant::now() + PATIENCE;
    while let Ok(Some(_)) = client.chunk() {}
    assert!(Instant::now() < deadline, "it is not cut");
    Instant::now()
}

/// Asks on one connection, on which the key is believed for a moment, until it is told 401.
fn refused(address: std::net::SocketAddr, key: &str, begun: &AtomicBool) -> Instant {
    let mut client = Client::connect(address);
    let request = modern("/mcp", "tools/list", "").with("Authorization", format!("Bearer {key}"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.ask(&request).status;
        if status == 401 {
            return Instant::now();
        }
        assert!(Instant::now() < deadline, "still {status}");
        begun.store(true, Ordering::SeqCst);
        thread::park_timeout(POLL);
    }
}

const EVENT: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n";

/// Two replicas, and a key that is switched off and on again.
struct House {
    replicas: [Gateway; 2],
    peer: Peer,
    admin: Admin,
    id: String,
    key: String,
}

impl House {
    fn on(database: &Database) -> Self {
        let peer = Peer::script([]);
        let start = || database.gateway().server("a", peer.address).start();
        let replicas = [start(), start()];
        let (id, key) = database.key("revoked");
        Self { replicas, peer, admin: Admin::new(database), id, key }
    }

    /// Opens everything with the key, switches it off, and gives what [`SEEN`] took at both replicas, from before the
    /// change was sent.
    fn revoke(&self) -> [[Duration; 4]; 2] {
        for replica in &self.replicas {
            let request =
                modern("/mcp", "tools/list", "").with("Authorization", format!("Bearer {}", self.key));
            let deadline = Instant::now() + PATIENCE;
            while Client::once(replica.address, &request).status != 200 {
                assert!(Instant::now() < deadline, "the key is not let in");
                thread::park_timeout(POLL);
            }
        }
        let long = || vec![Step::Send(events()), Step::Send(chunk(EVENT)), Step::Hold];
        self.peer.push([long(), long()]);
        let [one, other] = [0, 1].map(|number| Streams::open(&self.replicas[number], number, &self.key));
        let begun = [AtomicBool::new(false), AtomicBool::new(false)];
        thread::scope(|scope| {
            let both = [(one, &begun[0]), (other, &begun[1])];
            let both = both.map(|(streams, begun)| scope.spawn(|| streams.ends(begun)));
            // One that ends by then has failed, which it says where it is waited for.
            let has_ended = || both.iter().any(thread::ScopedJoinHandle::is_finished);
            while !has_ended() && !begun.iter().all(|begun| begun.load(Ordering::SeqCst)) {
                thread::park_timeout(POLL);
            }
            let revoked = Instant::now();
            self.admin.set(&self.id, KeyStatus::Inactive);
            let times = both.map(|ends| ends.join().unwrap().map(|end| end - revoked));
            self.admin.set(&self.id, KeyStatus::Active);
            times
        })
    }

    /// Revokes so often, each time a little later after whatever the replicas do every second. Gives the longest of
    /// all but a hundredth, and the longest.
    fn measure(&self, what: &str, count: u32) -> (Duration, Duration) {
        let mut seen: [Vec<Duration>; 4] = Default::default();
        for number in 0..count {
            thread::park_timeout(POLL_OF_REPLICAS * (number % PHASES) / PHASES / 2);
            for times in self.revoke() {
                seen.iter_mut().zip(times).for_each(|(seen, time)| seen.push(time));
            }
        }
        let worst = SEEN.iter().zip(&mut seen).map(|(name, times)| {
            times.sort_unstable();
            let (middle, p99, last) =
                (times[times.len() / 2], times[(times.len() * 99).div_ceil(100) - 1], times[times.len() - 1]);
            println!("{what}, {count} revocations at 2 replicas, {name}: p50 {middle:.1?}, p99 {p99:.1?}, max {last:.1?}");
            (p99, last)
        });
        worst.max().unwrap()
    }

    /// A machine that is busy for a moment fails one try, a gateway that is slow fails all of them. The long form has
    /// one. Gives the longest of all.
    #[track_caller]
    fn check(&self, what: &str, count: u32, p99_max: Duration) -> Duration {
        let tries = if is_long() { 1 } else { TRIES };
        let good = (0..tries).map(|_| self.measure(what, count)).find(|(p99, _)| *p99 < p99_max);
        good.unwrap_or_else(|| panic!("{what}: p99 is over {p99_max:?}")).1
    }
}

#[test]
fn a_key_that_was_switched_off_ends_at_once_on_every_replica() {
    let Some(cluster) = Cluster::start() else { return };
    let house = House::on(&cluster.database());
    if is_long() {
        house.check("told", 200, TOLD_P99_MAX);
    } else {
        // Of 50 moments between two looks, one at least would be missed by whoever is not told.
        house.check("told", 50, POLL_OF_REPLICAS * 9 / 10);
    }
    if is_long() {
        let folder = house.replicas[0].path().join("ballast");
        busy_disk(&folder, || house.check("told, with a busy disk", 100, TOLD_P99_MAX));
    }
}

#[test]
fn a_key_that_was_switched_off_ends_soon_when_nobody_tells_of_it() {
    let Some(cluster) = Cluster::start() else { return };
    let database = cluster.database();
    let house = House::on(&database);
    sql(database.url(), UNTOLD);
    let longest = house.check("untold", if is_long() { 100 } else { PHASES }, within(UNTOLD_P99_MAX));
    assert!(longest > TOLD_P99_MAX, "somebody told after all, and nothing was shown");
}

/// Meanwhile somebody fills the disk that the gateway has its files on, and waits for it.
fn busy_disk(path: &std::path::Path, work: impl FnOnce() -> Duration) {
    let fill = || {
        std::fs::write(path, vec![1; 256 << 20]).unwrap();
        std::fs::File::open(path).unwrap().sync_all().unwrap();
    };
    beside(fill, work);
}

/// Works while something else is done again and again, which ends however the work does.
fn beside<T>(again: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                again();
            }
        });
        let _ends = Ends(&done);
        work()
    })
}

/// Says so when it is dropped, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_is_beside_work_ends_with_it_however_it_does() {
    let failing = || beside(thread::yield_now, || std::panic::resume_unwind(Box::new("it failed")));
    assert!(std::panic::catch_unwind(failing).is_err());
}

/// As it is after `sql/postgres`, without the notification.
const UNTOLD: &str = "CREATE OR REPLACE FUNCTION move_epoch(which TEXT) RETURNS BIGINT LANGUAGE sql
    SET search_path FROM CURRENT
    AS $$ UPDATE epochs SET value = value + 1 WHERE kind = which RETURNING value $$";

/// What nobody waits for who has just switched a key off.
const TOLD_P99_MAX: Duration = Duration::from_millis(250);

/// The replicas look for themselves every second.
const UNTOLD_P99_MAX: Duration = Duration::from_millis(1_500);
const POLL_OF_REPLICAS: Duration = Duration::from_secs(1);

/// So many moments between two looks.
const PHASES: u32 = 4;

/// Of the short form.
const TRIES: usize = 3;

/// Between two requests that may be refused.
const POLL: Duration = Duration::from_millis(2);
