//! Calls that the client cancels: they get no response, and count as nobody's fault (MCP 2025-11-25, cancellation).

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Response, Step, answer, assert_unanswered, chunk, events,
    legacy_call, notification, open_session, result,
};

const PATHS: [(&str, &str); 2] = [("/servers/a/mcp", "echo"), ("/mcp", "a__echo")];

fn faults(gateway: &Gateway) -> Vec<String> {
    let metrics = Client::once(gateway.address, &Request::new("GET", "/metrics")).text();
    let is_fault = |line: &&str| {
        line.starts_with("metamcp_faults")
            || (line.contains("_operation_") && line.contains("outcome=\"error\""))
    };
    metrics.lines().filter(is_fault).filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

/// Cancels a call, with another spelling of its id, of which the server has sent `before`; the server then goes on as
/// `after` says.
#[track_caller]
fn cancel(gateway: &Gateway, peer: &Peer, path: (&str, &str), before: &[u8], after: &[Step]) -> Response {
    let gate = Gate::default();
    let begin = (!before.is_empty()).then(|| Step::Send(before.to_vec()));
    let steps = begin.into_iter().chain([Step::Wait(gate.clone())]).chain(after.iter().cloned());
    peer.push([steps.collect()]);
    let session = open_session(gateway, path.0, None);
    let calls = peer.calls().len();
    let mut client = Client::connect(gateway.address);
    client.send(&legacy_call(path.0, &session, "\"a\"", path.1, "{}").bytes());
    peer.wait_until("the call", |peer| peer.calls().len() == calls + 1);
    let told = notification(path.0, &session, "notifications/cancelled", r#""requestId":"\u0061""#);
    assert_eq!(Client::once(gateway.address, &told).status, 202);
    assert_eq!(peer.count("notifications/cancelled"), 1, "the server is told");
    gate.open();
    client.response()
}

#[test]
fn a_cancelled_call_gets_no_response() {
    let progress = r#"data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    let begun = [events(), chunk(": begun\n\n")].concat();
    let late = result("\"a\"", "late");
    let refused = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32603,"message":"late"}}"#;
    let long = result("\"a\"", &"late".repeat(100_000));
    let late_events = [chunk(&format!("data: {late}\n\n")), chunk("")].concat();
    let late_error = [chunk(&format!("id: 1\ndata: {refused}\n\n")), chunk("")].concat();
    let late_long = [chunk(&format!("data: {long}\n\n")), chunk("")].concat();
    for path in PATHS {
        for (what, before, after) in [
            ("the stream ends", begun.clone(), vec![Step::Send(chunk("")), Step::Close]),
            ("the stream breaks", begun.clone(), vec![Step::Reset]),
            ("in an event", begun.clone(), vec![Step::Send(chunk("data: {\"half")), Step::Close]),
            ("no head", Vec::new(), vec![Step::Close]),
            ("a head, and no event", events(), vec![Step::Close]),
            ("a late answer", Vec::new(), vec![Step::Send(answer("200 OK", &late))]),
            ("a late error", Vec::new(), vec![Step::Send(answer("200 OK", refused))]),
            ("a late refusal", Vec::new(), vec![Step::Send(answer("400 Bad Request", refused))]),
            ("a late bad status", Vec::new(), vec![Step::Send(answer("500 Broken", "late"))]),
            ("a late long answer", Vec::new(), vec![Step::Send(answer("200 OK", &long))]),
            ("a late event", begun.clone(), vec![Step::Send(late_events.clone())]),
            ("a late error event", begun.clone(), vec![Step::Send(late_error.clone())]),
            ("a late long event", begun.clone(), vec![Step::Send(late_long.clone())]),
            (
                "a late event, with its head",
                Vec::new(),
                vec![Step::Send([&events()[..], &late_events].concat())],
            ),
        ] {
            let peer = Peer::script([]);
            let gateway = Gateway::open(&[("a", peer.address)]);
            let response = cancel(&gateway, &peer, path, &before, &after);
            assert_eq!(response.status, 200, "{what} {path:?}: {}", response.text());
            assert_unanswered(&response);
            assert_eq!(faults(&gateway), Vec::<String>::new(), "{what} {path:?}");
        }
        // What the server sent before it knew is passed on.
        let peer = Peer::script([]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let sent = [Step::Send(chunk(&format!("{progress}\n\n"))), Step::Close];
        let response = cancel(&gateway, &peer, path, &begun, &sent);
        assert_eq!(response.events().len(), 1, "{path:?}: {}", response.text());
        // But not the answer behind it.
        let peer = Peer::script([]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let sent = chunk(&format!("{progress}\n\ndata: {late}\n\n"));
        let response = cancel(&gateway, &peer, path, &begun, &[Step::Send(sent), Step::Hold]);
        assert_eq!(response.events().len(), 1, "{path:?}: {}", response.text());
        assert!(!response.text().contains("late"), "{path:?}: {}", response.text());
    }
}
