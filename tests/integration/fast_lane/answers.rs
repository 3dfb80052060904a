//! Answers of a server: the usual ones, and every way in which one can be another.

use crate::support::{
    Answered, Client, Gate, Reached, Request, Side, Step, TWO_WAYS, Twins, WAYS, Way, answer, chunk, result,
};

/// What it is, and what the server does with the call.
type Row = (String, Vec<Step>);

fn row(what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Row {
    (what.into(), vec![Step::Send(bytes.into())])
}

/// What can be seen of a call that a script answers, and of one behind it.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// `None` when the gateway closed without an answer.
    first: Option<Answered>,
    second: Answered,
    reached: Vec<Reached>,
    /// Whether the second call came on the connection of the first, where that must be the same.
    reused: Option<bool>,
}

/// Whether the gateways must agree on using a connection again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Same,
    /// The gateway does not look at the body. Where it came with the head, the lane has it behind itself all
    /// the same; hyper has not, and ends the connection.
    AsMayBe,
}

fn observe(side: &Side, request: &Request, probe: &Request, steps: &[Step], reuse: Reuse) -> Outcome {
    let (before, ended) = (side.peer.all().len(), side.peer.ended());
    side.peer.push([steps.to_vec()]);
    let mut client = Client::connect(side.gateway.address);
    client.send(&request.bytes());
    let first = client.outcome().map(Answered::of);
    if first.is_none() {
        client = Client::connect(side.gateway.address);
    }
    if matches!(steps.last(), Some(Step::Close | Step::Reset)) {
        // Else the next call may cross the end on its way.
        side.peer.wait_ended(ended + 1);
    }
    let second = Answered::of(client.ask(probe));
    assert!(second.body.contains("probe"), "the next call got another answer: {second:?}");
    let calls = side.peer.calls();
    let [.., one, other] = &calls[..] else { panic!("two calls came") };
    let reused = Some(one.connection == other.connection).filter(|_| reuse == Reuse::Same);
    Outcome { first, second, reached: side.reached(before), reused }
}

#[track_caller]
fn check(twins: &mut Twins, ways: &[Way], rows: &[Row], reuse: Reuse) {
    for way in ways {
        for (what, steps) in rows {
            twins.check(&format!("{way:?}, {what}"), |side| {
                observe(side, &side.call(*way, "{}"), &side.call(*way, r#"{"probe":true}"#), steps, reuse)
            });
        }
    }
}

fn good() -> String {
    result("1", "good")
}

/// A whole answer with these lines in its head, in which `{n}` is the length of the body.
fn headed(status: &str, lines: &str) -> Row {
    let lines = lines.replace("{n}", &good().len().to_string());
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{lines}\r\n");
    row(format!("{status}, {:?}", lines.chars().take(60).collect::<String>()), head + &good())
}

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

fn framings() -> Vec<Row> {
    const LINES: [&str; 34] = [
        "Content-Length: {n}\r\n",
        "content-length:{n}\r\n",
        "CONTENT-LENGTH:  \t{n} \t\r\n",
        "Content-Length: 00{n}\r\n",
        "Content-Length: 0000000000000000{n}\r\n",
        "Content-Length: {n}\r\nContent-Length: {n}\r\n",
        "Content-Length: {n}\r\nContent-Length: 1\r\n",
        "Content-Length: {n}, {n}\r\n",
        "Content-Length: +{n}\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x{n}\r\n",
        "Content-Length: {n} 1\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551614\r\n",
        "Content-Length:\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 1\r\n",
        "Content-Length : {n}\r\n",
        " Content-Length: {n}\r\n",
        "X-A: 1\r\n folded\r\nContent-Length: {n}\r\n",
        "Content-Length: {n}\n",
        "Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n",
        "Content-Length: {n}\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: {n}\r\nConnection: close\r\n",
        "Content-Length: {n}\r\nConnection: Keep-Alive\r\n",
        "Content-Length: {n}\r\nConnection: keep-alive, close\r\n",
        "Content-Length: {n}\r\nConnection: keep-alive\r\nConnection: close\r\n",
        "Content-Length: {n}\r\nKeep-Alive: timeout=0\r\n",
        "Content-Length: {n}\r\nUpgrade: h2c\r\n",
        "Content-Length: {n}\r\nX-Any: \u{e9}\r\n",
        "Content-Length: {n}\r\nX-Any: a\u{0}b\r\n",
        "Content-Length: {n}\r\nX-Any\r\n",
        "Content-Length: {n}\r\n: x\r\n",
    ];
    // Those that leave open where the end is end with the connection.
    let rows = LINES.map(|lines| {
        let (what, mut steps) = headed("200 OK", lines);
        steps.push(Step::Close);
        (what, steps)
    });
    let kept =
        ["{n}\r\n", "{n}\r\nConnection: close\r\n", "0\r\n", "1\r\n", "{n}\r\nContent-Length: {n}\r\n"]
            .map(|lines| headed("200 OK", &format!("Content-Length: {lines}")));
    let versions =
        ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "ICY", " HTTP/1.1", "\r\nHTTP/1.1", "HTTP/1.1 "];
    let versions = versions.map(|version| {
        let text = String::from_utf8(answer("200 OK", &good())).unwrap();
        (format!("{version:?}"), vec![Step::Send(text.replacen("HTTP/1.1", version, 1).into()), Step::Close])
    });
    let bare = String::from_utf8(answer("200 OK", &good())).unwrap().replace("\r\n", "\n");
    let until_closed = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}", good());
    let mut all: Vec<Row> = rows.into_iter().chain(kept).chain(versions).collect();
    all.push(("bare line feeds".into(), vec![Step::Send(bare.into()), Step::Close]));
    all.push(("until it closes".into(), vec![Step::Send(until_closed.clone().into()), Step::Close]));
    all.push(("until it resets".into(), vec![Step::Send(until_closed.into()), Step::Reset]));
    all
}

