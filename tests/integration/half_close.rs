//! Clients that close their sending side behind requests that they sent one behind the other.

use crate::support::{Client, Gate, Peer, Request, SINGLE, Setup, Step, modern_call, result};

fn call(text: &str) -> Request {
    modern_call(SINGLE, "echo", &format!(r#"{{"text":"{text}"}}"#))
}

/// As hyper reads it.
fn chunked(text: &str) -> Vec<u8> {
    let call = call(text);
    let body = format!("{:x}\r\n{}\r\n0\r\n\r\n", call.body.len(), String::from_utf8_lossy(&call.body));
    call.with("Transfer-Encoding", "chunked").body(body).bytes()
}

/// Sends these requests and closes the sending side; a single one is in flight by then. The one at `slow` is
/// answered last of all. So many are answered.
fn check(what: &str, requests: &[Vec<u8>], slow: usize, answers: usize) {
    for is_fast in [true, false] {
        let what = format!("{what}, slow {slow}, fast lane {is_fast}");
        let peer = Peer::script([]);
        let tables = format!("[server]\nfast_lane = {is_fast}\n");
        let gateway = Setup::new().server("a", peer.address).with(&tables).workers(1).start();
        let gate = Gate::default();
        let scripts = (0..=slow).map(|at| {
            let answer = Step::Answer(result("@id", &format!("answer {at}")));
            if at == slow { vec![Step::Wait(gate.clone()), answer] } else { vec![answer] }
        });
        peer.push(scripts.collect::<Vec<_>>());
        let mut client = Client::connect(gateway.address);
        client.send(&requests.concat());
        if requests.len() > 1 {
            client.half_close();
        }
        peer.wait_calls(slow + 1);
        if requests.len() == 1 {
            client.half_close();
        }
        // What came before this was read before this was answered.
        assert_eq!(Client::once(gateway.address, &Request::new("GET", "/nope")).status, 404);
        gate.open();
        let mut statuses = Vec::new();
        while let Some(response) = client.outcome() {
            statuses.push(response.status);
        }
        assert_eq!(statuses, vec![200; answers], "{what}");
        assert_eq!(peer.calls().len(), answers.max(slow + 1), "{what}");
    }
}

#[test]
fn pipelined_requests_are_answered() {
    let (usual, other) = (call("usual").bytes(), chunked("chunked"));
    for slow in 0..3 {
        check("usual", &[usual.clone(), usual.clone(), usual.clone()], slow, 3);
        check("chunked", &[other.clone(), other.clone(), other.clone()], slow, 3);
        check("mixed", &[usual.clone(), other.clone(), usual.clone()], slow, 3);
        check("mixed otherwise", &[other.clone(), usual.clone(), other.clone()], slow, 3);
    }
    check("half of another", &[usual.clone(), usual.clone(), usual[..100].to_vec()], 1, 2);
    check("half of a chunked one", &[other.clone(), other.clone(), other[..100].to_vec()], 1, 2);
}

/// It cancels a call that is in flight alone.
#[test]
fn a_single_request_is_cancelled() {
    check("usual", &[call("usual").bytes()], 0, 0);
    check("chunked", &[chunked("chunked")], 0, 0);
}
