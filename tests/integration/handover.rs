//! SIGUSR2: a successor takes over without a refused connection, a cut stream or a lost count. Sockets of systemd.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::support::{
    Client, Gate, Gateway, Load, LoadPlan, PATIENCE, Peer, Request, Setup, Step, answer, chunk,
    clear_environment, events, modern, modern_call, open_session, result, until,
};

const SINGLE: &str = "/servers/a/mcp";

/// The demonstration server, on a thread of this process.
pub fn demo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || metamcp_demo::serve(listener));
    address
}

pub fn has_ended(process: u32) -> bool {
    // A child of this process that has ended is a zombie until it is waited for.
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// How often a tool was called, as the store tells it.
pub fn counted(gateway: &Gateway, tool: &str) -> u64 {
    gateway.usage().iter().filter(|row| row.key.tool == tool).map(|row| row.counts.calls).sum()
}

fn plan(gateway: &Gateway) -> LoadPlan {
    LoadPlan {
        address: gateway.address,
        certificates: Vec::new(),
        server: "demo".into(),
        kept: 4,
        fresh: 2,
        streams: 9,
        pace: (50, 50),
    }
}

#[test]
fn nothing_fails_and_each_call_is_counted_once() {
    const HAND_OVERS: usize = 4;
    let gateway = Setup::new().server("demo", demo()).with("[server]\nkeep_alive = \"1s\"").start();
    let load = Load::start(plan(&gateway));
    load.wait_calls(50);
    for _ in 0..HAND_OVERS {
        gateway.hand_over();
        load.wait_calls(100);
    }
    // Until the first process has ended what it had, so that streams have moved to a successor.
    until("the end of the first process", || has_ended(gateway.pids()[0]) || load.has_failed());
    let report = load.stop();
    assert_eq!(report.failures, [""; 0], "{report:?}");
    assert!(report.streams_ended >= 6, "{report:?}");
    gateway.terminate();
    for process in gateway.pids() {
        until("the end of all processes", || has_ended(process));
    }
    assert_eq!(counted(&gateway, "echo"), report.calls);
    assert_eq!(counted(&gateway, "countdown"), report.streamed_calls);
}

/// The listening sockets at this port, by their inodes.
fn listening(address: SocketAddr) -> BTreeSet<String> {
    let (port, listens) = (format!(":{:04X}", address.port()), "0A");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = fields.filter(|fields| fields[1].ends_with(&port) && fields[3] == listens);
    own.map(|fields| fields[9].to_owned()).collect()
}

/// Connections in the queue of a socket that is closed are reset, and so is one that arrives before another is bound.
#[test]
fn the_very_same_sockets_are_used() {
    let gateway = Setup::new().workers(3).start();
    let sockets = listening(gateway.address);
    assert_eq!(sockets.len(), 3);
    for _ in 0..2 {
        gateway.hand_over();
        for predecessor in gateway.pids().into_iter().filter(|process| *process != gateway.pid()) {
            until("the end of a predecessor", || has_ended(predecessor));
        }
        assert_eq!(listening(gateway.address), sockets);
    }
}

#[test]
fn in_flight_calls_and_streams_end_in_good_order() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).start();
    let session = open_session(&gateway, "/mcp", None);
    let get = Request::new("GET", "/mcp").with("Accept", "text/event-stream");
    let mut streams: Vec<Client> = Vec::new();
    for request in [
        get.with("Mcp-Session-Id", &*session),
        modern("/mcp", "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#),
    ] {
        let mut client = Client::connect(gateway.address);
        client.send(&request.bytes());
        assert_eq!(client.head().status, 200);
        streams.push(client);
    }
    let gate = Gate::default();
    let begun = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    peer.push([
        vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))],
        vec![
            Step::Send(events()),
            Step::Send(chunk(begun)),
            Step::Wait(gate.clone()),
            Step::Send(chunk(&format!("data: {}\n\n", result("1", "later")))),
            Step::Send(chunk("")),
        ],
    ]);
    let mut calls: Vec<Client> = Vec::new();
    for count in 1..=2 {
        let mut client = Client::connect(gateway.address);
        client.send(&modern_call(SINGLE, "echo", "{}").bytes());
        peer.wait_calls(count);
        calls.push(client);
    }
    let mut kept = Client::connect(gateway.address);
    let answered = kept.ask(&modern_call(SINGLE, "echo", "{}"));
    assert_eq!((answered.status, answered.header("connection")), (200, None));
    let mut idle = Client::connect(gateway.address);
    assert_eq!(idle.ask(&modern_call(SINGLE, "echo", "{}")).status, 200);

    gateway.hand_over();
    let first = gateway.pids()[0];
    let closing = until("the phase", || {
        let answered = kept.ask(&modern_call(SINGLE, "echo", "{}"));
        assert_eq!(answered.status, 200, "{}", answered.text());
        answered.header("connection") == Some("close")
    });
    assert!(kept.is_closed(), "after {closing:?}");
    assert!(idle.is_closed(), "an idle connection was kept");
    for client in &mut streams {
        while client.event().is_some() {}
    }
    assert!(!has_ended(first), "calls are in flight");
    // The session is known to the successor.
    let again = Client::once(
        gateway.address,
        &crate::support::legacy_call("/mcp", &session, "1", "a__echo", r#"{"text":"x"}"#),
    );
    assert_eq!(again.status, 200, "{}", again.text());
    gate.open();
    assert!(calls[0].response().text().contains("late"));
    let streamed = calls[1].response();
    assert!(streamed.whole && streamed.text().contains("later"), "{}", streamed.text());
    until("the end of the first process", || has_ended(first));
    assert!(!gateway.log().contains("deadline exceeded"), "{}", gateway.log());
}

