//! What is counted, and that a count is neither lost nor doubled: by an end, by a kill, by a second start.

mod support;

use metamcp::store::Counts;
use support::{
    Client, Gateway, Peer, Request, Step, chunk, events, legacy_call, modern_call, open_session, result,
};

const CALLS: u64 = 40;

/// The counts of one tool, over all hours: the test may run over the end of one.
fn counts(gateway: &Gateway, server: &str, tool: &str) -> Counts {
    let rows = gateway.usage().into_iter().filter(|row| row.key.server == server && row.key.tool == tool);
    rows.fold(Counts::default(), |sum, row| Counts {
        calls: sum.calls + row.counts.calls,
        errors: sum.errors + row.counts.errors,
        bytes_in: sum.bytes_in + row.counts.bytes_in,
        bytes_out: sum.bytes_out + row.counts.bytes_out,
        milliseconds: sum.milliseconds + row.counts.milliseconds,
    })
}

/// Calls, and gives how many bytes went in and out.
fn run(client: &mut Client, request: &Request) -> (u64, u64) {
    let answered = client.ask(request);
    assert_eq!(answered.status, 200, "{}", answered.text());
    (request.body.len() as u64, answered.body.len() as u64)
}

#[test]
fn what_was_answered_is_counted_to_the_byte() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for number in 0..CALLS {
        let arguments = format!("{{\"n\":{number}}}");
        let (sent, came) = run(&mut client, &modern_call("/mcp", "a__echo", &arguments));
        (bytes_in, bytes_out) = (bytes_in + sent, bytes_out + came);
    }
    // Under the server's own name, by whichever way and in whichever form of an answer.
    run(&mut client, &modern_call("/servers/a/mcp", "other", "{}"));
    let session = open_session(&gateway, "/mcp", None);
    run(&mut client, &legacy_call("/mcp", &session, "1", "a__other", "{}"));
    peer.push([vec![
        Step::Send(events()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "{}")))),
        Step::Send(chunk("")),
    ]]);
    run(&mut client, &modern_call("/mcp", "a__other", "{}"));
    peer.push([vec![Step::Close]]);
    assert_eq!(client.ask(&modern_call("/mcp", "a__other", "{}")).status, 200, "an error in the message");
    let gateway = gateway.restart();
    let echo = counts(&gateway, "a", "echo");
    assert_eq!((echo.calls, echo.errors), (CALLS, 0));
    assert_eq!((echo.bytes_in, echo.bytes_out), (bytes_in, bytes_out));
    let other = counts(&gateway, "a", "other");
    // On a server's own path a name counts as one of its tools once its list is known.
    let unlisted = counts(&gateway, "a", "(other)");
    assert!((3..=4).contains(&other.calls), "{other:?}");
    assert_eq!((other.calls + unlisted.calls, other.errors), (4, 1));
    assert!(gateway.usage().iter().all(|row| row.key.key_id == "anonymous---"));
}

#[test]
fn a_kill_loses_and_doubles_nothing() {
    let peer = Peer::script([]);
    let mut gateway = Gateway::open(&[("a", peer.address)]);
    let mut calls = 0;
    for round in 0..4 {
        let mut client = Client::connect(gateway.address);
        for _ in 0..CALLS + round {
            run(&mut client, &modern_call("/mcp", "a__echo", "{}"));
            calls += 1;
        }
        // At once: most of it has not reached the store, some not even the journal.
        gateway = gateway.kill_and_restart();
    }
    let gateway = gateway.restart();
    assert_eq!(counts(&gateway, "a", "echo").calls, calls);
}
