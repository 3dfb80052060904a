//! Messages that the gateway holds have one bound in memory: large ones are refused first, small ones and what tells of the
//! gateway's state are served, and all of it is free again afterwards.

use std::thread;

use crate::support::{
    Client, Gateway, Peer, Request, Setup, Step, chunk, error, events, legacy, legacy_call, modern_call,
    open_session, result, until,
};

const PATH: &str = "/servers/a/mcp";

const MIB: usize = 1 << 20;

/// A sample of the metrics page.
fn sample(gateway: &Gateway, name: &str) -> usize {
    let page = Client::once(gateway.address, &Request::new("GET", "/metrics"));
    assert_eq!(page.status, 200, "{}", page.text());
    let text = page.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
}

fn charged(gateway: &Gateway) -> usize {
    sample(gateway, "metamcp_memory_charged_bytes")
}

fn refusals(gateway: &Gateway) -> usize {
    sample(gateway, "metamcp_memory_refusals_total")
}

/// What is always answered: a ping, and what tells of the gateway's state.
#[track_caller]
fn check_state_is_told(gateway: &Gateway, session: &str) {
    let ping = Client::once(gateway.address, &legacy(PATH, session, "\"state\"", "ping", ""));
    assert_eq!((ping.status, ping.json()["result"].is_object()), (200, true), "{}", ping.text());
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(Client::once(gateway.address, &Request::new("GET", path)).status, 200, "{path}");
    }
}

#[test]
fn unread_answers_stay_within_the_bound() {
    const BOUND: usize = 64 * MIB;
    const ANSWER: usize = 8 * MIB;
    const CLIENTS: usize = 40;
    // Buffers that are not charged for: of connections, of parsers, and what the allocator keeps of both.
    const SLACK: usize = 80 * MIB;
    let check = |era: &str, request: fn(&str, usize) -> Request| {
        let large = Step::Answer(result("@id", &"x".repeat(ANSWER)));
        let peer = Peer::script([vec![Step::Answer(result("@id", "small"))]]);
        let setup =
            Setup::new().server_with("a", peer.address, &format!("era = \"{era}\"\nin_flight_max = 64"));
        let gateway = setup.with("[limits]\nmemory_max = \"64MiB\"").start();
        let session = open_session(&gateway, PATH, None);
        let request = |number: usize| request(&session, number);
        assert_eq!(Client::once(gateway.address, &request(0)).status, 200, "{era}");
        peer.push(vec![vec![large]; CLIENTS]);
        let before = gateway.resident_bytes();
        let deaf: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut client = Client::connect(gateway.address);
                assert!(client.send(&request(number).bytes()));
                client
            })
            .collect();
        let (mut peak, mut most) = (0, 0);
        until("answers are held and refused", || {
            peak = peak.max(gateway.resident_bytes().saturating_sub(before));
            most = most.max(charged(&gateway));
            // The one before is in the list too.
            peer.calls().len() > CLIENTS && refusals(&gateway) > 0 && most >= 2 * ANSWER
        });
        check_state_is_told(&gateway, &session);
        println!("{era}: {} MiB more, {} MiB charged, at the peak", peak / MIB, most / MIB);
        assert!(most <= BOUND, "{era}: {most} bytes are charged");
        assert!(peak <= BOUND + SLACK, "{era}: {} MiB more", peak / MIB);
        // A client that reads gets the answer, or an error under its id that says why there is none.
        let mut refused = 0;
        thread::scope(|scope| {
            let outcomes: Vec<_> =
                deaf.into_iter().map(|mut client| scope.spawn(move || client.response())).collect();
            for outcome in outcomes {
                let response = outcome.join().unwrap();
                assert_eq!(response.status, 200, "{era}: {}", response.text());
                if response.body.len() < ANSWER {
                    assert_eq!(error(&response), -32000, "{era}: {}", response.text());
                    assert!(response.text().contains("limits.memory_max"), "{era}: {}", response.text());
                    refused += 1;
                }
            }
        });
        println!("{era}: {refused} of {CLIENTS} answers refused");
        assert!(refused > 0, "{era}");
        until("nothing is held", || charged(&gateway) == 0);
        assert_eq!(Client::once(gateway.address, &request(0)).status, 200, "{era}");
    };
    // Each to a server of the other era, for which the answer is translated.
    check("modern", |session, number| legacy_call(PATH, session, &number.to_string(), "echo", "{}"));
    check("legacy", |_, _| modern_call(PATH, "echo", "{}"));
}

