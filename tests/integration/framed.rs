//! The framed stream: both forms, both eras, over raw connections.

#[path = "../../docs/examples/framed.rs"]
mod example;

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Form, Gate, Gateway, MODERN, Peer, Request, Seen, Setup, Step, Stream, answer, call, chunk,
    chunked, events, frame, open_session, result,
};
use serde_json::{Value, json};

const SINGLE: &str = "/api/v1/mcp/stream/servers/a";

/// The two ways to a server, and what stands before the names of its tools there.
const WAYS: [(&str, &str); 2] = [(SINGLE, ""), (Stream::PATH, "a__")];

fn ping(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)
}

/// A Legacy call of a tool.
fn legacy(id: &str, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

/// A Modern call of a tool.
fn modern(id: &str, tool: &str) -> String {
    call(id, "tools/call", &format!(r#""name":"{tool}","arguments":{{}},"#))
}

fn cancelled(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
}

/// Messages sorted by their ids: they come in the order in which they are ready.
fn take(stream: &mut Stream, count: usize) -> Vec<Value> {
    let mut taken: Vec<Value> = (0..count).map(|_| stream.message()).collect();
    taken.sort_by_key(|message| message["id"].to_string());
    taken
}

#[track_caller]
fn is_error(message: &Value, id: impl Into<Value>, code: i64) {
    assert_eq!((&message["id"], &message["error"]["code"]), (&id.into(), &json!(code)), "{message}");
}

/// The last word, and then the end.
#[track_caller]
fn ends(stream: &mut Stream, kind: &str) {
    let last = stream.message();
    let data = &last["error"]["data"];
    assert_eq!(
        (&last["id"], &data["last"], &data["kind"]),
        (&Value::Null, &json!(true), &json!(kind)),
        "{last}"
    );
    stream.end();
    assert_eq!(stream.next(), None);
}

#[test]
fn sessions_in_a_stream() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, prefix) in WAYS {
        for form in Form::BOTH {
            let mut stream = Stream::open(&gateway, path, form);
            // Without a session, each request is one of its own.
            assert_eq!(stream.ask(&ping("0")), json!({"jsonrpc": "2.0", "id": 0, "result": {}}));
            let opened = stream.initialize("{}");
            assert_eq!(opened["result"]["protocolVersion"], "2025-11-25");
            let echo = format!("{prefix}echo");
            stream.send(&[
                &ping("1"),
                &legacy("2", &echo, r#"{"n":2}"#),
                r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#,
                r#"{"jsonrpc":"2.0","id":4,"method":"no/such"}"#,
            ]);
            let answers = take(&mut stream, 4);
            assert_eq!(answers[0], json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
            assert_eq!(answers[1]["result"]["content"][0]["text"], r#"{"n":2}"#);
            assert_eq!(answers[2]["result"]["tools"][0]["name"], *echo);
            if path != SINGLE {
                is_error(&answers[3], 4, -32601);
            }
            // There is one session in a stream.
            is_error(
                &stream.ask(r#"{"jsonrpc":"2.0","id":5,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}"#),
                5,
                -32600,
            );
            // Requests of the other era go beside it.
            assert_eq!(stream.ask(&modern("6", &echo))["id"], 6);
            stream.end();
            assert_eq!(stream.next(), None);
        }
    }
    let seen = peer.calls().into_iter().find(|seen| seen.text().contains(r#"{"n":2}"#)).unwrap();
    assert_eq!(seen.header("mcp-protocol-version"), Some("2025-11-25"));
}

#[test]
fn empty_messages_keep_a_stream_alive() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let gateway = setup.with("[server]\nidle_timeout = \"1s\"").start();
    // Nothing is heard there; it is where time passes.
    let (_sender, silence) = std::sync::mpsc::channel::<()>();
    let mut streams = Form::BOTH.map(|form| (form, Stream::open(&gateway, SINGLE, form)));
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        for (form, stream) in &mut streams {
            assert!(stream.raw(&form.wrap("")));
        }
        let _ = silence.recv_timeout(Duration::from_millis(100));
    }
    let answers = streams.each_mut().map(|(_, stream)| stream.ask(&modern("1", "echo"))["id"].clone());
    assert_eq!(answers, [1, 1]);
    for (_, mut stream) in streams {
        ends(&mut stream, "body_timeout");
    }
}

#[test]
fn a_stream_uses_a_session_opened_elsewhere() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let session = open_session(&gateway, "/mcp", None);
    let head = Request::new("POST", Stream::PATH).with("Mcp-Session-Id", session);
    let mut stream = Stream::open_with(&gateway, &head, Form::Lines);
    assert_eq!(stream.ask(&ping("1"))["result"], json!({}));
    // It outlives the stream.
    drop(stream);
    let mut stream = Stream::open_with(&gateway, &head, Form::Frames);
    assert_eq!(stream.ask(&legacy("2", "a__echo", "{}"))["id"], 2);
}

#[test]
fn modern_requests_in_a_stream() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, prefix) in WAYS {
        for form in Form::BOTH {
            let mut stream = Stream::open(&gateway, path, form);
            stream.send(&[
                &call("1", "server/discover", ""),
                &call("2", "tools/list", ""),
                &modern("3", &format!("{prefix}echo")),
            ]);
            let answers = take(&mut stream, 3);
            assert_eq!(answers[0]["result"]["supportedVersions"][0], MODERN);
            assert_eq!(answers[1]["result"]["tools"][0]["name"], format!("{prefix}echo"));
            assert!(answers[2]["result"]["content"].is_array(), "{}", answers[2]);
            let broken = modern("4", "a\\r\\nb: c");
            assert_eq!(stream.ask(&broken)["id"], 4);
            is_error(
                &stream.ask(&modern("5", "echo").replace("tools/call", "tools/call\\r\\nx: y")),
                5,
                -32020,
            );
            is_error(&stream.ask(&modern("6", "echo").replace(MODERN, "2099-01-01")), 6, -32022);
        }
    }
    let calls = peer.calls();
    let seen = calls.iter().find(|seen| seen.text().contains(r#""name":"echo""#)).unwrap();
    let said = ["mcp-protocol-version", "mcp-method", "mcp-name"].map(|name| seen.header(name));
    assert_eq!(said, [Some(MODERN), Some("tools/call"), Some("echo")]);
    assert!(calls.iter().all(|seen| seen.header("b").is_none() && seen.header("x").is_none()));
}

#[test]
fn arguments_are_copied_to_param_headers() {
    let peer = Peer::script([]);
    let tool = json!({"name": "echo", "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}});
    peer.list_tools(
        &json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool], "resultType": "complete"}})
            .to_string(),
    );
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Frames);
    let listed = stream.ask(&call("1", "tools/list", ""));
    assert_eq!(listed["result"]["tools"][0]["name"], "a__echo", "{listed}");
    let message = call("2", "tools/call", r#""name":"a__echo","arguments":{"region":"eu"},"#);
    assert_eq!(stream.ask(&message)["id"], 2);
    assert_eq!(peer.calls()[0].header("mcp-param-region"), Some("eu"));
}

#[test]
fn chunking_of_the_request_does_not_matter() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let session = open_session(&gateway, "/mcp", None);
    let head = Request::new("POST", Stream::PATH).with("Mcp-Session-Id", session);
    for form in Form::BOTH {
        let bytes = [form.wrap(&ping("1")), form.wrap(&legacy("2", "a__echo", "{}"))].concat();
        let mut stream = Stream::open_with(&gateway, &head, form);
        bytes.chunks(1).for_each(|byte| assert!(stream.raw(byte)));
        assert_eq!(take(&mut stream, 2)[1]["id"], 2);
        for cut in 1..bytes.len() {
            stream.raw(&bytes[..cut]);
            stream.raw(&bytes[cut..]);
            assert_eq!(take(&mut stream, 2)[0]["result"], json!({}), "cut at {cut}");
        }
        // A body in one piece, of a length that was said, and without a line's end where it may be missing.
        let last = if form == Form::Lines { &bytes[..bytes.len() - 1] } else { &bytes };
        let whole = head.clone().with("Content-Type", form.media_type()).body(last);
        let mut client = Client::connect(gateway.address);
        client.send(&whole.bytes());
        let response = client.response();
        assert_eq!((response.status, response.whole), (200, true));
        let mut rest = &response.body[..];
        for _ in 0..2 {
            let (message, taken) = form.unwrap(rest).unwrap();
            assert!(serde_json::from_slice::<Value>(message).unwrap()["result"].is_object());
            rest = &rest[taken..];
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn many_messages_in_one_segment_are_answered() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for form in Form::BOTH {
        let mut stream = Stream::open(&gateway, Stream::PATH, form);
        stream.initialize("{}");
        let messages: Vec<String> = (0..2000)
            .map(|n| if n % 10 == 0 { legacy(&n.to_string(), "a__echo", "{}") } else { ping(&n.to_string()) })
            .collect();
        stream.send(&messages.iter().map(String::as_str).collect::<Vec<_>>());
        let mut ids: Vec<u64> = (0..2000).map(|_| stream.message()["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..2000));
    }
}

#[test]
fn an_invalid_frame_header_ends_the_stream() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let payload = call("1", "tools/list", "");
    let wrong = [
        frame(2, 0, 0, &payload),
        frame(1, 2, 0, &payload),
        frame(1, 0x8000_0000, 0, &payload),
        b"POST / HTTP/1.1\r\n\r\n".to_vec(),
        payload.clone().into_bytes(),
    ];
    for wrong in wrong {
        let mut stream = Stream::open(&gateway, Stream::PATH, Form::Frames);
        let gate = Gate::default();
        peer.push([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("7", "late")))]]);
        stream.send(&[&modern("7", "a__echo")]);
        peer.wait_until("the call", |peer| peer.calls().iter().any(Seen::is_call));
        stream.raw(&[wrong, Form::Frames.wrap(&payload)].concat());
        gate.open();
        // What came before is answered.
        assert_eq!(stream.message()["id"], 7);
        ends(&mut stream, "invalid_request");
        assert_eq!(&stream.header[8..12], &[3, 0, 0, 0], "an answer, and the last");
    }
}

#[test]
fn an_invalid_message_affects_only_itself() {
    let setup = Setup::new().server("a", Peer::script([]).address).with("[server]\nbody_bytes_max = 2048");
    let gateway = setup.start();
    for form in Form::BOTH {
        let mut stream = Stream::open(&gateway, Stream::PATH, form);
        stream.initialize("{}");
        let long = ping(&format!("\"{}\"", "x".repeat(3000)));
        let number = |message: Value| message["error"]["data"]["frame"].as_u64();
        let said = stream.ask("{\"jsonrpc\":");
        is_error(&said, Value::Null, -32700);
        assert_eq!(number(said), Some(3));
        let said = stream.ask(&long);
        is_error(&said, Value::Null, -32000);
        assert_eq!(number(said), Some(4));
        is_error(&stream.ask("[]"), Value::Null, -32600);
        is_error(&stream.ask(r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":[]}"#), 8, -32600);
        is_error(&stream.ask(&legacy("9", "a__none", "{}")), 9, -32602);
        // An answer to nothing: its id is none of this client's.
        is_error(&stream.ask(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#), Value::Null, -32600);
        assert_eq!(stream.ask(&ping("10"))["id"], 10);
        if form == Form::Frames {
            stream.raw(&frame(1, 0, 6, &ping("11")));
            is_error(&stream.message(), 11, -32020);
            stream.raw(&frame(1, 0, 9999, &ping("12")));
            is_error(&stream.message(), 12, -32601);
            stream.raw(&frame(1, 1, 0, &ping("13")));
            is_error(&stream.message(), 13, -32020);
            stream.raw(&[frame(1, 0, 0, ""), frame(1, 0, 2, &ping("14"))].concat());
            assert_eq!(stream.message()["id"], 14);
        }
    }
}

#[test]
fn a_truncated_last_message_is_reported() {
    let gateway = Gateway::open(&[("a", Peer::script([]).address)]);
    for form in Form::BOTH {
        let mut stream = Stream::open(&gateway, Stream::PATH, form);
        let bytes = form.wrap(&call("1", "tools/list", ""));
        stream.raw(&[&bytes[..], &bytes[..bytes.len() - 9]].concat());
        stream.end();
        assert_eq!(stream.message()["id"], 1);
        let last = stream.message();
        assert_eq!(last["error"]["data"], json!({"last": true, "kind": "body_broken"}));
        assert_eq!(stream.next(), None);
    }
}

#[test]
fn answers_arrive_in_the_order_they_are_ready() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for form in Form::BOTH {
        let gate = Gate::default();
        peer.push([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))]]);
        let mut stream = Stream::open(&gateway, Stream::PATH, form);
        let before = peer.calls().len();
        stream.send(&[&modern("1", "a__echo")]);
        peer.wait_calls(before + 1);
        assert_eq!(stream.ask(&modern("2", "a__echo"))["id"], 2);
        // The id is taken: an answer under it would be taken for that of the first.
        is_error(&stream.ask(&modern("1", "a__other")), Value::Null, -32600);
        stream.end();
        gate.open();
        assert_eq!(stream.message()["result"]["content"][0]["text"], "late");
        assert_eq!(stream.next(), None);
    }
}

#[test]
fn a_cancelled_request_is_not_answered() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Frames);
    peer.push([vec![Step::Hold]]);
    stream.send(&[&modern("1", "a__echo")]);
    peer.wait_calls(1);
    stream.send(&[&cancelled("1")]);
    peer.wait_closed(peer.calls()[0].connection);
    assert_eq!(stream.ask(&modern("1", "a__echo"))["id"], 1);
    // In a session the server is told.
    stream.initialize("{}");
    peer.push([vec![Step::Hold]]);
    stream.send(&[&legacy("2", "a__echo", "{}")]);
    peer.wait_calls(3);
    stream.send(&[&cancelled("2")]);
    peer.wait_until("the cancellation", |peer| peer.count("notifications/cancelled") == 1);
    assert_eq!(stream.ask(&legacy("3", "a__echo", "{}"))["id"], 3);
}

