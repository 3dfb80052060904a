//! A server whose tools change after they were approved, in every way it can: the three policies, on every way to it, in
//! both eras, over a restart, at another replica, and while the store is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    Client, Cluster, Database, Gateway, Peer, Request, Response, Setup, Step, call_in_other_forms, chunk,
    error, events, legacy, legacy_call, listed, modern, modern_call, open_session, until,
};
use metamcp_store::store::{AuditFilter, Grants, Role};
use serde_json::{Value, json};

/// A server whose lists are those of the step that it is at.
struct Turncoat {
    peer: Peer,
    step: Arc<AtomicUsize>,
}

impl Turncoat {
    /// `list`: the step, whether it is asked by a Modern client, and the cursor.
    fn new(list: impl Fn(usize, bool, Option<&str>) -> Value + Send + 'static) -> Self {
        let (peer, step) = (Peer::script([]), Arc::<AtomicUsize>::default());
        let now = Arc::clone(&step);
        peer.list_by(move |seen, message| {
            let cursor = message["params"]["cursor"].as_str();
            list(now.load(Ordering::SeqCst), seen.header("mcp-session-id").is_none(), cursor)
        });
        Self { peer, step }
    }

    fn turn(&self, step: usize) {
        self.step.store(step, Ordering::SeqCst);
    }
}

fn tool(name: &str, description: &str) -> Value {
    json!({"name": name, "description": description, "inputSchema": {"type": "object"}})
}

fn page(tools: &[Value]) -> Value {
    json!({"tools": tools, "resultType": "complete"})
}

/// `echo` is told otherwise with each step, `other` stays.
fn plain(step: usize, _: bool, _: Option<&str>) -> Value {
    page(&[tool("echo", &format!("step {step}")), tool("other", "stays")])
}

/// One gateway, and somebody who may do everything there.
struct House {
    gateway: Gateway,
    admin: String,
}

impl House {
    fn new(turncoat: &Turncoat, lines: &str) -> Self {
        let setup = Setup::new().keys().with(FRESH).server_with("a", turncoat.peer.address, lines);
        let gateway = setup.start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        Self { gateway, admin }
    }

    fn ask(&self, request: Request) -> Response {
        Client::once(self.gateway.address, &request.with("X-API-Key", &*self.admin))
    }

    fn list(&self, path: &str) -> Value {
        self.ask(modern(path, "tools/list", "")).json()
    }

    fn tools(&self) -> Vec<String> {
        listed(&self.list("/mcp"))
    }

    fn administer(&self, method: &str, path: &str, body: &Value) -> Response {
        let request = Request::new(method, path).with("Content-Type", "application/json");
        self.ask(request.body(body.to_string()))
    }

    fn vetting(&self) -> Value {
        self.administer("GET", "/api/v1/mcp/servers/a/vetting", &json!({})).json()
    }

    fn approve(&self, body: &Value) -> Response {
        self.administer("POST", "/api/v1/mcp/servers/a/approve", body)
    }

    fn actions(&self) -> Vec<String> {
        self.gateway.keys().run(async |store| {
            let rows = store.audit(AuditFilter::default(), None, 500).await.unwrap().items;
            let all = rows.into_iter().rev().map(|row| row.action);
            all.filter(|action| action.starts_with("server.tools")).collect()
        })
    }

    /// The servers of which something is remembered.
    fn pinned(&self) -> usize {
        self.gateway.keys().run(async |store| store.tool_pins().await.unwrap().len())
    }