fn chunkings() -> Vec<Row> {
    let (size, good) = (format!("{:x}", good().len()), good());
    let bodies = [
        format!("{size}\r\n{good}\r\n0\r\n\r\n"),
        format!("{size};a=b\r\n{good}\r\n0;c\r\n\r\n"),
        format!("{size} \t\r\n{good}\r\n0 ;\r\n\r\n"),
        format!("{size};a\nb\r\n{good}\r\n0\r\n\r\n"),
        format!("{size}\r\n{good}\r\n0\r\nX-Trailer: 1\r\n\r\n"),
        format!("{size}\r\n{good}\r\n0\r\nX : 1\r\n\r\n"),
        format!("{size}\r\n{good}\r\n0\r\nno field\r\n\r\n"),
        format!("00{size}\r\n{good}\r\n000\r\n\r\n"),
        format!("{size}\n{good}\n0\n\n"),
        format!("0x{size}\r\n{good}\r\n0\r\n\r\n"),
        format!("+{size}\r\n{good}\r\n0\r\n\r\n"),
        format!("zz\r\n{good}\r\n0\r\n\r\n"),
        format!("fffffffffffffffff\r\n{good}\r\n0\r\n\r\n"),
        format!("{size}\r\n{good}XX0\r\n\r\n"),
        format!("{size}\r\n{good}\r\n0\r\n\r\nsurplus"),
        format!("{size}\r\n{good}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        format!("{size}\r\n{good}\r\n"),
        format!("{size}\r\n"),
    ];
    let row = |body: String| {
        let bytes = format!("{CHUNKED}{body}");
        (format!("chunks {body:?}"), vec![Step::Send(bytes.into()), Step::Close])
    };
    let pieces =
        good.as_bytes().chunks(7).map(|piece| Step::Send(chunk(std::str::from_utf8(piece).unwrap())));
    let mut steps = vec![Step::Send(CHUNKED.into())];
    steps.extend(pieces);
    steps.push(Step::Send(chunk("")));
    bodies.into_iter().map(row).chain([("chunks in many packets".to_owned(), steps)]).collect()
}

fn heads() -> Vec<Row> {
    let usual = "Content-Length: {n}\r\n";
    let statuses = [
        "200",
        "200 ",
        "200 \u{e9}",
        "201 Created",
        "202 Accepted",
        "204 No Content",
        "205 Reset Content",
        "206 Partial",
        "299 x",
        "301 Moved\r\nLocation: /x",
        "304 Not Modified",
        "404 Not Found",
        "405 Not Allowed",
        "413 Too Large",
        "600 x",
        "999 x",
        "099 x",
        "20 x",
        "2000 x",
        "+200 x",
    ];
    let mut rows: Vec<Row> = statuses.iter().map(|status| headed(status, usual)).collect();
    // These have no body, whatever is said.
    for status in ["204 No Content", "304 Not Modified"] {
        rows.push(row(format!("{status} alone"), format!("HTTP/1.1 {status}\r\n\r\n")));
        rows.push(row(
            format!("{status}, length 0"),
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"),
        ));
    }
    for before in ["100 Continue", "102 Processing", "103 Early Hints\r\nLink: </x>"] {
        for times in [1, 2, 100] {
            let before = format!("HTTP/1.1 {before}\r\n\r\n").repeat(times);
            let bytes = [before.as_bytes(), &answer("200 OK", &good())].concat();
            rows.push(row(format!("{before:.30?} {times} times"), bytes));
        }
    }
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    rows.push(("101".into(), vec![Step::Send(switching.into()), Step::Close]));
    for lines in [
        "Content-Type: application/json\r\n",
        "Content-Type: text/html\r\n",
        "Content-Type: text/event-stream\r\n",
        "Mcp-Session-Id: one\r\nMcp-Session-Id: two\r\n",
        "Mcp-Session-Id: one\r\n",
        "Mcp-Session-Id: \u{e9}\r\n",
        "Mcp-Session-Id:\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Encoding: identity\r\n",
        "Content-Encoding: Identity\r\n",
        "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        "Set-Cookie: a\r\nSet-Cookie: b\r\n",
        "X-Request-Id: x\r\nWWW-Authenticate: Bearer\r\nRetry-After: 7\r\nAllow: GET\r\nDate: today\r\n",
    ] {
        rows.push(headed("200 OK", &format!("{lines}{usual}")));
        rows.push(headed("404 Not Found", &format!("{usual}{lines}")));
    }
    for count in [29, 30, 31, 38, 97, 98, 99, 200] {
        rows.push(headed("200 OK", &format!("{usual}{}", "X-Any: x\r\n".repeat(count))));
    }
    for bytes in [8000, 9 << 10, 17 << 10, 63 << 10, 65 << 10] {
        rows.push(headed("200 OK", &format!("{usual}X-Any: {}\r\n", "x".repeat(bytes))));
    }
    rows
}

/// Those whose body tells nothing.
fn unread() -> Vec<Row> {
    let statuses =
        ["400 Bad", "401 Unauthorized", "403 Forbidden", "429 Too Many", "500 x", "502 x", "503 x", "599 x"];
    let rows = statuses.iter().map(|status| headed(status, "Content-Length: {n}\r\n"));
    rows.chain([row("nothing", answer("200 OK", ""))]).collect()
}

fn bodies() -> Vec<Row> {
    let usual = answer("200 OK", &good());
    let behind = |bytes: &[u8]| [&usual[..], bytes].concat();
    let forged = answer("200 OK", &result("1", "forged"));
    let mut rows = vec![
        row("usual", usual.clone()),
        row("an answer behind it", behind(&forged)),
        row("a byte behind it", behind(b"X")),
        row("a line behind it", behind(b"\r\n")),
        row("much behind it", behind(&[b'x'; 100 << 10])),
        row("no JSON", answer("200 OK", "<html>")),
        row("another id", answer("200 OK", &result("2", "foreign"))),
        row("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n"),
        ("closed".into(), vec![Step::Close]),
        ("reset".into(), vec![Step::Reset]),
        ("closed behind it".into(), vec![Step::Send(usual.clone()), Step::Close]),
        ("short by a byte".into(), vec![Step::Send(usual[..usual.len() - 1].into()), Step::Close]),
        ("short by a byte, reset".into(), vec![Step::Send(usual[..usual.len() - 1].into()), Step::Reset]),
    ];
    for bytes in [1 << 10, 15 << 10, 16 << 10, 17 << 10, 64 << 10, 1 << 20] {
        let big = answer("200 OK", &result("1", &"x".repeat(bytes)));
        rows.push(row(format!("{bytes} bytes"), big.clone()));
        rows.push(row(format!("{bytes} bytes and an answer"), [big, forged.clone()].concat()));
    }
    rows
}

#[test]
fn answers_framed_in_every_way() {
    let mut twins = Twins::new("", "stream_idle_timeout = \"1s\"\nfirst_byte_timeout = \"1s\"");
    check(&mut twins, &TWO_WAYS, &framings(), Reuse::Same);
    check(&mut twins, &TWO_WAYS, &chunkings(), Reuse::Same);
    twins.finish();
}

#[test]
fn answers_with_every_head_and_body() {
    let mut twins = Twins::new("", "stream_idle_timeout = \"1s\"\nfirst_byte_timeout = \"1s\"");
    // After a 404 the gateway pings the session, on whichever connection is free.
    let (refused, others): (Vec<Row>, Vec<Row>) =
        heads().into_iter().partition(|(what, _)| what.starts_with("404"));
    assert!(!refused.is_empty());
    check(&mut twins, &WAYS, &refused, Reuse::AsMayBe);
    check(&mut twins, &WAYS, &others, Reuse::Same);
    check(&mut twins, &WAYS, &bodies(), Reuse::Same);
    check(&mut twins, &WAYS, &unread(), Reuse::AsMayBe);
    twins.finish();
}

#[test]
fn answers_to_requests_of_every_size() {
    let mut twins = Twins::new("", "");
    for bytes in [1 << 10, 31 << 10, 32 << 10, 33 << 10, 512 << 10, 2 << 20] {
        for way in WAYS {
            twins.check(&format!("{way:?}, a request of {bytes} bytes"), |side| {
                let long = side.call(way, &format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes)));
                observe(
                    side,
                    &long,
                    &side.call(way, r#"{"probe":true}"#),
                    &[Step::Send(answer("200 OK", &good()))],
                    Reuse::Same,
                )
            });
        }
    }
    twins.finish();
}