#[test]
fn a_disconnected_client_cancels_all_its_requests() {
    let peer = Peer::script([vec![Step::Hold], vec![Step::Hold]]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Lines);
    stream.send(&[&modern("1", "a__echo"), &modern("2", "a__echo")]);
    peer.wait_calls(2);
    drop(stream);
    for seen in peer.calls() {
        peer.wait_closed(seen.connection);
    }
}

#[test]
fn a_broken_server_response_fails_one_call() {
    let broken = [
        vec![Step::Reset],
        vec![Step::Send(answer("200 OK", r#"{"jsonrpc":"2.0","id":99,"result":{}}"#))],
        vec![Step::Send(answer("200 OK", r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#))],
        vec![Step::Send(answer("200 OK", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#))],
        vec![Step::Send(events()), Step::Send(chunk(""))],
        vec![
            Step::Send(events()),
            Step::Send(chunk("data: {\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}\n\n")),
            Step::Send(chunk("")),
        ],
        vec![Step::Send(events()), Step::Reset],
        vec![Step::Send(answer("500 Internal Server Error", ""))],
    ];
    for form in Form::BOTH {
        let peer = Peer::script([]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let mut stream = Stream::open(&gateway, Stream::PATH, form);
        for steps in &broken {
            peer.push([steps.clone()]);
            let said = stream.ask(&modern("1", "a__echo"));
            assert!(said["error"]["code"].is_i64() && said["id"] == 1, "{steps:?}: {said}");
            assert_eq!(said["error"]["data"]["origin"], "server", "{steps:?}: {said}");
            // The next one is none the worse for it.
            assert!(stream.ask(&modern("1", "a__echo"))["result"].is_object());
        }
    }
}

#[test]
fn answers_of_every_form_are_forwarded() {
    let pretty = "{\n  \"jsonrpc\": \"2.0\",\r\n  \"id\": 1,\n  \"result\": {\"content\": [\n]}\n}\n";
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":5}}"#;
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":"so not"}}"#;
    let big = result("1", &"x".repeat(300_000));
    let scripts = [
        vec![Step::Send(answer("200 OK", pretty))],
        vec![
            Step::Send(events()),
            Step::Send(chunk(&format!(": so\nid: 5\ndata: {progress}\n\n"))),
            Step::Send(chunk(&format!("event: message\ndata: {}\n\n", result("1", "done")))),
            Step::Send(chunk("")),
        ],
        vec![Step::Send(answer("400 Bad Request", nameless))],
        vec![Step::Send(answer("200 OK", &big))],
        vec![Step::Send(events()), Step::Send(chunk(&format!("data: {big}\n\n"))), Step::Send(chunk(""))],
    ];
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (path, prefix) in WAYS {
        for form in Form::BOTH {
            peer.push(scripts.clone());
            let mut stream = Stream::open(&gateway, path, form);
            let ask = modern("1", &format!("{prefix}echo"));
            assert!(stream.ask(&ask)["result"]["content"].is_array());
            assert_eq!(stream.ask(&ask)["params"]["progress"], 5);
            if form == Form::Frames {
                assert_eq!(stream.header[12], 26, "notifications/progress");
            }
            assert_eq!(stream.message()["result"]["content"][0]["text"], "done");
            is_error(&stream.ask(&ask), 1, -32602);
            for _ in 0..2 {
                let answer = stream.ask(&ask);
                assert_eq!(answer["result"]["content"][0]["text"].as_str().map(str::len), Some(300_000));
            }
        }
    }
}

#[test]
fn server_requests_arrive_on_the_stream() {
    let question = r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{"type":"object","properties":{}}}}"#;
    for form in Form::BOTH {
        for (path, prefix) in WAYS {
            let gate = Gate::default();
            let peer = Peer::script([vec![
                Step::Send(events()),
                Step::Send(chunk(&format!("data: {question}\n\n"))),
                Step::Wait(gate.clone()),
                Step::Send(chunk(&format!("data: {}\n\n", result("2", "thanks")))),
                Step::Send(chunk("")),
            ]]);
            let gateway = Gateway::open(&[("a", peer.address)]);
            let mut stream = Stream::open(&gateway, path, form);
            stream.initialize(r#"{"elicitation":{}}"#);
            let asked = stream.ask(&legacy("2", &format!("{prefix}echo"), "{}"));
            assert_eq!(asked["method"], "elicitation/create");
            if form == Form::Frames {
                assert_eq!(&stream.header[8..13], &[0, 0, 0, 0, 22]);
            }
            let said = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}});
            match form {
                Form::Lines => stream.send(&[&said.to_string()]),
                Form::Frames => drop(stream.raw(&frame(1, 1, 0, &said.to_string()))),
            }
            peer.wait_calls(2);
            let told: Value = serde_json::from_slice(&peer.calls()[1].body).unwrap();
            assert_eq!((&told["id"], &told["result"]["action"]), (&json!(7), &json!("decline")));
            gate.open();
            assert_eq!(stream.message()["result"]["content"][0]["text"], "thanks");
        }
    }
}

#[test]
fn server_messages_outside_calls_arrive_on_the_stream() {
    let said = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"so"}}"#;
    for (path, prefix) in WAYS {
        let peer = Peer::script([]);
        peer.push_streams_of_clients([vec![
            Step::Send(events()),
            Step::Send(chunk(&format!("data: {said}\n\n"))),
            Step::Hold,
        ]]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let mut stream = Stream::open(&gateway, path, Form::Lines);
        stream.initialize("{}");
        stream.send(&[&legacy("1", &format!("{prefix}echo"), "{}")]);
        let mut came = [stream.message(), stream.message()];
        came.sort_by_key(|message| message["id"].is_null());
        assert_eq!((&came[0]["id"], &came[1]["params"]["data"]), (&json!(1), &json!("so")));
    }
}

#[test]
fn each_message_takes_a_permit_of_its_key() {
    let gate = Gate::default();
    let peer =
        Peer::script([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))]]);
    let setup = Setup::new().server("a", peer.address).with("[limits]\nkey_in_flight_max = 1");
    let gateway = setup.start();
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Frames);
    stream.send(&[&modern("1", "a__echo")]);
    peer.wait_calls(1);
    let refused = stream.ask(&modern("2", "a__echo"));
    is_error(&refused, 2, -32000);
    gate.open();
    assert_eq!(stream.message()["id"], 1);
    assert_eq!(stream.ask(&modern("3", "a__echo"))["id"], 3);
}

#[test]
fn calls_are_counted() {
    let gateway = Gateway::open(&[("a", Peer::script([]).address)]);
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Lines);
    for id in 0..3 {
        assert!(stream.ask(&modern(&id.to_string(), "a__echo"))["result"].is_object());
    }
    drop(stream);
    let gateway = gateway.restart();
    let usage = gateway.usage();
    assert_eq!(usage.iter().map(|row| row.counts.calls).sum::<u64>(), 3, "{usage:?}");
}

