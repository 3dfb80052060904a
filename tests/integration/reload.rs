//! Servers and endpoints that come, change and go while the gateway runs: what did not change does not notice.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Setup, Step, answer, chunk, error, events, legacy, legacy_call,
    listed, modern, modern_call, open_session, result,
};

const AGGREGATED: &str = "/mcp";

const DONE: &str = "configuration reloaded";

/// A connection at rest is kept for longer than a test takes, so that a new one is one too many.
const KEPT: &str = "idle_age_max = \"60s\"";

/// The demonstration server, on a thread of this process.
fn demo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || metamcp_demo::serve(listener));
    address
}

fn setup(servers: &[(&str, SocketAddr)]) -> Setup {
    servers.iter().fold(Setup::new(), |setup, (name, address)| setup.server(name, *address))
}

fn tools(gateway: &Gateway, path: &str) -> Vec<String> {
    let response = Client::once(gateway.address, &modern(path, "tools/list", ""));
    listed(&response.json())
}

/// An open event stream, its first comment or event read.
fn listen(gateway: &Gateway, request: &Request) -> Client {
    let mut client = Client::connect(gateway.address);
    client.send(&request.bytes());
    assert_eq!(client.head().status, 200);
    assert!(client.chunk().unwrap().is_some(), "a stream begins with something");
    client
}

fn get(path: &str, session: &str) -> Request {
    Request::new("GET", path).with("Accept", "text/event-stream").with("Mcp-Session-Id", session)
}

fn subscription(path: &str) -> Request {
    modern(path, "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#)
}

/// Whether nothing more was said, and the stream is open.
fn is_silent(client: &Client) -> bool {
    client.stream().set_nonblocking(true).unwrap();
    let seen = client.stream().peek(&mut [0; 64]);
    client.stream().set_nonblocking(false).unwrap();
    seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn ended_sessions(peer: &Peer) -> usize {
    peer.all().iter().filter(|seen| seen.head.starts_with("DELETE ")).count()
}

/// While callers repeat their requests, each on a connection of its own, and every one is answered: `reloads` rounds
/// of `next`, and some calls in each. Gives how many calls there were.
fn under_load(
    gateway: &Gateway,
    requests: &[Request],
    reloads: usize,
    next: impl Fn(usize) -> Setup,
) -> usize {
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for request in requests {
            let (address, stop, count) = (gateway.address, &stop, &count);
            scope.spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    let response = client.ask(request);
                    let text = response.text();
                    let before = count.fetch_add(1, Ordering::Relaxed);
                    assert!(response.status == 200 && text.contains("\"content\""), "call {before}: {text}");
                }
            });
        }
        for round in 0..reloads {
            gateway.reload(&next(round), DONE);
            let until = count.load(Ordering::Relaxed) + 5 * requests.len();
            // Callers that failed make no more; the scope tells of them.
            let begun = Instant::now();
            while count.load(Ordering::Relaxed) < until && begun.elapsed() < crate::support::PATIENCE {
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    count.into_inner()
}

#[test]
fn what_did_not_change_does_not_notice() {
    let (kept, other) = (Peer::script([]), Peer::script([]));
    let always = || Setup::new().server_with("kept", kept.address, KEPT);
    let next = |round: usize| match round % 4 {
        0 => always().server("other", other.address),
        1 => always().server_with("other", other.address, "in_flight_max = 7"),
        2 => always().server("second", other.address).with("[endpoints.more]\nservers = [\"second\"]"),
        _ => always(),
    };
    let gateway = always().start();
    let single = "/servers/kept/mcp";
    let session = open_session(&gateway, AGGREGATED, None);
    let own_session = open_session(&gateway, single, None);
    // A call in the midst of its answer, and a stream, for all the time.
    let gate = Gate::default();
    let begun = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
    kept.push([vec![
        Step::Send(events()),
        Step::Send(chunk(begun)),
        Step::Wait(gate.clone()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "at last")))),
        Step::Send(chunk("")),
    ]]);
    let mut long = Client::connect(gateway.address);
    long.send(&modern_call(AGGREGATED, "kept__echo", "{}").bytes());
    assert_eq!(long.head().status, 200);
    let stream = listen(&gateway, &get(single, &own_session));

    let requests = [
        modern_call(AGGREGATED, "kept__echo", "{}"),
        modern_call(single, "echo", "{}"),
        legacy_call(AGGREGATED, &session, "1", "kept__echo", "{}"),
        legacy_call(single, &own_session, "1", "echo", "{}"),
    ];
    under_load(&gateway, &requests, 1, |_| always());
    let opened = kept.connections();
    let calls = under_load(&gateway, &requests, 20, next);
    assert!(calls >= 400, "{calls}");
    // As many as there are callers may come to be open at once, and not one for each reload.
    let more = kept.connections() - opened;
    assert!(more <= requests.len(), "{more} more connections");
    assert_eq!(ended_sessions(&kept), 0);
    for (method, times) in [("initialize", 4), ("tools/list", 4)] {
        let count = kept.count(method);
        assert!(count <= times, "{method} {count} times: what is there is not asked for again");
    }
    assert!(is_silent(&stream));
    gate.open();
    let answer = std::iter::from_fn(|| long.event()).find(|event| event["id"] == 1);
    assert!(answer.is_some_and(|answer| answer.to_string().contains("at last")));
}

