//! Batches of Legacy clients: each message is answered under its id, whatever happens to the others, and none is begun
//! for a client that may not ask any more.

use serde_json::Value;

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Response, Setup, Step, answer, chunk, events, initialize,
    notification, result,
};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

/// A batch of calls with the ids from 1 on.
fn batch(path: &str, count: usize) -> Request {
    let tool = if path == SINGLE { "echo" } else { "a__echo" };
    let calls = (1..=count).map(|id| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
        )
    });
    Request::post(path, format!("[{}]", calls.collect::<Vec<_>>().join(",")))
}

/// Sends a batch of three, waits until the server has the first call, does `then`, and gives the outcome of each
/// message: the code of its error, or 0.
#[track_caller]
fn outcomes(gateway: &Gateway, peer: &Peer, request: &Request, then: impl FnOnce()) -> Vec<(u64, i64)> {
    let before = peer.calls().len();
    let mut client = Client::connect(gateway.address);
    assert!(client.send(&request.bytes()));
    peer.wait_calls(before + 1);
    then();
    let response = client.response();
    assert!(response.whole && response.status == 200, "{}", response.text());
    read(&response)
}

#[track_caller]
fn read(response: &Response) -> Vec<(u64, i64)> {
    let events = response.events();
    let outcome = |event: &Value| (event["id"].as_u64(), event["error"]["code"].as_i64().unwrap_or_default());
    let outcomes = events.iter().map(outcome).filter_map(|(id, code)| Some((id?, code)));
    outcomes.collect()
}

/// The code of errors about the credential.
const REFUSED: i64 = -32000;

/// The code of errors of the gateway and of servers.
const FAILED: i64 = -32603;

#[test]
fn a_batch_ends_with_its_key() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    for path in [SINGLE, AGGREGATED] {
        // Before and after the head of the response to the first call.
        for script in [vec![Step::Hold], vec![Step::Send(events()), Step::Hold]] {
            peer.push([script]);
            let count = peer.calls().len() + 1;
            let (id, key) = gateway.keys().create("one");
            let request = batch(path, 3).with("Authorization", format!("Bearer {key}"));
            let seen = outcomes(&gateway, &peer, &request, || gateway.keys().revoke(&id));
            assert_eq!(seen, [(1, REFUSED), (2, REFUSED), (3, REFUSED)], "{path}");
            assert_eq!(
                peer.calls().len(),
                count,
                "{path}: a call was begun with a key that was switched off"
            );
            peer.wait_closed(peer.calls()[count - 1].connection);
        }
    }
}

#[test]
fn a_draining_gateway_begins_no_call_of_a_batch() {
    for path in [SINGLE, AGGREGATED] {
        let gate = Gate::default();
        let late = Step::Send(answer("200 OK", &result("1", "late")));
        let peer = Peer::script([vec![Step::Wait(gate.clone()), late]]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let mut idle = Client::connect(gateway.address);
        assert_eq!(idle.ask(&Request::new("GET", "/health")).status, 200);
        let seen = outcomes(&gateway, &peer, &batch(path, 3), || {
            gateway.terminate();
            assert!(idle.is_closed());
            gate.open();
        });
        assert_eq!(seen, [(1, 0), (2, FAILED), (3, FAILED)], "{path}");
        assert_eq!(peer.calls().len(), 1, "{path}: a call was begun while the gateway drained");
    }
}

#[test]
fn an_answer_that_is_torn_takes_no_other_with_it() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    // More than is held back, so that it is passed on in parts.
    let part = format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"{}", "x".repeat(200 << 10));
    // In a session, the events of a single server pass unread.
    let opening = initialize(SINGLE);
    let text = String::from_utf8(opening.body.clone()).unwrap().replace("2025-11-25", "2025-03-26");
    let opening = opening.body(text);
    let opened = Client::once(gateway.address, &opening);
    let session = opened.header("mcp-session-id").unwrap();
    for request in [batch(SINGLE, 2), batch(AGGREGATED, 2), batch(SINGLE, 2).with("Mcp-Session-Id", session)]
    {
        for end in [vec![Step::Reset], vec![Step::Close], vec![Step::Send(chunk(""))]] {
            peer.push([[vec![Step::Send(events()), Step::Send(chunk(&part))], end].concat()]);
            let seen = outcomes(&gateway, &peer, &request, || ());
            assert_eq!(seen, [(1, FAILED), (2, 0)], "{request:?}");
        }
    }
}