#[test]
fn a_revoked_key_ends_the_stream() {
    let peer = Peer::script([vec![Step::Hold]]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let (id, key) = gateway.keys().create("one");
    let head = Request::new("POST", Stream::PATH).with("Authorization", format!("Bearer {key}"));
    let mut stream = Stream::open_with(&gateway, &head, Form::Lines);
    stream.send(&[&modern("1", "a__echo")]);
    peer.wait_calls(1);
    gateway.keys().revoke(&id);
    ends(&mut stream, "unauthenticated");
    peer.wait_closed(peer.calls()[0].connection);
    // Whether the client closes its side or not.
    let (id, key) = gateway.keys().create("other");
    let head = Request::new("POST", Stream::PATH).with("Authorization", format!("Bearer {key}"));
    let mut stream = Stream::open_with(&gateway, &head, Form::Lines);
    assert_eq!(stream.ask(&ping("1"))["id"], 1);
    let revoked = Instant::now();
    gateway.keys().revoke(&id);
    assert_eq!(stream.message()["error"]["data"]["last"], true);
    assert_eq!(stream.next(), None);
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());
}

#[test]
fn a_draining_gateway_answers_requests_in_flight() {
    let gate = Gate::default();
    let peer =
        Peer::script([vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result("1", "late")))]]);
    // One that knows of its end, and not another that is about to.
    let mut gateway = Setup::new().server("a", peer.address).workers(1).start();
    let mut idle = Stream::open(&gateway, Stream::PATH, Form::Frames);
    idle.initialize("{}");
    assert_eq!(idle.ask(&ping("1"))["id"], 1);
    let mut stream = Stream::open(&gateway, Stream::PATH, Form::Lines);
    stream.send(&[&modern("1", "a__echo")]);
    peer.wait_calls(1);
    gateway.terminate();
    ends(&mut idle, "stopping");
    let refused = stream.ask(&modern("2", "a__echo"));
    is_error(&refused, 2, -32603);
    gate.open();
    assert_eq!(stream.message()["result"]["content"][0]["text"], "late");
    ends(&mut stream, "stopping");
    assert!(gateway.ended().success());
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    /// Far beyond what sockets and the stream hold, far below what would be sent.
    const TAKEN_MAX: usize = 48 << 20;
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for form in Form::BOTH {
        let before = gateway.resident_bytes();
        let stream = Stream::open(&gateway, Stream::PATH, form);
        let text = "x".repeat(30_000);
        let socket = stream.client.stream();
        socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut sent = 0;
        while sent < 2 * TAKEN_MAX {
            let arguments = format!(r#""name":"a__echo","arguments":{{"text":"{text}"}},"#);
            let bytes = chunked(&form.wrap(&call(&sent.to_string(), "tools/call", &arguments)));
            if (&*socket).write_all(&bytes).is_err() {
                break;
            }
            sent += bytes.len();
        }
        assert!(sent < TAKEN_MAX, "{sent} bytes were taken");
        let grown = gateway.resident_bytes().saturating_sub(before);
        assert!(grown < TAKEN_MAX, "it grew by {grown} bytes");
    }
}