    /// A call of `echo` on every way there is: those that reached the server, and what the others were told.
    fn calls(&self, peer: &Peer) -> (usize, Vec<String>) {
        let key = Some(self.admin.as_str());
        let before = peer.calls().len();
        let mut answers = Vec::new();
        for (path, name) in [("/mcp", "a__echo"), ("/servers/a/mcp", "echo")] {
            answers.push(self.ask(modern_call(path, name, "{}")));
            let session = open_session(&self.gateway, path, key);
            answers.push(self.ask(legacy_call(path, &session, "1", name, "{}")));
        }
        // Written otherwise it is the same.
        let escaped = modern_call("/servers/a/mcp", r"ech\u006f", "{}").set("Mcp-Name", "echo");
        answers.push(self.ask(escaped));
        let mut answers: Vec<Value> = answers.iter().map(Response::json).collect();
        for (path, name) in [("/mcp", "a__echo"), ("/servers/a/mcp", "echo")] {
            answers.extend(call_in_other_forms(&self.gateway, path, key, name));
        }
        let refused = answers.iter().map(|answer| &answer["error"]).filter(|error| !error.is_null());
        let mut told: Vec<String> = refused
            .map(|error| {
                assert_eq!(error["code"], -32602);
                error["message"].as_str().unwrap().to_owned()
            })
            .collect();
        let called = self.administer("POST", "/api/v1/mcp/servers/a/tools/echo/execute", &json!({}));
        if called.status != 200 {
            assert_eq!(called.status, 409, "{}", called.text());
            told.push(called.json()["detail"].as_str().unwrap().to_owned());
        }
        (peer.calls().len() - before, told)
    }
}

/// Lists are fetched again as often as they can be.
const FRESH: &str = "[catalog]\nrefresh_after = \"1s\"";

const QUARANTINE: &str = "changed_tools = \"quarantine\"";

/// What is told of a tool that is held back.
const HELD: &str = "its definition changed since it was approved";

#[test]
fn what_changed_passes_where_it_may() {
    for (lines, actions) in [("changed_tools = \"allow\"", &[][..]), ("", &["server.tools.change"][..])] {
        let turncoat = Turncoat::new(plain);
        let house = House::new(&turncoat, lines);
        until("it is listed", || house.tools() == ["a__echo", "a__other"]);
        until("that is written down", || house.pinned() == actions.len());
        turncoat.turn(1);
        let now = || house.list("/mcp")["result"]["tools"][0]["description"] == "step 1";
        until("it is shown as it is", now);
        until("that is written down", || house.actions() == actions);
        assert_eq!(house.calls(&turncoat.peer), (14, Vec::new()));
        assert_eq!(house.vetting(), json!({}));
        let log = house.gateway.log();
        assert_eq!(log.matches("tools have changed").count(), actions.len(), "{log}");
        assert!(!log.contains("step"), "no text of a tool is in the log");
    }
}

#[test]
fn what_changed_is_held_back_until_it_is_approved() {
    let turncoat = Turncoat::new(plain);
    let mut house = House::new(&turncoat, QUARANTINE);
    until("it is listed", || house.tools() == ["a__echo", "a__other"]);
    assert_eq!(house.calls(&turncoat.peer), (14, Vec::new()));
    turncoat.turn(1);
    until("it is held back", || house.tools() == ["a__other"]);
    let (called, told) = house.calls(&turncoat.peer);
    assert_eq!((called, told.len()), (0, 14), "{told:?}");
    assert!(told.iter().all(|text| text.contains(HELD)), "{told:?}");
    let hidden = house.list("/mcp")["result"]["_meta"]["dev.metamcp/hidden"][0].clone();
    assert_eq!(hidden["name"], "a__echo");
    assert!(hidden["reason"].as_str().unwrap().starts_with(HELD), "{hidden}");
    let ready = house.ask(Request::new("GET", "/ready")).json();
    assert!(ready["warnings"][0]["text"].as_str().unwrap().starts_with(HELD), "{ready}");
    // The server's own list passes as it is: so it can be looked at.
    assert_eq!(listed(&house.list("/servers/a/mcp")), ["echo", "other"]);

    until("it waits", || house.vetting()["waiting"][0]["name"] == "echo");
    let waiting = house.vetting()["waiting"][0].clone();
    assert_eq!(waiting["changed"], json!(["description"]));
    let this = |name: &str, digest: &Value| json!({"tools": [{"name": name, "digest": digest}]});
    assert_eq!(house.approve(&this("echo", &json!("00"))).status, 409);
    assert_eq!(house.approve(&this("other", &Value::Null)).status, 409);
    assert_eq!(house.approve(&json!([])).status, 422);
    // What it was is not lost over a restart, nor is that it changed.
    house.gateway = house.gateway.restart();
    until("it is listed", || house.tools() == ["a__other"]);
    assert_eq!(house.calls(&turncoat.peer).0, 0);
    let approved = house.approve(&this("echo", &waiting["digest"]));
    assert_eq!(approved.json()["approved"][0]["name"], "echo", "{}", approved.text());
    assert_eq!(house.calls(&turncoat.peer), (14, Vec::new()));
    assert_eq!(house.tools(), ["a__echo", "a__other"]);
    assert_eq!(house.approve(&json!({})).json(), json!({"approved": []}));
    assert_eq!(house.actions(), ["server.tools.hold", "server.tools.approve"]);
    assert_eq!(house.gateway.log().matches("and are quarantined").count(), 1);
    // Back to what was approved before.
    turncoat.turn(0);
    let now = || house.list("/mcp")["result"]["tools"][0]["description"] == "step 0";
    until("it is shown", now);
    assert_eq!(house.calls(&turncoat.peer), (14, Vec::new()));
}

