//! Which sessions share a process by default: none to which the program says what names no call.

use super::*;
use crate::support::{MODERN, call as modern_body};

/// A client that can be asked anything.
const ALL: &str = r#"{"elicitation":{},"roots":{},"sampling":{}}"#;

const QUESTIONS: [&str; 3] = ["elicitation/create", "sampling/createMessage", "roots/list"];

fn ask(gateway: &Gateway, session: &str, method: &str, params: &str) -> Value {
    message(&Client::connect(gateway.address).ask(&legacy(PATH, session, "\"m\"", method, params)))
}

/// Calls a tool that asks all questions, and answers each with the word.
fn inquire(gateway: &Gateway, session: &str, word: &str) {
    let questions: Vec<Value> =
        QUESTIONS.iter().map(|method| json!({"method": method, "params": {"word": word}})).collect();
    let arguments = json!({ "questions": questions }).to_string();
    let mut calling = Client::connect(gateway.address);
    calling.send(&legacy_call(PATH, session, "7", "inquire", &arguments).bytes());
    let head = calling.head();
    if head.header("content-type") != Some("text/event-stream") {
        let body = calling.chunk().unwrap().unwrap_or_default();
        panic!("{word}: not asked: {}", String::from_utf8_lossy(&body));
    }
    for method in QUESTIONS {
        let asked = calling.event().unwrap();
        assert_eq!((&asked["method"], &asked["params"]["word"]), (&json!(method), &json!(word)), "{asked}");
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"said": word}}).to_string();
        let request = Request::post(PATH, answer).with("Mcp-Session-Id", session);
        assert_eq!(Client::connect(gateway.address).ask(&request).status, 202);
    }
    let done = calling.event().unwrap();
    let text = done["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text.matches(&format!("{{\"said\":\"{word}\"}}")).count(), QUESTIONS.len(), "{text}");
}