#[test]
fn invalid_stream_heads_are_rejected() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let key = gateway.key.clone().unwrap();
    let check = |request: Request, status: u16| {
        assert_eq!(Client::once(gateway.address, &request).status, status, "{request:?}");
    };
    let post = |path: &str| {
        Request::new("POST", path)
            .with("Authorization", format!("Bearer {key}"))
            .with("Content-Type", Form::Lines.media_type())
    };
    check(post(Stream::PATH), 200);
    check(post(Stream::PATH).without("Authorization"), 401);
    check(post(Stream::PATH).set("Authorization", "Bearer mcp_no"), 401);
    check(post(Stream::PATH).set("Host", "evil.example"), 403);
    check(post(Stream::PATH).with("Origin", "https://evil.example"), 403);
    check(post("/api/v1/mcp/stream/none"), 404);
    check(post("/api/v1/mcp/stream/servers/none"), 404);
    check(post(Stream::PATH).with("Mcp-Session-Id", "none"), 404);
    check(post(Stream::PATH).set("Content-Type", "application/json"), 415);
    check(post(Stream::PATH).with("Content-Encoding", "gzip"), 415);
    check(post(Stream::PATH).with("Accept", "text/event-stream"), 406);
    let mut get = post(Stream::PATH);
    get.method = "GET".into();
    let refused = Client::once(gateway.address, &get);
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    get.method = "OPTIONS".into();
    let asked = Client::once(gateway.address, &get);
    assert_eq!((asked.status, asked.header("access-control-allow-methods")), (204, Some("POST")));
}