#[test]
fn calls_are_cut_at_the_deadline_of_a_hand_over() {
    let peer = Peer::script([vec![Step::Hold]]);
    let setup = Setup::new().server("a", peer.address);
    let gateway = setup.with("[server]\nhandover_deadline = \"1s\"").start();
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call(SINGLE, "echo", "{}").bytes());
    peer.wait_calls(1);
    gateway.hand_over();
    assert!(client.is_closed());
    until("the end of the first process", || has_ended(gateway.pids()[0]));
    assert!(gateway.log().contains("drain deadline exceeded"));
}

#[test]
fn a_successor_that_does_not_start_changes_nothing() {
    let gateway = Setup::new().server("demo", demo()).with("[server]\nkeep_alive = \"1s\"").start();
    let load = Load::start(plan(&gateway));
    let good = fs::read_to_string(gateway.path().join("metamcp.toml")).unwrap();
    fs::write(gateway.path().join("metamcp.toml"), format!("{good}\nnonsense = 1\n")).unwrap();
    gateway.signal("-USR2");
    gateway.wait_log("no hand-over; this process serves on", 0);
    let log = gateway.log();
    // The successor says why, in the same log.
    assert!(log.contains("nonsense") && log.contains("the successor ended (exit status: 64)"), "{log}");
    load.wait_calls(100);
    // It can be repeated.
    fs::write(gateway.path().join("metamcp.toml"), good).unwrap();
    gateway.hand_over();
    load.wait_calls(100);
    let report = load.stop();
    assert_eq!(report.failures, [""; 0], "{report:?}");
}

/// Lets later processes of this gateway wait for a database that is not there.
fn stall_starts(gateway: &Gateway) {
    fs::write(gateway.path().join(".env"), "DATABASE_URL=postgres://user:secret@127.0.0.1:1/none\n").unwrap();
}

/// SIGUSR2, and waits until a successor waits for that database: its process.
fn start_stalled(gateway: &Gateway) -> u32 {
    const STARTING: &str = "starting a successor process=";
    stall_starts(gateway);
    gateway.signal("-USR2");
    gateway.wait_log("waiting for the database", 0);
    let log = gateway.log();
    log.rsplit_once(STARTING).unwrap().1.lines().next().unwrap().parse().unwrap()
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
}

/// What the end of the predecessor makes of a successor that is still starting.
#[test]
fn a_successor_that_is_starting_ends_with_its_predecessor() {
    for signal in ["-TERM", "-KILL"] {
        let mut gateway = Setup::new().start();
        let successor = start_stalled(&gateway);
        assert!(!has_ended(successor));
        gateway.signal(signal);
        assert_eq!(gateway.ended().success(), signal == "-TERM");
        until("the end of the successor", || has_ended(successor));
        // Nobody holds the sockets.
        assert!(listening(gateway.address).is_empty(), "{signal}");
        let says_why = gateway.log().contains("the predecessor has ended");
        assert!(says_why || signal == "-TERM", "{}", gateway.log());
        // The data directory is free.
        fs::remove_file(gateway.path().join(".env")).unwrap();
        let again = gateway.start_again();
        assert_eq!(Client::once(again.address, &Request::new("GET", "/health")).status, 200);
    }
}