/// Clients of sessions are the only ones that list.
#[test]
fn the_warning_comes_with_lists_of_sessions_alone() {
    let turncoat = Turncoat::new(plain);
    let house = House::new(&turncoat, &format!("{QUARANTINE}\nera = \"legacy\""));
    let session = open_session(&house.gateway, "/mcp", Some(&*house.admin));
    let listed = || listed(&house.ask(legacy("/mcp", &session, "1", "tools/list", "")).json());
    until("it is listed", || listed() == ["a__echo", "a__other"]);
    until("it is pinned", || house.pinned() == 1);
    turncoat.turn(1);
    until("it is quarantined", || listed() == ["a__other"]);
    let ready = house.ask(Request::new("GET", "/ready")).json();
    assert!(ready["warnings"][0]["text"].as_str().is_some_and(|text| text.starts_with(HELD)), "{ready}");
    assert_eq!(ready["warnings"][0]["names"], json!(["a__echo"]));
}

/// From the first step to the second, these are held back.
#[track_caller]
fn check(list: impl Fn(usize, bool, Option<&str>) -> Value + Send + 'static, held: &[&str]) {
    let turncoat = Turncoat::new(list);
    let house = House::new(&turncoat, QUARANTINE);
    until("it is listed", || !house.tools().is_empty());
    assert_eq!(house.list("/mcp")["result"]["_meta"]["dev.metamcp/hidden"], Value::Null);
    let key = Some(house.admin.as_str());
    // From here on it is listed in both eras.
    turncoat.turn(1);
    let session = open_session(&house.gateway, "/mcp", key);
    let shown = || {
        let modern = house.tools();
        let of_session = listed(&house.ask(legacy("/mcp", &session, "1", "tools/list", "")).json());
        (modern, of_session)
    };
    until("they are held back", || {
        let (modern, of_session) = shown();
        let is_hidden = |name: &str| {
            let name = format!("a__{name}");
            !modern.contains(&name) && !of_session.contains(&name)
        };
        held.iter().all(|name| is_hidden(name)) && modern.contains(&"a__other".to_owned())
    });
    let names = |house: &House| -> Vec<String> {
        let vetting = house.vetting();
        let waiting = vetting["waiting"].as_array().cloned().unwrap_or_default();
        waiting.iter().map(|change| change["name"].as_str().unwrap().to_owned()).collect()
    };
    until("they wait", || names(&house) == held);
    for name in held {
        let call = house.ask(modern_call("/servers/a/mcp", name, "{}"));
        assert_eq!(error(&call), -32602, "{}", call.text());
    }
    assert_eq!(turncoat.peer.calls().len(), 0, "what is refused reaches nobody");
    assert_eq!(house.approve(&json!({})).json()["approved"].as_array().map(Vec::len), Some(held.len()));
    until("nothing waits", || names(&house).is_empty());
}

