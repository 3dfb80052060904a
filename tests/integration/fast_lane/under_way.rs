//! Many at once, clients that go away, and a gateway that ends, each with the lane and without it.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Answered, Client, Gate, Gateway, PATIENCE, Peer, SINGLE, Setup, Side, Step, TWO_WAYS, Twins, Way, answer,
    modern_call, result,
};

const CLIENTS: usize = 32;

/// Of each client, at each gateway.
const CALLS: usize = 50;

/// For both lanes, with these lines under `[server]`.
fn each(lines: &str, check: impl Fn(bool, Setup)) {
    for is_fast in [true, false] {
        let tables = format!("[server]\nfast_lane = {is_fast}\n{lines}\n[backend]\nfast_lane = {is_fast}\n");
        check(is_fast, Setup::new().with(&tables));
    }
}

/// Every answer has a second one right behind it, in the same write. Nobody gets the second one.
///
/// What cannot be excluded by anyone who keeps connections: bytes that come after the connection was looked
/// at and before the next request was written cannot be told from that request's answer, since HTTP/1.1
/// numbers nothing. So what is sent here is there when the connection is looked at.
#[test]
fn a_second_answer_reaches_nobody() {
    each("", |is_fast, setup| {
        let peer = Peer::script([]);
        peer.send_behind_answers(&answer("200 OK", &result("1", "forged")));
        let gateway = setup.server("a", peer.address).start();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let gateway = &gateway;
                scope.spawn(move || call_often(gateway, client));
            }
        });
        let (calls, connections) = (peer.calls().len(), peer.connections());
        assert_eq!(calls, CLIENTS * CALLS, "fast lane {is_fast}");
        assert!(connections >= calls, "fast lane {is_fast}: {connections} connections for {calls} calls");
    });
}

fn call_often(gateway: &Gateway, number: usize) {
    let mut client = Client::connect(gateway.address);
    for call in 0..CALLS {
        let (path, tool) = if call % 2 == 0 { (SINGLE, "echo") } else { ("/mcp", "a__echo") };
        let own = format!("own-{number}-{call}-");
        let response = client.ask(&modern_call(path, tool, &format!(r#"{{"text":"{own}"}}"#)));
        assert!(response.status == 200 && response.text().contains(&own), "{own}: {}", response.text());
    }
}

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Closes,
    HalfCloses,
    Resets,
}

/// How long a server had to wait until it knew.
fn leave(side: &Side, way: Way, how: Leave, first: &[u8]) -> Duration {
    side.peer.push([vec![Step::Send(first.to_vec()), Step::Hold]]);
    let called = side.peer.calls().len();
    let mut client = Client::connect(side.gateway.address);
    client.send(&side.call(way, "{}").bytes());
    side.peer.wait_calls(called + 1);
    let gone = Instant::now();
    match how {
        Leave::HalfCloses => client.half_close(),
        Leave::Resets => {
            socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
        }
        Leave::Closes => drop(client),
    }
    let connection = side.peer.calls()[called].connection;
    side.peer.wait_closed(connection).saturating_duration_since(gone)
}

#[test]
fn a_client_that_goes_takes_its_call_with_it() {
    let mut twins = Twins::new("", "");
    let begun = answer("200 OK", &result("1", &"x".repeat(100 << 10)));
    for way in TWO_WAYS {
        for how in [Leave::Closes, Leave::HalfCloses, Leave::Resets] {
            for first in [&[], &begun[..1000]] {
                twins.check(&format!("{way:?}, {how:?}, {} bytes came", first.len()), |side| {
                    // The machine is busy: the quickest of some tries tells.
                    let quickest = (0..5).map(|_| leave(side, way, how, first)).min().unwrap();
                    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
                });
            }
        }
    }
    twins.finish();
}

#[test]
fn a_request_while_another_is_under_way() {
    let mut twins = Twins::new("", "");
    let way = Way::ModernSingle;
    for count in [1, 2, 5] {
        twins.check(&format!("{count} more"), |side| {
            let (gate, called) = (Gate::default(), side.peer.calls().len());
            side.peer
                .push([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "slow")))]]);
            let mut client = Client::connect(side.gateway.address);
            client.send(&side.call(way, "{}").bytes());
            side.peer.wait_calls(called + 1);
            for number in 0..count {
                let request = side.call(way, &format!(r#"{{"text":"number-{number}-"}}"#)).bytes();
                // In two packets, so that the lane meets the end of the first read in its midst.
                client.send(&request[..100]);
                client.send(&request[100..]);
            }
            // None of them is asked before the one that came first is answered.
            assert_eq!(side.peer.calls().len(), called + 1);
            gate.open();
            let answers: Vec<Answered> = (0..=count).map(|_| Answered::of(client.response())).collect();
            assert!(answers[0].body.contains("slow"));
            for (number, answered) in answers[1..].iter().enumerate() {
                assert!(answered.body.contains(&format!("number-{number}-")), "{answered:?}");
            }
            answers
        });
    }
    twins.finish();
}

#[test]
fn a_call_under_way_while_the_gateway_ends() {
    each("", |is_fast, setup| {
        let peer = Peer::script([]);
        let mut gateway = setup.server("a", peer.address).start();
        let gate = Gate::default();
        peer.push([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))]]);
        let call = modern_call(SINGLE, "echo", "{}").bytes();
        let mut client = Client::connect(gateway.address);
        client.send(&call);
        peer.wait_calls(1);
        let mut idle = Client::connect(gateway.address);
        assert_eq!(idle.ask(&modern_call(SINGLE, "echo", "{}")).status, 200);
        gateway.terminate();
        assert!(idle.is_closed(), "fast lane {is_fast}: an idle connection was kept");
        gate.open();
        let response = client.response();
        assert!(response.text().contains("late"), "fast lane {is_fast}: {}", response.text());
        assert_eq!(response.header("connection"), Some("close"), "fast lane {is_fast}");
        assert!(client.is_closed(), "fast lane {is_fast}");
        assert_eq!(gateway.ended().code(), Some(0), "fast lane {is_fast}");
    });
}

#[test]
fn a_key_taken_back_on_a_kept_connection() {
    /// A second, on a busy machine.
    const SECOND_MAX: Duration = Duration::from_secs(3);
    each("", |is_fast, setup| {
        let peer = Peer::script([]);
        let gateway = setup.server("a", peer.address).keys().start();
        let (id, key) = gateway.keys().create("taken back");
        let call = modern_call(SINGLE, "echo", "{}").with("Authorization", format!("Bearer {key}"));
        let mut client = Client::connect(gateway.address);
        let began = Instant::now();
        while client.ask(&call).status != 200 {
            assert!(began.elapsed() < PATIENCE, "fast lane {is_fast}: a new key was never taken");
        }
        gateway.keys().revoke(&id);
        let began = Instant::now();
        let mut answered = 1;
        let refused = loop {
            let response = client.ask(&call);
            if response.status == 401 {
                break response;
            }
            answered += 1;
            assert!(began.elapsed() < SECOND_MAX, "fast lane {is_fast}: a key taken back still works");
        };
        // The key may have ended while the server had the call.
        let ended = usize::from(refused.text().contains("may have run"));
        assert_eq!(client.ask(&call).status, 401, "fast lane {is_fast}");
        let calls = peer.calls().len();
        assert!(calls <= answered + ended, "fast lane {is_fast}: a refused call reached the server");
    });
}
