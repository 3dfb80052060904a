//! What the gateway says of servers that do not work: in `/ready`, in the metrics and in its log.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Gateway, Peer, Request, Setup, is_long, modern, until};

/// A server that answers 401 to everything.
fn unauthorized() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 8192]));
            drop(
                stream.write_all(
                    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                ),
            );
        }
    });
    address
}

/// An address at which nobody listens.
fn closed() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

pub fn state(gateway: &Gateway, server: &str) -> Value {
    let ready = Client::once(gateway.address, &Request::new("GET", "/ready")).json();
    let servers = ready["servers"].as_array().unwrap();
    servers.iter().find(|found| found["name"] == server).unwrap().clone()
}

/// The lines of the log about a server.
fn lines(gateway: &Gateway, server: &str) -> Vec<String> {
    let field = format!("server={server}");
    let log = gateway.log();
    log.lines().filter(|line| line.split(' ').any(|word| word == field)).map(str::to_owned).collect()
}

const PROGRAMS: &str = "[servers.absent]\ncommand = \"no-such-program\"\n\
                        [servers.ends]\ncommand = \"false\"\n";

/// Nobody calls these servers: the gateway finds out by itself when it starts, and logs it once.
#[test]
fn a_server_that_does_not_work_is_failing_and_logged_once() {
    let peer = Peer::script([]);
    let setup = Setup::new()
        .server("works", peer.address)
        .server("refuses", unauthorized())
        .server("closed", closed())
        .with(&format!("{PROGRAMS}[telemetry]\nmetrics = \"open\"\n"));
    let gateway = setup.start();
    until("it works", || state(&gateway, "works")["state"] == "ok");
    for (server, reason) in
        [("refuses", "HTTP 401"), ("closed", "refused"), ("absent", "no-such-program"), ("ends", "exit")]
    {
        until(server, || state(&gateway, server)["state"] == "failing");
        let found = state(&gateway, server);
        assert!(found["since"].as_u64().is_some_and(|since| since > 0), "{found}");
        assert!(found["reason"].as_str().is_some_and(|text| text.contains(reason)), "{found}");
    }
    // The catalog asks again after 1, 2, 4 and 8 seconds.
    thread::park_timeout(Duration::from_secs(9));
    for server in ["refuses", "closed", "absent", "ends"] {
        let lines = lines(&gateway, server);
        let fails: Vec<_> = lines.iter().filter(|line| line.contains("server fails")).collect();
        assert_eq!(fails.len(), 1, "{lines:#?}");
        // A program has left its output, twice as its era was unknown, and how it ended.
        assert!(lines.len() <= 4, "{lines:#?}");
    }
    assert_eq!(lines(&gateway, "works").iter().filter(|line| line.contains("WARN")).count(), 0);
    let metrics = Client::once(gateway.address, &Request::new("GET", "/metrics")).text();
    for (server, up) in [("works", 1), ("refuses", 0), ("closed", 0), ("absent", 0), ("ends", 0)] {
        let line = format!("metamcp_server_up{{metamcp_server=\"{server}\"}} {up}\n");
        assert!(metrics.contains(&line), "{line} {metrics}");
    }
    for debug_text in ["Some(", "None", "ClientCapabilities", "Ok(", "Err("] {
        assert!(!gateway.log().contains(debug_text), "{debug_text}: {}", gateway.log());
    }
}

/// However often clients ask for what the programs would offer.
#[test]
fn two_broken_programs_log_few_lines_in_ten_minutes() {
    const LINES_MAX: usize = 20;
    let (time, interval) = if is_long() { (600, 10_000) } else { (12, 300) };
    let (time, interval) = (Duration::from_secs(time), Duration::from_millis(interval));
    let gateway = Setup::new().with(PROGRAMS).start();
    let mut client = Client::connect(gateway.address);
    let began = Instant::now();
    while began.elapsed() < time {
        client.ask(&modern("/mcp", "tools/list", ""));
        thread::park_timeout(interval);
    }
    let log = gateway.log();
    let lines = log.lines().count();
    println!("{lines} lines in {} s", time.as_secs());
    assert!(lines <= LINES_MAX, "{log}");
}

/// A server that comes back is logged once, too.
#[test]
fn a_server_that_works_again_is_logged() {
    let address = closed();
    let gateway = Gateway::open(&[("a", address)]);
    until("it fails", || state(&gateway, "a")["state"] == "failing");
    let _peer = Peer::start(TcpListener::bind(address).unwrap());
    until("it works again", || state(&gateway, "a")["state"] == "ok");
    let state = state(&gateway, "a");
    assert_eq!((&state["reason"], &state["since"]), (&Value::Null, &Value::Null), "{state}");
    assert_eq!(state["last_failure"]["stage"], json!("connecting"), "what was is not forgotten");
}
