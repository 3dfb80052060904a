//! Clients that start programs: `metamcp stdio`, the gateway over pipes, and `metamcp connect`, the way to an
//! endpoint elsewhere. What the client sees, what the endpoint sees, and what is left when something ends.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Desk, Gate, PATIENCE, Peer, Setup, Step, answer, chunk, events, modern_params, result, text, until,
};
use serde_json::{Value, json};

/// One server `a`: a program, with its process for each session, so that it may ask its client.
fn fixture() -> Setup {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    Setup::new().with(&format!("[servers.a]\ncommand = {program:?}\nsharing = \"session\""))
}

/// Both programs in front of the same.
fn both(check: impl Fn(&str, Desk)) {
    check("stdio", Desk::stdio(&fixture(), &[]));
    let gateway = fixture().keys().start();
    let key = gateway.key.clone().unwrap();
    check(
        "connect",
        Desk::connect(&format!("http://{}/mcp", gateway.address), &[], &[("METAMCP_KEY", &key)]),
    );
}

/// `metamcp connect` to a scripted server.
fn to(peer: &Peer, args: &[&str]) -> Desk {
    Desk::connect(&format!("http://{}/mcp", peer.address), args, &[])
}

/// A call of a tool, as a message.
fn call(id: &str, tool: &str, arguments: &Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#)
}

fn modern_call(id: &str, tool: &str, arguments: &Value) -> String {
    let params = modern_params(json!({"name": tool, "arguments": arguments}));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#)
}

fn cancel(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
}

/// The error of an answer: its code and text.
#[track_caller]
fn error(answer: &Value) -> (i64, &str) {
    let error = &answer["error"];
    (
        error["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}")),
        error["message"].as_str().unwrap(),
    )
}

#[test]
fn a_legacy_client_has_all_of_a_session() {
    both(|program, mut desk| {
        let opened = desk.open(&json!({"roots": {}}));
        assert_eq!(opened["result"]["protocolVersion"], "2025-11-25", "{program}");
        let listed = desk.ask(&json!("list"), "tools/list", &json!({}));
        assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 12, "{program}");
        // Ids as they were written, and several under way.
        for id in ["0", "\"a\\u0062\"", "9007199254740993"] {
            desk.say(&call(id, "a__echo", &json!({"text": id, "ms": 50})));
        }
        for id in ["0", "\"a\\u0062\"", "9007199254740993"] {
            assert_eq!(text(&desk.answer(&serde_json::from_str(id).unwrap())), id, "{program}");
        }
        // The server asks, and is answered.
        desk.say(&call("5", "a__ask", &json!({})));
        let asked = desk.told("roots/list");
        desk.say(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}}).to_string());
        let answered = desk.answer(&json!(5));
        assert!(text(&answered).contains("\"roots\":[]"), "{program}: {answered}");
        let progress =
            json!({"name": "a__progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "p"}});
        assert_eq!(text(&desk.ask(&json!(6), "tools/call", &progress)), "done", "{program}");
        for step in 1..=2 {
            let told = desk.told("notifications/progress");
            assert_eq!(
                (&told["params"]["progressToken"], &told["params"]["progress"]),
                (&json!("p"), &json!(step))
            );
        }
        // Cancelled, it is not answered.
        desk.say(&call("7", "a__hang", &json!({})));
        desk.say(&cancel("7"));
        let echo = json!({"name": "a__echo", "arguments": {"text": "again"}});
        assert_eq!(text(&desk.ask(&json!(8), "tools/call", &echo)), "again", "{program}");
        let (status, rest) = desk.end();
        assert!(status.success() && rest.is_empty(), "{program}: {status} {rest:?}");
        // Nothing else was ever said, and no key.
        assert!(!desk.log().contains("mcp_"), "{program}: {}", desk.log());
    });
}

#[test]
fn a_modern_client_needs_no_session() {
    both(|program, mut desk| {
        let found = desk.ask(&json!("d"), "server/discover", &modern_params(json!({})));
        assert_eq!(found["result"]["resultType"], "complete", "{program}: {found}");
        let listed = desk.ask(&json!(1), "tools/list", &modern_params(json!({})));
        assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 12, "{program}");
        desk.say(&modern_call("2", "a__hang", &json!({})));
        desk.say(&modern_call("3", "a__echo", &json!({"text": "while that hangs"})));
        assert_eq!(text(&desk.answer(&json!(3))), "while that hangs", "{program}");
        desk.say(&cancel("2"));
        let params = modern_params(json!({"notifications": {"toolsListChanged": true}}));
        let listen = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params});
        desk.say(&listen.to_string());
        let acknowledged = desk.told("notifications/subscriptions/acknowledged");
        assert_eq!(
            acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l",
            "{program}: {acknowledged}"
        );
        let refused = desk.ask(&json!(4), "vendor/unknown", &modern_params(json!({})));
        assert_eq!(error(&refused).0, -32601, "{program}");
        // What listens and what was cancelled does not hold up the end.
        let began = Instant::now();
        let (status, rest) = desk.end();
        assert!(status.success() && rest.is_empty(), "{program}: {status} {rest:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{program}: {:?}", began.elapsed());
    });
}