#[test]
fn new_work_is_refused_while_memory_is_short() {
    const SOFT_LIMIT: usize = 14 * MIB;
    const CLIENTS_MAX: usize = 200;
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let gateway = setup.with("[limits]\nmemory_max = \"16MiB\"").start();
    let session = open_session(&gateway, PATH, None);
    let with_text = |id: usize, bytes: usize| {
        let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
        legacy_call(PATH, &session, &id.to_string(), "echo", &arguments)
    };
    let execute = Request::new("POST", "/api/v1/mcp/servers/a/tools/echo/execute")
        .with("Content-Type", "application/json")
        .body("{}");
    let small = with_text(7, 1);
    for request in [&small, &execute] {
        assert_eq!(Client::once(gateway.address, request).status, 200);
    }
    // Requests that do not come to their end, until they have taken the memory for new work.
    let incomplete = with_text(1, 200 << 10).bytes();
    let mut waiting = Vec::new();
    until("memory is short", || {
        assert!(waiting.len() < CLIENTS_MAX);
        let mut client = Client::connect(gateway.address);
        client.send(&incomplete[..incomplete.len() - 100]);
        waiting.push(client);
        charged(&gateway) >= SOFT_LIMIT
    });
    for request in [&small, &with_text(7, 3 * MIB), &execute] {
        let refused = Client::once(gateway.address, request);
        let text = refused.text();
        assert!(
            refused.status == 503 && refused.header("retry-after").is_some(),
            "{}: {text}",
            refused.status
        );
        if request.path == PATH {
            assert_eq!(error(&refused), -32000, "{text}");
        } else {
            assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{text}");
        }
        assert!(text.contains("limits.memory_max"), "{text}");
    }
    assert_eq!(Client::once(gateway.address, &small).json()["id"], 7);
    check_state_is_told(&gateway, &session);
    assert!(refusals(&gateway) >= 4);
    drop(waiting);
    until("nothing is held", || charged(&gateway) == 0);
    for request in [&small, &execute] {
        assert_eq!(Client::once(gateway.address, request).status, 200);
    }
}

#[test]
fn announced_bodies_take_no_memory_before_they_arrive() {
    // All of them would take twelve times the bound.
    const CLIENTS: usize = 64;
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let gateway = setup.with("[limits]\nmemory_max = \"16MiB\"").start();
    let session = open_session(&gateway, PATH, None);
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(3 * MIB));
    let large = legacy_call(PATH, &session, "1", "echo", &arguments);
    let begun = &large.bytes()[..64 << 10];
    let waiting: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(gateway.address);
            assert!(client.send(begun));
            client
        })
        .collect();
    until("all bodies have begun", || charged(&gateway) >= CLIENTS * (32 << 10));
    assert!(charged(&gateway) <= CLIENTS * (128 << 10), "{} bytes are charged", charged(&gateway));
    assert_eq!(Client::once(gateway.address, &large).status, 200);
    assert_eq!(refusals(&gateway), 0);
    drop(waiting);
    until("nothing is held", || charged(&gateway) == 0);
}

/// Events that are kept for clients that have left, and streams that grow no more because theirs have, hold all memory.
#[test]
fn what_is_kept_for_clients_that_left_gives_way() {
    const SOFT_LIMIT: usize = 14 * MIB;
    // Of one stream 2 MiB are kept, so that seven of them take all that they may.
    let endless = |peer: &Peer| {
        let begin = [events(), format!("{:x}\r\ndata: ", 1_usize << 31).into_bytes()].concat();
        peer.push(vec![vec![Step::Send(begin), Step::Flood(vec![b'x'; 64 << 10], 1000)]; 12]);
        12
    };
    let whole = |peer: &Peer| {
        let text = "x".repeat(200_000);
        peer.push((0..100).map(|id| {
            let event = format!("data: {}\n\n", result(&id.to_string(), &text));
            vec![Step::Send([events(), chunk(&event), chunk("")].concat())]
        }));
        100
    };
    let check = |name: &str, answers: &dyn Fn(&Peer) -> usize, kept: usize| {
        let peer = Peer::script([]);
        let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"\nin_flight_max = 64");
        let session = "[session]\nresume_stream_bytes_max = \"2MiB\"";
        let gateway = setup.with(session).with("[limits]\nmemory_max = \"16MiB\"").start();
        let session = open_session(&gateway, PATH, None);
        let call = |id: usize| legacy_call(PATH, &session, &id.to_string(), "echo", "{}");
        for id in 0..answers(&peer) {
            let mut client = Client::connect(gateway.address);
            assert!(client.send(&call(id).bytes()));
            let head = client.head();
            assert_eq!(head.status, 200, "{name}: call {id}");
            // Its event id, so that it could come back.
            assert!(client.raw_event().is_some(), "{name}: call {id}");
        }
        until("much is kept", || charged(&gateway) >= kept);
        let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(20_000));
        for request in [
            call(1000),
            legacy_call(PATH, &session, "1001", "echo", &text),
            legacy(PATH, &session, "1002", "tools/list", ""),
            call(1003),
        ] {
            let response = Client::once(gateway.address, &request);
            assert_eq!(response.status, 200, "{name}: {}", response.text());
        }
        open_session(&gateway, PATH, None);
        // Much for one request.
        let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(3 * MIB));
        let large = Client::once(gateway.address, &legacy_call(PATH, &session, "1004", "echo", &text));
        assert_eq!(large.status, 200, "{name}: {}", large.text());
    };
    check("endless", &endless, SOFT_LIMIT);
    check("whole", &whole, SOFT_LIMIT - MIB / 2);
}