#[test]
fn one_successor_starts_at_a_time() {
    let gateway = Setup::new().start();
    let successor = start_stalled(&gateway);
    gateway.signal("-USR2");
    gateway.wait_log("SIGUSR2 is refused: a successor is starting already", 0);
    assert!(!has_ended(successor));
    assert_eq!(gateway.log().matches("starting a successor process=").count(), 1);
    kill(successor);
    gateway.wait_log("no hand-over; this process serves on", 0);
    assert!(gateway.log().contains("the successor ended (signal: 9"), "{}", gateway.log());
    fs::remove_file(gateway.path().join(".env")).unwrap();
    gateway.hand_over();
    assert_eq!(Client::once(gateway.address, &Request::new("GET", "/health")).status, 200);
}

/// The one that it replaced does not accept any more, so a supervisor starts another.
#[test]
fn a_successor_that_dies_is_replaced_while_its_predecessor_drains() {
    let (peer, gate) = (Peer::script([]), Gate::default());
    let late = vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))];
    peer.push([late]);
    let gateway = Setup::new().server("a", peer.address).start();
    let mut call = Client::connect(gateway.address);
    call.send(&modern_call(SINGLE, "echo", "{}").bytes());
    peer.wait_calls(1);
    gateway.hand_over();
    kill(gateway.pid());
    until("the end of the successor", || has_ended(gateway.pid()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_metamcp"));
    let log = fs::File::create(gateway.path().join("log-of-another")).unwrap();
    let args = ["--port", "0", "--data-dir", "data", "--no-auth"];
    clear_environment(&mut command).args(args).current_dir(gateway.path()).stdin(Stdio::null());
    let mut another = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    // Its output ends with it.
    let mut greeting = BufReader::new(another.stdout.take().unwrap()).lines().map_while(Result::ok);
    let is_serving = greeting.any(|line| line.contains(" listens on "));
    let log = fs::read_to_string(gateway.path().join("log-of-another")).unwrap();
    assert!(is_serving, "{log}");
    assert!(!has_ended(gateway.pids()[0]), "a call is in flight");
    gate.open();
    assert!(call.response().text().contains("late"));
    another.kill().unwrap();
    another.wait().unwrap();
}

#[test]
fn a_program_that_was_removed_is_named() {
    // It is started under a name that goes away.
    let wrapper = ["/bin/bash", "-c", "exec -a ./program \"$0\" \"$@\""];
    let setup = Setup::new().link("program", env!("CARGO_BIN_EXE_metamcp")).wrapped(&wrapper);
    let gateway = setup.start();
    fs::remove_file(gateway.path().join("program")).unwrap();
    gateway.signal("-USR2");
    gateway.wait_log("no hand-over; this process serves on", 0);
    let log = gateway.log();
    assert!(log.contains("program that this process was started from is not there any more"), "{log}");
}

/// A response to what a server asked during a call that the predecessor has.
#[test]
fn a_response_that_reaches_nobody_is_refused() {
    let (peer, gate) = (Peer::script([]), Gate::default());
    let asked = r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"who?"}}"#;
    peer.push([vec![
        Step::Send(events()),
        Step::Send(chunk(&format!("data: {asked}\n\n"))),
        Step::Wait(gate.clone()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "thanks")))),
        Step::Send(chunk("")),
    ]]);
    let gateway = Setup::new().server("a", peer.address).start();
    let session = open_session(&gateway, "/mcp", None);
    let mut call = Client::connect(gateway.address);
    call.send(&crate::support::legacy_call("/mcp", &session, "1", "a__echo", "{}").bytes());
    assert_eq!(call.head().status, 200);
    let id = call.event().unwrap()["id"].to_string();
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","content":{{}}}}}}"#);
    let response = crate::support::legacy_call("/mcp", &session, "0", "", "").body(body);
    gateway.hand_over();
    let refused = Client::once(gateway.address, &response);
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("another process of the gateway"), "{}", refused.text());
    assert_eq!(peer.calls().len(), 1);
    gate.open();
    assert_eq!(call.event().unwrap()["result"]["content"][0]["text"], "thanks");
}

