//! A hundred clients that all use the same ids, each with a secret of its own: nobody sees another's.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{Client, Gateway, Request, Setup, legacy_call, modern_call, open_session};

const CLIENTS: usize = 100;

/// Over all clients; an unoptimised gateway makes some 5,000 a second.
const CALLS: usize = 100_000;

/// The demonstration server, on a thread of this process.
fn demo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || metamcp_demo::serve(listener));
    address
}

/// The way of one client: it stays with its endpoint, era and session.
struct Way {
    path: &'static str,
    tool: &'static str,
    session: Option<String>,
}

impl Way {
    fn of(number: usize, gateway: &Gateway) -> Self {
        const PATHS: [(&str, &str); 4] = [
            ("/servers/a/mcp", "echo"),
            ("/mcp", "a__echo"),
            ("/servers/b/mcp", "echo"),
            ("/mcp", "b__echo"),
        ];
        let (path, tool) = PATHS[number % 4];
        let session = (number / 4).is_multiple_of(2).then(|| open_session(gateway, path, None));
        Self { path, tool, session }
    }

    fn call(&self, id: usize, arguments: &str) -> Request {
        if let Some(session) = &self.session {
            return legacy_call(self.path, session, &id.to_string(), self.tool, arguments);
        }
        let request = modern_call(self.path, self.tool, arguments);
        let body = String::from_utf8(request.body.clone()).unwrap();
        request.body(body.replacen(r#""id":1,"#, &format!(r#""id":{id},"#), 1))
    }
}

/// One client's calls; gives how many were answered with its own secret.
fn run(number: usize, way: &Way, gateway: SocketAddr) -> usize {
    let mut client = Client::connect(gateway);
    for id in 0..CALLS / CLIENTS {
        // Of another length each time, so that no two answers could be taken for one another by chance.
        let canary = format!("canary-{number}-{id}-{}", "x".repeat((number * 7 + id) % 300));
        let response = client.ask(&way.call(id, &format!(r#"{{"text":"{canary}"}}"#)));
        let message = if response.header("content-type") == Some("text/event-stream") {
            response.events().pop().unwrap()
        } else {
            response.json()
        };
        assert_eq!(message["id"], id, "{}: {message}", way.path);
        assert_eq!(message["result"]["content"][0]["text"], canary, "{}: {message}", way.path);
        // Now and then it comes back on another connection, in the midst of others.
        if id % 64 == 63 {
            client = Client::connect(gateway);
        }
    }
    CALLS / CLIENTS
}

#[test]
fn no_client_receives_the_answer_of_another() {
    let setup = Setup::new().server("a", demo()).server("b", demo());
    let gateway = setup.with("[limits]\nkey_in_flight_max = 1000").start();
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (way, address, answered) = (Way::of(number, &gateway), gateway.address, &answered);
            scope.spawn(move || answered.fetch_add(run(number, &way, address), Ordering::Relaxed));
        }
    });
    let answered = answered.into_inner();
    println!("{answered} calls by {CLIENTS} clients, both eras, single and aggregated: no foreign answer");
    assert_eq!(answered, CALLS);
}