#[test]
fn answers_cut_at_every_offset() {
    let mut twins = Twins::new("", "");
    let whole = answer("200 OK", &good());
    for at in 0..whole.len() {
        let cut = vec![(format!("ends after {at} bytes"), vec![Step::Send(whole[..at].into()), Step::Close])];
        check(&mut twins, &TWO_WAYS[..1], &cut, Reuse::Same);
        // In two packets, of which the second comes when the first was read.
        twins.check(&format!("in two, cut at {at}"), |side| {
            let (gate, begun, called) = (Gate::default(), Gate::default(), side.peer.calls().len());
            side.peer.push([vec![
                Step::Send(whole[..at].into()),
                Step::Open(begun.clone()),
                Step::Wait(gate.clone()),
                Step::Send(whole[at..].into()),
            ]]);
            let mut client = Client::connect(side.gateway.address);
            client.send(&side.call(Way::ModernSingle, "{}").bytes());
            begun.wait();
            assert_eq!(Client::once(side.gateway.address, &Request::new("GET", "/nope")).status, 404);
            gate.open();
            let first = Answered::of(client.response());
            assert!(first.body.contains("good"), "{first:?}");
            let second = Answered::of(client.ask(&side.call(Way::ModernSingle, r#"{"probe":true}"#)));
            let calls = side.peer.calls();
            (first, second, calls[called].connection == calls[called + 1].connection)
        });
    }
    twins.finish();
}