#[test]
fn a_handshake_and_calls_in_one_write_keep_their_order() {
    let peer = Peer::script([]);
    let mut desk = to(&peer, &[]);
    let opening = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"d","version":"1"}}}"#;
    let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let all = format!("{opening}\r\n\n{told}\n{}", call("1", "echo", &json!({"n": 1})));
    // A byte at a time, and the last line without its end.
    for byte in all.as_bytes() {
        desk.write(&[*byte]);
    }
    let (status, answers) = desk.end();
    assert!(status.success());
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!(0), &json!(1)));
    let seen = peer.all();
    let posted: Vec<_> = seen.iter().filter(|seen| seen.head.starts_with("POST ")).collect();
    assert_eq!(posted.len(), 3);
    assert!(posted[0].is("initialize") && posted[0].header("mcp-session-id").is_none());
    assert!(posted[1].is("notifications/initialized") && posted[2].is("tools/call"));
    for within in &posted[1..] {
        assert_eq!(within.header("mcp-session-id"), Some("peer-0"));
        assert_eq!(within.header("mcp-protocol-version"), Some("2025-11-25"));
    }
    assert_eq!(posted[2].text(), call("1", "echo", &json!({"n": 1})), "as the client wrote it");
    let ended: Vec<_> = seen.iter().filter(|seen| seen.head.starts_with("DELETE ")).collect();
    assert_eq!(ended.len(), 1, "the session is over");
    assert_eq!(ended[0].header("mcp-session-id"), Some("peer-0"));
}