#[test]
fn however_it_changes_it_is_noticed() {
    // Only on the second page, and there by a name that looks like two.
    check(
        |step, _, cursor| match cursor {
            None => json!({"tools": [tool("other", "")], "nextCursor": "2", "resultType": "complete"}),
            Some(_) => page(&[tool("b__echo", &format!("step {step}"))]),
        },
        &["b__echo"],
    );
    // Only for clients of sessions.
    check(
        |step, is_modern, _| {
            let told = if is_modern { 0 } else { step };
            page(&[tool("echo", &format!("step {told}")), tool("other", "")])
        },
        &["echo"],
    );
    // Beside what it was, and a new one.
    check(
        |step, _, _| {
            let mut tools = vec![tool("echo", "step 0"), tool("other", "")];
            if step > 0 {
                tools.extend([tool("echo", "step 1"), tool("new", "")]);
            }
            page(&tools)
        },
        &["echo", "new"],
    );
    // In its schema alone.
    check(
        |step, _, _| {
            let mut echo = tool("echo", "");
            echo["inputSchema"]["properties"] = json!({"x": {"description": format!("step {step}")}});
            page(&[echo, tool("other", "")])
        },
        &["echo"],
    );
}

#[test]
fn a_server_that_says_so_is_listed_again_at_once() {
    let turncoat = Turncoat::new(plain);
    let gate = crate::support::Gate::default();
    let told = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";
    let steps = [Step::Send(events()), Step::Wait(gate.clone()), Step::Send(chunk(told)), Step::Hold];
    turncoat.peer.push_streams([steps.to_vec()]);
    let lines = format!("{QUARANTINE}\nera = \"legacy\"");
    // Nothing else has it listed again.
    let setup = Setup::new().keys().server_with("a", turncoat.peer.address, &lines);
    let gateway = setup.start();
    let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
    let house = House { gateway, admin };
    let session = open_session(&house.gateway, "/mcp", Some(&house.admin));
    let list = || house.ask(legacy("/mcp", &session, "1", "tools/list", "")).json();
    until("it is listed", || listed(&list()) == ["a__echo", "a__other"]);
    turncoat.turn(1);
    gate.open();
    until("it is held back", || listed(&list()) == ["a__other"]);
}

#[test]
fn what_nobody_sees_is_said_and_passes() {
    let turncoat = Turncoat::new(|_, _, _| page(&[tool("echo", "a\u{202e}b\u{1b}[31m"), tool("other", "")]));
    let house = House::new(&turncoat, "");
    until("it is listed", || house.tools().len() == 2);
    assert_eq!(house.list("/mcp")["result"]["tools"][0]["description"], "a\u{202e}b\u{1b}[31m");
    assert_eq!(house.vetting()["odd"], json!([{"name": "echo", "code_points": ["U+001B", "U+202E"]}]));
    let log = house.gateway.log();
    assert_eq!(log.matches("contain invisible characters").count(), 1, "{log}");
    assert!(!log.contains('\u{202e}'));
}

