//! Several gateways on one PostgreSQL, and one whose PostgreSQL goes away. Needs `METAMCP_TEST_DATABASE_URL`,
//! which `tools/check` sets; says so where it is missing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, Database, ENCRYPTION_KEY, Gateway, Peer, Request, Response, clear_environment, gateway_on,
    listed, modern, modern_call, sql, until, within,
};
use metamcp_store::store::{Audit, VersionMatch};
use serde_json::{Value, json};

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

/// As an administrator, who succeeds.
#[track_caller]
fn administer(gateway: &Gateway, key: &str, method: &str, path: &str, body: &Value) -> Value {
    let request = Request::new(method, path).with("X-API-Key", key).with("Content-Type", "application/json");
    let response = Client::once(gateway.address, &request.body(body.to_string()));
    assert!((200..300).contains(&response.status), "{method} {path}: {}", response.text());
    response.json()
}

/// The names of the tools behind `/mcp`.
fn tools(gateway: &Gateway, key: &str) -> Vec<String> {
    let asked = modern("/mcp", "tools/list", "").with("X-API-Key", key);
    listed(&Client::once(gateway.address, &asked).json())
}

fn call(gateway: &Gateway, key: &str, tool: &str) -> Value {
    Client::once(gateway.address, &modern_call("/mcp", tool, "{}").with("X-API-Key", key)).json()
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
    /// Gives how many there were.
    fn stall(&self) -> usize {
        let mut stalled = self.state.stalled.lock().unwrap();
        *stalled = self.state.tries.load(Ordering::SeqCst);
        *stalled
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
    let stalled = way.stall();
    database.revoke(&id);
    let revoked = until("revoked", || status(&replica, &key) == 401);
    println!("revoked after {revoked:?} with connections that hang");
    // The poll has a connection of its own, and it does not wait for the one that listens.
    assert!(revoked < within(Duration::from_secs(5)), "{revoked:?}");
    assert_eq!(status(&replica, &known), 200);

    // The other one is found out as well: being told is faster than any poll again.
    until("both are replaced", || way.state.tries.load(Ordering::SeqCst) >= stalled + 2);
    let (id, key) = database.key("next");
    assert_eq!(status(&replica, &key), 200);
    database.revoke(&id);
    let revoked = until("revoked", || status(&replica, &key) == 401);
    assert!(revoked < within(Duration::from_millis(1_500)), "{revoked:?}");
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
    // With a notification; a poll alone takes half a second in the middle.
    assert!(ends[10] < within(Duration::from_millis(250)), "{ends:?}");
    assert!(ends[18] < within(Duration::from_millis(1_500)), "{ends:?}");
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
    assert!(synced < within(Duration::from_secs(3)), "{synced:?}");
    until("ready again", || ready(&replica, &kept).1.get("degraded").is_none());
    assert_eq!((status(&replica, &kept), status(&replica, &unknown)), (200, 200));
}

#[test]
fn what_one_replica_is_told_all_serve() {
    let Some(database) = Database::new() else { return };
    let replicas = [database.gateway().start(), database.gateway().start()];
    let (one, two) = (Peer::script([]), Peer::script([]));
    let admin = database.admin_key();
    let at = |peer: &Peer| format!("http://{}/mcp", peer.address);
    let soon = |what: &str, done: &mut dyn FnMut() -> bool| {
        let took = until(what, done);
        println!("{what} after {took:?}");
        assert!(took < within(Duration::from_secs(2)), "{what}: {took:?}");
    };
    for number in 0..5 {
        let name = format!("s{number}");
        let server = json!({"name": name, "kind": "http", "url": at(&one)});
        administer(&replicas[number % 2], &admin, "POST", "/api/v1/mcp/servers", &server);
        let tool = format!("{name}__echo");
        assert!(
            call(&replicas[number % 2], &admin, &tool)["result"].is_object(),
            "at once, where it was told"
        );
        let other = &replicas[1 - number % 2];
        soon("a server", &mut || call(other, &admin, &tool)["result"].is_object());
    }
    administer(&replicas[0], &admin, "PATCH", "/api/v1/mcp/servers/s0", &json!({"url": at(&two)}));
    soon("an address", &mut || {
        assert!(call(&replicas[1], &admin, "s0__echo")["result"].is_object(), "it is never away");
        !two.calls().is_empty()
    });
    let filtered = json!({"name": "default", "servers": [{"server": "s0", "deny": ["other"],
                          "overrides": [{"tool": "echo", "name": "say"}]}]});
    administer(&replicas[1], &admin, "POST", "/api/v1/mcp/endpoints", &filtered);
    for replica in &replicas {
        soon("a filter", &mut || tools(replica, &admin) == ["say"]);
        assert_eq!(call(replica, &admin, "s0__other")["error"]["code"], -32602);
        assert!(call(replica, &admin, "say")["result"].is_object());
    }
}

#[test]
fn without_the_database_the_servers_of_before_are_served() {
    let Some(database) = Database::new() else { return };
    let way = Way::to(database.address());
    let mut replica = gateway_on(&database.url_at(way.address)).start();
    let (peer, admin) = (Peer::script([]), database.admin_key());
    let secret = "hunter2-hunter2";
    for name in ["a", "b"] {
        let url = format!("http://{}/mcp", peer.address);
        let server = json!({"name": name, "kind": "http", "url": url, "headers": {"X-Secret": secret}});
        administer(&replica, &admin, "POST", "/api/v1/mcp/servers", &server);
    }
    assert_eq!(tools(&replica, &admin), ["a__echo", "a__other", "b__echo", "b__other"]);
    way.cut();
    until("seen to be away", || ready(&replica, &admin).1["degraded"] == true);
    assert!(call(&replica, &admin, "a__echo")["result"].is_object());

    // What is deleted meanwhile is served until the database is back.
    database.store(async |store| {
        let row = store.server("a").await.unwrap().unwrap();
        store.delete_server(row.id, VersionMatch::Any, Audit::by("test")).await.unwrap();
    });
    let kept = std::fs::read(replica.path().join("data/fleet.sealed")).unwrap();
    for text in [secret, &peer.address.to_string()] {
        assert!(!kept.windows(text.len()).any(|window| window == text.as_bytes()), "{text} is in the clear");
    }
    replica.key = Some(admin.clone());
    let replica = replica.restart();
    assert_eq!(tools(&replica, &admin), ["a__echo", "a__other", "b__echo", "b__other"]);
    assert!(call(&replica, &admin, "a__echo")["result"].is_object());
    assert_eq!(peer.calls().last().unwrap().header("x-secret"), Some(secret));
    way.mend();
    let synced = until("in step again", || tools(&replica, &admin) == ["b__echo", "b__other"]);
    println!("in step {synced:?} after the database came back");
    assert!(synced < within(Duration::from_secs(3)), "{synced:?}");
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
    let child = clear_environment(&mut std::process::Command::new(env!("CARGO_BIN_EXE_metamcp")))
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