#[test]
fn hostile_lines_are_passed_over_and_it_is_said() {
    let peer = Peer::script([]);
    let mut desk = to(&peer, &[]);
    let long = vec![b'x'; (16 << 20) + 10];
    let request = [br#"{"jsonrpc":"2.0","id":72,"method":"tools/call","params":{"x":""#, &long[..]].concat();
    let answer = [br#"{"jsonrpc":"2.0","id":73,"result":{"x":""#, &long[..]].concat();
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":74,"method":"tools/call","params":{{"arguments":{{"x":{}{}}}}}}}"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    let lines: [(&[u8], Option<i64>); 12] = [
        (b"not json", None),
        (b"\xff\xfe{}", None),
        (b"{\"jsonrpc\":\"2.0\"", None),
        (b"[]", None),
        (b"7", None),
        (b"\0\0\0", None),
        (&long, None),
        (br#"{"jsonrpc":"1.0","id":70,"method":"ping"}"#, Some(-32600)),
        (br#"{"jsonrpc":"2.0","id":71,"method":"tools/call","params":[]}"#, Some(-32600)),
        (&request, Some(-32600)),
        (&answer, None),
        (deep.as_bytes(), Some(-32600)),
    ];
    let mut codes = Vec::new();
    for (number, (line, expected)) in lines.into_iter().enumerate() {
        desk.write(line);
        desk.write(b"\n");
        // It goes on behind each of them.
        desk.say(&modern_call(&number.to_string(), "echo", &json!({})));
        text(&desk.answer(&json!(number)));
        codes.extend(expected);
    }
    for (id, code) in [70, 71, 72, 74].into_iter().zip(codes) {
        assert_eq!(error(&desk.answer(&json!(id))).0, code, "{id}");
    }
    let (status, rest) = desk.end();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
    let log = desk.log();
    assert_eq!(log.matches("is not a JSON-RPC message").count(), 9, "{log}");
    assert_eq!(log.matches("is too long").count(), 3, "{log}");
    assert!(!log.contains("xxxx"), "what was said is not repeated");
}

#[test]
fn batches_are_taken_apart() {
    let peer = Peer::script([]);
    let mut desk = to(&peer, &[]);
    desk.open(&json!({}));
    desk.say(&format!("[{}, {}]", call("1", "echo", &json!({})), call("2", "echo", &json!({}))));
    assert!(desk.answer(&json!(1))["result"].is_object() && desk.answer(&json!(2))["result"].is_object());
}

/// What a call is answered when the endpoint does that.
#[track_caller]
fn check_trouble(steps: Vec<Step>, code: i64, expected: &str) {
    let peer = Peer::script([steps]);
    let mut desk = to(&peer, &["--timeout", "1"]);
    desk.say(&modern_call("\"t\"", "echo", &json!({})));
    let answered = desk.answer(&json!("t"));
    let (found, text) = error(&answered);
    assert!(found == code && text.contains(expected), "not {expected:?}: {answered}");
    assert_eq!(peer.calls().len(), 1, "what may have run is not repeated");
    desk.say(&modern_call("2", "echo", &json!({})));
    assert!(desk.answer(&json!(2))["result"].is_object(), "and it goes on");
}

#[test]
fn trouble_on_the_way_is_an_error_that_says_what_to_do() {
    let status = |status: &str, body: &str| vec![Step::Send(answer(status, body))];
    let own = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"a header is missing"}}"#;
    check_trouble(status("401 Unauthorized", own), -32603, "check the key");
    check_trouble(status("400 Bad Request", own), -32020, "a header is missing");
    check_trouble(status("404 Not Found", "<html>"), -32603, "usually ends in /mcp");
    check_trouble(status("307 Temporary Redirect", ""), -32603, "write its new URL");
    check_trouble(status("503 Service Unavailable", ""), -32603, "try again later");
    check_trouble(status("500 Internal Server Error", "oops"), -32603, "HTTP 500");
    check_trouble(status("200 OK", "<html>"), -32603, "not an MCP message");
    check_trouble(status("200 OK", &result("\"other\"", "x")), -32603, "not an MCP message");
    check_trouble(status("202 Accepted", ""), -32603, "not an MCP message");
    check_trouble(vec![Step::Hold], -32603, "--timeout");
    check_trouble(vec![Step::Reset], -32603, "may have run");
    check_trouble(vec![Step::Send(events()), Step::Close], -32603, "may have run");
    check_trouble(
        vec![Step::Send(events()), Step::Send(chunk("data: x\n\n")), Step::Hold],
        -32603,
        "--timeout",
    );
    let packed = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}";
    check_trouble(vec![Step::Send(packed.to_vec())], -32603, "not an MCP message");
    let flood = vec![Step::Send(events()), Step::Flood(chunk(&"x".repeat(64 << 10)), 1 << 10)];
    check_trouble(flood, -32603, "larger than 32 MiB");
}

#[test]
fn an_endpoint_that_is_not_there_is_told_at_once() {
    // Bound and not listened to: nobody else gets the port.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = taken.local_addr().unwrap().as_socket().unwrap().port();
    let mut desk = Desk::connect(&format!("http://127.0.0.1:{port}/mcp"), &[], &[]);
    let began = Instant::now();
    desk.say(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"d","version":"1"}}}"#);
    let answered = desk.answer(&json!(0));
    assert_eq!(error(&answered).0, -32000);
    assert!(error(&answered).1.contains("cannot be reached"), "{answered}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(desk.end().0.success());
}

