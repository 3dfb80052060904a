//! Requests: the usual ones, and every way in which one can be another.

use crate::support::{Answered, Client, MODERN, Pace, Request, TWO_WAYS, Twins, WAYS, Way};

/// A request made of the usual one.
type Make = Box<dyn Fn(Request) -> Vec<u8> + Sync>;

/// What it is, how many answers are to be awaited, and how it is made.
type Row = (String, usize, Make);

fn row(what: impl Into<String>, answers: usize, make: impl Fn(Request) -> Vec<u8> + Sync + 'static) -> Row {
    (what.into(), answers, Box::new(make))
}

/// The usual request with a field more.
fn with(name: &'static str, value: impl Into<String>) -> Row {
    let value = value.into();
    let shown: String = value.chars().take(40).collect();
    row(format!("{name}: {shown:?}"), 1, move |request| request.with(name, value.as_str()).bytes())
}

/// The usual request with something in place of the first place where `from` stands.
fn swapped(what: &'static str, from: &'static [u8], to: &'static [u8]) -> Row {
    row(format!("{what}: {}", to.escape_ascii()), 1, move |request| swap(&request.bytes(), from, to))
}

fn swap(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[track_caller]
fn check(twins: &mut Twins, ways: &[Way], rows: &[Row], pace: Pace) {
    for way in ways {
        for (what, answers, make) in rows {
            let what = format!("{way:?}, {what}, {pace:?}");
            twins.check(&what, |side| side.outcome(&make(side.call(*way, "{}")), *answers, pace));
        }
    }
}

/// Ways to say where a message ends, all of which but a few are wrong. In them `{n}` is the length of the
/// plain body and `{c}` that of the chunked one; true: the chunked one is sent.
const FRAMINGS: [(&[&str], bool); 46] = [
    (&["Content-Length: {n}", "Content-Length: {n}"], false),
    (&["Content-Length: {n}", "Content-Length: 0"], false),
    (&["Content-Length: 0", "Content-Length: {n}"], false),
    (&["Content-Length: {n}, {n}"], false),
    (&["Content-Length: {n},"], false),
    (&["Content-Length: +{n}"], false),
    (&["Content-Length: -1"], false),
    (&["Content-Length:   {n}  "], false),
    (&["Content-Length:\t{n}\t"], false),
    (&["Content-Length:{n}"], false),
    (&["content-length: {n}"], false),
    (&["CONTENT-LENGTH: {n}"], false),
    (&["Content-Length: 0{n}"], false),
    (&["Content-Length: 00000000000{n}"], false),
    (&["Content-Length: 0x{n}"], false),
    (&["Content-Length: {n}.0"], false),
    (&["Content-Length: {n} 1"], false),
    (&["Content-Length: {n};a=b"], false),
    (&["Content-Length: \"{n}\""], false),
    (&["Content-Length: 18446744073709551616"], false),
    (&["Content-Length: 99999999999999999999999999999"], false),
    (&["Content-Length: 65537"], false),
    (&["Content-Length:"], false),
    (&["Content-Length : {n}"], false),
    (&["Content_Length: {n}"], false),
    (&["Content-Length\t: {n}"], false),
    (&[" Content-Length: {n}"], false),
    (&["X-A: 1\r\n Content-Length: {n}"], false),
    (&["X-A: 1\rContent-Length: {n}"], false),
    (&["X-A: 1\nContent-Length: {n}"], false),
    (&["X-A: 1"], false),
    (&["Transfer-Encoding: chunked"], true),
    (&["transfer-encoding: Chunked"], true),
    (&["Transfer-Encoding:\tchunked"], true),
    (&["Transfer-Encoding: gzip, chunked"], true),
    (&["Transfer-Encoding: chunked, identity"], true),
    (&["Transfer-Encoding: xchunked"], true),
    (&["Transfer-Encoding: \"chunked\""], true),
    (&["Transfer-Encoding: \u{b}chunked"], true),
    (&["Transfer-Encoding : chunked"], true),
    (&["Transfer-Encoding: chunked", "Transfer-Encoding: x"], true),
    (&["Transfer-Encoding: x", "Transfer-Encoding: chunked"], true),
    (&["Content-Length: {n}", "Transfer-Encoding: chunked"], true),
    (&["Content-Length: {c}", "Transfer-Encoding: chunked"], true),
    (&["Transfer-Encoding: chunked", "Content-Length: {c}"], true),
    (&["Content-Length: {c}", "Transfer_Encoding: chunked"], true),
];

fn framings() -> Vec<Row> {
    let rows = FRAMINGS.iter().map(|(lines, is_chunked)| {
        let what = format!("{lines:?}, chunked {is_chunked}");
        row(what, 1, move |request| {
            let plain = String::from_utf8(request.body.clone()).unwrap();
            let chunked = format!("{:x}\r\n{plain}\r\n0\r\n\r\n", plain.len());
            let lines = lines.join("\r\n").replace("{n}", &plain.len().to_string());
            let lines = lines.replace("{c}", &chunked.len().to_string()) + "\r\n\r\n";
            let head = head_of(&request);
            let body = if *is_chunked { chunked } else { plain };
            [head.as_slice(), lines.as_bytes(), body.as_bytes()].concat()
        })
    });
    rows.collect()
}

/// Without Content-Length and the empty line.
fn head_of(request: &Request) -> Vec<u8> {
    let bytes = request.clone().with("Content-Length", "0").body("").bytes();
    bytes[..bytes.len() - b"Content-Length: 0\r\n\r\n".len()].to_vec()
}

/// Chunks of a body, with what may stand around them, and with what may not.
fn chunkings() -> Vec<Row> {
    let parts: [(&str, &str); 14] = [
        ("{x};a=b\r\n{b}\r\n", "0\r\n\r\n"),
        ("{x} ;a=\"b\"\r\n{b}\r\n", "0\r\n\r\n"),
        ("{x}\r\n{b}\r\n", "0\r\nX-Trailer: 1\r\n\r\n"),
        ("{x}\r\n{b}\r\n", "0\r\nContent-Length: 5\r\n\r\n"),
        ("{x}\r\n{b}\r\n", "000\r\n\r\n"),
        ("000{x}\r\n{b}\r\n", "0\r\n\r\n"),
        ("{x}\n{b}\n", "0\n\n"),
        ("0x{x}\r\n{b}\r\n", "0\r\n\r\n"),
        ("+{x}\r\n{b}\r\n", "0\r\n\r\n"),
        ("-{x}\r\n{b}\r\n", "0\r\n\r\n"),
        ("fffffffffffffffff\r\n{b}\r\n", "0\r\n\r\n"),
        ("zz\r\n{b}\r\n", "0\r\n\r\n"),
        ("{x}\r\n{b}XX", "0\r\n\r\n"),
        ("{x}\r\n{b}\r\n", "0\r\n\r\nPOST"),
    ];
    let rows = parts.map(|(chunk, end)| {
        row(format!("{chunk:?}{end:?}"), 1, move |request| {
            let body = String::from_utf8(request.body.clone()).unwrap();
            let chunk = chunk.replace("{x}", &format!("{:x}", body.len())).replace("{b}", &body);
            request.with("Transfer-Encoding", "chunked").body(chunk + end).bytes()
        })
    });
    rows.into()
}

#[test]
fn requests_framed_in_every_way() {
    let mut twins =
        Twins::new("body_bytes_max = \"64KiB\"\nheader_timeout = \"500ms\"\nbody_timeout = \"500ms\"", "");
    check(&mut twins, &TWO_WAYS, &framings(), Pace::Whole);
    check(&mut twins, &TWO_WAYS, &chunkings(), Pace::Whole);
    let lengths = [-1_isize, 1, 5, 1000].map(|more| {
        row(format!("{more} more said than sent"), usize::from(more < 0), move |request| {
            let said = request.body.len().saturating_add_signed(more);
            request.with("Content-Length", said.to_string()).bytes()
        })
    });
    check(&mut twins, &TWO_WAYS, &lengths, Pace::Whole);
    twins.finish();
}

fn request_lines() -> Vec<Row> {
    let lines: [&[u8]; 31] = [
        b"post /",
        b"Post /",
        b"POST\t/",
        b"POST  /",
        b" POST /",
        b"\r\nPOST /",
        b"\nPOST /",
        b"\r\n\r\n\r\nPOST /",
        b"\rPOST /",
        b"POST http://localhost/",
        b"POST http://127.0.0.1:1/",
        b"POST http://evil.example/",
        b"POST https://localhost/",
        b"POST localhost:80 HTTP/1.1\r\nX: /",
        b"POST * HTTP/1.1\r\nX: /",
        b"POST //",
        b"POST /./",
        b"POST /%2f",
        b"POST \\",
        b"POST /\x80",
        b"POST /\x00",
        b"POST / /",
        b"POST ?/",
        b"PO\x00ST /",
        b"P\xd6ST /",
        b"POST\r\n /",
        b"PUT /",
        b"PATCH /",
        b"OPTIONS /",
        b"CONNECT localhost:80 HTTP/1.1\r\nX: /",
        b"PRI /",
    ];
    let versions: [&[u8]; 14] = [
        b" HTTP/1.0\r\n",
        b" HTTP/1.0\r\nConnection: keep-alive\r\n",
        b" HTTP/1.2\r\n",
        b" HTTP/2.0\r\n",
        b" HTTP/0.9\r\n",
        b" http/1.1\r\n",
        b" HTTP/1.1 \r\n",
        b"  HTTP/1.1\r\n",
        b"\tHTTP/1.1\r\n",
        b"\r\n",
        b"?x=1 HTTP/1.1\r\n",
        b"#f HTTP/1.1\r\n",
        b"/ HTTP/1.1\r\n",
        b" HTTP/1.1\n",
    ];
    let lines = lines.into_iter().map(|line| swapped("line", b"POST /", line));
    lines.chain(versions.into_iter().map(|version| swapped("version", b" HTTP/1.1\r\n", version))).collect()
}

fn odd_lines() -> Vec<Row> {
    let bare = row("bare line feeds", 1, |request: Request| {
        let text = String::from_utf8(request.bytes()).unwrap();
        text.replace("\r\n", "\n").into_bytes()
    });
    let host: &[u8] = b"Host: localhost\r\n";
    let fields: [&[u8]; 20] = [
        b"Host: localhost\n",
        b"Host: localhost\r",
        b"Host : localhost\r\n",
        b"Host\t: localhost\r\n",
        b"Host:localhost\r\n",
        b"Host:\t localhost \t\r\n",
        b" Host: localhost\r\n",
        b"Host\r\n",
        b": localhost\r\n",
        b"Host: localhost\r\n folded\r\n",
        b"Host: localhost\r\n\tfolded\r\n",
        b"Host: local\x00host\r\n",
        b"Host: local\rhost\r\n",
        b"Host: local\x7fhost\r\n",
        b"Host: localh\xf6st\r\n",
        b"H\xf6st: localhost\r\n",
        b"Ho st: localhost\r\n",
        b"Ho(st: localhost\r\n",
        b"Host: localhost\r\nX_Underscore: 1\r\nMcp_Name: x\r\n",
        b"",
    ];
    let values: [&[u8]; 8] = [b"a\xffb", b"\xff", b"", b" ", b"a\x00b", b"a\x01b", b"a\x0bb", b"a\tb"];
    let mut rows = vec![bare];
    rows.extend(fields.into_iter().map(|field| swapped("Host", host, field)));
    for name in ["Mcp-Param-A", "traceparent", "Mcp-Name", "Origin", "Authorization", "X-Any", "Accept"] {
        rows.extend(values.into_iter().map(|value| {
            row(format!("{name}: {}", value.escape_ascii()), 1, move |request| {
                swap(&request.with(name, "VALUE").bytes(), b"VALUE", value)
            })
        }));
    }
    rows
}

#[test]
fn lines_of_every_form() {
    let mut twins = Twins::new("header_timeout = \"500ms\"\nbody_timeout = \"500ms\"", "");
    check(&mut twins, &TWO_WAYS, &request_lines(), Pace::Whole);
    check(&mut twins, &TWO_WAYS, &odd_lines(), Pace::Whole);
    twins.finish();
}

/// What the gateway looks at, and some that it does not.
const NAMES: [&str; 19] = [
    "Host",
    "Origin",
    "Authorization",
    "X-API-Key",
    "Accept",
    "Content-Type",
    "Content-Encoding",
    "Mcp-Name",
    "Mcp-Method",
    "MCP-Protocol-Version",
    "Mcp-Session-Id",
    "Mcp-Param-A",
    "Mcp-Param-",
    "traceparent",
    "tracestate",
    "baggage",
    "Last-Event-ID",
    "Cookie",
    "X-Any",
];

fn fields() -> Vec<Row> {
    let mut rows = vec![row("usual", 1, |request| request.bytes())];
    for value in
        ["close", "Close", "keep-alive", "Keep-Alive", "keep-alive, x", "x", "close, keep-alive", "TE", ""]
    {
        rows.push(with("Connection", value));
    }
    rows.push(with("Connection", "keep-alive\r\nConnection: close"));
    rows.push(with("Connection", "close\r\nConnection: keep-alive"));
    rows.push(with("Connection", "upgrade\r\nUpgrade: websocket"));
    rows.push(with("Upgrade", "websocket"));
    let h2c = "Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA";
    rows.push(with("Connection", h2c));
    for value in ["100-continue", "100-Continue", "200-ok", ""] {
        rows.push(with("Expect", value));
    }
    for name in
        ["TE", "Trailer", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Forwarded", "Cookie"]
    {
        rows.push(with(name, "chunked"));
    }
    for name in NAMES {
        for values in [["a", "a"], ["a", "b"], ["", "b"], ["a, b", "c"]] {
            let lines = format!("{}\r\n{}: {}", values[0], name.to_ascii_uppercase(), values[1]);
            rows.push(with(name, lines));
        }
        rows.push(with(name, "alone"));
        rows.push(row(format!("no {name}"), 1, move |request| request.without(name).bytes()));
        rows.push(row(format!("the same {name} twice"), 1, move |request| {
            let has = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
            let value = request.headers.iter().find(has).map_or("x".to_owned(), |(_, value)| value.clone());
            request.with(name, value).bytes()
        }));
        rows.push(row(format!("{name} in capitals"), 1, move |request| {
            let capitals = |(other, value): (String, String)| (other.to_ascii_uppercase(), value);
            let headers = request.headers.clone().into_iter().map(capitals).collect();
            Request { headers, ..request }.with(name, "x").bytes()
        }));
    }
    rows
}

/// So many fields, or a head of so many bytes.
fn sizes() -> Vec<Row> {
    let mut rows = Vec::new();
    for count in [31, 32, 33, 63, 64, 65, 66, 200] {
        rows.push(row(format!("{count} fields"), 1, move |mut request| {
            // Content-Length is added.
            while request.headers.len() + 1 < count {
                request = request.with("X-Any", "x");
            }
            request.bytes()
        }));
    }
    for bytes in
        [(8 << 10) - 1, 8 << 10, (8 << 10) + 1, 9 << 10, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 17 << 10]
    {
        rows.push(row(format!("a head of {bytes} bytes"), 1, move |request| {
            let request = request.with("X-Any", "");
            let head = request.bytes().len() - request.body.len();
            request.set("X-Any", "x".repeat(bytes - head)).bytes()
        }));
    }
    for bytes in
        [(32 << 10) - 1, 32 << 10, (32 << 10) + 1, 33 << 10, (64 << 10) - 1, 64 << 10, (64 << 10) + 1]
    {
        rows.push(row(format!("a body of {bytes} bytes"), 1, move |request| {
            let more = " ".repeat(bytes - request.body.len());
            let body = [request.body.as_slice(), more.as_bytes()].concat();
            request.body(body).bytes()
        }));
    }
    rows.push(row("an empty body", 1, |request: Request| request.body("").bytes()));
    rows
}

#[test]
fn fields_of_every_kind() {
    let mut twins = Twins::new("body_bytes_max = \"64KiB\"", "");
    check(&mut twins, &WAYS, &fields(), Pace::Whole);
    check(&mut twins, &WAYS, &sizes(), Pace::Whole);
    twins.finish();
}

/// No calls, all of them.
const BODIES: [&str; 12] = [
    "{",
    "{}",
    "[]",
    "1",
    "\u{feff}{}",
    r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"no/such"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
    r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
    r#"{"jsonrpc":"2.0","method":"notifications/x"}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#,
];

/// What MCP refuses, each in its own manner.
fn refused() -> Vec<Row> {
    let set = |name: &'static str, value: &'static str| {
        row(format!("{name} is {value:?}"), 1, move |request: Request| request.set(name, value).bytes())
    };
    let mut rows = vec![
        set("Accept", "application/json"),
        set("Accept", "text/event-stream"),
        set("Accept", "*/*"),
        set("Content-Type", "text/plain"),
        set("Content-Type", "Application/JSON; charset=utf-8"),
        set("Host", "evil.example"),
        set("Host", "127.0.0.1:80@evil.example"),
        set("Host", "[::1]:80"),
        set("Origin", "http://evil.example"),
        set("Origin", "http://localhost:6274"),
        set("Origin", "null"),
        set("MCP-Protocol-Version", "1999-01-01"),
        set("MCP-Protocol-Version", MODERN),
        set("Mcp-Session-Id", "none-of-ours"),
        set("Mcp-Method", "tools/list"),
        set("Mcp-Name", "other"),
    ];
    for body in BODIES {
        rows.push(row(body, 1, move |request: Request| request.body(body).bytes()));
    }
    for path in
        ["/", "/mcp/", "/mcp/nope", "/MCP", "/servers/a", "/servers/%61/mcp", "/mcp/default", "/health"]
    {
        rows.push(row(path, 1, move |request: Request| request.path(path).bytes()));
    }
    rows
}

/// Requests one behind the other.
fn pipelined() -> Vec<Row> {
    let chunked = |request: &Request| {
        let body =
            format!("{:x}\r\n{}\r\n0\r\n\r\n", request.body.len(), String::from_utf8_lossy(&request.body));
        request.clone().with("Transfer-Encoding", "chunked").body(body).bytes()
    };
    let refused = |request: &Request| request.clone().set("Accept", "x/y").bytes();
    let closing = |request: &Request| request.clone().with("Connection", "close").bytes();
    vec![
        row("two", 2, |request| request.bytes().repeat(2)),
        row("three", 3, |request| request.bytes().repeat(3)),
        row("usual and chunked", 2, move |request| [request.bytes(), chunked(&request)].concat()),
        row("chunked and usual", 2, move |request| [chunked(&request), request.bytes()].concat()),
        row("usual, chunked, usual", 3, move |request| {
            [request.bytes(), chunked(&request), request.bytes()].concat()
        }),
        row("usual, refused, usual", 3, move |request| {
            [request.bytes(), refused(&request), request.bytes()].concat()
        }),
        row("usual, closing, usual", 2, move |request| {
            [request.bytes(), closing(&request), request.bytes()].concat()
        }),
        row("usual and an empty line and usual", 2, |request| {
            [&request.bytes()[..], b"\r\n", &request.bytes()].concat()
        }),
        row("usual and garbage", 2, |request| {
            [&request.bytes()[..], b"\x16\x03\x01 garbage\r\n\r\n"].concat()
        }),
        row("usual and words", 2, |request| [&request.bytes()[..], b"POST POST POST\r\n\r\n"].concat()),
        row("usual and half", 1, |request| [&request.bytes()[..], &request.bytes()[..100]].concat()),
        row("usual and a head", 1, |request| {
            [request.bytes(), request.clone().with("Content-Length", "9999").body("").bytes()].concat()
        }),
        row("usual and a first byte", 1, |request| [&request.bytes()[..], b"P"].concat()),
        row("usual and a preface", 1, |request| {
            [&request.bytes()[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].concat()
        }),
        row("half", 0, |request| request.bytes()[..100].to_vec()),
        row("a first byte", 0, |_| b"P".to_vec()),
    ]
}

#[test]
fn refusals_and_requests_one_behind_the_other() {
    let mut twins = Twins::new("header_timeout = \"500ms\"\nbody_timeout = \"500ms\"", "");
    check(&mut twins, &WAYS, &refused(), Pace::Whole);
    check(&mut twins, &WAYS, &pipelined(), Pace::Whole);
    twins.finish();
}

/// What ends a session as clients send it: most say nothing of a body.
fn end(request: &Request) -> Vec<u8> {
    swap(&end_with_length(request).bytes(), b"Content-Length: 0\r\n", b"")
}

fn end_with_length(request: &Request) -> Request {
    Request { method: "DELETE".into(), ..request.clone().without("Content-Type").body("") }
}

fn usual_ends() -> Vec<Row> {
    vec![
        row("its end", 1, |request| end(&request)),
        row("its end, a length said", 1, |request| end_with_length(&request).bytes()),
        row("its end, and a call", 2, |request| [end(&request), request.bytes()].concat()),
        row("a call, its end, its end", 3, |request| {
            [request.bytes(), end(&request), end(&request)].concat()
        }),
        row("a call, half of its end", 1, |request| [request.bytes(), end(&request)[..9].to_vec()].concat()),
    ]
}

/// Every way in which the end of a session can be another.
fn odd_ends() -> Vec<Row> {
    let headers = [
        ("Mcp-Session-Id", "of another"),
        ("MCP-Protocol-Version", MODERN),
        ("Host", "evil.example"),
        ("Origin", "http://evil.example"),
        ("Origin", "http://localhost:6274"),
        ("Accept", "a\r\nAccept: b"),
        ("Connection", "keep-alive"),
        ("Connection", "close"),
        ("Connection", "keep-alive, close"),
        ("Upgrade", "h2c"),
        ("Expect", "100-continue"),
    ];
    let rows = headers.map(|(name, value)| {
        row(format!("its end, {name}: {value:?}"), 1, move |request| end(&request.set(name, value)))
    });
    let mut rows = Vec::from(rows);
    rows.push(row("the end of none", 1, |request| end(&request.without("Mcp-Session-Id"))));
    rows.push(row("its end elsewhere", 1, |request| end(&request.path("/mcp/nope"))));
    rows.push(row("its end, twice named", 1, |request| {
        swap(&end(&request), b"Mcp-Session-Id", b"Mcp-Session-Id: x\r\nMcp-Session-Id")
    }));
    for line in
        ["DELETE  /", "DELETE\t/", "delete /", "DELETED /", "\r\nDELETE /", "DELETE http://localhost/"]
    {
        rows.push(row(format!("its end as {line:?}"), 1, move |request| {
            swap(&end(&request), b"DELETE /", line.as_bytes())
        }));
    }
    let lengths = [
        "Content-Length: 000",
        "Content-Length: 2",
        "Content-Length: 9999",
        "Content-Length: +0",
        "Content-Length: 0, 0",
        "Content-Length:",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: 2",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
    ];
    // What follows it is its body, or another request.
    for body in ["", "{}", "0\r\n\r\n", "2\r\n{}\r\n0\r\n\r\n"] {
        rows.extend(lengths.map(|line| {
            row(format!("its end, {line:?}, then {body:?} and a call"), 1, move |request| {
                let bytes = end_with_length(&request).bytes();
                let end = swap(&bytes, b"Content-Length: 0", line.as_bytes());
                [&end, body.as_bytes(), &request.bytes()].concat()
            })
        }));
    }
    rows
}

#[test]
fn ends_of_sessions() {
    let mut twins = Twins::new("header_timeout = \"500ms\"\nbody_timeout = \"500ms\"", "");
    for way in [Way::LegacySingle, Way::LegacyAggregated] {
        for (rows, pace) in
            [(usual_ends(), Pace::Whole), (odd_ends(), Pace::Whole), (usual_ends(), Pace::Bytewise)]
        {
            for (what, answers, make) in rows {
                let what = format!("{way:?}, {what}, {pace:?}");
                twins.check(&what, |side| side.outcome(&make(side.call_apart(way, "{}")), answers, pace));
            }
        }
    }
    twins.finish();
}

#[test]
fn byte_by_byte() {
    let mut twins = Twins::new("", "");
    check(&mut twins, &WAYS, &[row("usual", 1, |request| request.bytes())], Pace::Bytewise);
    check(&mut twins, &TWO_WAYS, &pipelined()[..5], Pace::Bytewise);
    // Nothing that is refused by its head: hyper answers it before the body came, and then ends the connection.
    let odd: Vec<Row> = vec![
        with("Connection", "close"),
        with("X-Any", "x"),
        with("Transfer-Encoding", "xchunked"),
        swapped("line", b"POST /", b"\r\nPOST /"),
        swapped("line", b"POST /", b"POST  /"),
    ];
    check(&mut twins, &TWO_WAYS, &odd, Pace::Bytewise);
    twins.finish();
}

/// How many connections at once each offset of a head is tried on.
const BATCH: usize = 32;

#[test]
fn heads_cut_in_two_at_every_offset() {
    let mut twins = Twins::new("", "");
    // In a Legacy session an id can be under way only once.
    for way in [Way::ModernSingle, Way::ModernAggregated] {
        twins.check(&format!("{way:?}, cut"), |side| {
            let request = |at: usize| side.call(way, &format!(r#"{{"text":"cut-at-{at}-"}}"#)).bytes();
            let offsets: Vec<usize> = (1..request(100).len()).collect();
            let before = side.peer.all().len();
            let mut answers = Vec::new();
            for offsets in offsets.chunks(BATCH) {
                let mut clients: Vec<_> =
                    offsets.iter().map(|at| (*at, Client::connect(side.gateway.address))).collect();
                for (at, client) in &mut clients {
                    client.send(&request(*at)[..*at]);
                }
                // What came before this was read before this was answered.
                assert_eq!(Client::once(side.gateway.address, &Request::new("GET", "/nope")).status, 404);
                for (at, client) in &mut clients {
                    client.send(&request(*at)[*at..]);
                }
                for (at, mut client) in clients {
                    let answered = Answered::of(client.response());
                    let text = format!("cut-at-{at}-");
                    assert!(answered.status == 200 && answered.body.contains(&text), "{at}: {answered:?}");
                    assert_eq!(client.ask(&side.call(way, "{}")).status, 200, "after one cut at {at}");
                    answers.push(answered);
                }
            }
            let mut reached = side.reached(before);
            reached.sort_by(|one, other| one.body.cmp(&other.body));
            (answers, reached)
        });
    }
    twins.finish();
}
