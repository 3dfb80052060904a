//! Requests over HTTP/2 whose fields and frames do not fit each other: each is refused, reaches no server, and leaves the
//! next request as it is. The client writes frames itself, because those of libraries send no such requests.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Gateway, MODERN, PATIENCE, Peer, SINGLE, Setup, Step, call, until};

/// The types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Flags of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The field `:status: 200` as an index into the static table (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// The last stream of the first GOAWAY of an orderly end (RFC 9113, section 6.8).
const LAST_STREAM_MAX: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Outcome {
    Served,
    /// With another status.
    Refused,
    Reset,
    /// The connection ends.
    Ended,
}

/// One connection.
struct Connection {
    stream: TcpStream,
    next_id: u32,
}

type Field<'a> = (&'a str, &'a str);

impl Connection {
    fn open(gateway: &Gateway) -> Self {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, b"")).unwrap();
        Self { stream, next_id: 1 }
    }

    /// Sends a request and waits for what becomes of it.
    fn ask(&mut self, fields: &[Field<'_>], body: &[u8]) -> Outcome {
        self.send(fields, body).map_or(Outcome::Ended, |id| self.outcome(id))
    }

    /// Sends a request, and returns the id of its stream. `None` if the connection has ended.
    fn send(&mut self, fields: &[Field<'_>], body: &[u8]) -> Option<u32> {
        let id = self.next_id;
        self.next_id += 2;
        // Without Huffman coding and without a table (RFC 7541, section 6.2.2).
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                assert!(text.len() < 127, "needs a length of more than one byte");
                block.extend_from_slice(text.as_bytes());
            }
        }
        let head = frame(HEADERS, END_HEADERS, id, &block);
        self.stream.write_all(&[head, frame(DATA, END_STREAM, id, body)].concat()).ok()?;
        Some(id)
    }

    /// Waits for what becomes of the request of a stream. Acknowledges no PING, and so not the first GOAWAY.
    fn outcome(&mut self, id: u32) -> Outcome {
        loop {
            let Some((kind, flags, of, payload)) = self.read() else { return Outcome::Ended };
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    // The connection may have ended, which the next read tells.
                    drop(self.stream.write_all(&frame(SETTINGS, ACK, 0, b"")));
                }
                HEADERS if of == id => {
                    // A change of the table's size may come first.
                    let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                    return if status == Some(&STATUS_200) { Outcome::Served } else { Outcome::Refused };
                }
                RST_STREAM if of == id => return Outcome::Reset,
                GOAWAY if !payload.starts_with(&LAST_STREAM_MAX) => return Outcome::Ended,
                _ => {}
            }
        }
    }

    /// The next frame: its type, flags, stream and payload; `None` at the end.
    fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let id = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some((head[3], head[4], id, payload))
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// The pseudo-header fields of a call.
const PSEUDO: [Field<'_>; 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", SINGLE)];

/// The other fields.
const FIELDS: [Field<'_>; 5] = [
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
    ("mcp-protocol-version", MODERN),
    ("mcp-method", "tools/call"),
    ("mcp-name", "echo"),
];

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let body = call("1", "tools/call", r#""name":"echo","arguments":{},"#);
    let length = body.len();
    let (exact, less, more) = (length.to_string(), (length - 1).to_string(), (length + 1).to_string());
    let usual: Vec<Field<'_>> = [&PSEUDO[..], &FIELDS].concat();
    let with = |more: &[Field<'static>]| [&usual[..], more].concat();
    let in_place_of = |name: &str, fields: &[Field<'static>]| {
        let mut rest = usual.clone();
        let at = rest.iter().position(|(other, _)| *other == name).unwrap();
        rest.splice(at..=at, fields.iter().copied());
        rest
    };
    let rows: Vec<(&str, Vec<Field<'_>>)> = vec![
        ("a smaller content-length", [&usual[..], &[("content-length", &less)]].concat()),
        ("a greater content-length", [&usual[..], &[("content-length", &more)]].concat()),
        ("content-length 0", with(&[("content-length", "0")])),
        ("a signed content-length", with(&[("content-length", "+1")])),
        ("two lengths", [&usual[..], &[("content-length", &exact), ("content-length", &less)]].concat()),
        (
            "two lengths, the other first",
            [&usual[..], &[("content-length", &less), ("content-length", &exact)]].concat(),
        ),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "close")])),
        ("connection that names a field", with(&[("connection", "mcp-name")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("a capital letter in a name", with(&[("Mcp-Any", "x")])),
        ("a line in a value", with(&[("x-any", "a\r\nmcp-name: other")])),
        ("a NUL in a value", with(&[("x-any", "a\0b")])),
        ("a colon in a name", with(&[("x-any: x", "x")])),
        ("a pseudo-header field behind others", with(&[(":path", "/mcp")])),
        ("two paths", in_place_of(":path", &[(":path", SINGLE), (":path", "/mcp")])),
        ("no path", in_place_of(":path", &[])),
        ("no method", in_place_of(":method", &[])),
        ("an unknown pseudo-header field", in_place_of(":path", &[(":path", SINGLE), (":any", "x")])),
        ("a status", in_place_of(":path", &[(":path", SINGLE), (":status", "200")])),
        ("a foreign authority", in_place_of(":authority", &[(":authority", "evil.example")])),
        ("a foreign authority before host", {
            let mut fields = in_place_of(":authority", &[(":authority", "evil.example")]);
            fields.push(("host", "localhost"));
            fields
        }),
        ("a foreign host behind the authority", with(&[("host", "evil.example")])),
        ("two hosts", with(&[("host", "localhost"), ("host", "evil.example")])),
        ("two hosts without an authority", {
            let mut fields = in_place_of(":authority", &[]);
            fields.extend([("host", "localhost"), ("host", "evil.example")]);
            fields
        }),
        ("no host at all", in_place_of(":authority", &[])),
    ];
    let mut failures = Vec::new();
    for (what, fields) in &rows {
        let before = peer.calls().len();
        let mut connection = Connection::open(&gateway);
        assert_eq!(connection.ask(&usual, body.as_bytes()), Outcome::Served, "before {what}");
        let outcome = connection.ask(fields, body.as_bytes());
        let mut next = if outcome == Outcome::Ended { Connection::open(&gateway) } else { connection };
        assert_eq!(next.ask(&usual, body.as_bytes()), Outcome::Served, "behind {what}: {outcome:?}");
        if outcome == Outcome::Served || peer.calls().len() != before + 2 {
            failures.push(format!("{what}: {outcome:?}, {} calls", peer.calls().len() - before));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn an_exact_length_and_trailers_are_no_contradiction() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let body = call("1", "tools/call", r#""name":"echo","arguments":{},"#);
    let length = body.len().to_string();
    let fields = [&PSEUDO[..], &FIELDS, &[("content-length", &length), ("te", "trailers")]].concat();
    assert_eq!(Connection::open(&gateway).ask(&fields, body.as_bytes()), Outcome::Served);
    assert_eq!(peer.calls().len(), 1);
}

/// As over HTTP/1.1. Pseudo-header fields are part of the request line there, and do not count.
#[test]
fn the_number_of_fields_is_bounded() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let body = call("1", "tools/call", r#""name":"echo","arguments":{},"#);
    for (count, expected) in [(64, Outcome::Served), (65, Outcome::Refused)] {
        let more = vec![("x-any", "x"); count - FIELDS.len()];
        let fields = [&PSEUDO[..], &FIELDS, &more].concat();
        assert_eq!(Connection::open(&gateway).ask(&fields, body.as_bytes()), expected, "{count} fields");
        assert_eq!(peer.calls().len(), 1, "{count} fields");
    }
}

/// A client that does not acknowledge the first GOAWAY is not told which streams are the last ones.
#[test]
fn a_connection_that_is_to_end_serves_no_request_after_a_while() {
    let peer = Peer::script([vec![Step::Hold]]);
    let setup = Setup::new().server("a", peer.address).with("[server]\ndrain_deadline = \"10m\"");
    let gateway = setup.start();
    let body = call("1", "tools/call", r#""name":"echo","arguments":{},"#);
    let fields = [&PSEUDO[..], &FIELDS].concat();
    let mut connection = Connection::open(&gateway);
    // A call in flight, for which the connection stays open.
    assert!(connection.send(&fields, body.as_bytes()).is_some());
    peer.wait_calls(1);
    gateway.terminate();
    until("a refusal", || connection.ask(&fields, body.as_bytes()) == Outcome::Refused);
    let served = peer.calls().len();
    assert_eq!(connection.ask(&fields, body.as_bytes()), Outcome::Refused);
    assert_eq!(peer.calls().len(), served);
}