#[test]
fn a_server_that_moves_about_loses_no_call() {
    let (one, other) = (Peer::script([]), Peer::script([]));
    let at =
        |round: usize| setup(&[("a", if round.is_multiple_of(2) { one.address } else { other.address })]);
    let gateway = at(1).start();
    let session = open_session(&gateway, AGGREGATED, None);
    let own_session = open_session(&gateway, "/servers/a/mcp", None);
    let requests = [
        modern_call(AGGREGATED, "a__echo", "{}"),
        modern_call("/servers/a/mcp", "echo", "{}"),
        legacy_call(AGGREGATED, &session, "1", "a__echo", "{}"),
        legacy_call("/servers/a/mcp", &own_session, "1", "echo", "{}"),
    ];
    under_load(&gateway, &requests, 20, at);
    assert!(!one.calls().is_empty() && !other.calls().is_empty());
}

#[test]
fn a_server_that_is_removed_is_gone_from_everything() {
    let (kept, gone) = (demo(), Peer::script([]));
    let gateway = setup(&[("kept", kept), ("gone", gone.address)]).start();
    assert!(tools(&gateway, AGGREGATED).contains(&"gone__echo".to_owned()));
    let session = open_session(&gateway, AGGREGATED, None);
    let own_session = open_session(&gateway, "/servers/gone/mcp", None);
    let mut announced =
        [listen(&gateway, &get(AGGREGATED, &session)), listen(&gateway, &subscription(AGGREGATED))];
    let mut own_stream = listen(&gateway, &get("/servers/gone/mcp", &own_session));
    let call = |id: &str, tool: &str| {
        Client::once(gateway.address, &legacy_call(AGGREGATED, &session, id, tool, r#"{"text":"x"}"#))
    };
    assert_eq!(call("1", "gone__echo").status, 200);
    assert_eq!(call("1", "kept__echo").status, 200);
    // One is under way when its server goes.
    let gate = Gate::default();
    gone.push([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("9", "still")))]]);
    let mut late = Client::connect(gateway.address);
    late.send(&legacy_call(AGGREGATED, &session, "9", "gone__echo", "{}").bytes());
    gone.wait_calls(2);

    gateway.reload(&setup(&[("kept", kept)]), DONE);
    assert!(gateway.log().contains(r#"removed="gone""#), "{}", gateway.log());
    for client in &mut announced {
        let event = client.event().expect("an announcement");
        assert_eq!(event["method"], "notifications/tools/list_changed", "{event}");
    }
    while own_stream.event().is_some() {}
    assert!(tools(&gateway, AGGREGATED).iter().all(|tool| !tool.starts_with("gone__")));
    let modern_answer =
        Client::once(gateway.address, &modern_call(AGGREGATED, "gone__echo", r#"{"text":"x"}"#));
    assert_eq!(error(&modern_answer), -32602);
    assert_eq!(error(&call("2", "gone__echo")), -32602);
    assert_eq!(call("3", "kept__echo").status, 200);
    let own = Client::once(gateway.address, &modern_call("/servers/gone/mcp", "echo", "{}"));
    assert_eq!(own.status, 404);

    // The call ends well; only then is its session told its end. The other one had none under way.
    gone.wait_until("the farewell of the idle session", |peer| ended_sessions(peer) == 1);
    gate.open();
    assert!(late.response().text().contains("still"));
    gone.wait_until("the farewell of the busy session", |peer| ended_sessions(peer) == 2);
}

#[test]
fn a_call_under_way_keeps_its_server() {
    let (kept, gone) = (Peer::script([]), Peer::script([]));
    let gateway = setup(&[("kept", kept.address), ("gone", gone.address)]).start();
    let session = open_session(&gateway, AGGREGATED, None);
    // In the midst of the call the server asks the client something.
    let gate = Gate::default();
    let asks = r#"data: {"jsonrpc":"2.0","id":5,"method":"elicitation/create","params":{"message":"?"}}"#;
    gone.push([vec![
        Step::Send(events()),
        Step::Send(chunk(&format!("{asks}\n\n"))),
        Step::Wait(gate.clone()),
        Step::Send(chunk(&format!("data: {}\n\n", result("9", "still")))),
        Step::Send(chunk("")),
    ]]);
    let mut late = Client::connect(gateway.address);
    late.send(&legacy_call(AGGREGATED, &session, "9", "gone__echo", "{}").bytes());
    assert_eq!(late.head().status, 200);
    let asked = late.event().expect("the server's request");
    gateway.reload(&setup(&[("kept", kept.address)]), DONE);

    let said = |body: String| {
        let request = Request::post(AGGREGATED, body)
            .with("Mcp-Session-Id", &session)
            .with("MCP-Protocol-Version", "2025-11-25");
        let response = Client::once(gateway.address, &request);
        assert_eq!(response.status, 202, "{}", response.text());
    };
    said(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"accept"}}}}"#, asked["id"]));
    said(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#.to_owned());
    let told: Vec<String> = gone.calls().iter().skip(1).map(crate::support::Seen::text).collect();
    assert!(told.len() == 2 && told[0].contains(r#""id":5,"#) && told[1].contains("cancelled"), "{told:?}");
    assert!(kept.calls().is_empty());
    gate.open();
    assert!(late.event().is_none(), "a cancelled call has no answer");
}

#[test]
fn a_changed_address_is_where_the_next_call_goes() {
    let (before, after) = (Peer::script([]), Peer::script([]));
    let gateway = setup(&[("a", before.address)]).start();
    let session = open_session(&gateway, AGGREGATED, None);
    let own_session = open_session(&gateway, "/servers/a/mcp", None);
    let mut client = Client::connect(gateway.address);
    let requests = [
        modern_call(AGGREGATED, "a__echo", "{}"),
        modern_call("/servers/a/mcp", "echo", "{}"),
        legacy_call(AGGREGATED, &session, "1", "a__echo", "{}"),
        legacy_call("/servers/a/mcp", &own_session, "1", "echo", "{}"),
    ];
    let mut ask_all = || {
        for request in &requests {
            let response = client.ask(request);
            assert!(response.status == 200 && response.text().contains("content"), "{}", response.text());
        }
    };
    ask_all();
    assert_eq!((before.calls().len(), after.calls().len()), (4, 0));
    gateway.reload(&setup(&[("a", after.address)]), DONE);
    assert!(gateway.log().contains(r#"changed="a""#), "{}", gateway.log());
    ask_all();
    assert_eq!((before.calls().len(), after.calls().len()), (4, 4), "the same sessions, at the new address");
    before.wait_until("the farewell of both sessions", |peer| ended_sessions(peer) == 2);
}

#[test]
fn a_session_outlives_a_change_of_its_endpoint() {
    let (first, second) = (demo(), demo());
    let gateway = setup(&[("first", first)]).start();
    let session = open_session(&gateway, AGGREGATED, None);
    let mut stream = listen(&gateway, &get(AGGREGATED, &session));
    let ask = |id: &str, tool: &str| {
        let response =
            Client::once(gateway.address, &legacy_call(AGGREGATED, &session, id, tool, r#"{"text":"x"}"#));
        assert_eq!(response.status, 200, "{}", response.text());
        response
    };
    ask("1", "first__echo");
    gateway.reload(&setup(&[("second", second), ("first", first)]), DONE);
    assert_eq!(stream.event().expect("an announcement")["method"], "notifications/tools/list_changed");
    let list = Client::once(gateway.address, &legacy(AGGREGATED, &session, "2", "tools/list", ""));
    assert!(listed(&list.json()).contains(&"second__echo".to_owned()), "{}", list.text());
    assert!(ask("3", "second__echo").text().contains("result"));
    assert!(ask("4", "first__echo").text().contains("result"));
}

#[test]
fn an_endpoint_that_is_removed_ends_its_streams() {
    let server = demo();
    let with = setup(&[("a", server)]).with("[endpoints.work]\nservers = [\"a\"]");
    let gateway = with.start();
    let session = open_session(&gateway, "/mcp/work", None);
    let mut stream = listen(&gateway, &get("/mcp/work", &session));
    let mut subscribed = listen(&gateway, &subscription("/mcp/work"));
    let staying = listen(&gateway, &subscription(AGGREGATED));
    let mut own = listen(&gateway, &subscription("/servers/a/mcp"));
    gateway.reload(&setup(&[("a", server)]), DONE);
    while stream.event().is_some() {}
    let mut last = None;
    while let Some(event) = subscribed.event() {
        last = Some(event);
    }
    assert_eq!(last.expect("an ending")["result"]["resultType"], "complete");
    let ping = legacy("/mcp/work", &session, "1", "ping", "");
    assert_eq!(Client::once(gateway.address, &ping).status, 404);
    assert!(is_silent(&staying));
    // Should it come back, its clients need not notice.
    gateway.reload(&with, DONE);
    assert_eq!(Client::once(gateway.address, &ping).status, 200);
    // A subscription at one server ends with that server.
    assert!(is_silent(&own));
    gateway.reload(&setup(&[("b", server)]), DONE);
    while own.event().is_some() {}
}

#[test]
fn a_configuration_with_a_mistake_changes_nothing() {
    let (peer, other) = (Peer::script([]), Peer::script([]));
    let gateway = setup(&[("a", peer.address)]).start();
    let bad = setup(&[("b", other.address)]).with("[server]\nprot = 1\n[endpoints.x]\nservers = [\"none\"]");
    gateway.reload(&bad, "configuration not reloaded");
    let log = gateway.log();
    for mistake in ["server.prot", "names a server that is not there"] {
        assert!(log.contains(mistake), "{log}");
    }
    let call = modern_call(AGGREGATED, "a__echo", "{}");
    assert_eq!(Client::once(gateway.address, &call).status, 200);
    assert!(tools(&gateway, AGGREGATED).iter().all(|tool| tool.starts_with("a__")));
    assert_eq!(other.connections(), 0);
    // What needs a restart is said, and the rest is done; `mcp.json` is read as well.
    let json = format!(r#"{{"mcpServers":{{"c":{{"url":"http://{}/mcp"}}}}}}"#, other.address);
    std::fs::write(gateway.path().join("mcp.json"), json).unwrap();
    let restart = setup(&[("a", peer.address), ("b", other.address)]).with("[auth]\nhash_permits = 3");
    gateway.reload(&restart, DONE);
    let log = gateway.log();
    assert!(log.contains("after a restart") && log.contains("auth.hash_permits"), "{log}");
    for tool in ["a__echo", "b__echo", "c__echo"] {
        assert_eq!(Client::once(gateway.address, &modern_call(AGGREGATED, tool, "{}")).status, 200);
    }
}

#[test]
fn connections_that_ended_the_sessions_of_a_removed_server_close_when_they_are_too_old() {
    let (peer, other) = (Peer::script([]), Peer::script([]));
    let settings = "era = \"legacy\"\nidle_age_max = \"1s\"";
    let gateway = setup(&[("b", other.address)]).server_with("a", peer.address, settings).start();
    open_session(&gateway, "/servers/a/mcp", None);
    gateway.reload(&setup(&[("b", other.address)]), DONE);
    peer.wait_until("the end of the session", |peer| ended_sessions(peer) == 1);
    let begun = Instant::now();
    let all = peer.all();
    let last = all.iter().find(|seen| seen.head.starts_with("DELETE ")).unwrap();
    let closed = peer.wait_closed(last.connection);
    // A second for the age, and one for the sweep.
    assert!(closed - begun < std::time::Duration::from_secs(5), "{:?}", closed - begun);
}