#[test]
fn whoever_writes_into_the_database_approves_nothing() {
    let turncoat = Turncoat::new(plain);
    let house = House::new(&turncoat, QUARANTINE);
    until("it is listed", || house.tools() == ["a__echo", "a__other"]);
    turncoat.turn(1);
    until("it waits", || house.vetting()["waiting"][0]["name"] == "echo");
    let shell = rusqlite::Connection::open(house.gateway.keys().database()).unwrap();
    let pins: String = shell.query_row("SELECT pins FROM tool_pins", [], |row| row.get(0)).unwrap();
    let mut forged: Value = serde_json::from_str(&pins).unwrap();
    let print = forged["tools"]["echo"]["waiting"]["print"].take();
    forged["tools"]["echo"] = json!({"approved": [print]});
    shell.execute("UPDATE tool_pins SET pins = ?1", [forged.to_string()]).unwrap();
    until("nothing is believed", || house.tools().is_empty());
    assert_eq!(house.calls(&turncoat.peer).0, 0);
    // An administrator begins anew.
    until("all wait", || house.vetting()["waiting"].as_array().is_some_and(|waiting| waiting.len() == 2));
    assert_eq!(house.approve(&json!({})).json()["approved"].as_array().map(Vec::len), Some(2));
    assert_eq!(house.tools(), ["a__echo", "a__other"]);
}

#[test]
fn whoever_takes_away_what_was_approved_approves_nothing() {
    let turncoat = Turncoat::new(plain);
    let house = House::new(&turncoat, QUARANTINE);
    until("it is listed", || house.tools() == ["a__echo", "a__other"]);
    let shell = rusqlite::Connection::open(house.gateway.keys().database()).unwrap();
    shell.execute("DELETE FROM tool_pins", []).unwrap();
    turncoat.turn(1);
    until("it is held back", || house.tools() == ["a__other"]);
    until("it waits", || house.vetting()["waiting"][0]["name"] == "echo");
    assert_eq!(house.tools(), ["a__other"]);
    assert_eq!(house.actions(), ["server.tools.restore", "server.tools.hold"]);
}

fn on(database: &Database, turncoat: &Turncoat) -> Gateway {
    database.gateway().with(FRESH).server_with("a", turncoat.peer.address, QUARANTINE).start()
}

#[test]
fn what_one_replica_is_told_the_others_know() {
    let Some(database) = Database::new() else { return };
    let turncoat = Turncoat::new(plain);
    let admin = database.admin_key();
    let [one, two] = [0, 1].map(|_| House { gateway: on(&database, &turncoat), admin: admin.clone() });
    let both = |what: &str, expected: &[&str]| {
        until(what, || [&one, &two].iter().all(|house| house.tools() == expected));
    };
    both("it is listed", &["a__echo", "a__other"]);
    turncoat.turn(1);
    both("it is held back", &["a__other"]);
    until("it waits", || one.vetting()["waiting"][0]["name"] == "echo");
    assert_eq!(one.approve(&json!({})).json()["approved"][0]["name"], "echo");
    both("it is approved", &["a__echo", "a__other"]);
    assert_eq!(two.calls(&turncoat.peer), (14, Vec::new()));
}

#[test]
fn while_nothing_is_known_nothing_is_called() {
    let Some(mut cluster) = Cluster::start() else { return };
    let database = cluster.database();
    let turncoat = Turncoat::new(plain);
    let gateway = on(&database, &turncoat);
    let mut house = House { gateway, admin: database.admin_key() };
    until("it is listed", || house.tools() == ["a__echo", "a__other"]);
    cluster.end();
    // What is known goes on.
    assert_eq!(house.ask(modern_call("/mcp", "a__echo", "{}")).status, 200);
    turncoat.turn(1);
    until("it is held back all the same", || house.tools() == ["a__other"]);
    turncoat.turn(0);
    until("it is as it was", || house.tools() == ["a__echo", "a__other"]);
    house.gateway = house.gateway.restart();
    // As for a client, who asks for the lists, too: of a server that is not listed there is nothing to hold.
    until("the store is known to be away", || {
        house.tools().is_empty()
            && house.vetting()["held"] == "the approved definitions could not be read from the database yet"
    });
    assert!(house.tools().is_empty());
    let (called, told) = house.calls(&turncoat.peer);
    assert_eq!(called, 0);
    assert!(told.iter().all(|text| text.contains("could not be read")), "{told:?}");
    cluster.begin();
    until("it is read", || house.tools() == ["a__echo", "a__other"]);
    assert_eq!(house.calls(&turncoat.peer), (14, Vec::new()));
}
