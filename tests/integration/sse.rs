//! Servers of the transport of 2024-11-05, from a client's HTTP to their event streams and back: whose is
//! what, and what is left when something ends.

use crate::sse_server as server;

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gateway, PATIENCE, Peer, Request, Response, Setup, assert_unanswered, error, initialize, is_long,
    legacy, legacy_call, listed, message, modern, modern_call, notification, open_session, tool_text,
};
use metamcp_store::store::{Grants, Role};
use serde_json::{Value, json};
use server::{Server, Ways};

const PATH: &str = "/servers/a/mcp";

/// One server `a`, and these lines in its table.
fn setup(server: &Server, lines: &str) -> Setup {
    let url = format!("http://{}/sse?token=t", server.address);
    Setup::new().with(&format!(
        "[servers.a]\nurl = \"{url}\"\ntransport = \"sse\"\n{lines}\n[limits]\nkey_in_flight_max = 2000"
    ))
}

fn call(gateway: &Gateway, session: &str, tool: &str, arguments: &str) -> Response {
    Client::connect(gateway.address).ask(&legacy_call(PATH, session, "1", tool, arguments))
}

/// The event stream of a session.
fn listen(gateway: &Gateway, path: &str, session: &str) -> Client {
    let mut client = Client::connect(gateway.address);
    let request =
        Request::new("GET", path).with("Accept", "text/event-stream").with("Mcp-Session-Id", session);
    client.send(&request.bytes());
    assert_eq!(client.head().status, 200);
    client
}

#[test]
fn is_served_by_name_and_among_others() {
    let (server, peer) = (Server::start(), Peer::script([]));
    let gateway = setup(&server, "headers = { X-Key = \"k\" }").server("b", peer.address).start();
    let mut client = Client::connect(gateway.address);
    for (path, tool) in [(PATH, "echo"), ("/mcp", "a__echo")] {
        let session = open_session(&gateway, path, None);
        for id in ["0", "\"0\"", "9007199254740993", "\"\\u00e4\""] {
            let said = client.ask(&legacy_call(path, &session, id, tool, r#"{"text":"x"}"#));
            assert_eq!(tool_text(&said), "x", "{path}");
            assert!(said.text().contains(&format!("\"id\":{id}")), "{path} {id}: {}", said.text());
        }
        let names = listed(&message(&client.ask(&legacy(path, &session, "2", "tools/list", ""))));
        assert!(names.iter().any(|name| name == tool), "{path}: {names:?}");
        let gone = client.ask(&legacy(path, "no-such-session", "3", "ping", ""));
        assert_eq!(gone.status, 404, "{path}");
    }
    let session = open_session(&gateway, "/mcp", None);
    let other = legacy_call("/mcp", &session, "1", "b__echo", r#"{"text":"y"}"#);
    assert!(tool_text(&client.ask(&other)).contains('y'));
    let early =
        client.ask(&legacy_call(PATH, &open_session(&gateway, PATH, None), "1", "early", r#"{"text":"z"}"#));
    assert_eq!(tool_text(&early), "z");
    // Nothing of the Modern era, or a client of both would not fall back.
    let refused = client.ask(&modern(PATH, "server/discover", ""));
    assert_eq!((refused.status, error(&refused)), (400, -32000));
    let [get, post] = ["GET", "tools/call"].map(|method| server.head_of(method).to_ascii_lowercase());
    assert!(
        get.starts_with("get /sse?token=t http/1.1") && post.starts_with("post /message?sessionid="),
        "{get}{post}"
    );
    for head in [get, post] {
        assert!(head.contains("x-key: k\r\n") && !head.contains("mcp-session-id"), "{head}");
    }
}

/// One that opens no session and has no event stream is not asked for a stream by each client that comes.
#[test]
fn what_has_no_event_stream_is_remembered() {
    let server = Server::start();
    let url = format!("http://{}/mcp", server.address);
    let gateway = Setup::new().with(&format!("[servers.a]\nurl = \"{url}\"\nera = \"legacy\"")).start();
    let open = || Client::once(gateway.address, &initialize(PATH));
    assert!(open().json()["error"].is_object());
    let asked = server.gets();
    assert!((1..=2).contains(&asked), "the lists are looked for as well: {asked}");
    for _ in 0..5 {
        assert!(open().json()["error"].is_object());
    }
    assert_eq!(server.gets(), asked);
}

#[test]
fn progress_and_requests_of_the_server_come_with_the_call() {
    let (server, peer) = (Server::start(), Peer::script([]));
    let gateway = setup(&server, "").server("b", peer.address).start();
    for (path, prefix) in [(PATH, ""), ("/mcp", "a__")] {
        let session = open_session(&gateway, path, None);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"p","method":"tools/call","params":{{"_meta":{{"progressToken":"mine"}},"name":"{prefix}progress","arguments":{{"steps":3}}}}}}"#
        );
        let request = Request::post(path, body).with("Mcp-Session-Id", session.clone());
        let events = Client::connect(gateway.address).ask(&request).events();
        assert_eq!(events.len(), 4, "{path}: {events:?}");
        let has_token = |event: &Value| event["params"]["progressToken"] == "mine" || !prefix.is_empty();
        assert!(events[..3].iter().all(has_token), "{path}: {events:?}");
        assert_eq!(events[3]["id"], "p");
        let logged = Client::connect(gateway.address)
            .ask(&legacy_call(path, &session, "8", &format!("{prefix}log"), "{}"))
            .events();
        assert_eq!((logged.len(), &logged[0]["method"]), (2, &json!("notifications/message")), "{path}");
        // It asks during the call; the answer comes in a request of its own.
        let mut asking = Client::connect(gateway.address);
        asking.send(&legacy_call(path, &session, "7", &format!("{prefix}ask"), "{}").bytes());
        assert_eq!(asking.head().status, 200);
        let asked = asking.event().unwrap();
        assert_eq!(asked["method"], "roots/list", "{asked}");
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"roots":[]}}}}"#, asked["id"]);
        let request = Request::post(path, answer).with("Mcp-Session-Id", session);
        let taken = Client::connect(gateway.address).ask(&request);
        assert_eq!(taken.status, 202, "{}", taken.text());
        let answered = asking.event().unwrap();
        assert!(answered["result"]["content"][0]["text"].as_str().unwrap().contains("roots"), "{answered}");
    }
}