#[test]
fn a_stream_is_unwrapped_into_lines() {
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let other = result("99", "not ours");
    let spread = "data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\r\ndata: \"result\":{\"a\":\"b\\nc\"}}\n\n";
    let said = format!(
        ": hello\n\nevent: ping\ndata: {{}}\n\ndata: nonsense\n\ndata: {progress}\n\ndata: {other}\n\n{spread}"
    );
    let mut steps = vec![Step::Send(events())];
    // However the chunks are cut.
    steps.extend(said.as_bytes().chunks(7).map(|part| Step::Send(chunk(std::str::from_utf8(part).unwrap()))));
    let peer = Peer::script([steps]);
    let mut desk = to(&peer, &[]);
    desk.say(&modern_call("1", "echo", &json!({})));
    assert_eq!(desk.heard()["method"], "notifications/progress");
    assert_eq!(desk.heard()["result"]["a"], "b\nc");
    let (status, rest) = desk.end();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

#[test]
fn a_lost_session_is_opened_again_with_the_clients_own_words() {
    for status in ["404 Not Found", "400 Bad Request"] {
        let peer = Peer::script([]);
        let mut desk = to(&peer, &[]);
        desk.open(&json!({"sampling": {}}));
        assert!(
            desk.ask(&json!(1), "tools/call", &json!({"name": "echo", "arguments": {}}))["result"]
                .is_object()
        );
        peer.lose_sessions(status);
        // Several at once find it lost; one opens another.
        for id in 2..6 {
            desk.say(&call(&id.to_string(), "echo", &json!({"n": id})));
        }
        for id in 2..6 {
            assert!(desk.answer(&json!(id))["result"].is_object(), "{status}");
        }
        let all = peer.all();
        let opened: Vec<_> = all.iter().filter(|seen| seen.is("initialize")).collect();
        assert_eq!(opened.len(), 2, "{status}");
        assert_eq!(opened[0].text(), opened[1].text(), "{status}");
        assert_eq!(peer.count("notifications/initialized"), 2, "{status}");
        let ran: Vec<_> =
            peer.calls().into_iter().filter(|seen| seen.header("mcp-session-id") == Some("peer-1")).collect();
        assert_eq!(ran.len(), 4, "{status}: each once");
        let (ended, rest) = desk.end();
        assert!(ended.success() && rest.is_empty(), "{status}: {rest:?}");
    }
}

#[test]
fn the_session_stream_is_heard_and_taken_up_again() {
    let told = |n: u32| {
        chunk(&format!(
            "id: e{n}\nretry: 1\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{{\"n\":{n}}}}}\n\n"
        ))
    };
    let peer = Peer::script([]);
    peer.push_streams([
        vec![Step::Send(events()), Step::Send(told(1)), Step::Close],
        vec![Step::Send(answer("503 Service Unavailable", ""))],
        vec![Step::Send(events()), Step::Send(told(2)), Step::Hold],
    ]);
    let mut desk = to(&peer, &[]);
    desk.open(&json!({}));
    for n in 1..=2 {
        assert_eq!(desk.told("notifications/tools/list_changed")["params"]["n"], n);
    }
    let all = peer.all();
    let streams: Vec<_> = all.iter().filter(|seen| seen.head.starts_with("GET ")).collect();
    assert_eq!(streams.len(), 3);
    let last: Vec<_> = streams.iter().map(|seen| seen.header("last-event-id")).collect();
    assert_eq!(last, [None, Some("e1"), Some("e1")]);
    for stream in streams {
        assert_eq!(stream.header("accept"), Some("text/event-stream"));
        assert_eq!(stream.header("mcp-session-id"), Some("peer-0"));
    }
    let announced = all.iter().position(|seen| seen.is("notifications/initialized")).unwrap();
    assert!(
        all[..announced].iter().all(|seen| seen.head.starts_with("POST ")),
        "not before the session is open"
    );
    assert!(desk.end().0.success());
}

#[test]
fn an_answer_that_breaks_off_is_taken_up_where_the_endpoint_says_it_can_be() {
    let primed =
        vec![Step::Send(events()), Step::Send(chunk("id: p1\nretry: 1\ndata:\n\n")), Step::Send(chunk(""))];
    let peer = Peer::script([primed]);
    // The first is that of the session itself.
    peer.push_streams([vec![Step::Send(answer("405 Method Not Allowed", ""))]]);
    let mut desk = to(&peer, &[]);
    desk.open(&json!({}));
    peer.wait_until("the session's stream", |peer| {
        peer.all().iter().any(|seen| seen.head.starts_with("GET "))
    });
    let rest = format!("data: {}\n\ndata: {}\n\n", result("77", "another's"), result("1", "resumed"));
    peer.push_streams([vec![Step::Send(events()), Step::Send(chunk(&rest)), Step::Hold]]);
    let answered = desk.ask(&json!(1), "tools/call", &json!({"name": "echo", "arguments": {}}));
    assert_eq!(text(&answered), "resumed");
    let last = peer.all().iter().rev().find_map(|seen| seen.header("last-event-id").map(str::to_owned));
    assert_eq!(last.as_deref(), Some("p1"));
    assert_eq!(peer.calls().len(), 1, "asked once");
}

#[test]
fn modern_heads_repeat_what_the_endpoint_asks_for() {
    let peer = Peer::script([]);
    let schema =
        json!({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}});
    let list = json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "tools": [{"name": "t", "inputSchema": schema}]}});
    peer.list_tools(&list.to_string());
    let mut desk = to(&peer, &["--header", "X-Team=${TEAM:-blue}"]);
    desk.ask(&json!(1), "tools/list", &modern_params(json!({})));
    desk.say(&modern_call("2", "t", &json!({"region": "ä"})));
    text(&desk.answer(&json!(2)));
    let seen = &peer.calls()[0];
    let headers =
        ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-region", "x-team", "mcp-session-id"];
    assert_eq!(
        headers.map(|name| seen.header(name)),
        [Some("2026-07-28"), Some("tools/call"), Some("t"), Some("=?base64?w6Q=?="), Some("blue"), None]
    );
}

