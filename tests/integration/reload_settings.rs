//! Settings that change while the gateway runs, by SIGHUP or because a file was changed.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::handover::{demo, has_ended};
use crate::records::counter;
use crate::support::{
    Client, Gateway, Load, LoadPlan, Peer, Request, Setup, Step, legacy, modern, modern_call, open_session,
    until,
};
use metamcp_store::store::{Grants, Role};

const DONE: &str = "configuration reloaded";
const PATH: &str = "/mcp";

/// Between two looks at watched files.
const WATCH_POLL: Duration = Duration::from_secs(1);

fn setup(lines: &str) -> Setup {
    Setup::new().server("demo", demo()).with(lines)
}

fn call() -> Request {
    modern_call(PATH, "demo__echo", r#"{"text":"x"}"#)
}

/// Reloads with these lines, and checks what an observation gives before and after. Workers follow at once, but not
/// before the reload is logged.
#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(
    lines: &str,
    observe: impl Fn(&Gateway) -> T,
    (before, after): (T, T),
) {
    let server = demo();
    let base = || Setup::new().server("demo", server);
    let gateway = base().start();
    assert_eq!(observe(&gateway), before, "before {lines}");
    gateway.reload(&base().with(lines), DONE);
    until(lines, || observe(&gateway) == after);
    assert!(!gateway.log().contains("after a restart"), "{}", gateway.log());
    gateway.reload(&base(), DONE);
    until(lines, || observe(&gateway) == before);
}

fn status_of(request: Request) -> impl Fn(&Gateway) -> u16 {
    move |gateway| Client::once(gateway.address, &request).status
}

