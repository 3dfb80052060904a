//! Calls whose server has lost the session: which are repeated in a new one.

use serde_json::{Value, json};

use crate::faults::ways;
use crate::support::{Client, Peer, Setup};

/// Lists the called tool on the second page, with these annotations.
fn peer(annotations: &Value) -> Peer {
    let peer = Peer::script([]);
    let tool = |name: &str, annotations: &Value| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": annotations});
    let pages = [
        json!({"tools": [tool("other", &json!({"readOnlyHint": true}))], "nextCursor": "2"}),
        json!({"tools": [tool("echo", annotations)]}),
    ];
    peer.list_by(move |_, message| pages[usize::from(message["params"]["cursor"] == "2")].clone());
    peer
}

#[track_caller]
fn check(annotations: &Value, is_repeated: bool) {
    check_peer(&peer(annotations), annotations, is_repeated);
}

#[track_caller]
fn check_peer(peer: &Peer, annotations: &Value, is_repeated: bool) {
    let gateway = Setup::new().server_with("a", peer.address, "era = \"legacy\"").start();
    for (what, request) in ways(&gateway) {
        let call = || Client::once(gateway.address, &request).json();
        // The sessions of this way were lost with those of the last.
        call();
        let first = call();
        assert!(first["result"].is_object(), "{what}: {first}");
        let called = peer.calls().len();
        peer.lose_sessions("404 Not Found");
        let answer = call();
        let text = answer["error"]["message"].as_str();
        if is_repeated {
            assert!(text.is_none(), "{what} {annotations}: {answer}");
            assert_eq!(peer.calls().len(), called + 2, "{what} {annotations}: refused once, run once");
        } else {
            let text = text.unwrap_or_else(|| panic!("{what} {annotations}: {answer}"));
            assert!(text.contains("the call may have run"), "{what} {annotations}: {text}");
            assert_eq!(peer.calls().len(), called + 1, "{what} {annotations}");
        }
        // The session is open again in any case.
        let next = call();
        assert!(next["result"].is_object(), "{what} {annotations}: {next}");
    }
}

#[test]
fn a_tool_is_called_again_unless_it_is_declared_to_change_something() {
    check(&json!({}), true);
    check(&json!({"readOnlyHint": true}), true);
    check(&json!({"destructiveHint": true, "idempotentHint": true}), true);
    check(&json!({"destructiveHint": true}), false);
    // It contradicts itself.
    check(&json!({"readOnlyHint": true, "destructiveHint": true}), false);
    check(&json!({"readOnlyHint": false, "destructiveHint": false}), false);
}

#[test]
fn a_tool_is_not_called_again_if_the_list_cannot_be_read() {
    let peer = peer(&json!({"readOnlyHint": true}));
    // The first page is read, the second is none.
    peer.list_by(|_, message| match message["params"]["cursor"] {
        Value::Null => json!({"tools": [], "nextCursor": "2"}),
        _ => json!({"tools": "none"}),
    });
    check_peer(&peer, &json!("not to be read"), false);
}