#[test]
fn a_call_whose_head_lacks_something_is_sent_again_when_that_was_learnt() {
    let mismatch =
        r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32020,"message":"Mcp-Param-Region is missing"}}"#;
    let refused = || vec![Step::Send(answer("400 Bad Request", mismatch))];
    let peer = Peer::script([refused()]);
    let list = |schema: Value| {
        let tools = json!([{"name": "t", "inputSchema": schema}]);
        json!({"jsonrpc": "2.0", "id": "metamcp-tools", "result": {"resultType": "complete", "tools": tools}})
            .to_string()
    };
    let region =
        json!({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}});
    peer.list_tools(&list(region));
    let mut desk = to(&peer, &[]);
    desk.say(&modern_call("2", "t", &json!({"region": "eu"})));
    text(&desk.answer(&json!(2)));
    let regions: Vec<_> =
        peer.calls().iter().map(|seen| seen.header("mcp-param-region").map(str::to_owned)).collect();
    assert_eq!(regions, [None, Some("eu".to_owned())]);
    // Nothing new to learn: then the client has the error.
    peer.push([refused()]);
    desk.say(&modern_call("2", "t", &json!({})));
    assert_eq!(error(&desk.answer(&json!(2))).0, -32020);
    assert_eq!((peer.calls().len(), peer.count("tools/list")), (3, 2));
    assert!(desk.end().1.is_empty());
}

#[test]
fn a_modern_cancellation_closes_the_request() {
    let peer = Peer::script([vec![Step::Hold], vec![Step::Send(events()), Step::Hold]]);
    let mut desk = to(&peer, &[]);
    for id in ["1", "\"two\""] {
        desk.say(&modern_call(id, "echo", &json!({})));
        peer.wait_calls(if id == "1" { 1 } else { 2 });
    }
    for id in ["1", "\"two\""] {
        desk.say(&cancel(id));
    }
    for connection in 0..2 {
        peer.wait_closed(connection);
    }
    assert_eq!(peer.count("notifications/cancelled"), 0);
    let (status, rest) = desk.end();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

#[test]
fn requests_under_way_are_bounded() {
    let gate = Gate::default();
    let wait = |id: usize| {
        vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result(&id.to_string(), "late")))]
    };
    let peer = Peer::script([]);
    let mut desk = to(&peer, &[]);
    for id in 0..64 {
        peer.push([wait(id)]);
        desk.say(&modern_call(&id.to_string(), "echo", &json!({})));
        // Each has its own script.
        peer.wait_calls(id + 1);
        if id == 0 {
            // An id that is in use is nobody's. It is read at once, for there is room for more.
            desk.say(&modern_call("0", "echo", &json!({})));
        }
    }
    // Those behind wait.
    for id in 64..150 {
        desk.say(&modern_call(&id.to_string(), "echo", &json!({})));
    }
    assert_eq!(peer.calls().len(), 64, "the others wait for their turn");
    gate.open();
    for id in 0..64 {
        assert_eq!(text(&desk.answer(&json!(id))), "late");
    }
    for id in 64..150 {
        text(&desk.answer(&json!(id)));
    }
    assert_eq!(peer.calls().len(), 150);
    assert!(desk.end().1.is_empty(), "each once");
}

#[test]
fn what_is_under_way_at_the_end_of_input_is_answered() {
    let gate = Gate::default();
    let peer =
        Peer::script([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))]]);
    let mut desk = to(&peer, &[]);
    desk.say(&modern_call("1", "echo", &json!({})));
    peer.wait_calls(1);
    thread::spawn(move || gate.open());
    let (status, rest) = desk.end();
    assert!(status.success());
    assert_eq!(text(&rest[0]), "late");
    // A signal does not wait.
    let peer = Peer::script([vec![Step::Hold]]);
    let mut desk = to(&peer, &[]);
    desk.open(&json!({}));
    desk.say(&call("1", "echo", &json!({})));
    peer.wait_calls(1);
    desk.signal("-TERM");
    assert!(desk.ended().success());
    assert!(
        peer.all().iter().any(|seen| seen.head.starts_with("DELETE ")),
        "the session is over all the same"
    );
}

#[test]
fn a_question_that_nobody_can_answer_any_more_is_not_waited_for() {
    let question = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"roots/list\"}\n\n";
    let peer = Peer::script([vec![Step::Send(events()), Step::Send(chunk(question)), Step::Hold]]);
    let mut desk = to(&peer, &[]);
    desk.open(&json!({"roots": {}}));
    desk.say(&call("1", "echo", &json!({})));
    desk.told("roots/list");
    let began = Instant::now();
    let (status, rest) = desk.end();
    assert!(status.success());
    assert!(began.elapsed() < Duration::from_secs(30), "as long as for an answer: {:?}", began.elapsed());
    assert!(desk.log().contains("waits for a response of the client"), "{}", desk.log());
    assert_eq!((rest.len(), rest[0]["id"].as_i64()), (1, Some(1)), "{rest:?}");
    assert!(error(&rest[0]).1.contains("input has ended"), "{rest:?}");
}