#[test]
fn limits_of_requests_change() {
    let long = modern_call(PATH, "demo__echo", &format!(r#"{{"text":"{}"}}"#, "x".repeat(3000)));
    check("[server]\nbody_bytes_max = \"1KiB\"", status_of(long), (200, 413));
    check("[server]\nhosts = [\"a.example\"]", status_of(call().set("Host", "a.example")), (403, 200));
    let foreign = call().with("Origin", "https://a.example");
    check("[server]\norigins = [\"https://a.example\"]", status_of(foreign), (403, 200));
    // An uncommon request, which hyper reads.
    let mut many = call().path("/mcp?x");
    for number in 0..40 {
        many = many.with(&format!("X-Many-{number}"), "x");
    }
    check(
        "[server]\nheader_count_max = 20",
        move |gateway| status_of(many.clone())(gateway) == 431,
        (false, true),
    );
}

#[test]
fn limits_of_connections_and_keys_change() {
    let is_second_served = |gateway: &Gateway| {
        let mut first = Client::connect(gateway.address);
        if first.send(&call().bytes()) && first.outcome().is_some_and(|answered| answered.status == 200) {
            let mut second = Client::connect(gateway.address);
            return second.send(&call().bytes()) && second.outcome().is_some();
        }
        // The last connections are not closed yet.
        true
    };
    check("[server]\nconnections_max = 1", is_second_served, (true, false));
    let peer = Peer::script([]);
    let base = || Setup::new().server("a", peer.address);
    let gateway = base().start();
    let second = |gateway: &Gateway| {
        peer.push([vec![Step::Hold]]);
        let so_far = peer.calls().len();
        let mut held = Client::connect(gateway.address);
        held.send(&modern_call("/servers/a/mcp", "echo", "{}").bytes());
        peer.wait_calls(so_far + 1);
        Client::once(gateway.address, &modern_call("/servers/a/mcp", "echo", "{}")).status
    };
    assert_eq!(second(&gateway), 200);
    gateway.reload(&base().with("[limits]\nkey_in_flight_max = 1"), DONE);
    assert_eq!(second(&gateway), 429);
    gateway.reload(&base(), DONE);
    until("the end of the held call", || {
        status_of(modern_call("/servers/a/mcp", "echo", "{}"))(&gateway) == 200
    });
    assert_eq!(second(&gateway), 200);
}

#[test]
fn timeouts_change_for_open_connections() {
    let base = setup("");
    let gateway = base.start();
    let mut idle = Client::connect(gateway.address);
    assert_eq!(idle.ask(&call()).status, 200);
    gateway.reload(&base.clone().with("[server]\nidle_timeout = \"1s\""), DONE);
    assert!(idle.is_closed());
    let session = open_session(&gateway, PATH, None);
    let mut stream = Client::connect(gateway.address);
    let get = Request::new("GET", PATH).with("Accept", "text/event-stream");
    stream.send(&get.with("Mcp-Session-Id", &*session).bytes());
    assert_eq!(stream.head().status, 200);
    assert!(stream.chunk().unwrap().is_some(), "the first comment");
    gateway.reload(&base.clone().with("[server]\nkeep_alive = \"1s\""), DONE);
    // The first one is due by the old period.
    stream.stream().set_read_timeout(Some(Duration::from_secs(18))).unwrap();
    assert!(stream.chunk().unwrap().is_some());
    stream.stream().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(stream.chunk().unwrap().is_some(), "a comment by the new period");
    // A session that is too old is unknown.
    let ping = || status_of(legacy(PATH, &session, "1", "ping", ""))(&gateway);
    assert_eq!(ping(), 200);
    gateway.reload(&base.with("[session]\nlifetime = \"1s\"\nidle_timeout = \"1s\""), DONE);
    until("the session has outlived the new lifetime", || ping() == 404);
}

#[test]
fn the_bridge_changes() {
    let peer = Peer::script([]);
    let base = || Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let gateway = base().start();
    let is_discovered = || {
        let answer = Client::once(gateway.address, &modern("/servers/a/mcp", "server/discover", ""));
        answer.json()["result"]["supportedVersions"].is_array()
    };
    assert!(!is_discovered());
    gateway.reload(&base().with("[bridge]\ndiscover = true"), DONE);
    until("server/discover is answered", is_discovered);
    gateway.reload(&base(), DONE);
    until("server/discover is rejected", || !is_discovered());
}

#[test]
fn the_memory_limit_changes() {
    let is_least = |gateway: &Gateway| counter(gateway, "metamcp_memory_max_bytes") == 4 << 20;
    check("[limits]\nmemory_max = \"4MiB\"", is_least, (false, true));
}

#[test]
fn programs_of_stored_servers_change() {
    let base = setup("").keys();
    let gateway = base.start();
    let (_, key) = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() });
    let body = r#"{"name":"p","kind":"stdio","command":"/bin/cat"}"#;
    let create = Request::post("/api/v1/mcp/servers", body).with("Authorization", format!("Bearer {key}"));
    let status = || status_of(create.clone())(&gateway);
    until("the key is known, and the program refused", || status() == 422);
    gateway.reload(&base.clone().with("[admin]\nstdio_commands = [\"/bin/cat\"]"), DONE);
    assert_eq!(status(), 201);
}

#[test]
fn the_time_of_a_verification_changes() {
    let base = setup("[telemetry]\nmetrics = \"open\"").keys();
    let gateway = base.start();
    let runs = || counter(&gateway, "metamcp_key_hash_runs_total");
    gateway.reload(&base.clone().with("[auth]\nverified_for = \"0s\""), DONE);
    let (_, fresh) = gateway.keys().create("fresh");
    let ask = || status_of(call().with("Authorization", format!("Bearer {fresh}")))(&gateway);
    until("the new key is known", || ask() == 200);
    let so_far = runs();
    until("it is verified again and again", || ask() == 200 && runs() > so_far + 2);
}

