//! What is counted, and that a count is neither lost nor doubled: by an end, by a kill, by a second start.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{
    Client, Gateway, Peer, Request, Setup, Step, answer, chunk, error, events, legacy, legacy_call, modern,
    modern_call, open_session, result,
};
use metamcp_store::store::{UsageBatch, UsageCounts, UsageKey, UsageRow};

const CALLS: u64 = 40;

/// The counts of one tool, over all hours: the test may run over the end of one.
fn counts(gateway: &Gateway, server: &str, tool: &str) -> UsageCounts {
    let rows = gateway.usage().into_iter().filter(|row| row.key.server == server && row.key.tool == tool);
    rows.fold(UsageCounts::default(), |sum, row| UsageCounts {
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
fn answered_bytes_are_counted_exactly() {
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

/// One call, whoever had to be asked: counted with the server that has it, or that was asked last.
#[test]
fn a_read_tried_at_several_servers_is_counted_once() {
    let peers = [(); 3].map(|()| Peer::script([]));
    peers.iter().for_each(Peer::hide_resources);
    let [a, b, c] = &peers;
    let gateway = Gateway::open(&[("a", a.address), ("b", b.address), ("c", c.address)]);
    let session = open_session(&gateway, "/mcp", None);
    let mut client = Client::connect(gateway.address);
    let requests = [
        modern("/mcp", "resources/read", r#""uri":"x://y","#).with("Mcp-Name", "x://y"),
        legacy("/mcp", &session, "1", "resources/read", r#""uri":"x://y""#),
    ];
    let (mut bytes_in, mut bytes_out) = (0, 0);
    let unknown = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such resource"}}"#;
    let refuses = |peer: &Peer| peer.push([vec![Step::Send(answer("200 OK", unknown))]]);
    for request in &requests {
        // The first does not have it, the second does, the third is not asked.
        refuses(a);
        let (sent, came) = run(&mut client, request);
        (bytes_in, bytes_out) = (bytes_in + sent, bytes_out + came);
        // Nobody has it.
        peers.iter().for_each(refuses);
        assert_eq!(error(&client.ask(request)), -32602);
    }
    assert_eq!([a, b, c].map(|peer| peer.calls().len()), [4, 4, 2]);
    let gateway = gateway.restart();
    let [a, b, c] = ["a", "b", "c"].map(|server| counts(&gateway, server, "resource (other)"));
    assert_eq!(a, UsageCounts::default());
    assert_eq!((b.calls, b.errors, b.bytes_in, b.bytes_out), (2, 0, bytes_in, bytes_out));
    assert_eq!((c.calls, c.errors, c.bytes_in, c.bytes_out), (2, 2, bytes_in, 0));
}

/// By the names that the server lists. Clients choose all others, so they have no rows of their own.
#[test]
fn prompts_and_resources_are_named_if_they_are_listed() {
    let peer = Peer::script([]);
    peer.list_items();
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    let mut ask = |path: &str, method: &str, member: &str, name: &str| {
        let params = format!(r#""{member}":"{name}","#);
        assert_eq!(client.ask(&modern(path, method, &params).with("Mcp-Name", name)).status, 200);
    };
    let long = format!("x://{}", "y".repeat(296));
    for (path, prefix) in [("/mcp", "a__"), ("/servers/a/mcp", "")] {
        // So that the lists are known.
        ask(path, "resources/read", "uri", "x://listed");
        peer.wait_until("the lists to be fetched", |peer| peer.count("resources/list") > 0);
        for _ in 0..2 {
            ask(path, "prompts/get", "name", &format!("{prefix}greet"));
            ask(path, "resources/read", "uri", "x://listed");
            ask(path, "resources/read", "uri", &long);
        }
    }
    for number in 0..50 {
        ask("/servers/a/mcp", "resources/read", "uri", &format!("x://{number}"));
        ask("/servers/a/mcp", "prompts/get", "name", &format!("p{number}"));
    }
    let gateway = gateway.restart();
    let calls = |label: &str| counts(&gateway, "a", label).calls;
    let (prompts, resources) = (calls("prompt greet"), calls("resource x://listed"));
    // On a server's own path, a name counts as listed once the list is known there.
    assert!((2..=4).contains(&prompts) && (3..=6).contains(&resources), "{prompts} {resources}");
    assert_eq!(prompts + calls("prompt (other)"), 4 + 50);
    assert_eq!(resources + calls("resource (other)"), 6 + 4 + 50);
    assert_eq!(calls(""), 0);
    let labels: BTreeSet<_> = gateway.usage().into_iter().map(|row| row.key.tool).collect();
    assert_eq!(labels.len(), 4, "{labels:?}");
}

/// A server whose list cannot be read is sent whatever its clients name; that must not make a row for each name.
#[test]
fn names_that_no_list_confirms_are_counted_as_one() {
    let peer = Peer::script([]);
    peer.list_tools(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"broken"}}"#);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    for number in 0..20 {
        run(&mut client, &modern_call("/mcp", &format!("a__t{number}"), "{}"));
    }
    assert_eq!(peer.calls().len(), 20);
    let gateway = gateway.restart();
    assert_eq!(counts(&gateway, "a", "(other)").calls, 20);
    assert_eq!(gateway.usage().iter().map(|row| &row.key.tool).collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn a_kill_neither_loses_nor_doubles_usage() {
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

/// Stores usage of the tool `old`: one call so many days ago, for each.
fn store_usage(gateway: &Gateway, days_ago: &[u64]) {
    let row = |hour: u64| UsageRow {
        key: UsageKey { hour, key_id: "A".repeat(12), server: "a".into(), tool: "old".into() },
        counts: UsageCounts { calls: 1, ..UsageCounts::default() },
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let rows = days_ago.iter().map(|days| row(now - days * 86_400)).collect();
    let batch = UsageBatch { source: "s".into(), sequence: 1, at: now, rows };
    gateway.keys().run(async |store| assert!(store.apply_usage(batch).await.is_ok()));
}

#[test]
fn expired_usage_is_deleted_at_start() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    store_usage(&gateway, &[401, 399]);
    let gateway = gateway.restart();
    peer.wait_until("the old counter to be gone", |_| counts(&gateway, "a", "old").calls == 1);
}

#[test]
fn a_shorter_retention_is_applied_when_it_is_reloaded() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let gateway = setup.start();
    // Near enough to each other that the clock is not in doubt.
    store_usage(&gateway, &[40, 20, 10]);
    let reload = |usage: &str| {
        let lines = format!("[retention]\nusage = \"{usage}\"");
        gateway.reload(&Setup::new().server("a", peer.address).with(&lines), "configuration reloaded");
    };
    reload("30d");
    peer.wait_until("the oldest counter to be gone", |_| counts(&gateway, "a", "old").calls == 2);
    reload("400d");
    reload("15d");
    peer.wait_until("the next one to be gone", |_| counts(&gateway, "a", "old").calls == 1);
    assert!(!gateway.log().contains("after a restart"), "{}", gateway.log());
}