/// Answers a request of which it has read the head alone, and closes.
fn refuses_by_the_head(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                head.push(byte[0]);
            }
            stream.write_all(&answer("413 Content Too Large", body)).unwrap();
        }
    });
    address
}

#[test]
fn a_message_that_is_refused_before_it_was_read_did_not_run() {
    let told = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"over the limit (`server.body_bytes_max`)"}}"#;
    for (body, expected) in [(told, "over the limit"), ("", "did not run")] {
        let mut desk = Desk::connect(&format!("http://{}/mcp", refuses_by_the_head(body)), &[], &[]);
        let text = "x".repeat(12 << 20);
        desk.say(&modern_call("1", "echo", &json!({"text": text})));
        let answered = desk.answer(&json!(1));
        assert!(error(&answered).1.contains(expected), "{answered}");
        assert!(error(&answered).1.contains("server.body_bytes_max"), "{answered}");
    }
}

#[test]
fn an_answer_that_crosses_its_cancellation_is_not_passed_on() {
    let (called, told) = (Gate::default(), Gate::default());
    let peer = Peer::script([
        vec![Step::Wait(called.clone()), Step::Send(answer("200 OK", &result("1", "too late")))],
        vec![Step::Wait(told.clone()), Step::Send(answer("202 Accepted", ""))],
    ]);
    let mut desk = to(&peer, &[]);
    desk.open(&json!({}));
    desk.say(&call("1", "echo", &json!({})));
    peer.wait_calls(1);
    desk.say(&cancel("1"));
    peer.wait_calls(2);
    called.open();
    desk.ask(&json!(2), "tools/call", &json!({"name": "echo", "arguments": {}}));
    told.open();
    let (status, rest) = desk.end();
    assert!(status.success() && rest.is_empty(), "{rest:?}");
}

#[test]
fn keys_come_from_the_environment_a_file_or_the_command_line() {
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], Option<&'a str>);
    let seen = |args: &[&str], variables: &[(&str, &str)]| {
        let peer = Peer::script([]);
        let mut desk = Desk::connect(&format!("http://{}/mcp", peer.address), args, variables);
        desk.say(&modern_call("1", "echo", &json!({})));
        text(&desk.answer(&json!(1)));
        peer.calls()[0].header("authorization").map(str::to_owned)
    };
    let file = std::env::temp_dir().join(format!("metamcp-key-{}", std::process::id()));
    fs::write(&file, "mcp_of_file\n").unwrap();
    let path = file.to_str().unwrap();
    let variable = [("METAMCP_KEY", "mcp_of_variable")];
    let rows: [Row<'_>; 5] = [
        (&[], &[], None),
        (&[], &variable, Some("Bearer mcp_of_variable")),
        (&["--key-file", path], &variable, Some("Bearer mcp_of_file")),
        (&["--key", "mcp_of_flag"], &variable, Some("Bearer mcp_of_flag")),
        (&["--header", "Authorization=Basic ${B}"], &[("B", "x")], Some("Basic x")),
    ];
    for (args, variables, expected) in rows {
        assert_eq!(seen(args, variables).as_deref(), expected, "{args:?}");
    }
    fs::remove_file(&file).unwrap();
    let wrong: [(&str, &[&str], &str); 6] = [
        ("nowhere", &[], "is not an address"),
        ("http://a/mcp", &["--key", "Bearer x"], "without `Bearer`"),
        ("http://a/mcp", &["--key-file", "missing"], "is not there"),
        ("http://a/mcp", &["--header", "Host=x"], "leave it out"),
        ("http://a/mcp", &["--header", "hunter2"], "is not NAME=VALUE"),
        ("http://a/mcp", &["--timeout", "0"], "out of range"),
    ];
    for (url, args, expected) in wrong {
        let mut desk = Desk::connect(url, args, &[]);
        let (status, rest) = desk.end();
        assert_eq!((status.code(), rest.len()), (Some(64), 0), "{args:?}");
        assert!(desk.log().contains(expected) && !desk.log().contains("hunter2"), "{args:?}: {}", desk.log());
    }
}

/// What stands between a client and an endpoint that goes and comes back elsewhere.
struct Way {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
}