#[test]
fn deadlines_of_a_drain_change() {
    let peer = Peer::script([vec![Step::Hold], vec![Step::Hold]]);
    let base = || Setup::new().server("a", peer.address);
    let long = "[server]\ndrain_deadline = \"10m\"\nhandover_deadline = \"10m\"";
    let gateway = base().with(long).start();
    gateway.reload(&base().with(&long.replace("10m", "1s")), DONE);
    let hold = |so_far: usize| {
        let mut client = Client::connect(gateway.address);
        client.send(&modern_call("/servers/a/mcp", "echo", "{}").bytes());
        peer.wait_calls(so_far + 1);
        client
    };
    let held = hold(0);
    gateway.hand_over();
    assert!({ held }.is_closed());
    until("the end of the first process", || has_ended(gateway.pids()[0]));
    // The successor has read the new deadline at its start.
    gateway.reload(&base().with(long), DONE);
    gateway.reload(&base().with(&long.replace("10m", "1s")), DONE);
    let held = hold(1);
    gateway.terminate();
    assert!({ held }.is_closed());
    until("the end of the successor", || has_ended(gateway.pid()));
}

#[test]
fn lists_change() {
    let pages = |gateway: &Gateway| {
        let listed = Client::once(gateway.address, &modern(PATH, "tools/list", "")).json();
        listed["result"]["nextCursor"] != Value::Null
    };
    let server = demo();
    let base = || Setup::new().server("demo", server);
    let gateway = base().start();
    assert!(!pages(&gateway));
    // A list is made again when its servers change.
    gateway.reload(&base().server("more", server).with("[catalog]\npage_items = 1"), DONE);
    until("pages", || pages(&gateway));
}

#[test]
fn the_log_filter_changes() {
    let base = setup("");
    let gateway = base.start();
    let lines = "[log]\nfilter = \"warn\"\n[server]\nhosts = [\"a.example\"]";
    fs::write(gateway.path().join("metamcp.toml"), base.clone().with(lines).toml()).unwrap();
    gateway.signal("-HUP");
    until("the reload", || status_of(call().set("Host", "a.example"))(&gateway) == 200);
    assert!(!gateway.log().contains(DONE), "{}", gateway.log());
    gateway.reload(&base, DONE);
}