#[test]
fn what_is_said_outside_of_calls_comes_on_the_clients_stream() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let session = open_session(&gateway, PATH, None);
    // Before there is a stream: it waits.
    server.say(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    let mut stream = listen(&gateway, PATH, &session);
    assert_eq!(stream.event().unwrap()["method"], "notifications/tools/list_changed");
    server.say(
        &json!({"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {"maxTokens": 1}}),
    );
    assert_eq!(stream.event().unwrap()["id"], 5);
    let answer = r#"{"jsonrpc":"2.0","id":5,"error":{"code":-1,"message":"no"}}"#;
    let answered = Request::post(PATH, answer).with("Mcp-Session-Id", session.clone());
    assert_eq!(Client::connect(gateway.address).ask(&answered).status, 202);
    // A second answer to it goes nowhere, and a ping is answered here.
    assert_eq!(Client::connect(gateway.address).ask(&answered).status, 202);
    server.say(&json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
    let answers = |server: &Server, id: Value| {
        let all = server.seen_all();
        all.iter().filter(|message| message["method"].is_null() && message["id"] == id).count()
    };
    server.wait("the answer to the ping", |server| answers(server, json!("p")) >= 1);
    assert_eq!(answers(&server, json!(5)), 1);
    let told = notification(PATH, &session, "notifications/roots/list_changed", "");
    assert_eq!(Client::connect(gateway.address).ask(&told).status, 202);
    server.wait("the notification", |server| server.seen("notifications/roots/list_changed").len() == 1);
}

#[test]
fn odd_answers_are_for_nobody() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let session = open_session(&gateway, PATH, None);
    for _ in 0..3 {
        assert_eq!(tool_text(&call(&gateway, &session, "twice", "{}")), "first");
        assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x");
    }
}

#[test]
fn a_call_that_is_given_up_is_cancelled_at_the_server() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let session = open_session(&gateway, PATH, None);
    let cancelled = |server: &Server| server.seen("notifications/cancelled");
    let hanging = |server: &Server| -> Vec<Value> {
        let calls = server.seen("tools/call").into_iter();
        calls.map(|(_, call)| call).filter(|call| call["params"]["name"] == "hang").collect()
    };
    // By the client, as MCP has it.
    let mut waiting = Client::connect(gateway.address);
    waiting.send(&legacy_call(PATH, &session, "\"w\"", "hang", "{}").bytes());
    server.wait("the call", |server| hanging(server).len() == 1);
    let params = r#""requestId":"w","reason":"bored""#;
    let told = notification(PATH, &session, "notifications/cancelled", params);
    assert_eq!(Client::connect(gateway.address).ask(&told).status, 202);
    assert_unanswered(&waiting.response());
    server.wait("the cancellation", |server| cancelled(server).len() == 1);
    assert_eq!(cancelled(&server)[0].1["params"]["reason"], "bored");
    assert_eq!(cancelled(&server)[0].1["params"]["requestId"], hanging(&server)[0]["id"]);
    // By going away.
    let mut waiting = Client::connect(gateway.address);
    waiting.send(&legacy_call(PATH, &session, "\"w\"", "hang", "{}").bytes());
    server.wait("the call", |server| hanging(server).len() == 2);
    drop(waiting);
    server.wait("the cancellation", |server| cancelled(server).len() == 2);
    assert_eq!(cancelled(&server)[1].1["params"]["requestId"], hanging(&server)[1]["id"]);
    // By ending the session, which closes its stream.
    let closed = server.closed();
    let left = Client::connect(gateway.address)
        .ask(&Request::new("DELETE", PATH).with("Mcp-Session-Id", session.clone()));
    assert!(left.status < 300, "{}", left.status);
    server.wait("the end of the stream", |server| server.closed() > closed);
}

#[test]
fn a_stream_that_breaks_costs_its_calls_one_error_each_and_no_session() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let (session, other) = (open_session(&gateway, PATH, None), open_session(&gateway, PATH, None));
    let mut opened = 0;
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..5)
            .map(|id| {
                let request = legacy_call(PATH, &session, &format!("\"w{id}\""), "hang", "{}");
                let mut client = Client::connect(gateway.address);
                client.send(&request.bytes());
                scope.spawn(move || client.response())
            })
            .collect();
        server.wait("all calls", |server| server.seen("tools/call").len() == 5);
        opened = server.opened();
        let broken = call(&gateway, &session, "break", "{}");
        for answer in waiting.into_iter().map(|waiting| waiting.join().unwrap()).chain([broken]) {
            let said = message(&answer);
            let told = said["error"]["message"].as_str();
            assert!(told.is_some_and(|text| text.contains("may have run")), "{said}");
        }
    });
    // The same sessions: one on the stream that it had, one on another. The gateway's own may be opened anew meanwhile.
    let is_opened_before = |session: &str| {
        assert_eq!(tool_text(&call(&gateway, session, "echo", r#"{"text":"x"}"#)), "x");
        let calls = server.seen("tools/call");
        calls.last().is_some_and(|(stream, _)| *stream <= opened)
    };
    assert!(is_opened_before(&other) && !is_opened_before(&session));
}

#[test]
fn a_server_that_was_started_anew_costs_nothing() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let session = open_session(&gateway, PATH, None);
    let ask = |n: usize| {
        let said = call(&gateway, &session, "echo", &format!(r#"{{"text":"{n}"}}"#));
        assert_eq!(tool_text(&said), n.to_string());
    };
    ask(0);
    for n in 1..20 {
        server.restart();
        // Of a call that is sent before the gateway has seen the end of the stream, nobody knows whether it ran.
        let said = call(&gateway, &session, "echo", r#"{"text":"early"}"#);
        assert!(said.text().contains("early") || said.text().contains("may have run"), "{}", said.text());
        ask(n);
    }
    // It knows the session no more, and does not say so on the stream.
    server.forget();
    ask(20);
    for n in (0..=20).map(|n| n.to_string()) {
        let is_it = |call: &Value| call["params"]["arguments"]["text"] == n;
        let ran = server.seen("tools/call").into_iter().filter(|(_, call)| is_it(call));
        assert_eq!(ran.count(), 1, "{n}");
    }
}

/// A client that leaves while the session for its call is opened leaves no stream behind.
#[test]
fn a_handshake_that_nobody_waits_for_ends_its_session() {
    let server = Server::start();
    let gateway = setup(&server, "era = \"legacy\"").start();
    server.change(|ways| ways.holds_initialized = true);
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call(PATH, "echo", "{}").bytes());
    server.wait("the handshake", |server| !server.seen("notifications/initialized").is_empty());
    drop(client);
    server.wait("the end of the session", |server| server.closed() == 1);
    server.change(|ways| ways.holds_initialized = false);
    assert!(server.seen("tools/call").is_empty());
}

#[test]
fn a_refusal_fails_its_call_only() {
    let check = |refusal: &'static str, code: i64, said: &str| {
        let server = Server::with(Ways { refusal, ..Ways::default() });
        let gateway = setup(&server, "").start();
        let session = open_session(&gateway, PATH, None);
        let refused = call(&gateway, &session, "refused", "{}");
        assert!(refused.text().contains(said) && error(&refused) == code, "{refusal}: {}", refused.text());
        assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x", "{refusal}");
        let calls = server.seen("tools/call");
        assert!(calls.iter().all(|(at, _)| *at == calls[0].0), "{refusal}: one session");
        assert_eq!(calls.len(), 2, "{refusal}: no call is repeated");
    };
    check("500 Internal Server Error", -32603, "HTTP 500");
    // The server knows the session: it answers a `ping`.
    check("404 Not Found", -32600, "not so");
    check("503 Service Unavailable", -32603, "overloaded");
    check("307 Temporary Redirect", -32603, "redirects");
    check("401 Unauthorized", -32603, "credentials");
    check("400 Bad Request", -32600, "not so");
    check("413 Content Too Large", -32600, "not so");
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let session = open_session(&gateway, PATH, None);
    let dropped = call(&gateway, &session, "drop", "{}");
    assert!(dropped.text().contains("may have run"), "{}", dropped.text());
    assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x");
}

#[test]
fn a_server_that_says_nothing_usable_is_told_of() {
    let check = |ways: Ways, said: &str| {
        let server = Server::with(ways.clone());
        let gateway = setup(&server, "connect_timeout = \"250ms\"").start();
        let begun = Instant::now();
        let refused = Client::connect(gateway.address).ask(&initialize(PATH));
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        let told = refused.text();
        assert!(told.contains(said) && !told.contains("evil") && error(&refused) == -32603, "{said}: {told}");
        assert!(server.seen("initialize").is_empty(), "{said}: nothing was sent");
    };
    let first = |first: &str| Ways { first: first.into(), ..Ways::default() };
    check(first(""), "did not send the event `endpoint` in time");
    check(
        first(": hello\n\nevent: message\ndata: /message\n\n"),
        "did not send the event `endpoint` in time",
    );
    check(first("event: endpoint\ndata: /message"), "did not send the event `endpoint` in time");
    check(first(&": x\n\n".repeat(100_000)), "did not send the event `endpoint` in time");
    check(first("event: endpoint\ndata: http://evil.example/message\n\n"), "another origin");
    check(first("event: endpoint\ndata: //evil.example/message\n\n"), "another origin");
    check(first("event: endpoint\ndata: /evil\ndata: /two\n\n"), "did not send the event `endpoint` in time");
    check(Ways { get: Some("401 Unauthorized"), ..Ways::default() }, "HTTP 401");
    check(Ways { get: Some("302 Found"), ..Ways::default() }, "HTTP 302");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n";
    check(Ways { head, ..Ways::default() }, "did not send the event `endpoint` in time");
}

#[test]
fn a_server_that_fails_is_not_asked_again_and_again() {
    let server = Server::with(Ways { get: Some("503 Service Unavailable"), ..Ways::default() });
    let gateway = setup(&server, "").start();
    let mut client = Client::connect(gateway.address);
    let told = |gateway: &Gateway| gateway.log().matches("cannot open a session").count();
    let begun = Instant::now();
    while told(&gateway) < 4 && begun.elapsed() < PATIENCE {
        client.ask(&initialize(PATH));
    }
    let before = told(&gateway);
    for _ in 0..200 {
        assert_eq!(error(&client.ask(&initialize(PATH))), -32603);
    }
    assert!(told(&gateway) <= before + 2, "{before} and then {} tries", told(&gateway));
    server.change(|ways| ways.get = None);
    let begun = Instant::now();
    while client.ask(&initialize(PATH)).header("mcp-session-id").is_none() {
        assert!(begun.elapsed() < 2 * PATIENCE, "it is noticed that it works again");
        thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn a_client_that_is_not_welcome_keeps_no_other_out() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let mut unwelcome = initialize(PATH);
    unwelcome.body = String::from_utf8(unwelcome.body).unwrap().replace("\"test\"", "\"unwelcome\"").into();
    let mut client = Client::connect(gateway.address);
    let closed = server.closed();
    for _ in 0..20 {
        let refused = client.ask(&unwelcome);
        assert!(refused.text().contains("not you"), "{}", refused.text());
    }
    let session = open_session(&gateway, PATH, None);
    assert_eq!(tool_text(&call(&gateway, &session, "echo", r#"{"text":"x"}"#)), "x");
    server.wait("the end of their streams", |server| server.closed() >= closed + 20);
    // Who goes away while it is let in leaves nothing behind.
    let first = String::new();
    server.change(|ways| ways.first = first);
    let opened = server.opened();
    for n in 1..=5 {
        let mut client = Client::connect(gateway.address);
        client.send(&initialize(PATH).bytes());
        server.wait("its stream", |server| server.opened() >= opened + n);
        drop(client);
    }
    server.wait("the end of their streams", |server| server.closed() >= closed + 25);
}

#[test]
fn is_found_out_where_nobody_said() {
    let server = Server::start();
    let url = format!("http://{}/sse", server.address);
    let json =
        format!(r#"{{"mcpServers": {{"a": {{"url": "{url}"}}, "c": {{"url": "{url}", "type": "sse"}}}}}}"#);
    let gateway = Setup::new().file("mcp.json", &json).start();
    for path in [PATH, "/servers/c/mcp"] {
        let session = open_session(&gateway, path, None);
        let said = Client::connect(gateway.address).ask(&legacy_call(
            path,
            &session,
            "1",
            "echo",
            r#"{"text":"x"}"#,
        ));
        assert_eq!(tool_text(&said), "x", "{path}");
    }
    assert_eq!(gateway.log().matches("detected transport HTTP+SSE (2024-11-05)").count(), 1);
    // Said to be the other, it is not.
    let toml = format!("[servers.a]\nurl = \"{url}\"\ntransport = \"http\"");
    let refused = Client::connect(Setup::new().with(&toml).start().address).ask(&initialize(PATH));
    assert_eq!(error(&refused), -32603);
}

#[test]
fn is_defined_over_http() {
    let server = Server::start();
    let gateway = Setup::new().keys().start();
    let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
    let bearer = format!("Bearer {admin}");
    let ask = |method: &str, path: &str, body: &Value| {
        let request =
            Request::new(method, path).with("Content-Type", "application/json").body(body.to_string());
        Client::connect(gateway.address).ask(&request.with("Authorization", bearer.clone()))
    };
    let call = |session: &str| {
        let request = legacy_call(PATH, session, "1", "echo", r#"{"text":"x"}"#);
        Client::connect(gateway.address).ask(&request.with("Authorization", bearer.clone()))
    };
    let url = format!("http://{}/sse?token=hunter2", server.address);
    let made = ask("POST", "/api/v1/mcp/servers", &json!({"name": "a", "kind": "sse", "url": url}));
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(!made.text().contains("hunter2"), "{}", made.text());
    let session = open_session(&gateway, PATH, Some(&admin));
    assert_eq!(tool_text(&call(&session)), "x");
    // Changed, it is another server, and the stored URL is what it was. Where it may not be, it is not
    // connected to.
    let named = url.replace("127.0.0.1", "localhost");
    let changed = ask("PATCH", "/api/v1/mcp/servers/a", &json!({"alias": "b"}));
    assert_eq!((changed.status, &changed.json()["kind"]), (200, &json!("sse")), "{}", changed.text());
    assert_eq!(tool_text(&call(&session)), "x");
    let refused = ask("PATCH", "/api/v1/mcp/servers/a", &json!({"url": named, "allow_private": false}));
    assert_eq!(refused.status, 422, "{}", refused.text());
}

/// Clients, and the calls of each, in the usual form and in the long one.
const SHARED: [(usize, usize); 2] = [(100, 100), (1000, 1000)];

/// Each on a session of its own, which is an event stream of its own; and all on one, as clients of the Modern era,
/// which know of no session, share that of their key.
#[test]
fn many_clients_see_their_own_answers_only() {
    for is_one in [false, true] {
        let server = Server::start();
        let gateway = setup(&server, "in_flight_max = 1000\nidle_connections_max = 1000").start();
        let (clients, calls) = SHARED[usize::from(is_long() && is_one)];
        let run = |number: usize| {
            let session = (!is_one).then(|| open_session(&gateway, PATH, None));
            let mut client = Client::connect(gateway.address);
            for id in 0..calls {
                // All begin at 0, and answers overtake each other.
                let canary = format!("canary-{number}-{id}-{}", "x".repeat((number * 7 + id) % 300));
                let arguments = format!(r#"{{"text":"{canary}","ms":{}}}"#, (number * 31 + id * 17) % 5);
                let said = client.ask(&match &session {
                    Some(session) => legacy_call(PATH, session, &id.to_string(), "canary", &arguments),
                    None => modern_call_as(id, "canary", &arguments),
                });
                assert_eq!((&message(&said)["id"], &*tool_text(&said)), (&json!(id), &*canary));
            }
        };
        thread::scope(|scope| {
            let running: Vec<_> = (0..clients).map(|number| scope.spawn(move || run(number))).collect();
            for client in running {
                client.join().unwrap();
            }
        });
        let (canaries, sessions) = server.canaries();
        assert_eq!(sessions.len(), if is_one { 1 } else { clients });
        assert!(canaries.values().all(|times| *times == 1), "each was called once");
        assert_eq!(canaries.len(), clients * calls);
        let streams = sessions.len();
        println!(
            "{} calls by {clients} clients on {streams} event streams: no foreign answer",
            clients * calls
        );
    }
}

/// A Modern call with this id.
fn modern_call_as(id: usize, tool: &str, arguments: &str) -> Request {
    let mut request = modern_call(PATH, tool, arguments);
    let body = String::from_utf8(request.body).unwrap();
    request.body = body.replacen(r#""id":1,"#, &format!(r#""id":{id},"#), 1).into();
    request
}

#[test]
fn a_server_that_is_started_anew_all_the_time_runs_nothing_twice() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let run = |number: usize| {
        let mut session = open_patiently(&gateway);
        let (mut client, mut answered) = (Client::connect(gateway.address), 0);
        for id in 0..50 {
            let canary = format!("{number}-{id}");
            let arguments = format!(r#"{{"text":"{canary}","ms":{}}}"#, id % 4);
            let said = client.ask(&legacy_call(PATH, &session, &id.to_string(), "echo", &arguments));
            if said.status == 404 {
                // It was lost twice in a row; clients open another then.
                session = open_patiently(&gateway);
                continue;
            }
            let said = message(&said);
            assert_eq!(said["id"], id, "{said}");
            if let Some(told) = said["error"]["message"].as_str() {
                // The last of these: it was lost again as soon as it was opened again.
                let known = ["may have run", "did not run", "did not open a session", "HTTP 404"];
                assert!(known.iter().any(|known| told.contains(known)), "{told}");
            } else {
                assert_eq!(said["result"]["content"][0]["text"], canary);
                answered += 1;
            }
        }
        answered
    };
    let answered: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|number| scope.spawn(move || run(number))).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            thread::park_timeout(Duration::from_millis(100));
            server.restart();
        }
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    println!("{answered} of 1000 calls answered");
    assert!(answered >= 100, "{answered}");
    let calls = server.seen("tools/call");
    let mut texts: Vec<_> =
        calls.iter().map(|(_, call)| call["params"]["arguments"]["text"].to_string()).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), calls.len(), "each at most once");
    assert!(!gateway.log().contains("panicked"));
}

fn open_patiently(gateway: &Gateway) -> String {
    let begun = Instant::now();
    loop {
        let opened = Client::connect(gateway.address).ask(&initialize(PATH));
        if let Some(session) = opened.header("mcp-session-id") {
            return session.to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{}", opened.text());
        thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn answers_of_one_session_overtake_each_other() {
    let server = Server::start();
    let gateway = setup(&server, "").start();
    let session = open_session(&gateway, PATH, None);
    thread::scope(|scope| {
        for number in 0..32 {
            let (gateway, session) = (&gateway, &session);
            scope.spawn(move || {
                let mut client = Client::connect(gateway.address);
                for turn in 0..20 {
                    let canary = format!("{number}-{turn}");
                    let arguments = format!(r#"{{"text":"{canary}","ms":{}}}"#, (number * 13 + turn * 7) % 5);
                    let id = format!("\"{number}\"");
                    let said = client.ask(&legacy_call(PATH, session, &id, "echo", &arguments));
                    assert_eq!(tool_text(&said), canary);
                }
            });
        }
    });
}