impl Way {
    fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let way = Self { address: listener.local_addr().unwrap(), to: Arc::new(Mutex::new(to)) };
        let to = Arc::clone(&way.to);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Not there: closed before a byte.
                let Ok(far) = TcpStream::connect(*to.lock().unwrap()) else { continue };
                let (far_reader, near_writer) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                thread::spawn(move || pass(near, far));
                thread::spawn(move || pass(far_reader, near_writer));
            }
        });
        way
    }
}

/// To its end, which is passed on too.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let end = |stream: &TcpStream| -> io::Result<()> { stream.shutdown(Shutdown::Both) };
    drop((end(&from), end(&to)));
}

#[test]
fn a_gateway_that_was_killed_mid_call_and_is_back_is_found_again() {
    let demo = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || metamcp_demo::serve(listener));
        address
    };
    let peer = Peer::script([vec![Step::Hold], vec![Step::Hold]]);
    let setup = Setup::new().server("a", peer.address).server("b", demo()).keys();
    let gateway = setup.start();
    let way = Way::to(gateway.address);
    let key = gateway.key.clone().unwrap();
    let mut desks =
        [0, 1].map(|_| Desk::connect(&format!("http://{}/mcp", way.address), &[], &[("METAMCP_KEY", &key)]));
    let [legacy, modern] = &mut desks;
    legacy.open(&json!({}));
    let listen = modern_params(json!({"notifications": {"toolsListChanged": true}}));
    let listen = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": listen});
    modern.say(&listen.to_string());
    modern.told("notifications/subscriptions/acknowledged");
    legacy.say(&call("1", "a__echo", &json!({})));
    modern.say(&modern_call("1", "a__echo", &json!({})));
    peer.wait_calls(2);
    let gateway = gateway.kill_and_restart();
    for (desk, code) in [(&mut *legacy, -32000), (&mut *modern, -32603)] {
        let answered = desk.answer(&json!(1));
        assert_eq!(error(&answered).0, code);
        assert!(error(&answered).1.contains("may have run"), "{answered}");
    }
    *way.to.lock().unwrap() = gateway.address;
    assert_eq!(peer.calls().len(), 2, "neither was repeated");
    let echo = json!({"name": "b__echo", "arguments": {"text": "back"}});
    assert_eq!(text(&legacy.ask(&json!(2), "tools/call", &echo)), "back");
    assert_eq!(text(&modern.ask(&json!(2), "tools/call", &modern_params(echo.clone()))), "back");
    // What changed meanwhile is not known: they are told to look. Then they are told of changes as before;
    // nobody has a second acknowledgement.
    for desk in &mut desks {
        desk.told("notifications/tools/list_changed");
    }
    gateway.reload(&setup.server("c", demo()), "configuration reloaded");
    for desk in &mut desks {
        desk.told("notifications/tools/list_changed");
        let (status, rest) = desk.end();
        assert!(status.success(), "{status}");
        assert!(
            rest.iter().all(|said| said["method"] != "notifications/subscriptions/acknowledged"),
            "{rest:?}"
        );
    }
}

/// The sockets on which a process listens over TCP.
fn listens(pid: u32) -> usize {
    let tables = ["tcp", "tcp6"]
        .map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let listening: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A"))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    let own = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    own.filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|link| listening.iter().any(|socket| link.as_os_str() == socket.as_str()))
        .count()
}

#[test]
fn stdio_has_no_port_and_leaves_nothing_behind() {
    let gateway = fixture().start();
    assert_ne!(listens(gateway.pid()), 0, "this test can see that something listens");
    let mut desk = Desk::stdio(&fixture(), &[]);
    desk.open(&json!({}));
    let pid =
        text(&desk.ask(&json!(1), "tools/call", &json!({"name": "a__pid", "arguments": {}}))).to_owned();
    assert_eq!(listens(desk.pid()), 0);
    let is_there = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    };
    assert!(is_there());
    assert!(desk.end().0.success());
    assert!(!is_there(), "the server went with the gateway");
    let keys = gateway.keys().run(async |store| store.keys().await.unwrap().rows.len());
    assert_eq!(keys, 0, "nobody was asked for a key, and none was made");
}

/// The Unix sockets of a process that have a path.
fn unix_sockets(pid: u32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let own: Vec<_> = fds.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
    let is_own =
        |inode: &str| own.iter().any(|link| link.as_os_str() == format!("socket:[{inode}]").as_str());
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let mut paths: Vec<_> =
        rows.filter(|row| row.len() > 7 && is_own(row[6])).map(|row| row[7].to_owned()).collect();
    paths.dedup();
    paths
}

