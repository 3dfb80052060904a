//! Servers that are child processes, from a client's HTTP to the process and back: whose is what, and what is
//! left when something ends.

mod ends;
mod room;
mod sharing;
mod secrets;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::support::{
    Client, Gateway, Request, Response, Setup, assert_unanswered, error, initialize, is_long, legacy,
    legacy_call, message, modern, modern_call, notification, open_session, tool_text, until, until_within,
};
use serde_json::{Value, json};

const PATH: &str = "/servers/a/mcp";

/// One server `a`, the fixture with these arguments, and these lines in its table.
fn setup(args: &[&str], lines: &str) -> Setup {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let args: Vec<String> = args.iter().map(|arg| format!("{arg:?}")).collect();
    // On a busy machine a start may count as slow, and tests count processes.
    let spare = if lines.contains("prewarm") { "" } else { "prewarm = false\n" };
    Setup::new().with(&format!(
        "[servers.a]\ncommand = {program:?}\nargs = [{}]\n{spare}{lines}\n[limits]\nkey_in_flight_max = 2000",
        args.join(", ")
    ))
}

fn call(gateway: &Gateway, session: &str, tool: &str, arguments: &str) -> Response {
    Client::connect(gateway.address).ask(&legacy_call(PATH, session, "1", tool, arguments))
}

/// The processes that descend from one, zombies included: number and state.
fn descendants(root: u32) -> Vec<(u32, char)> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next().and_then(|state| state.chars().next()).unwrap_or('?');
        let parent: u32 = fields.next().and_then(|parent| parent.parse().ok()).unwrap_or(0);
        all.push((pid, parent, state));
    }
    let mut found: Vec<(u32, char)> = Vec::new();
    let mut of = vec![root];
    while let Some(parent) = of.pop() {
        for (pid, _, state) in all.iter().filter(|(_, other, _)| *other == parent) {
            found.push((*pid, *state));
            of.push(*pid);
        }
    }
    found
}

fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One whose parent does not wait for it is not ours to bury.
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn speaks_both_eras_single_and_aggregated() {
    let gateway = setup(&["banner", "stderr"], "").start();
    let mut client = Client::connect(gateway.address);
    for (path, tool) in [(PATH, "echo"), ("/mcp", "a__echo")] {
        let said = client.ask(&modern_call(path, tool, r#"{"text":"modern"}"#));
        assert_eq!(tool_text(&said), "modern", "{path}");
        let session = open_session(&gateway, path, None);
        for id in ["0", "\"0\"", "9007199254740993", "\"\\u00e4\""] {
            let said = client.ask(&legacy_call(path, &session, id, tool, r#"{"text":"legacy"}"#));
            assert_eq!(tool_text(&said), "legacy", "{path}");
            assert!(said.text().contains(&format!("\"id\":{id}")), "{path} {id}: {}", said.text());
        }
        // Legal JSON, on several lines: it must not become several messages.
        let body = format!(
            "{{\r\n\"jsonrpc\":\"2.0\",\n\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"{tool}\",\n\"arguments\":{{\"text\":\"x\\ny\"}}}}}}"
        );
        let said = client.ask(&Request::post(path, body).with("Mcp-Session-Id", session.clone()));
        assert_eq!(tool_text(&said), "x\ny", "{path}");
        let listed = message(&client.ask(&legacy(path, &session, "2", "tools/list", "")));
        assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 12, "{path}: {listed}");
        let refused = client.ask(&legacy_call(path, &session, "3", &tool.replace("echo", "nothing"), "{}"));
        assert_eq!(error(&refused), -32602, "{path}");
        let gone = client.ask(&legacy(path, "no-such-session", "3", "ping", ""));
        assert_eq!(gone.status, 404, "{path}");
    }
}

#[test]
fn a_server_of_sessions_is_told_apart_even_if_it_exits_at_the_question() {
    for args in [&["legacy"][..], &["legacy", "strict"]] {
        let gateway = setup(args, "").start();
        let mut client = Client::connect(gateway.address);
        let listed = message(&client.ask(&modern(PATH, "tools/list", "")));
        assert_eq!(listed["result"]["resultType"], "complete", "{args:?}: {listed}");
        let session = open_session(&gateway, PATH, None);
        assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x", "{args:?}");
        assert!(!gateway.log().contains("server process failed") || args.len() > 1);
    }
    // Configured to be asked in the other era, it is bridged: it is told of no session.
    let gateway = setup(&[], "era = \"modern\"").start();
    let opened = Client::connect(gateway.address).ask(&initialize(PATH));
    assert!(opened.header("mcp-session-id").is_some(), "{}", opened.text());
    assert!(opened.json()["result"]["instructions"].is_null(), "`initialize` itself would give some");
}

#[test]
fn progress_and_requests_of_the_server_come_with_the_call() {
    let gateway = setup(&[], "").start();
    let session = open_session(&gateway, PATH, None);
    let body = r#"{"jsonrpc":"2.0","id":"p","method":"tools/call","params":{"_meta":{"progressToken":"mine"},"name":"progress","arguments":{"steps":3}}}"#;
    let request = Request::post(PATH, body).with("Mcp-Session-Id", session.clone());
    let events = Client::connect(gateway.address).ask(&request).events();
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(events[..3].iter().all(|event| event["params"]["progressToken"] == "mine"), "{events:?}");
    assert_eq!(events[3]["id"], "p");
    // A client that cannot be asked is not: the program is refused.
    let refused = tool_text(&call(&gateway, &session, "ask", "{}"));
    assert!(refused.contains("-32601"), "{refused}");
    // It asks during the call; the answer comes in a request of its own.
    let session = process_of(&gateway, r#"{"roots":{}}"#).0;
    let mut asking = Client::connect(gateway.address);
    asking.send(&legacy_call(PATH, &session, "7", "ask", "{}").bytes());
    assert_eq!(asking.head().status, 200);
    let asked = asking.event().unwrap();
    assert_eq!(asked["method"], "roots/list", "{asked}");
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#, asked["id"]);
    let taken =
        Client::connect(gateway.address).ask(&Request::post(PATH, answer).with("Mcp-Session-Id", session));
    assert_eq!(taken.status, 202);
    let answered = asking.event().unwrap();
    assert!(answered["result"]["content"][0]["text"].as_str().unwrap().contains("roots"), "{answered}");
}

/// Clients on one process, and the calls of each, in the usual form and in the long one.
const SHARED: [(usize, usize); 2] = [(100, 50), (1000, 1000)];

/// Sessions opened and ended, likewise.
const CYCLES: [usize; 2] = [200, 10_000];

#[test]
fn many_clients_share_a_process_and_nobody_sees_anothers_answer() {
    let gateway = setup(&["legacy"], "sharing = \"shared\"\nin_flight_max = 1000").start();
    let (clients, calls) = SHARED[usize::from(is_long())];
    let run = |number: usize| {
        let session = open_session(&gateway, PATH, None);
        let mut client = Client::connect(gateway.address);
        for id in 0..calls {
            // All begin at 0, and answers overtake each other.
            let canary = format!("canary-{number}-{id}-{}", "x".repeat((number * 7 + id) % 300));
            let ms = (number * 31 + id * 17) % 7;
            let arguments = format!(r#"{{"text":"{canary}","ms":{ms}}}"#);
            let said = client.ask(&legacy_call(PATH, &session, &id.to_string(), "echo", &arguments));
            assert_eq!(message(&said)["id"], id);
            assert_eq!(tool_text(&said), canary);
        }
        tool_text(&client.ask(&legacy_call(PATH, &session, "0", "pid", "{}")))
    };
    let pids: HashSet<String> = thread::scope(|scope| {
        let running: Vec<_> = (0..clients).map(|number| scope.spawn(move || run(number))).collect();
        running.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(pids.len(), 1, "one process");
    let session = open_session(&gateway, PATH, None);
    let echoed = tool_text(&call(&gateway, &session, "echoed", "{}"));
    assert_eq!(echoed, (clients * calls).to_string(), "each call was asked once");
    println!("{} calls by {clients} clients on one process: no foreign answer", clients * calls);
}

/// A session of a client that can do this, and the process that serves it.
fn process_of(gateway: &Gateway, capabilities: &str) -> (String, String) {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{capabilities},"clientInfo":{{"name":"t","version":"1"}}}}}}"#
    );
    let opened = Client::connect(gateway.address).ask(&Request::post(PATH, body));
    let session = opened.header("mcp-session-id").unwrap_or_else(|| panic!("{}", opened.text())).to_owned();
    let told = opened.json()["result"]["instructions"].as_str().unwrap().to_owned();
    assert!(told == capabilities || told == "{}", "told {told}");
    let pid = tool_text(&call(gateway, &session, "pid", "{}"));
    (session, pid)
}

#[test]
fn processes_are_shared_as_configured() {
    let check = |sharing: &str, same_client: bool, other_client: bool| {
        let gateway = setup(&["legacy"], &format!("sharing = {sharing:?}")).start();
        let one = process_of(&gateway, "{}").1;
        assert_eq!(process_of(&gateway, "{}").1 == one, same_client, "{sharing}");
        let other = process_of(&gateway, r#"{"roots":{}}"#).1;
        assert_eq!(other == one, other_client, "{sharing}");
    };
    check("shared", true, true);
    check("key", true, false);
    check("auto", true, false);
    check("session", false, false);
}

#[test]
fn a_key_has_processes_of_its_own() {
    let check = |sharing: &str, same: bool| {
        let gateway = setup(&["legacy"], &format!("sharing = {sharing:?}")).keys().start();
        let keys = [gateway.keys().create("one").1, gateway.keys().create("other").1];
        let sessions = keys.clone().map(|key| open_session(&gateway, PATH, Some(&key)));
        let ask = |session: &str, key: &str| {
            let request = legacy_call(PATH, session, "1", "pid", "{}");
            Client::connect(gateway.address).ask(&request.with("Authorization", format!("Bearer {key}")))
        };
        let pids = [0, 1].map(|number| tool_text(&ask(&sessions[number], &keys[number])));
        assert_eq!(pids[0] == pids[1], same, "{sharing}");
        assert_eq!(ask(&sessions[0], &keys[1]).status, 404, "{sharing}: another key's session");
        // Without sessions of the client's own, by key as well.
        let modern = keys.map(|key| {
            let request = modern_call(PATH, "pid", "{}").with("Authorization", format!("Bearer {key}"));
            tool_text(&Client::connect(gateway.address).ask(&request))
        });
        assert_eq!(modern[0] == modern[1], same, "{sharing}");
    };
    check("key", false);
    check("shared", true);
    let gateway = setup(&[], "era = \"modern\"").keys().start();
    let pids = ["one", "one", "other"].map(|_| gateway.keys().create("k").1).map(|key| {
        let request = modern_call(PATH, "pid", "{}").with("Authorization", format!("Bearer {key}"));
        tool_text(&Client::connect(gateway.address).ask(&request))
    });
    assert_eq!(HashSet::from(pids).len(), 3, "a process for each key");
}

/// Opens the event stream of a session.
fn listen(gateway: &Gateway, session: &str) -> Client {
    let mut client = Client::connect(gateway.address);
    let request =
        Request::new("GET", PATH).with("Accept", "text/event-stream").with("Mcp-Session-Id", session);
    client.send(&request.bytes());
    assert_eq!(client.head().status, 200);
    client
}

#[test]
fn what_is_not_certain_is_refused_or_dropped() {
    let gateway = setup(&["legacy"], "sharing = \"key\"").start();
    let sessions = [open_session(&gateway, PATH, None), open_session(&gateway, PATH, None)];
    let mut streams = sessions.clone().map(|session| listen(&gateway, &session));
    // It waits for an answer, so it gets one.
    let asked = tool_text(&call(&gateway, &sessions[0], "ask", "{}"));
    assert!(asked.contains("-32601"), "{asked}");
    call(&gateway, &sessions[0], "log", r#"{"text":"secret"}"#);
    // Both subscribe, one takes it back: the other is still told.
    let subscribe = |session: &str, method: &str| {
        let request = legacy(PATH, session, "1", &format!("resources/{method}"), r#""uri":"x:y""#);
        assert!(message(&Client::connect(gateway.address).ask(&request))["result"].is_object());
    };
    subscribe(&sessions[0], "subscribe");
    subscribe(&sessions[1], "subscribe");
    subscribe(&sessions[0], "unsubscribe");
    call(&gateway, &sessions[0], "update", r#"{"uri":"x:y"}"#);
    let told = streams[1].event().unwrap();
    assert_eq!(told["params"]["uri"], "x:y", "nothing else came before: {told}");
    subscribe(&sessions[1], "unsubscribe");
    until("the process is told once all are gone", || {
        gateway.log().matches("resources/unsubscribe").count() == 1
    });
    // One alone is certain again.
    let left = Client::connect(gateway.address)
        .ask(&Request::new("DELETE", PATH).with("Mcp-Session-Id", sessions[1].clone()));
    assert!(left.status < 300, "{}", left.status);
    until("the other has left", || {
        call(&gateway, &sessions[0], "log", r#"{"text":"mine"}"#).events().len() == 2
    });
    drop(streams);
}

#[test]
fn a_process_that_dies_costs_its_calls_one_error_each_and_no_session() {
    let gateway = setup(&["legacy"], "sharing = \"shared\"").start();
    let session = open_session(&gateway, PATH, None);
    let before = tool_text(&call(&gateway, &session, "pid", "{}"));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..5)
            .map(|id| {
                let request = legacy_call(PATH, &session, &format!("\"w{id}\""), "hang", "{}");
                let mut client = Client::connect(gateway.address);
                client.send(&request.bytes());
                scope.spawn(move || client.response())
            })
            .collect();
        until("all wait at the process", || gateway.log().matches("stderr: hanging").count() == 5);
        let died = call(&gateway, &session, "die", "{}");
        assert!(message(&died)["error"]["message"].as_str().unwrap().contains("may have run"));
        for waiting in waiting {
            let answer = waiting.join().unwrap();
            let said = message(&answer);
            assert!(
                said["error"]["message"].as_str().is_some_and(|text| text.contains("may have run")),
                "{said}"
            );
        }
    });
    let after = tool_text(&call(&gateway, &session, "pid", "{}"));
    assert_ne!(before, after, "the same session, on another process");
}

#[test]
fn what_fails_before_it_answers_is_told_once() {
    let gateway = setup(&["crash"], "era = \"legacy\"").start();
    let refused = Client::connect(gateway.address).ask(&initialize(PATH));
    assert!(refused.text().contains("did not start"), "{}", refused.text());
    let ready = || Client::once(gateway.address, &Request::new("GET", "/ready")).json();
    let stage = || ready()["servers"][0]["processes"]["last_failure"]["stage"].clone();
    until("the stage is that of its end", || stage() == "answering initialize");
    let line = || gateway.log().lines().find(|line| line.contains("request failed")).map(str::to_owned);
    until("it is logged", || line().is_some());
    assert!(!line().unwrap().contains(": start: "), "{line:?}", line = line());
}

#[test]
fn a_server_that_cannot_start_is_not_started_again_and_again() {
    for (lines, said) in [("", "no use"), ("cwd = \"/\"", "no use")] {
        let gateway = setup(&["crash"], lines).start();
        let mut client = Client::connect(gateway.address);
        for _ in 0..50 {
            let refused = client.ask(&initialize(PATH));
            assert!(refused.text().contains("did not run"), "{}", refused.text());
            if gateway.log().matches("server process failed").count() >= 4 {
                break;
            }
        }
        let before = gateway.log().matches("server process failed").count();
        for _ in 0..200 {
            client.ask(&initialize(PATH));
        }
        let log = gateway.log();
        let after = log.matches("server process failed").count();
        // The gateway itself tries as well, for its lists.
        assert!(after <= before + 8, "{before} and then {after} starts for 200 calls");
        assert!(log.contains(said) && descendants(gateway.pid()).iter().all(|(_, state)| *state != 'Z'));
    }
    let gateway = setup(&["mute"], "start_timeout = \"500ms\"\nera = \"legacy\"").start();
    let refused = Client::connect(gateway.address).ask(&initialize(PATH));
    assert!(refused.text().contains("did not run"), "{}", refused.text());
    let gateway = Setup::new().with("[servers.a]\ncommand = \"/no/such/program\"").start();
    let refused = Client::connect(gateway.address).ask(&initialize(PATH));
    assert!(refused.text().contains("did not run"), "{}", refused.text());
    until("the log says why", || gateway.log().contains("cannot run /no/such/program"));
}

#[test]
fn nothing_is_left_when_the_gateway_ends() {
    // A process that ignores the end of its input and SIGTERM, with one behind it in a session of its own.
    let gateway = setup(&["stubborn", "legacy", "fork"], "").start();
    let session = open_session(&gateway, PATH, None);
    assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x");
    let all = descendants(gateway.pid());
    assert!(all.len() >= 4, "{all:?}");
    let begun = Instant::now();
    gateway.terminate();
    until_within("all are gone", Duration::from_secs(10), || all.iter().all(|(pid, _)| is_gone(*pid)));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn nothing_is_left_soon_after_the_gateway_is_killed() {
    let gateway = setup(&["stubborn", "legacy", "fork"], "prewarm = true\nsharing = \"session\"").start();
    let sessions: Vec<String> = (0..3).map(|_| open_session(&gateway, PATH, None)).collect();
    for session in &sessions {
        assert_eq!(tool_text(&call(&gateway, session, "echo", r#"{"text":"x"}"#)), "x");
    }
    let all = descendants(gateway.pid());
    assert!(all.len() >= 12, "{all:?}");
    let begun = Instant::now();
    // Which kills it.
    drop(gateway);
    // A second, on a machine that has nothing else to do.
    until_within("all are gone", Duration::from_secs(5), || all.iter().all(|(pid, _)| is_gone(*pid)));
    println!("{} processes gone after {:?}", all.len(), begun.elapsed());
}

/// Whoever looks sees what became of its processes, and asks none for it.
#[test]
fn how_its_processes_are_is_shown() {
    let gateway = setup(&["legacy"], "era = \"legacy\"").keys().start();
    let key = gateway.key.clone().unwrap();
    let ask = |request: Request| {
        Client::once(gateway.address, &request.with("Authorization", format!("Bearer {key}")))
    };
    let look = || {
        let ready = ask(Request::new("GET", "/ready")).json();
        ready["servers"][0]["processes"].clone()
    };
    until("it is tried once", || look()["started"] == 1);
    assert_eq!((&look()["restarts"], &look()["last_failure"]), (&json!(0), &json!(null)), "{}", look());
    let session = open_session(&gateway, PATH, Some(&key));
    let call = |tool: &str| ask(legacy_call(PATH, &session, "1", tool, r#"{"text":"x"}"#));
    assert_eq!(tool_text(&call("echo")), "x");
    assert_eq!((&look()["state"], &look()["restarts"]), (&json!("running"), &json!(0)), "{}", look());
    call("die");
    until("it is said to have failed", || look()["last_failure"].is_object());
    let failure = look()["last_failure"].clone();
    assert_eq!(failure["stage"], "running", "{failure}");
    assert!(failure["at"].as_u64().is_some_and(|at| at > 1_700_000_000), "{failure}");
    assert!(failure["reason"].is_null(), "why is for those who administer: {failure}");
    assert_eq!(tool_text(&call("echo")), "x");
    let now = look();
    assert_eq!((&now["state"], &now["restarts"]), (&json!("running"), &json!(1)), "{now}");
    assert_eq!(now["last_failure"], failure, "it is remembered");
}

/// Sessions opened and ended, by all ways.
#[test]
fn nothing_is_left_after_hundreds_of_sessions() {
    let cycles = CYCLES[usize::from(is_long())];
    let gateway = setup(&["legacy", "fork"], "sharing = \"session\"\nera = \"legacy\"").start();
    let fds = || fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    let settled = |gateway: &Gateway| descendants(gateway.pid()).len();
    let warm_up = open_session(&gateway, PATH, None);
    call(&gateway, &warm_up, "die", "{}");
    until("the first has ended", || settled(&gateway) <= PER_PROCESS);
    let before = fds();
    let one = |number: usize| {
        let session = open_session(&gateway, PATH, None);
        let mut client = Client::connect(gateway.address);
        match number % 3 {
            // It crashes.
            0 => drop(client.ask(&legacy_call(PATH, &session, "1", "echo", r#"{"text":"x"}"#))),
            // The client goes away in the midst of a call.
            1 => {
                client.send(&legacy_call(PATH, &session, "1", "hang", "{}").bytes());
                drop(client);
            }
            _ => {
                let said = client.ask(&legacy_call(PATH, &session, "1", "pid", "{}"));
                let pid = tool_text(&said).parse().unwrap();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                return;
            }
        }
        let left = Client::connect(gateway.address)
            .ask(&Request::new("DELETE", PATH).with("Mcp-Session-Id", session));
        assert!(left.status < 300, "{}", left.status);
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= cycles {
                        return;
                    }
                    one(number);
                    // One is a zombie until its parent has looked, which must not take long.
                    let is_zombie = |(_, state): &(u32, char)| *state == 'Z';
                    let zombies: Vec<_> = descendants(gateway.pid()).into_iter().filter(is_zombie).collect();
                    until("zombies are buried", || {
                        let now = descendants(gateway.pid());
                        zombies.iter().all(|zombie| !now.contains(zombie))
                    });
                }
            });
        }
    });
    until("all have ended", || settled(&gateway) <= PER_PROCESS);
    until("all descriptors are closed", || fds() <= before + 2);
    until("no zombie is left", || descendants(gateway.pid()).iter().all(|(_, state)| *state != 'Z'));
    println!("{cycles} cycles: nothing is left");
}

/// The catalog's own: keeper, server, and what it left behind.
const PER_PROCESS: usize = 4;

#[test]
fn a_call_that_is_given_up_is_cancelled_at_the_server() {
    let gateway = setup(&["legacy"], "").start();
    let session = open_session(&gateway, PATH, None);
    let mut client = Client::connect(gateway.address);
    client.send(&legacy_call(PATH, &session, "1", "hang", "{}").bytes());
    until("it has begun", || gateway.log().contains("stderr: hanging"));
    drop(client);
    until("the server is told", || gateway.log().matches("stderr: cancelled").count() == 1);
    // By the client's own word: then its call ends at once, without a response.
    let mut client = Client::connect(gateway.address);
    client.send(&legacy_call(PATH, &session, "\"one\"", "hang", "{}").bytes());
    until("it is cancelled", || {
        let told = notification(PATH, &session, "notifications/cancelled", r#""requestId":"one""#);
        assert_eq!(Client::connect(gateway.address).ask(&told).status, 202);
        gateway.log().matches("stderr: cancelled").count() == 2
    });
    assert_unanswered(&client.response());
}

/// Also where other sessions share the process.
#[test]
fn calls_are_cancelled_at_the_program_when_their_session_ends() {
    let gateway = setup(&["legacy"], "sharing = \"key\"").start();
    let [session, other] = [(); 2].map(|()| open_session(&gateway, PATH, None));
    let mut client = Client::connect(gateway.address);
    client.send(&legacy_call(PATH, &session, "1", "hang", "{}").bytes());
    until("it has begun", || gateway.log().contains("stderr: hanging"));
    let end = Request::new("DELETE", PATH).with("Mcp-Session-Id", session);
    assert_eq!(Client::once(gateway.address, &end).status, 200);
    let response = client.response();
    assert!(
        response.status == 404 && response.text().contains("the session was ended"),
        "{}",
        response.text()
    );
    until("the program is told", || gateway.log().contains("stderr: cancelled"));
    assert_eq!(tool_text(&call_other(&gateway, &other, "echo", r#"{"text":"x"}"#)), "x");
}

fn call_other(gateway: &Gateway, session: &str, tool: &str, arguments: &str) -> Response {
    Client::connect(gateway.address).ask(&legacy_call(PATH, session, "\"other\"", tool, arguments))
}

#[test]
fn a_server_gets_what_it_is_given_and_nothing_else() {
    let lines = "cwd = \"/\"\nenv = { TOKEN = \"t\", FROM = \"${OTHER:-default}\" }\n\
                 limits = { open_files = 64 }";
    let gateway = setup(&["legacy"], lines).start();
    let session = open_session(&gateway, PATH, None);
    let told: Value = serde_json::from_str(&tool_text(&call(&gateway, &session, "env", "{}"))).unwrap();
    let mut env: Vec<&str> = told["env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    // The last is set by a program that counts which of its lines run.
    let usual = ["HOME=", "LOGNAME=", "PATH=", "SHELL=", "TERM=", "USER=", "__LLVM_PROFILE_RT_INIT_ONCE="];
    env.retain(|variable| !usual.iter().any(|usual| variable.starts_with(usual)));
    env.sort_unstable();
    assert_eq!(env, ["FROM=default", "TOKEN=t"]);
    assert_eq!(told["cwd"], "/");
    // Standard input, output and error, and the directory that it reads to tell.
    assert_eq!(told["fds"].as_array().unwrap().len(), 4, "{}", told["fds"]);
    let status =
        fs::read_to_string(format!("/proc/{}/limits", tool_text(&call(&gateway, &session, "pid", "{}"))));
    let status = status.unwrap();
    let files = status.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(files.contains(" 64 "), "{files}");
    assert!(!gateway.log().contains("TOKEN"));
}

/// The gateway takes all files that it is allowed, and a program that waits by `select(2)` breaks where there is more than it
/// expects; it gives up huge pages, which a program may be made for.
#[test]
fn a_server_begins_with_what_the_gateway_began_with() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = 4000;
    // For all programs that this test starts, others in it too: as many as they need.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(before), maximum }).unwrap();
    let soft = |pid: &str| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        line.split_whitespace().next().unwrap().parse().ok()
    };
    // What a kernel without huge pages says nothing of.
    let has_huge_pages = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).map(|said| said.trim() == "1")
    };
    let gateway = setup(&["legacy"], "").start();
    let session = open_session(&gateway, PATH, None);
    let (own, servers) = (gateway.pid().to_string(), tool_text(&call(&gateway, &session, "pid", "{}")));
    assert_eq!((soft(&own), soft(&servers)), (maximum, Some(before)));
    let ours = has_huge_pages("self");
    assert_eq!((has_huge_pages(&own), has_huge_pages(&servers)), (ours.map(|_| false), ours));
}

/// Landlock; where the kernel has none, the log says so and nothing else can be held.
#[test]
fn a_confined_server_sees_what_is_opened_to_it() {
    let read: Vec<&str> = ["/usr", "/lib", "/lib64", "/bin", "/proc", "/dev"]
        .into_iter()
        .filter(|path| fs::exists(path).unwrap())
        .collect();
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let lines =
        format!("confine = {{ read = {:?}, write = [\"/dev/null\"] }}", [&read[..], &[program]].concat());
    let gateway = setup(&["legacy"], &lines).start();
    let session = open_session(&gateway, PATH, None);
    let secret = gateway.path().join("metamcp.toml");
    let arguments = format!(r#"{{"path":"{}"}}"#, secret.display());
    let open = tool_text(&call(&gateway, &session, "read", r#"{"path":"/proc/self/status"}"#));
    let closed = tool_text(&call(&gateway, &session, "read", &arguments));
    assert!(open.starts_with("read "), "{open}");
    if !gateway.log().contains("this kernel has no Landlock") {
        assert!(closed.contains("Permission denied"), "{closed}");
    }
}

#[test]
fn a_process_that_is_stopped_holds_up_nobody_else() {
    let gateway = setup(&["legacy"], "sharing = \"session\"\nfirst_byte_timeout = \"1s\"").start();
    let sessions = [open_session(&gateway, PATH, None), open_session(&gateway, PATH, None)];
    let pid: i32 = tool_text(&call(&gateway, &sessions[0], "pid", "{}")).parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let silent = call(&gateway, &sessions[0], "echo", r#"{"text":"x"}"#);
    assert!(silent.text().contains("did not answer in time"), "{}", silent.text());
    assert_eq!(tool_text(&call(&gateway, &sessions[1], "echo", r#"{"text":"x"}"#)), "x");
    let all = descendants(gateway.pid());
    gateway.terminate();
    until_within("all are gone", Duration::from_secs(10), || all.iter().all(|(pid, _)| is_gone(*pid)));
}

#[test]
fn a_flood_is_cut_off() {
    let gateway = setup(&["legacy"], "sharing = \"session\"\nline_bytes_max = \"1MiB\"").start();
    let sessions = [open_session(&gateway, PATH, None), open_session(&gateway, PATH, None)];
    let before = gateway.resident_bytes();
    let cut = call(&gateway, &sessions[0], "flood", "{}");
    assert!(message(&cut)["error"].is_object(), "{}", cut.text());
    assert_eq!(tool_text(&call(&gateway, &sessions[1], "echo", r#"{"text":"x"}"#)), "x", "nobody else minds");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown}");
    assert!(gateway.log().contains("line_bytes_max"));
}

#[test]
fn idle_processes_end_and_a_spare_waits() {
    let lines = "sharing = \"key\"\nidle_timeout = \"1s\"\nera = \"legacy\"";
    let gateway = setup(&["legacy"], lines).start();
    let session = open_session(&gateway, PATH, None);
    let pid: u32 = tool_text(&call(&gateway, &session, "pid", "{}")).parse().unwrap();
    until("it was idle", || is_gone(pid));
    // The session goes on, on another process.
    let next: u32 = tool_text(&call(&gateway, &session, "pid", "{}")).parse().unwrap();
    assert_ne!(pid, next);
    drop(gateway);
    let gateway = setup(&["legacy"], "prewarm = true\nera = \"legacy\"").start();
    let keepers = || descendants(gateway.pid()).len();
    until("a spare is started", || keepers() == 2);
    let session = open_session(&gateway, PATH, None);
    assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x");
    until("another takes its place", || keepers() >= 4);
}

#[test]
fn there_are_no_more_processes_than_may_be() {
    let gateway = setup(&["legacy"], "sharing = \"session\"\nprocesses_max = 2\nera = \"legacy\"").start();
    let opened: Vec<Response> =
        (0..4).map(|_| Client::connect(gateway.address).ask(&initialize(PATH))).collect();
    let sessions = opened.iter().filter(|opened| opened.header("mcp-session-id").is_some()).count();
    // One that nobody asks or listens to makes room for the next.
    assert_eq!(sessions, 4);
    until("only two are left", || descendants(gateway.pid()).len() <= 4);
}

/// A program that does not read before the test says so, behind endpoints of every kind.
fn slow_to_start() -> (Gateway, PathBuf) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let gate = env::temp_dir().join(format!("metamcp-gate-{}-{number}", std::process::id()));
    let setup = setup(&[&format!("after={}", gate.display())], "sharing = \"shared\"").with(
        "[catalog]\nlist_deadline = \"100ms\"\n[endpoints.bare]\nprefix = \"never\"\n[endpoints.few]\nservers = [\"a\"]\n\
         [endpoints.few.tools.a]\nallow = [\"echo\", \"pid\"]\n[endpoints.few.tools.a.overrides.echo]\nname = \"say\"",
    );
    (setup.start(), gate)
}

#[test]
fn a_call_waits_for_a_program_that_is_slow_to_start() {
    let (gateway, gate) = slow_to_start();
    let ways = [("/mcp", "a__echo"), ("/mcp/bare", "echo"), ("/mcp/few", "say")];
    let mut asked = Vec::new();
    for (path, tool) in ways {
        let session = open_session(&gateway, path, None);
        for request in [
            modern_call(path, tool, r#"{"text":"here"}"#),
            legacy_call(path, &session, "1", tool, r#"{"text":"here"}"#),
        ] {
            let mut client = Client::connect(gateway.address);
            // Lists do not wait, and say what is missing.
            let list = client.ask(&modern(path, "tools/list", "")).json();
            let missing = &list["result"]["_meta"]["dev.metamcp/missing"][0];
            assert_eq!(missing["server"], "a", "{list}");
            assert!(client.send(&request.bytes()));
            asked.push((path, client));
        }
    }
    // What the endpoint does not show is not there, whether its server is or not.
    for tool in ["a__die", "a__echo", "die"] {
        let said = Client::once(gateway.address, &modern_call("/mcp/few", tool, "{}"));
        assert!(said.text().contains("Unknown tool"), "{tool}: {}", said.text());
    }
    fs::write(&gate, "").unwrap();
    for (path, mut client) in asked {
        assert_eq!(tool_text(&client.response()), "here", "{path}");
    }
    fs::remove_file(&gate).unwrap();
}