/// Two clients of one key at the same time, and one that died without a word, with or without a stream.
#[test]
fn what_a_program_says_reaches_its_session_by_default() {
    let gateway = setup(&["legacy"], "").start();
    let (dead, _) = process_of(&gateway, ALL);
    drop(listen(&gateway, &dead));
    let _silent = process_of(&gateway, ALL);
    let sessions = ["one", "other"].map(|word| (process_of(&gateway, ALL).0, word));
    let mut streams = sessions.clone().map(|(session, _)| listen(&gateway, &session));
    for _ in 0..2 {
        thread::scope(|scope| {
            for (session, word) in &sessions {
                scope.spawn(|| inquire(&gateway, session, word));
            }
        });
    }
    for (session, word) in &sessions {
        assert!(ask(&gateway, session, "logging/setLevel", r#""level":"info""#)["result"].is_object());
        let logged = call(&gateway, session, "log", &format!(r#"{{"text":"{word}"}}"#)).events();
        assert_eq!((logged.len(), &logged[0]["params"]["data"]), (2, &json!(word)), "{logged:?}");
    }
    // Outside of a call, while the other one calls.
    for ((session, word), stream) in sessions.iter().zip(&mut streams) {
        call(&gateway, session, "log", &format!(r#"{{"text":"late {word}","later_ms":30}}"#));
        let late = stream.event().unwrap();
        assert_eq!(late["params"]["data"], format!("late {word}"), "{late}");
    }
}

/// A client that declares nothing shares, until it asks for messages that name no call.
#[test]
fn a_session_that_asks_for_messages_leaves_the_shared_process() {
    for (method, params) in
        [("logging/setLevel", r#""level":"info""#), ("resources/subscribe", r#""uri":"x:y""#)]
    {
        let gateway = setup(&["legacy"], "").start();
        let [(moving, shared), (staying, same)] = [0, 1].map(|_| process_of(&gateway, "{}"));
        assert_eq!(shared, same, "both share");
        let mut stream = listen(&gateway, &moving);
        let mut other = listen(&gateway, &staying);
        assert!(ask(&gateway, &moving, method, params)["result"].is_object(), "{method}");
        let pid = |session: &str| tool_text(&call(&gateway, session, "pid", "{}"));
        assert_ne!(pid(&moving), shared, "{method}");
        assert_eq!(pid(&staying), shared, "{method}");
        // Its event stream came along.
        call(&gateway, &moving, "log", r#"{"text":"late","later_ms":30}"#);
        assert_eq!(stream.event().unwrap()["params"]["data"], "late", "{method}");
        call(&gateway, &moving, "update", r#"{"uri":"x:y"}"#);
        if method == "resources/subscribe" {
            assert_eq!(stream.event().unwrap()["params"]["uri"], "x:y");
        }
        // The one that is left is alone, and keeps its process.
        assert!(ask(&gateway, &staying, method, params)["result"].is_object(), "{method}");
        assert_eq!(pid(&staying), shared, "{method}");
        call(&gateway, &staying, "log", r#"{"text":"mine","later_ms":30}"#);
        assert_eq!(other.event().unwrap()["params"]["data"], "mine", "{method}: and nothing of the first");
        let log = gateway.log();
        let told = log.matches(&format!("stderr: {method}")).count();
        assert_eq!(told, 2, "each process is told once");
    }
}

/// By default, a spare process waits for the next session while one has a process to itself, if the start is slow.
#[test]
fn a_slow_start_is_hidden_by_a_spare() {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    for (prewarm, has_spare) in [("", true), ("prewarm = false", false)] {
        let script = format!("sleep 0.5; exec {program} legacy");
        let gateway = Setup::new()
            .with(&format!("[servers.a]\ncommand = \"sh\"\nargs = [\"-c\", {script:?}]\n{prewarm}"))
            .with("era = \"legacy\"\nidle_timeout = \"5s\"")
            .start();
        let (session, _) = process_of(&gateway, ALL);
        let pids = || descendants(gateway.pid()).into_iter().map(|(pid, _)| pid).collect::<HashSet<_>>();
        if has_spare {
            // Each process has a reaper, and some are the gateway's own, for the lists. While one starts, its shell has
            // another child.
            until("a spare is started", || {
                let before = pids();
                thread::park_timeout(Duration::from_millis(700));
                before.len() >= 6 && before == pids()
            });
        }
        let known = pids();
        let (other, pid) = process_of(&gateway, ALL);
        assert_eq!(known.contains(&pid.parse().unwrap()), has_spare, "{pid} {known:?}");
        for session in [session, other] {
            let ended = Request::new("DELETE", PATH).with("Mcp-Session-Id", session);
            assert!(Client::once(gateway.address, &ended).status < 300);
        }
        until("nothing is kept for nobody", || pids().is_empty());
    }
}

/// The process is started again for the next call, and is told the log level and the subscriptions of the client.
#[test]
fn what_a_client_has_set_outlives_its_process() {
    let gateway = setup(&["legacy"], "").start();
    let (session, pid) = process_of(&gateway, ALL);
    assert!(ask(&gateway, &session, "logging/setLevel", r#""level":"info""#)["result"].is_object());
    assert!(ask(&gateway, &session, "resources/subscribe", r#""uri":"x:y""#)["result"].is_object());
    let ended = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(ended, rustix::process::Signal::KILL).unwrap();
    until("another process answers", || {
        let response = call(&gateway, &session, "pid", "{}");
        message(&response)["result"].is_object() && tool_text(&response) != pid
    });
    // The subscription follows beside the first call.
    for method in ["logging/setLevel", "resources/subscribe"] {
        let told = || gateway.log().matches(&format!("stderr: {method}")).count();
        until("the new process is told", || told() == 2);
    }
    let logged = call(&gateway, &session, "log", r#"{"text":"again"}"#).events();
    assert_eq!((logged.len(), &logged[0]["params"]["data"]), (2, &json!("again")), "{logged:?}");
    let mut stream = listen(&gateway, &session);
    call(&gateway, &session, "update", r#"{"uri":"x:y"}"#);
    assert_eq!(stream.event().unwrap()["params"]["uri"], "x:y");
}

/// Sessions share with a program that asked nobody for long, over restarts, until it asks.
#[test]
fn a_program_is_known_by_what_it_did() {
    let gateway = setup(&["legacy"], "").start();
    let pids = |gateway: &Gateway| HashSet::from([0, 1].map(|_| process_of(gateway, ALL).1)).len();
    assert_eq!(pids(&gateway), 2, "nothing is known");
    for _ in 0..9 {
        let (session, _) = process_of(&gateway, ALL);
        let mut client = Client::connect(gateway.address);
        for _ in 0..12 {
            assert_eq!(
                tool_text(&client.ask(&legacy_call(PATH, &session, "1", "echo", r#"{"text":"x"}"#))),
                "x"
            );
        }
        let left = client.ask(&Request::new("DELETE", PATH).with("Mcp-Session-Id", session));
        assert!(left.status < 300);
    }
    assert_eq!(pids(&gateway), 1, "it asks nobody");
    let gateway = gateway.restart();
    assert_eq!(pids(&gateway), 1, "which is remembered");
    // A process that two sessions share asks for the first time: nobody can be meant.
    let sessions = [0, 1].map(|_| process_of(&gateway, ALL).0);
    let streams = sessions.clone().map(|session| listen(&gateway, &session));
    let refused = tool_text(&call(&gateway, &sessions[0], "ask", "{}"));
    assert!(refused.contains("-32601"), "{refused}");
    drop(streams);
    for (session, word) in sessions.iter().zip(["one", "other"]) {
        inquire(&gateway, session, word);
    }
    let gateway = gateway.restart();
    assert_eq!(pids(&gateway), 2, "it is known to ask, for good");
    let path = gateway.path().join("data/program-behavior.json");
    assert!(fs::read_to_string(path).unwrap().contains("\"a "));
}

/// A log message that nobody asked for is lost once; then the sessions have a process each.
#[test]
fn a_program_that_logs_unasked_is_shared_no_more() {
    let gateway = setup(&["legacy"], "").start();
    let sessions = [0, 1].map(|_| process_of(&gateway, "{}"));
    assert_eq!(sessions[0].1, sessions[1].1);
    let streams = [0, 1].map(|at: usize| listen(&gateway, &sessions[at].0));
    call(&gateway, &sessions[0].0, "log", r#"{"text":"lost"}"#);
    for (session, _) in &sessions {
        let logged = call(&gateway, session, "log", r#"{"text":"mine"}"#).events();
        assert_eq!(logged[0]["params"]["data"], "mine", "{logged:?}");
    }
    drop(streams);
}

/// The gateway's own session for its lists is on the process too, and is not counted.
#[test]
fn the_only_client_of_a_shared_program_gets_its_messages() {
    let gateway = setup(&["legacy"], "sharing = \"shared\"").start();
    let both = open_session(&gateway, "/mcp", None);
    let listed = ask_at(&gateway, "/mcp", &both, "tools/list");
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 12, "{listed}");
    let (session, _) = process_of(&gateway, "{}");
    let mut stream = listen(&gateway, &session);
    call(&gateway, &session, "log", r#"{"text":"late","later_ms":30}"#);
    assert_eq!(stream.event().unwrap()["params"]["data"], "late");
}

fn ask_at(gateway: &Gateway, path: &str, session: &str, method: &str) -> Value {
    message(&Client::connect(gateway.address).ask(&legacy(path, session, "1", method, "")))
}

/// A program without sessions that all keys share: what it logs late belongs to a call that was answered.
#[test]
fn a_late_log_message_meets_no_call_of_another_key() {
    let gateway = setup(&[], "sharing = \"shared\"\nera = \"modern\"").keys().start();
    let keys = ["one", "other"].map(|name| gateway.keys().create(name).1);
    let call = |key: &str, tool: &str, arguments: &str| {
        let params = format!(r#""name":"{tool}","arguments":{arguments},"#);
        let body = modern_body("1", "tools/call", &params).replace(
            r#""io.modelcontextprotocol/clientCapabilities":{}"#,
            r#""io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"debug""#,
        );
        let request = Request::post(PATH, body)
            .with("MCP-Protocol-Version", MODERN)
            .with("Mcp-Method", "tools/call")
            .with("Mcp-Name", tool)
            .with("Authorization", format!("Bearer {key}"));
        Client::connect(gateway.address).ask(&request)
    };
    let own = call(&keys[0], "log", r#"{"text":"mine"}"#).events();
    assert_eq!((own.len(), &own[0]["params"]["data"]), (2, &json!("mine")), "{own:?}");
    // So that the key is verified.
    call(&keys[1], "echo", r#"{"text":"x"}"#);
    call(&keys[0], "log", r#"{"text":"secret","later_ms":100}"#);
    let other = call(&keys[1], "echo", r#"{"text":"x","ms":500}"#).text();
    assert!(other.contains("\"x\"") && !other.contains("secret"), "{other}");
}
