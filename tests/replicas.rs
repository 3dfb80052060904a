//! Several gateways on one PostgreSQL, and one whose PostgreSQL goes away. Needs `METAMCP_TEST_DATABASE_URL`,
//! which `tools/check` sets; says so where it is missing.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Client, Database, ENCRYPTION_KEY, Gateway, PATIENCE, Request, Response, gateway_on, sql};

/// What a key is told that asks for a token.
fn status(gateway: &Gateway, key: &str) -> u16 {
    let body = format!("{{\"api_key\": \"{key}\"}}");
    Client::once(gateway.address, &Request::post("/api/v1/auth/token", body)).status
}

fn ready(gateway: &Gateway, key: &str) -> (u16, Value) {
    let request = Request::new("GET", "/ready").with("X-API-Key", key);
    let response: Response = Client::once(gateway.address, &request);
    (response.status, response.json())
}

/// How long it takes until `done`.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::yield_now();
    }
    begun.elapsed()
}

/// A way to the server that can be cut.
struct Way {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    tries: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
    /// Connections up to this one carry nothing any more.
    stalled: Mutex<usize>,
    /// Never told anybody: whoever waits here waits to the end of the process.
    nothing: Condvar,
}

impl Way {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let number = shared.tries.fetch_add(1, Ordering::SeqCst) + 1;
                if !shared.cut.load(Ordering::SeqCst) {
                    State::join(&shared, number, client, server);
                }
            }
        });
        Self { address, state }
    }

    /// Everything that is open breaks, and nothing new gets through.
    fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        for stream in self.state.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// What is open stays open and carries nothing; what is new gets through. So do firewalls that forget.
    fn stall(&self) {
        *self.state.stalled.lock().unwrap() = self.state.tries.load(Ordering::SeqCst);
    }

    fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn join(self: &Arc<Self>, number: usize, client: TcpStream, server: SocketAddr) {
        let server = TcpStream::connect(server).unwrap();
        let pairs = [(&client, &server), (&server, &client)];
        for (from, to) in pairs.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap())) {
            let state = Arc::clone(self);
            thread::spawn(move || state.carry(number, from, to));
        }
        self.streams.lock().unwrap().extend([client, server]);
    }

    fn carry(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let stalled = self.stalled.lock().unwrap();
            drop(self.nothing.wait_while(stalled, |stalled| number <= *stalled).unwrap());
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    }
}

#[test]
fn connections_that_hang_are_replaced() {
    let Some(database) = Database::new() else { return };
    let way = Way::to(database.address());
    let replica = gateway_on(&database.url_at(way.address)).start();
    let (id, key) = database.key("known");
    let known = replica.key.clone().unwrap();
    assert_eq!(status(&replica, &key), 200);
    way.stall();
    database.revoke(&id);
    let revoked = until("revoked", || status(&replica, &key) == 401);
    println!("revoked after {revoked:?} with connections that hang");
    // The poll has a connection of its own, and it does not wait for the one that listens.
    assert!(revoked < Duration::from_secs(5), "{revoked:?}");
    assert_eq!(status(&replica, &known), 200);

    // By then the other one was found out as well: being told is faster than any poll again.
    let tries = || way.state.tries.load(Ordering::SeqCst);
    let before = tries();
    until("the listener is replaced", || tries() > before);
    let (id, key) = database.key("next");
    assert_eq!(status(&replica, &key), 200);
    database.revoke(&id);
    assert!(until("revoked", || status(&replica, &key) == 401) < Duration::from_millis(1_500));
}

