//! Requests that two parsers might read in different ways: each is refused with 400, its connection ends, and
//! nothing that was sent behind it runs. On the fast lane, and with hyper alone.

use std::cell::RefCell;

use crate::support::{Client, Gateway, Peer, Request, SINGLE, Setup, both_readers, modern_call};

/// A gateway in front of a server that counts the calls.
struct Side {
    gateway: Gateway,
    peer: Peer,
    reader: &'static str,
    failures: RefCell<Vec<String>>,
}

impl Side {
    fn all() -> [Self; 2] {
        both_readers().map(|(reader, gateway, peer)| Self {
            gateway,
            peer,
            reader,
            failures: RefCell::default(),
        })
    }

    /// Sends a usual call, these bytes, and another usual call. The first `runs` of the calls are to run, and the
    /// next response is to be 400.
    fn check(&self, what: &str, bytes: &[u8], runs: usize, pace: Pace) {
        if let Err(failure) = self.observe(bytes, runs, pace) {
            let row = format!("{}, {pace:?}, {what}: {failure}: {:.400}", self.reader, bytes.escape_ascii());
            self.failures.borrow_mut().push(row);
        }
    }

    fn observe(&self, bytes: &[u8], runs: usize, pace: Pace) -> Result<(), String> {
        let before = self.peer.calls().len();
        let mut client = Client::connect(self.gateway.address);
        let sent = [&call("first").bytes(), bytes, &call("behind").bytes()].concat();
        match pace {
            Pace::Whole => drop(client.send(&sent)),
            Pace::Bytewise => drop(sent.iter().all(|byte| client.send(&[*byte]))),
        }
        for number in 0..runs {
            let response = client.outcome().ok_or(format!("no answer to call {number}"))?;
            ensure(response.status == 200, || format!("call {number}: {response:?}"))?;
        }
        let refusal = client.outcome().ok_or("ended without an answer")?;
        ensure(refusal.status == 400, || format!("{refusal:?}"))?;
        ensure(refusal.header("connection") == Some("close"), || format!("does not say close: {refusal:?}"))?;
        ensure(client.is_closed(), || "stays open".to_owned())?;
        ensure(self.peer.calls().len() == before + runs, || "what was sent behind it ran".to_owned())
    }