#[test]
fn token_lifetime_changes() {
    let base = setup("").keys();
    let gateway = base.start();
    let lifetime = || {
        let key = gateway.key.clone().unwrap();
        let request = Request::post("/api/v1/auth/token", format!(r#"{{"api_key":"{key}"}}"#));
        let answered = Client::once(gateway.address, &request);
        assert_eq!(answered.status, 200, "{}", answered.text());
        answered.json()["expires_in"].as_u64().unwrap()
    };
    assert_eq!(lifetime(), 900);
    gateway.reload(&base.clone().with("[auth]\ntoken_lifetime = \"5m\""), DONE);
    assert_eq!(lifetime(), 300);
}

#[test]
fn changed_files_are_loaded() {
    let server = demo();
    let base = || Setup::new().server("demo", server).with("[server]\nwatch = true");
    let gateway = base().start();
    let path = gateway.path();
    let good = fs::read_to_string(path.join("metamcp.toml")).unwrap();
    let names = |gateway: &Gateway, name: &str| {
        let listed = Client::once(gateway.address, &modern(PATH, "tools/list", "")).text();
        listed.contains(&format!("{name}__echo"))
    };
    // A file that was not there.
    let json = format!(r#"{{"mcpServers":{{"more":{{"url":"http://{server}/mcp"}}}}}}"#);
    fs::write(path.join("mcp.json"), json).unwrap();
    until("the new file", || names(&gateway, "more"));
    fs::write(path.join("metamcp.toml"), format!("{good}\nserver.nonsense = 1")).unwrap();
    gateway.wait_log("configuration not reloaded", 0);
    assert!(names(&gateway, "demo") && names(&gateway, "more"));
    // A server that is taken out, and a file that is replaced.
    fs::write(path.join("mcp.json"), r#"{"mcpServers":{}}"#).unwrap();
    fs::write(path.join("next"), good.replace("[servers.demo]", "[servers.other]")).unwrap();
    fs::rename(path.join("next"), path.join("metamcp.toml")).unwrap();
    until("the replaced file", || names(&gateway, "other") && !names(&gateway, "more"));
    // A mistake is said once, and not with every look at the file.
    assert_eq!(gateway.log().matches("configuration not reloaded").count(), 1, "{}", gateway.log());
    fs::write(path.join("metamcp.toml"), good.replace("watch = true", "watch = false")).unwrap();
    until("the end of the watch", || names(&gateway, "demo"));
    let reloads = gateway.log().matches(DONE).count();
    fs::write(path.join("metamcp.toml"), good.replace("[servers.demo]", "[servers.late]")).unwrap();
    let written = Instant::now();
    until("a watch would have looked twice", || {
        assert!(names(&gateway, "demo"), "{}", gateway.log());
        written.elapsed() > 3 * WATCH_POLL
    });
    assert_eq!(gateway.log().matches(DONE).count(), reloads, "{}", gateway.log());
    gateway.signal("-HUP");
    until("the file is loaded", || names(&gateway, "late"));
}

/// What was read before does not vanish from the configuration with its file, which may be on its way back.
#[test]
fn a_vanished_file_changes_nothing() {
    const VANISHED: &str = "a configuration file has vanished";
    let (server, more) = (demo(), demo());
    let json = |name: &str| format!(r#"{{"mcpServers":{{"{name}":{{"url":"http://{more}/mcp"}}}}}}"#);
    let base = Setup::new().server("demo", server).with("[server]\nwatch = true");
    let gateway = base.file("mcp.json", &json("more")).file(".env", "RUST_LOG=info").start();
    let path = gateway.path();
    let serves = |name: &str| {
        let listed = Client::once(gateway.address, &modern(PATH, "tools/list", "")).text();
        listed.contains(&format!("{name}__echo"))
    };
    for (count, name) in ["metamcp.toml", "mcp.json", ".env"].into_iter().enumerate() {
        let aside = path.join("aside");
        fs::rename(path.join(name), &aside).unwrap();
        gateway.wait_log("configuration not reloaded", 2 * count);
        gateway.signal("-HUP");
        gateway.wait_log("configuration not reloaded", 2 * count + 1);
        assert!(gateway.log().contains(&path.join(name).display().to_string()), "{}", gateway.log());
        assert!(serves("demo") && serves("more"), "{name}: {}", gateway.log());
        assert_eq!(gateway.log().matches(DONE).count(), count, "{}", gateway.log());
        // The watch goes on.
        fs::rename(&aside, path.join(name)).unwrap();
        gateway.wait_log(DONE, count);
    }
    assert_eq!(gateway.log().matches(VANISHED).count(), 6, "{}", gateway.log());
    fs::write(path.join("mcp.json"), json("other")).unwrap();
    until("the watch goes on", || serves("other") && !serves("more"));
}

/// Many reloads that change everything that can change, while clients call: nothing fails.
#[test]
fn nothing_fails_while_settings_change() {
    const RELOADS: usize = 40;
    let server = demo();
    let base = |round: usize| {
        let lines = format!(
            "[server]\nkeep_alive = \"{}s\"\nidle_timeout = \"{}s\"\nbody_bytes_max = \"{}KiB\"\nfast_lane = {}\n\
             [limits]\nkey_in_flight_max = {}\n[catalog]\npage_items = {}\n[session]\nsessions_max = {}\n\
             [bridge]\ndiscover = {}\n[log]\nfilter = \"{}\"",
            1 + round % 2,
            60 + round % 5,
            64 + round % 7,
            round.is_multiple_of(3),
            100 + round % 3,
            10 + round % 9,
            1000 + round,
            round.is_multiple_of(2),
            ["info", "info,metamcp=debug"][round % 2],
        );
        Setup::new().server("demo", server).with(&lines)
    };
    let gateway = base(0).start();
    let load = Load::start(LoadPlan {
        address: gateway.address,
        certificates: Vec::new(),
        server: "demo".into(),
        kept: 4,
        fresh: 2,
        streams: 6,
        pace: (50, 50),
    });
    for round in 1..=RELOADS {
        gateway.reload(&base(round), DONE);
        load.wait_calls(10);
    }
    let report = load.stop();
    assert_eq!(report.failures, [""; 0], "{report:?}");
}