#[test]
fn a_key_works_on_every_replica_from_its_making_to_its_end() {
    let Some(database) = Database::new() else { return };
    let replicas = [database.gateway().start(), database.gateway().start()];
    let first = replicas[0].key.clone().expect("the first replica makes the first key");
    assert_eq!(replicas[1].key, None);
    for replica in &replicas {
        assert_eq!(status(replica, &first), 200);
    }
    let mut ends = Vec::new();
    for number in 0..20 {
        let (id, key) = database.key(&format!("n{number}"));
        for replica in &replicas {
            assert_eq!(status(replica, &key), 200, "known a moment after it was made");
        }
        database.revoke(&id);
        ends.push(until("revoked", || replicas.iter().all(|replica| status(replica, &key) == 401)));
        assert_eq!(status(&replicas[0], &first), 200);
    }
    ends.sort_unstable();
    println!("revoked on both after {ends:?}");
    // With a notification, even on a busy machine; a poll alone takes half a second in the middle.
    assert!(ends[10] < Duration::from_millis(250), "{ends:?}");
    assert!(ends[18] < Duration::from_millis(1_500), "{ends:?}");
}

#[test]
fn without_the_database_what_is_known_goes_on_also_after_a_restart() {
    let Some(database) = Database::new() else { return };
    let way = Way::to(database.address());
    let mut replica = gateway_on(&database.url_at(way.address)).start();
    let (id, key) = database.key("known");
    let (_, kept) = database.key("kept");
    assert_eq!((status(&replica, &key), status(&replica, &kept)), (200, 200));
    assert_eq!(ready(&replica, &key).1.get("degraded"), None);

    way.cut();
    until("seen to be away", || ready(&replica, &key).1["degraded"] == true);
    assert_eq!(status(&replica, &key), 200);
    let (_, unknown) = database.key("made meanwhile");
    assert_eq!(status(&replica, &unknown), 503, "it may be good, which cannot be found out");
    let (code, body) = ready(&replica, &key);
    assert_eq!((code, &body["ready"], &body["store"]["answers"]), (200, &true.into(), &false.into()));

    // Meanwhile the key ends, and the gateway is started anew: it goes by what it knew.
    database.revoke(&id);
    replica.key = Some(key.clone());
    let replica = replica.restart();
    assert_eq!((status(&replica, &key), status(&replica, &kept)), (200, 200));
    let (code, body) = ready(&replica, &kept);
    assert_eq!((code, &body["degraded"]), (200, &true.into()));
    assert!(body["store"]["keys_as_of"].as_u64().unwrap() > 1_700_000_000, "{body}");
    assert!(!replica.log().contains(&kept[17..]), "a secret is in the log");

    way.mend();
    let synced = until("in step again", || status(&replica, &key) == 401);
    println!("in step {synced:?} after the database came back");
    assert!(synced < Duration::from_secs(3), "{synced:?}");
    until("ready again", || ready(&replica, &kept).1.get("degraded").is_none());
    assert_eq!((status(&replica, &kept), status(&replica, &unknown)), (200, 200));
}

#[test]
fn a_first_start_waits_for_the_database() {
    let Some(database) = Database::new() else { return };
    let way = Way::to(database.address());
    way.cut();
    let replica = thread::scope(|scope| {
        let starting = scope.spawn(|| gateway_on(&database.url_at(way.address)).start());
        until("it tries", || way.state.tries.load(Ordering::SeqCst) > 0);
        way.mend();
        starting.join().unwrap()
    });
    assert!(replica.log().contains("waiting for the database"), "{}", replica.log());
    assert_eq!(status(&replica, replica.key.as_ref().unwrap()), 200);
}

#[test]
fn what_no_waiting_helps_ends_the_start() {
    let Some(database) = Database::new() else { return };
    sql(database.url(), "CREATE TABLE api_keys (theirs TEXT)");
    let data = std::env::temp_dir().join(format!("metamcp-test-{}-theirs", std::process::id()));
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_metamcp"))
        .env_clear()
        .env("DATABASE_URL", database.url())
        .env("ENCRYPTION_KEY", ENCRYPTION_KEY)
        .env("JWT_SECRET", "j".repeat(40))
        .env("METAMCP_DATA_DIR", &data)
        .args(["--port", "0"])
        .output()
        .unwrap();
    drop(std::fs::remove_dir_all(&data));
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success() && said.contains("a database of its own"), "{said}");
}