#[test]
fn nobody_else_is_let_in_by_the_private_socket() {
    let mut desk = Desk::stdio(&fixture(), &[]);
    desk.open(&json!({}));
    let paths = unix_sockets(desk.pid());
    let path = paths.iter().find(|path| path.contains("/metamcp-")).unwrap_or_else(|| panic!("{paths:?}"));
    let folder = Path::new(path).parent().unwrap();
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    let mut stranger = UnixStream::connect(path).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before it has written.
    drop(stranger.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let mut answer = Vec::new();
    let read = stranger.read_to_end(&mut answer);
    let is_closed = read.is_ok() || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    assert!(is_closed && answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
    let echo = json!({"name": "a__echo", "arguments": {"text": "x"}});
    assert_eq!(text(&desk.ask(&json!(1), "tools/call", &echo)), "x", "its client goes on");
    assert!(desk.end().0.success());
    assert!(!folder.exists(), "nothing of it is left");
    assert!(desk.log().contains("refused a connection of another process"), "{}", desk.log());
}

#[test]
fn several_share_a_data_directory_with_one_that_listens() {
    let gateway = fixture().start();
    let data = gateway.path().join("data");
    let setup = fixture();
    let args = ["--data-dir", data.to_str().unwrap()];
    let mut desks = [0, 1, 2].map(|_| Desk::stdio(&setup, &args));
    for desk in &mut desks {
        desk.open(&json!({}));
    }
    for desk in &mut desks {
        let echo = json!({"name": "a__echo", "arguments": {"text": "x"}});
        assert_eq!(text(&desk.ask(&json!(1), "tools/call", &echo)), "x");
        assert!(desk.end().0.success());
    }
    // Counted as what nobody was asked a key for is.
    let used: Vec<_> = gateway.usage().into_iter().filter(|row| row.key.tool == "echo").collect();
    let calls: u64 = used.iter().map(|row| row.counts.calls).sum();
    assert_eq!(calls, 3, "{used:?}");
    assert!(used.iter().all(|row| row.key.key_id == "anonymous---"), "{used:?}");
}

#[test]
fn stdio_serves_one_endpoint() {
    let setup = fixture().with("[endpoints.team]\nservers = [\"a\"]\nprefix = \"never\"");
    let mut desk = Desk::stdio(&setup, &["--endpoint", "team"]);
    desk.open(&json!({}));
    assert_eq!(
        text(&desk.ask(&json!(1), "tools/call", &json!({"name": "echo", "arguments": {"text": "x"}}))),
        "x"
    );
    assert!(desk.end().0.success());
    let mut desk = Desk::stdio(&setup, &["--endpoint", "nobody"]);
    assert_eq!(desk.end().0.code(), Some(64));
    assert!(desk.log().contains("there are: ") && desk.log().contains("team"), "{}", desk.log());
    assert!(!desk.path().join("data").exists(), "nothing is created for a wrong name");
}

/// A program that is stopped with the gateway does not fail.
#[test]
fn stdio_blames_no_server_for_its_own_end() {
    // One ends with its input, before the other.
    let setup = Setup::new().with(
        "[servers.fast]\ncommand = \"sh\"\nargs = [\"-c\", \"cat > /dev/null\"]\n\
         [servers.slow]\ncommand = \"sleep\"\nargs = [\"60\"]",
    );
    let mut desk = Desk::stdio(&setup, &[]);
    until("the program is started", || desk.log().contains("serving one client"));
    assert!(desk.end().0.success(), "{}", desk.log());
    assert!(!desk.log().contains("server fails"), "{}", desk.log());
}

/// Settings of the address have no effect on it, so none of them prevents the start.
#[test]
fn stdio_starts_whatever_is_said_of_the_address() {
    let tls = "[server]\nhost = \"0.0.0.0\"\n[auth]\nmode = \"none\"\n\
               [server.tls]\ncert = \"absent.pem\"\nkey = \"absent.pem\"\nclient_auth = \"optional\"";
    for args in [&[][..], &["--no-auth"], &["--host", "0.0.0.0"]] {
        let mut desk = Desk::stdio(&fixture().with(tls), args);
        desk.open(&json!({}));
        assert!(desk.end().0.success(), "{}", desk.log());
    }
}

#[test]
fn a_client_that_goes_without_a_word_ends_it() {
    for mut desk in [Desk::stdio(&fixture(), &[]), to(&Peer::script([]), &[])] {
        desk.open(&json!({}));
        desk.signal("-TERM");
        assert!(desk.ended().success());
    }
}