#[test]
fn a_silent_batch_is_kept_alive() {
    let peer = Peer::script([vec![Step::Hold]]);
    let gateway = Setup::new().server("a", peer.address).with("[server]\nkeep_alive = \"1s\"").start();
    let mut client = Client::connect(gateway.address);
    assert!(client.send(&batch(SINGLE, 2).bytes()));
    assert_eq!(client.head().status, 200);
    for _ in 0..2 {
        assert_eq!(client.chunk().unwrap().unwrap(), b": keep-alive\n\n");
    }
}

#[test]
fn a_batch_that_never_fits_is_not_told_to_come_again() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).with("[limits]\nkey_in_flight_max = 4").start();
    let response = Client::once(gateway.address, &batch(SINGLE, 5));
    assert_eq!(response.status, 400, "{}", response.text());
    assert_eq!(response.header("retry-after"), None);
    assert!(response.text().contains("at most 4"), "{}", response.text());
    assert_eq!(peer.calls().len(), 0);
    let fits = Client::once(gateway.address, &batch(SINGLE, 4));
    assert_eq!(read(&fits), [(1, 0), (2, 0), (3, 0), (4, 0)]);
}

#[test]
fn a_cancelled_call_of_a_batch_gets_no_response() {
    for path in [SINGLE, AGGREGATED] {
        for before in [Vec::new(), [events(), chunk(": begun\n\n")].concat()] {
            let peer = Peer::script([]);
            let gateway = Gateway::open(&[("a", peer.address)]);
            let body =
                String::from_utf8(initialize(path).body.clone()).unwrap().replace("2025-11-25", "2025-03-26");
            let opened = Client::once(gateway.address, &Request::post(path, body));
            let session = opened.header("mcp-session-id").unwrap().to_owned();
            let gate = Gate::default();
            let begin = (!before.is_empty()).then_some(Step::Send(before));
            peer.push([begin.into_iter().chain([Step::Wait(gate.clone()), Step::Close]).collect::<Vec<_>>()]);
            let request = batch(path, 3).with("Mcp-Session-Id", &*session);
            let seen = outcomes(&gateway, &peer, &request, || {
                let told = notification(path, &session, "notifications/cancelled", r#""requestId":1"#)
                    .without("MCP-Protocol-Version");
                assert_eq!(Client::once(gateway.address, &told).status, 202);
                gate.open();
            });
            assert_eq!(seen, [(2, 0), (3, 0)], "{path}");
        }
    }
}

#[test]
fn an_answer_that_is_none_is_an_error_under_the_id_of_its_call() {
    let other = result("99", "other");
    let html = "<html>busy</html>";
    for path in [SINGLE, AGGREGATED] {
        let peer = Peer::script([]);
        let gateway = Setup::new().server_with("a", peer.address, "era = \"legacy\"").start();
        let body =
            String::from_utf8(initialize(path).body.clone()).unwrap().replace("2025-11-25", "2025-03-26");
        let opened = Client::once(gateway.address, &Request::post(path, body));
        let session = opened.header("mcp-session-id").unwrap().to_owned();
        let event = |text: &str| {
            vec![Step::Send([events(), chunk(&format!("data: {text}\n\n")), chunk("")].concat())]
        };
        for script in [vec![Step::Send(answer("200 OK", html))], event(html), event(&other)] {
            peer.push([script.clone()]);
            let request = batch(path, 2).with("Mcp-Session-Id", &*session);
            let seen = outcomes(&gateway, &peer, &request, || ());
            assert_eq!(seen, [(1, FAILED), (2, 0)], "{path} {script:?}");
        }
    }
}