    /// Fails when any row failed.
    #[track_caller]
    fn finish(self) {
        let failures = self.failures.take();
        assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    Whole,
    Bytewise,
}

fn call(text: &str) -> Request {
    modern_call(SINGLE, "echo", &format!(r#"{{"text":"{text}"}}"#))
}

/// A usual call with something in place of the first place where `from` stands.
fn swap(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(call("refused").bytes()).unwrap();
    assert!(text.contains(from), "{from:?} is not there");
    text.replacen(from, to, 1).into_bytes()
}

const HEADS: [(&str, &str, &str); 61] = [
    ("a bare line feed after the request line", " HTTP/1.1\r\n", " HTTP/1.1\n"),
    ("a bare line feed after a field", "Host: localhost\r\n", "Host: localhost\n"),
    ("a bare line feed after the last field", "\r\n\r\n", "\n\r\n"),
    ("a bare line feed as the empty line", "\r\n\r\n", "\r\n\n"),
    ("two bare line feeds", "\r\n\r\n", "\n\n"),
    ("a bare line feed before the request line", "POST ", "\nPOST "),
    ("a hidden line", "Host: localhost", "X: a\nHost: localhost"),
    ("a bare carriage return after the request line", " HTTP/1.1\r\n", " HTTP/1.1\r"),
    ("a bare carriage return after a field", "Host: localhost\r\n", "Host: localhost\r"),
    ("a bare carriage return in a value", "Host: localhost", "X: a\rb\r\nHost: localhost"),
    ("a bare carriage return as the empty line", "\r\n\r\n", "\r\n\r"),
    ("two carriage returns", "\r\n\r\n", "\r\r\n\r\n"),
    ("a bare carriage return before the request line", "POST ", "\rPOST "),
    ("three empty lines", "POST ", "\r\n\r\n\r\nPOST "),
    ("Transfer_Encoding", "Host:", "Transfer_Encoding: chunked\r\nHost:"),
    ("transfer_encoding", "Host:", "transfer_encoding: x\r\nHost:"),
    ("TRANSFER_ENCODING", "Host:", "TRANSFER_ENCODING: chunked\r\nHost:"),
    ("Content_Length", "Host:", "Content_Length: 0\r\nHost:"),
    ("CONTENT_LENGTH", "Host:", "CONTENT_LENGTH: 0\r\nHost:"),
    ("only content_length", "Content-Length:", "content_length:"),
    ("Keep_Alive", "Host:", "Keep_Alive: 5\r\nHost:"),
    ("Proxy_Connection", "Host:", "Proxy_Connection: close\r\nHost:"),
    ("CONNECT", "POST /servers/a/mcp", "CONNECT localhost:80"),
    ("CONNECT to a path", "POST ", "CONNECT "),
    ("both framings", "Host:", "Transfer-Encoding: chunked\r\nHost:"),
    ("both framings, the other first", "\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("an unknown coding as well", "\r\n\r\n", "\r\nTransfer-Encoding: x\r\n\r\n"),
    ("two lengths", "Host:", "Content-Length: 1\r\nHost:"),
    ("the same length twice", "Host:", "Content-Length: 0\r\ncontent-length: 0\r\nX:"),
    ("a list of lengths", "Content-Length: ", "Content-Length: 0, "),
    ("a signed length", "Content-Length: ", "Content-Length: +"),
    ("a hexadecimal length", "Content-Length: ", "Content-Length: 0x"),
    ("no length", "Content-Length: ", "Content-Length:\r\nX: "),
    ("a length too great", "Content-Length: ", "Content-Length: 18446744073709551616\r\nX: "),
    ("a folded line", "Host: localhost", "Host: localhost\r\n folded"),
    ("a line folded with a tab", "Host: localhost", "Host: localhost\r\n\tfolded"),
    ("a folded length", "Content-Length: ", "Content-Length:\r\n "),
    ("a blank before the first field", "Host:", " Host:"),
    ("a blank before the colon", "Host:", "Host :"),
    ("a blank before the colon of the length", "Content-Length:", "Content-Length :"),
    ("a tab before the colon", "Host:", "Host\t:"),
    ("no colon", "Host: localhost", "Host: localhost\r\nno field"),
    ("no name", "Host:", ": x\r\nHost:"),
    ("a NUL in a value", "Host: localhost", "X: a\0b\r\nHost: localhost"),
    ("a NUL in a name", "Host:", "X\0: a\r\nHost:"),
    ("two Hosts", "Host:", "Host: localhost\r\nHost:"),
    ("no Host", "Host:", "X-Host:"),
    ("an empty Host", "Host: localhost", "Host:"),
    ("a blank Host", "Host: localhost", "Host: \t"),
    ("a Host with a blank", "Host: localhost", "Host: local host"),
    ("a list of Hosts", "Host: localhost", "Host: localhost,localhost"),
    ("a Host with a user", "Host: localhost", "Host: user@localhost"),
    ("a Host with a path", "Host: localhost", "Host: localhost/"),
    ("a Host whose port is a name", "Host: localhost", "Host: localhost:http"),
    ("Host_", "Host:", "Host_: evil\r\nHost:"),
    ("_host", "Host:", "_host: evil\r\nHost:"),
    ("a fragment in the target", "/servers/a/mcp", "/servers/a/mcp#x"),
    ("two blanks in the request line", "POST ", "POST  "),
    ("a tab in the request line", "POST ", "POST\t"),
    ("another version", " HTTP/1.1", " HTTP/2.0"),
    ("a blank behind the version", " HTTP/1.1", " HTTP/1.1 "),
];

/// Transfer codings of a call whose body is in chunks.
const CODINGS: [&str; 12] = [
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding:",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Transfer-Encoding: \u{b}chunked",
];

fn chunked(coding: &str, body: &str) -> Vec<u8> {
    let text = String::from_utf8(call("refused").set("Content-Length", "@").body(body).bytes()).unwrap();
    text.replacen("Content-Length: @", coding, 1).into_bytes()
}

/// A body in chunks; in it, `{x}` stands for the size and `{b}` for the bytes.
fn in_chunks(form: &str) -> Vec<u8> {
    let body = String::from_utf8(call("refused").body).unwrap();
    let form = form.replace("{x}", &format!("{:x}", body.len())).replace("{b}", &body);
    chunked("Transfer-Encoding: chunked", &form)
}

/// Each byte in a chunk of its own, without the last chunk.
fn tiny_chunks(body: &str) -> String {
    body.chars().flat_map(|one| ['1', '\r', '\n', one, '\r', '\n']).collect()
}

#[test]
fn refused_heads() {
    for side in Side::all() {
        for (what, from, to) in HEADS {
            side.check(what, &swap(from, to), 1, Pace::Whole);
            side.check(what, &swap(from, to), 1, Pace::Bytewise);
        }
        for coding in CODINGS {
            side.check("coding", &chunked(coding, "0\r\n\r\n"), 1, Pace::Whole);
        }
        let old = chunked("Transfer-Encoding: chunked", "0\r\n\r\n");
        let old = String::from_utf8(old).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1);
        side.check("HTTP/1.0 in chunks", old.as_bytes(), 1, Pace::Whole);
        side.finish();
    }
}

const CHUNKS: [&str; 34] = [
    "{x} \r\n{b}\r\n0\r\n\r\n",
    "{x}\t\r\n{b}\r\n0\r\n\r\n",
    " {x}\r\n{b}\r\n0\r\n\r\n",
    "{x}\r\n{b}\r\n0 \r\n\r\n",
    "0x{x}\r\n{b}\r\n0\r\n\r\n",
    "+{x}\r\n{b}\r\n0\r\n\r\n",
    "-{x}\r\n{b}\r\n0\r\n\r\n",
    "{x}h\r\n{b}\r\n0\r\n\r\n",
    "{x} 1\r\n{b}\r\n0\r\n\r\n",
    "\r\n{b}\r\n0\r\n\r\n",
    "00000000000000000{x}\r\n{b}\r\n0\r\n\r\n",
    "1000000000000000{x}\r\n{b}\r\n0\r\n\r\n",
    "{x}\n{b}\r\n0\r\n\r\n",
    "{x}\r{b}\r\n0\r\n\r\n",
    "{x}\r\r\n{b}\r\n0\r\n\r\n",
    "{x}\r\n{b}\r\n0\n\r\n",
    "{x}\r\n{b}\r\n0\r\n\n",
    "{x}\r\n{b}\n0\r\n\r\n",
    "{x}\r\n{b}XX0\r\n\r\n",
    "{x}\r\n{b}0\r\n\r\n",
    "{x}\r\n{b}X\r\n0\r\n\r\n",
    "{x}\r\n{b}\r\n\r\n0\r\n\r\n",
    "{x};\r\n{b}\r\n0\r\n\r\n",
    "{x};a=\r\n{b}\r\n0\r\n\r\n",
    "{x};a b\r\n{b}\r\n0\r\n\r\n",
    "{x};a\n{b}\r\n0\r\n\r\n",
    "{x};a=\"b\r\n{b}\r\n0\r\n\r\n",
    "{x};a=\"\n\"\r\n{b}\r\n0\r\n\r\n",
    "{x};a\rb\r\n{b}\r\n0\r\n\r\n",
    "{x}\r\n{b}\r\n0\r\nno field\r\n\r\n",
    "{x}\r\n{b}\r\n0\r\nX : 1\r\n\r\n",
    "{x}\r\n{b}\r\n0\r\nX: 1\n\r\n",
    "{x}\r\n{b}\r\n0\r\nX: 1\r\n folded\r\n\r\n",
    "{x}\r\n{b}\r\n0\r\n: 1\r\n\r\n",
];

#[test]
fn refused_chunks() {
    for side in Side::all() {
        for form in CHUNKS {
            side.check("chunks", &in_chunks(form), 1, Pace::Whole);
            side.check("chunks", &in_chunks(form), 1, Pace::Bytewise);
        }
        let extension = |bytes: usize| format!("{{x}};{}\r\n{{b}}\r\n0\r\n\r\n", "x".repeat(bytes));
        side.check("a long extension", &in_chunks(&extension(300)), 1, Pace::Whole);
        // Blanks are JSON too.
        let blanks = |count: usize| format!("1;{}\r\n \r\n", "x".repeat(200)).repeat(count);
        let many = blanks(100) + "{x}\r\n{b}\r\n0\r\n\r\n";
        side.check("many extensions", &in_chunks(&many), 1, Pace::Whole);
        let trailers = |count: usize| format!("{{x}}\r\n{{b}}\r\n0\r\n{}\r\n", "X: 1\r\n".repeat(count));
        side.check("many trailers", &in_chunks(&trailers(2000)), 1, Pace::Whole);
        side.finish();
    }
}

#[test]
fn refused_bytes_behind_a_body() {
    for side in Side::all() {
        let usual = call("refused").bytes();
        let chunks = in_chunks("{x}\r\n{b}\r\n0\r\n\r\n");
        for surplus in
            ["{}", "\n", "\r", "\0", " ", "\r\n\r\n\r\n", "\r\n\n", "0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]
        {
            for request in [&usual, &chunks] {
                side.check("surplus", &[request, surplus.as_bytes()].concat(), 2, Pace::Whole);
                side.check("surplus", &[request, surplus.as_bytes()].concat(), 2, Pace::Bytewise);
            }
        }
        side.finish();
    }
}

/// What is odd but unambiguous is served, and so is what follows it.
#[test]
fn odd_requests_that_are_served() {
    let forms = [
        "{x}\r\n{b}\r\n0\r\n\r\n",
        "000{x}\r\n{b}\r\n000\r\n\r\n",
        "{x};a\r\n{b}\r\n0;a=b\r\n\r\n",
        "{x} ; a = \"b;\\\"\" ;c\r\n{b}\r\n0\r\n\r\n",
        "{x}\r\n{b}\r\n0\r\nX: 1\r\nContent-Length: 5\r\n\r\n",
        "1\r\n \r\n1\r\n\n\r\n{x}\r\n{b}\r\n0\r\n\r\n",
    ];
    let mut rows: Vec<Vec<u8>> = forms.map(in_chunks).into();
    let body = String::from_utf8(call("refused").body).unwrap();
    let tiny = tiny_chunks(&body);
    rows.push(chunked("transfer-encoding:\tChunked ", &(tiny + "0\r\n\r\n")));
    rows.push(swap("POST ", "\r\nPOST "));
    rows.push(swap("POST ", "\r\n\r\nPOST "));
    rows.push(swap("Content-Length: ", "Content-Length:\t 00"));
    rows.push(swap("Host: localhost", "X_Any: 1\r\nhost:localhost \t"));
    // The gateway upgrades to nothing, so what follows is another request.
    rows.push(swap("Host:", "Connection: Upgrade\r\nUpgrade: websocket\r\nHost:"));
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nHost:";
    rows.push(swap("Host:", h2c));
    for side in Side::all() {
        for (row, bytes) in rows.iter().enumerate() {
            for pace in [Pace::Whole, Pace::Bytewise] {
                let what = format!("{}, {pace:?}: {}", side.reader, bytes.escape_ascii());
                let before = side.peer.calls().len();
                let mut client = Client::connect(side.gateway.address);
                let sent = [&bytes[..], bytes, &call("behind").bytes()].concat();
                match pace {
                    Pace::Whole => drop(client.send(&sent)),
                    Pace::Bytewise => drop(sent.iter().all(|byte| client.send(&[*byte]))),
                }
                for text in ["refused", "refused", "behind"] {
                    let Some(response) = client.outcome() else { panic!("{row}, {what}: no answer") };
                    assert!(response.status == 200 && response.text().contains(text), "{what}: {response:?}");
                }
                let calls = side.peer.calls();
                assert_eq!(calls.len(), before + 3, "{what}");
                for call in &calls[before..] {
                    for name in ["upgrade", "connection", "http2-settings"] {
                        assert_eq!(call.header(name), None, "{what}: {}", call.head);
                    }
                }
            }
        }
    }
}

/// The refusal reaches a client that keeps sending.
#[test]
fn a_refusal_is_not_lost() {
    for side in Side::all() {
        let mut client = Client::connect(side.gateway.address);
        client.send(&swap("Host: localhost\r\n", "Host: localhost\n"));
        for _ in 0..20 {
            client.send(&[b'x'; 8 << 10]);
        }
        assert_eq!(client.outcome().map(|response| response.status), Some(400), "{}", side.reader);
    }
}

/// Responses to what cannot be read on end the connection too, and say so.
#[test]
fn heads_beyond_a_limit_end_the_connection() {
    for side in Side::all() {
        let rows = [
            ("a long head", call("refused").with("X-Any", "x".repeat(64 << 10)).bytes(), 431),
            (
                "many fields",
                {
                    let many = (0..300).fold(call("refused"), |request, _| request.with("X-Any", "x"));
                    many.bytes()
                },
                431,
            ),
            ("a long target", swap("/servers/a/mcp", &format!("/{}", "x".repeat(70 << 10))), 431),
        ];
        for (what, bytes, status) in rows {
            let before = side.peer.calls().len();
            let mut client = Client::connect(side.gateway.address);
            client.send(&[bytes, call("behind").bytes()].concat());
            let response = client.outcome();
            let seen = response.as_ref().map(|response| (response.status, response.header("connection")));
            assert_eq!(seen, Some((status, Some("close"))), "{}, {what}", side.reader);
            assert!(client.is_closed(), "{}, {what}", side.reader);
            assert_eq!(side.peer.calls().len(), before, "{}, {what}", side.reader);
        }
    }
}

/// Where a response does not wait for the body, the connection ends behind it.
#[test]
fn malformed_bodies_that_nobody_reads_end_the_connection() {
    for side in Side::all() {
        for path in ["/nope", "/servers/nope/mcp", "/health"] {
            for form in ["{x} \r\n{b}\r\n0\r\n\r\n", "{x}\r\n{b}XX", "{x}\r\n{b}\r\n0\n\n"] {
                let before = side.peer.calls().len();
                let request = String::from_utf8(in_chunks(form)).unwrap().replacen(SINGLE, path, 1);
                let mut client = Client::connect(side.gateway.address);
                client.send(&[request.as_bytes(), &call("behind").bytes()].concat());
                let mut statuses = Vec::new();
                while let Some(response) = client.outcome() {
                    statuses.push(response.status);
                }
                let what = format!("{}, {path}, {form:?}: {statuses:?}", side.reader);
                assert!(statuses.len() <= 1 && !statuses.contains(&200), "{what}");
                assert_eq!(side.peer.calls().len(), before, "{what}");
            }
        }
    }
}

/// A body that is a request itself is not taken for one where the response does not wait for it.
#[test]
fn bodies_behind_early_responses_are_not_run() {
    for is_fast in [true, false] {
        let peer = Peer::script([]);
        let tables = format!("[server]\nfast_lane = {is_fast}\n[backend]\nfast_lane = {is_fast}\n");
        let gateway = Setup::new().server("a", peer.address).with(&tables).keys().start();
        let bearer = format!("Bearer {}", gateway.key.as_deref().unwrap());
        let (hidden, behind) = (call("hidden").with("Authorization", &bearer), call("behind"));
        let behind = behind.with("Authorization", &bearer).bytes();
        let known = hidden.clone().body(hidden.bytes());
        let rows = [
            ("an unknown path", known.clone().path("/nope"), 404),
            ("an unknown server", known.clone().path("/servers/nope/mcp"), 404),
            ("a path without POST", known.clone().path("/health"), 405),
            ("a foreign Host", known.clone().set("Host", "evil.example"), 403),
            ("no credential", known.clone().without("Authorization"), 401),
            ("an unknown key", known.clone().set("Authorization", "Bearer mcp_nobody"), 401),
            ("a foreign media type", known.set("Content-Type", "text/plain"), 415),
        ];
        for (what, request, status) in rows {
            let head = Request { body: Vec::new(), ..request.clone() };
            let head = head.with("Content-Length", request.body.len().to_string()).bytes();
            for is_after in [false, true] {
                let what = format!("{what}, fast lane: {is_fast}, body behind the response: {is_after}");
                let before = peer.calls().len();
                let mut client = Client::connect(gateway.address);
                let rest = [&request.body[..], &behind].concat();
                if is_after {
                    client.send(&head);
                } else {
                    client.send(&[&head[..], &rest].concat());
                }
                let response = client.outcome().unwrap_or_else(|| panic!("{what}: no response"));
                assert_eq!(response.status, status, "{what}");
                if is_after {
                    // A client that is still sending fails before it reads the response, if it cannot.
                    assert!(
                        request.body.chunks(16).all(|piece| client.send(piece)),
                        "{what}: cannot be sent"
                    );
                    client.send(&behind);
                }
                let next = client.outcome();
                let calls = peer.calls().split_off(before);
                match next {
                    None => assert_eq!(calls.len(), 0, "{what}"),
                    Some(next) => {
                        assert!(next.status == 200 && next.text().contains("behind"), "{what}: {next:?}");
                        assert_eq!(calls.len(), 1, "{what}");
                        assert!(!calls[0].text().contains("hidden"), "{what}");
                    }
                }
            }
        }
    }
}

/// A body in the smallest chunks costs at most ten times the CPU time of a plain one.
#[test]
fn tiny_chunks_cost_little() {
    for side in Side::all() {
        let text = "x".repeat(60 << 10);
        // Refused behind the scan, so that no server takes part.
        let request = call(&text).set("Mcp-Method", "other");
        let body = String::from_utf8(request.body.clone()).unwrap();
        let tiny = tiny_chunks(&body);
        let chunks = request.clone().with("Transfer-Encoding", "chunked").body(tiny + "0\r\n\r\n");
        let [plain, chunked] = [&request, &chunks].map(|request| side.gateway.cpu_time_of(request, 400));
        println!("{}: plain {plain:?}, in tiny chunks {chunked:?}", side.reader);
        assert!(chunked <= plain * 10, "{}: plain {plain:?}, in tiny chunks {chunked:?}", side.reader);
    }
}

/// A body of a form that makes work costs about as much as a text of the same length.
#[test]
fn hostile_json_costs_little() {
    let of_length = |part: &str| part.repeat((60 << 10) / part.len());
    let array = |part: &str| format!("[{}0]", of_length(part));
    let members = |count: usize, bytes: usize| {
        let members = (0..count).map(|number| format!(r#""{number}":"{}""#, "x".repeat(bytes)));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    };
    let nested = "[".repeat(60) + &"]".repeat(60);
    let rows = [
        ("nested arrays", array(&(nested + ","))),
        ("numbers", array("1,")),
        ("small numbers", array("1e-999,")),
        ("long numbers", array(&("9".repeat(300) + "." + &"9".repeat(300) + ","))),
        ("empty objects", array("{},")),
        ("empty texts", array("\"\",")),
        ("escapes", format!("\"{}\"", of_length(r"\u0041"))),
        ("short escapes", format!("\"{}\"", of_length(r"\n"))),
        ("many members", members(6000, 0)),
        ("long members", members(64, 900)),
    ];
    for side in Side::all() {
        let sent = |arguments: &str| {
            // Refused behind the scan, so that no server takes part.
            modern_call("/mcp", "a__echo", arguments).set("Mcp-Method", "other")
        };
        let plain = side.gateway.cpu_time_of(&sent(&format!("{{\"a\":\"{}\"}}", of_length("x"))), 400);
        for (name, json) in &rows {
            let cost = side.gateway.cpu_time_of(&sent(&format!("{{\"a\":{json}}}")), 400);
            println!("{} {name}: plain {plain:?}, {cost:?}", side.reader);
            assert!(cost <= plain * 10, "{} {name}: plain {plain:?}, {cost:?}", side.reader);
        }
    }
}
