//! Event streams that stay open have a limit of their own for each key, and take no place of its calls.

use crate::support::{
    Client, Form, Gate, Gateway, Peer, Request, Response, Setup, Step, answer, modern, modern_call,
    open_session, result, until,
};
use metamcp_store::store::{Audit, KeyStatus};

const PATH: &str = "/mcp";

/// The kinds of streams that stay open.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Get,
    Listen,
    Framed,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Get, Self::Listen, Self::Framed];

    /// The request that opens one. A GET stream needs a session of its own, since it replaces another one.
    fn request(self, session: &str) -> Request {
        match self {
            Self::Get => Request::new("GET", PATH)
                .with("Accept", "text/event-stream")
                .with("Mcp-Session-Id", session)
                .with("MCP-Protocol-Version", "2025-11-25"),
            Self::Listen => {
                modern(PATH, "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#)
            }
            Self::Framed => Request::new("POST", "/api/v1/mcp/stream")
                .with("Content-Type", Form::Lines.media_type())
                .with("Transfer-Encoding", "chunked"),
        }
    }

    /// The stream, and the head of its response.
    fn open(self, gateway: &Gateway, key: Option<&str>) -> (Client, Response) {
        let session = match self {
            Self::Get => open_session(gateway, PATH, key),
            Self::Listen | Self::Framed => String::new(),
        };
        let request = self.request(&session);
        let request = match key {
            Some(key) => request.with("Authorization", format!("Bearer {key}")),
            None => request,
        };
        let mut client = Client::connect(gateway.address);
        assert!(client.send(&request.bytes()));
        let head = client.head();
        (client, head)
    }
}

#[test]
fn event_streams_take_no_place_of_a_call() {
    const STREAMS: usize = 100;
    const CALLS: usize = 4;
    let gate = Gate::default();
    let late = vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))];
    let peer = Peer::script(vec![late; CALLS]);
    let setup = Setup::new().server_with("a", peer.address, "in_flight_max = 4\nqueue_max = 0");
    let limits = format!("[limits]\nkey_in_flight_max = {CALLS}\nkey_event_streams_max = {STREAMS}");
    let gateway = setup.with(&limits).start();
    let streams: Vec<_> = (0..STREAMS)
        .map(|number| {
            let kind = Kind::ALL[number % 3];
            let (client, head) = kind.open(&gateway, None);
            assert_eq!(head.status, 200, "stream {number}, {kind:?}");
            client
        })
        .collect();
    for kind in Kind::ALL {
        let (mut client, head) = kind.open(&gateway, None);
        assert_eq!((head.status, head.header("retry-after")), (429, Some("1")), "{kind:?}");
        let text = String::from_utf8(client.chunk().unwrap().unwrap()).unwrap();
        assert!(text.contains("too many event streams open"), "{kind:?}: {text}");
    }
    let call = modern_call(PATH, "a__echo", "{}");
    let mut calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let mut client = Client::connect(gateway.address);
            assert!(client.send(&call.bytes()));
            client
        })
        .collect();
    peer.wait_calls(CALLS);
    let refused = Client::once(gateway.address, &call);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.text().contains("too many requests in flight"), "{}", refused.text());
    gate.open();
    for client in &mut calls {
        assert_eq!(client.response().json()["result"]["content"][0]["text"], "late");
    }
    drop(streams);
    // Each place is back, and none twice.
    let mut again = Vec::new();
    until("every place is back", || {
        again.retain_mut(|(_, head): &mut (Client, Response)| head.status == 200);
        again.push(Kind::Framed.open(&gateway, None));
        again.len() > STREAMS
            || again.last().is_some_and(|(_, head)| head.status == 429 && again.len() > STREAMS)
    });
    assert_eq!(again.iter().filter(|(_, head)| head.status == 200).count(), STREAMS);
}

#[test]
fn the_place_of_a_stream_is_back_when_it_ends() {
    type End = fn(&Gateway, &str, (&str, &str), Client);
    let ends: [(&str, &[Kind], End); 3] = [
        ("the client leaves", &Kind::ALL, |_, _, _, client| drop(client)),
        ("its session ends", &[Kind::Get], |gateway, session, (_, key), _client| {
            let end = Request::new("DELETE", PATH)
                .with("Mcp-Session-Id", session)
                .with("Authorization", format!("Bearer {key}"));
            assert_eq!(Client::once(gateway.address, &end).status, 200);
        }),
        ("its key is switched off", &Kind::ALL, |gateway, _, (id, _), mut client| {
            gateway.keys().revoke(id);
            while client.chunk().is_ok_and(|chunk| chunk.is_some()) {}
            gateway.keys().run(async |store| {
                store.set_key_status(id, KeyStatus::Active, Audit::by("test")).await.unwrap()
            });
        }),
    ];
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address).keys();
    let gateway = setup.with("[limits]\nkey_in_flight_max = 4\nkey_event_streams_max = 1").start();
    for (how, kinds, end) in ends {
        for kind in kinds {
            let (id, key) = gateway.keys().create("one");
            let session = open_session(&gateway, PATH, Some(&key));
            let request = kind.request(&session).with("Authorization", format!("Bearer {key}"));
            let mut client = Client::connect(gateway.address);
            assert!(client.send(&request.bytes()));
            assert_eq!(client.head().status, 200, "{how}, {kind:?}");
            assert_eq!(kind.open(&gateway, Some(&key)).1.status, 429, "{how}, {kind:?}");
            end(&gateway, &session, (&id, &key), client);
            until(how, || {
                let probe = Kind::Listen.request("").with("Authorization", format!("Bearer {key}"));
                let mut client = Client::connect(gateway.address);
                client.send(&probe.bytes()) && client.head().status == 200
            });
        }
    }
}