#[test]
fn expect_100_continue_is_answered() {
    let gateway = Gateway::open(&[("a", Peer::script([]).address)]);
    let head = Request::new("POST", Stream::PATH).with("Expect", "100-continue");
    let request = head.with("Content-Type", Form::Lines.media_type()).with("Transfer-Encoding", "chunked");
    let mut client = Client::connect(gateway.address);
    client.send(&request.bytes());
    assert_eq!(client.head().status, 100);
    assert_eq!(client.head().status, 200);
}

#[test]
fn the_documented_example_works() {
    let gateway = Setup::new().start();
    let told = example::tour(&gateway.address.to_string(), Stream::PATH, None).unwrap();
    assert!(told.contains("100 calls of"), "{told}");
}

mod http2 {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use hyper::body::{Body, Frame};
    use hyper::client::conn::http2::{self, SendRequest};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use serde_json::Value;
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;

    use super::{Form, Gate, Gateway, Peer, Step, Stream, legacy, modern, open_session, result};

    /// What is sent, as it is sent.
    struct Sent(mpsc::UnboundedReceiver<Vec<u8>>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes.into()))))
        }
    }

    /// A connection, which runs beside its streams.
    async fn connect(gateway: &Gateway) -> SendRequest<Sent> {
        let socket = TcpStream::connect(gateway.address).await.unwrap();
        let (sending, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        sending
    }

    /// More calls than are taken at once, a frame for each, of which the rest waits unread.
    #[test]
    fn what_the_gateway_does_not_read_yet_is_held_back_by_the_client() {
        const CALLS: usize = 8000;
        let (peer, gate) = (Peer::script([]), Gate::default());
        peer.push(vec![vec![Step::Wait(gate.clone()), Step::Answer(result("@id", "late"))]; 256]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sending = connect(&gateway).await;
            let (sender, receiver) = mpsc::unbounded_channel();
            let request = http::Request::post(format!("http://{}{}", gateway.address, Stream::PATH))
                .header("content-type", Form::Frames.media_type())
                .header("mcp-session-id", open_session(&gateway, "/mcp", None))
                .body(Sent(receiver))
                .unwrap();
            for id in 0..CALLS {
                sender.send(Form::Frames.wrap(&legacy(&id.to_string(), "a__echo", "{}"))).unwrap();
            }
            let response = sending.send_request(request).await.unwrap();
            let wait = tokio::task::spawn_blocking(move || {
                peer.wait_calls(256);
                peer.wait_quiet();
                gate.open();
                peer
            });
            let _peer = wait.await.unwrap();
            drop(sender);
            let (mut body, mut held, mut ids) = (response.into_body(), Vec::new(), HashSet::new());
            while let Some(frame) = body.frame().await {
                held.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
                let mut at = 0;
                while let Some((message, taken)) = Form::Frames.unwrap(&held[at..]) {
                    at += taken;
                    if !message.is_empty() {
                        let message: Value = serde_json::from_slice(message).unwrap();
                        assert!(ids.insert(message["id"].as_u64().unwrap()), "{message}");
                    }
                }
                held.drain(..at);
            }
            assert_eq!(ids.len(), CALLS);
        });
    }

    #[test]
    fn a_stream_is_one_of_a_connection() {
        let peer = Peer::script([]);
        let gateway = Gateway::open(&[("a", peer.address)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sending = connect(&gateway).await;
            for form in Form::BOTH {
                let (sender, receiver) = mpsc::unbounded_channel();
                let request = http::Request::post(format!("http://{}{}", gateway.address, Stream::PATH))
                    .header("content-type", form.media_type())
                    .body(Sent(receiver))
                    .unwrap();
                let response = sending.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let mut body = response.into_body();
                let mut held = Vec::new();
                for round in 0..3 {
                    let messages =
                        (0..100).flat_map(|n| form.wrap(&modern(&format!("1{round}{n:02}"), "a__echo")));
                    sender.send(messages.collect()).unwrap();
                    let mut count = 0;
                    while count < 100 {
                        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
                        held.extend_from_slice(&frame);
                        while let Some((message, taken)) = form.unwrap(&held) {
                            assert!(serde_json::from_slice::<Value>(message).unwrap()["result"].is_object());
                            count += 1;
                            held.drain(..taken);
                        }
                    }
                }
                drop(sender);
                // The end may come in a frame of its own.
                while let Some(frame) = body.frame().await {
                    held.extend_from_slice(&frame.unwrap().into_data().unwrap());
                }
                while let Some((message, taken)) = form.unwrap(&held) {
                    assert!(message.is_empty(), "it only kept the connection alive");
                    held.drain(..taken);
                }
                assert!(held.is_empty());
            }
        });
    }
}