#[test]
fn a_second_gateway_is_told_that_the_data_directory_is_in_use() {
    let gateway = Setup::new().start();
    let check = |gateway: &Gateway| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metamcp"));
        let args = ["--port", "0", "--data-dir", "data", "--no-auth"];
        let output = clear_environment(&mut command).args(args).current_dir(gateway.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("is used by process"), "{text}");
    };
    check(&gateway);
    for _ in 0..2 {
        gateway.hand_over();
        check(&gateway);
        until("the end of the predecessor", || {
            gateway.pids().iter().rev().skip(1).all(|one| has_ended(*one))
        });
        check(&gateway);
    }
}

#[test]
fn the_service_manager_is_told_of_each_change() {
    let path = std::env::temp_dir().join(format!("metamcp-manager-{}", std::process::id()));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let setup = Setup::new().variable("NOTIFY_SOCKET", path.to_str().unwrap());
    let gateway = setup.start();
    let check = |expected: &str| {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).unwrap();
        let text = str::from_utf8(&bytes[..count]).unwrap();
        assert!(text.starts_with(expected), "{text}");
    };
    check("READY=1");
    gateway.reload(&setup, "configuration reloaded");
    check("RELOADING=1\nMONOTONIC_USEC=");
    check("READY=1");
    gateway.hand_over();
    check("RELOADING=1\nMONOTONIC_USEC=");
    check(&format!("MAINPID={}\nREADY=1", gateway.pid()));
    gateway.terminate();
    check("STOPPING=1");
    for process in gateway.pids() {
        until("the end of all processes", || has_ended(process));
    }
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 1]).is_err(), "the predecessor is not the service any more");
    fs::remove_file(path).unwrap();
}

#[test]
fn a_malformed_hand_over_is_refused() {
    let setup = Setup::new();
    let dir = setup.place();
    let mut command = Command::new(env!("CARGO_BIN_EXE_metamcp"));
    clear_environment(&mut command).env("METAMCP_HANDOVER", "1").stdin(Stdio::null());
    command.args(["--port", "0", "--data-dir", "data", "--no-auth"]).current_dir(dir.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("cannot take over"), "{text}");
}

/// Starts a gateway as systemd does: descriptor 3 is the socket, `LISTEN_PID` its own process.
fn start_with(socket: &TcpListener, dir: &Path, args: &str) -> std::process::Child {
    // It is inherited.
    fcntl_setfd(socket, FdFlags::empty()).unwrap();
    let program = env!("CARGO_BIN_EXE_metamcp");
    let number = socket.as_raw_fd();
    let script = format!(
        "exec 3<&{number}; [ {number} = 3 ] || exec {number}<&-; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec {program} --data-dir data {args}"
    );
    let mut command = Command::new("/bin/bash");
    let log = fs::File::create(dir.join("log")).unwrap();
    clear_environment(&mut command).args(["-c", &script]).current_dir(dir).stdin(Stdio::null());
    let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    fcntl_setfd(socket, FdFlags::CLOEXEC).unwrap();
    child
}

#[test]
fn sockets_of_the_service_manager_are_used() {
    let setup = Setup::new().server("demo", demo());
    let dir = setup.place();
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    // Before there is a process, connections wait in the queue of the socket.
    let mut early = Client::connect(address);
    early.send(&modern_call("/mcp", "demo__echo", r#"{"text":"early"}"#).bytes());
    let mut child = start_with(&socket, dir.path(), "--no-auth --workers 3");
    assert!(early.response().text().contains("early"));
    for _ in 0..10 {
        let answered = Client::once(address, &modern_call("/mcp", "demo__echo", r#"{"text":"late"}"#));
        assert_eq!(answered.status, 200, "{}", answered.text());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The socket is still open here, so nothing was refused, and another process continues.
    let mut later = Client::connect(address);
    later.send(&modern_call("/mcp", "demo__echo", r#"{"text":"later"}"#).bytes());
    let mut child = start_with(&socket, dir.path(), "--no-auth --workers 1");
    assert!(later.response().text().contains("later"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_public_socket_requires_keys() {
    let dir = Setup::new().place();
    let socket = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let mut child = start_with(&socket, dir.path(), "--no-auth");
    assert!(!child.wait().unwrap().success());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("which is not loopback"), "{log}");
}
