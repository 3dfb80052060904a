//! More sessions than processes.

use std::sync::Barrier;

use super::*;

/// Opens sessions together, makes calls in each, and counts those that are answered.
fn run_sessions(gateway: &Gateway, sessions: usize, calls: usize) -> (usize, Vec<String>) {
    let together = Barrier::new(sessions);
    let run = |number: usize| {
        together.wait();
        let session = open_session(gateway, PATH, None);
        let mut client = Client::connect(gateway.address);
        let mut failed = Vec::new();
        for id in 0..calls {
            let text = format!("{number}-{id}");
            let arguments = format!(r#"{{"text":"{text}","ms":100}}"#);
            let answer = client.ask(&legacy_call(PATH, &session, &id.to_string(), "echo", &arguments));
            if !answer.text().contains(&format!("\"{text}\"")) {
                failed.push(answer.text());
            }
        }
        failed
    };
    let failed: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = (0..sessions).map(|number| scope.spawn(move || run(number))).collect();
        running.into_iter().flat_map(|session| session.join().unwrap()).collect()
    });
    (sessions * calls - failed.len(), failed)
}

#[test]
fn more_sessions_than_processes_take_turns() {
    let lines = "sharing = \"session\"\nprocesses_max = 8\nera = \"legacy\"";
    let gateway = setup(&["legacy"], lines).start();
    let (answered, failed) = run_sessions(&gateway, 14, 3);
    assert_eq!(answered, 42, "{failed:#?}");
    until("no more run than may", || descendants(gateway.pid()).len() <= 2 * 8);
}

/// The event stream of a client that left is kept for resumption, so the process cannot know that nobody listens.
#[test]
fn clients_that_left_make_room() {
    let lines = "sharing = \"session\"\nprocesses_max = 2\nera = \"legacy\"";
    let gateway = setup(&["legacy"], lines).start();
    for number in 0..4 {
        let session = open_session(&gateway, PATH, None);
        let mut listening = Client::connect(gateway.address);
        let get = Request::new("GET", PATH).with("Accept", "text/event-stream");
        let get = get.with("Mcp-Session-Id", session.clone()).with("MCP-Protocol-Version", "2025-11-25");
        listening.send(&get.bytes());
        assert_eq!(listening.head().status, 200, "{number}");
        let mut client = Client::connect(gateway.address);
        let subscribe = legacy(PATH, &session, "1", "resources/subscribe", r#""uri":"test://a""#);
        client.ask(&subscribe);
        let answer = client.ask(&legacy_call(PATH, &session, "2", "echo", r#"{"text":"here"}"#));
        assert!(answer.text().contains("\"here\""), "{number}: {}", answer.text());
    }
}

#[test]
fn a_session_that_finds_no_process_is_told_so() {
    let lines = "sharing = \"session\"\nprocesses_max = 2\nera = \"legacy\"\nqueue_timeout = \"300ms\"";
    let gateway = setup(&["legacy"], lines).start();
    let busy: Vec<Client> = (0..2)
        .map(|_| {
            let session = open_session(&gateway, PATH, None);
            let mut client = Client::connect(gateway.address);
            client.send(&legacy_call(PATH, &session, "1", "hang", "{}").bytes());
            client
        })
        .collect();
    until("both are busy", || gateway.log().matches("stderr: hanging").count() == 2);
    let refused = Client::connect(gateway.address).ask(&initialize(PATH)).text();
    assert!(refused.contains("processes_max") && refused.contains("did not run"), "{refused}");
    drop(busy);
    until("one is idle", || {
        Client::connect(gateway.address).ask(&initialize(PATH)).header("mcp-session-id").is_some()
    });
}
