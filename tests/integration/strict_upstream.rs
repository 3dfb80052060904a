//! Servers whose responses do not end where they should: the connection is not used again, and nobody gets what
//! was meant for another. On the fast lane, and with hyper alone.

use std::time::Instant;

use crate::support::{
    Client, Gate, Gateway, Peer, Request, SINGLE, Step, answer, both_readers, chunk, modern_call, result,
};

struct Side {
    gateway: Gateway,
    peer: Peer,
    reader: &'static str,
}

impl Side {
    fn all() -> [Self; 2] {
        both_readers().map(|(reader, gateway, peer)| Self { gateway, peer, reader })
    }

    /// Calls a server that answers so, and whether the answer is good; then the next call gets its own answer, on
    /// another connection.
    #[track_caller]
    fn check(&self, what: &str, steps: Vec<Step>, is_good: bool) {
        self.peer.push([steps]);
        let first = self.call("first");
        let what = format!("{}, {what}: {first}", self.reader);
        assert_eq!(first.contains("good"), is_good, "{what}");
        assert!(!first.contains("forged"), "{what}");
        self.check_next(&what);
    }

    #[track_caller]
    fn check_next(&self, what: &str) {
        let next = self.call("next");
        assert!(next.contains("next") && !next.contains("forged"), "{what}, then {next}");
        let calls = self.peer.calls();
        let [.., one, other] = &calls[..] else { panic!("{what}: two calls came") };
        assert_ne!(one.connection, other.connection, "{what}: the connection was used again");
    }

    /// The answer to a call on a connection of its own.
    #[track_caller]
    fn call(&self, text: &str) -> String {
        let call = modern_call(SINGLE, "echo", &format!(r#"{{"text":"{text}"}}"#));
        Client::once(self.gateway.address, &call).text()
    }
}

fn good() -> Vec<u8> {
    answer("200 OK", &result("1", "good"))
}

/// A response in chunks, of which the first line is `size`.
fn chunked(size: &str, end: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{size}{}{end}", result("1", "good")).into_bytes()
}

fn size() -> String {
    format!("{:x}", result("1", "good").len())
}

#[test]
fn surplus_bytes_end_the_connection() {
    let forged = answer("200 OK", &result("1", "forged"));
    let in_chunks = chunked(&format!("{}\r\n", size()), "\r\n0\r\n\r\n");
    let surpluses: [&[u8]; 6] =
        [b"X", b"\r\n", b"\n", b"0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", forged.as_slice()];
    for side in Side::all() {
        for (form, response) in [("of a length", good()), ("in chunks", in_chunks.clone())] {
            for surplus in surpluses {
                let what = format!("{form}, {} behind it", surplus.escape_ascii());
                side.check(&what, vec![Step::Send([&response, surplus].concat())], true);
                let (begun, read) = (Gate::default(), Gate::default());
                let steps = vec![
                    Step::Send(response.clone()),
                    Step::Wait(begun.clone()),
                    Step::Send(surplus.to_vec()),
                    Step::Open(read.clone()),
                ];
                side.peer.push([steps]);
                assert!(side.call("first").contains("good"), "{what}");
                // The connection is idle.
                begun.open();
                read.wait();
                let nothing = Client::once(side.gateway.address, &Request::new("GET", "/nope"));
                assert_eq!(nothing.status, 404);
                side.check_next(&format!("{}, later, {what}", side.reader));
            }
        }
    }
}

#[test]
fn malformed_chunks_end_the_connection() {
    let size = size();
    let rows = [
        (format!("0x{size}\r\n"), "\r\n0\r\n\r\n"),
        (format!("+{size}\r\n"), "\r\n0\r\n\r\n"),
        (format!("-{size}\r\n"), "\r\n0\r\n\r\n"),
        (format!(" {size}\r\n"), "\r\n0\r\n\r\n"),
        (format!("{size} 1\r\n"), "\r\n0\r\n\r\n"),
        (format!("{size}h\r\n"), "\r\n0\r\n\r\n"),
        (format!("{size}\n"), "\r\n0\r\n\r\n"),
        (format!("{size}\r\r\n"), "\r\n0\r\n\r\n"),
        (format!("{size};a\nb\r\n"), "\r\n0\r\n\r\n"),
        (format!("{size};{}\r\n", "x".repeat(20 << 10)), "\r\n0\r\n\r\n"),
        ("fffffffffffffffff\r\n".to_owned(), "\r\n0\r\n\r\n"),
        ("\r\n".to_owned(), "\r\n0\r\n\r\n"),
        (format!("{size}\r\n"), "XX0\r\n\r\n"),
        (format!("{size}\r\n"), "\n0\r\n\r\n"),
        (format!("{size}\r\n"), "0\r\n\r\n"),
        (format!("{size}\r\n"), "\r\n0\n\r\n"),
        (format!("{size}\r\n"), "\r\n0\r\nno field\r\n\r\n"),
    ];
    for side in Side::all() {
        for (size, end) in &rows {
            let what = format!("{size:.40?} and {end:?}");
            side.check(&what, vec![Step::Send(chunked(size, end))], false);
        }
        let cut = [&chunked(&format!("{}\r\n", "1000"), "")[..], &chunk("")].concat();
        side.check("cut off", vec![Step::Send(cut), Step::Close], false);
    }
}

/// Heads that two parsers could read differently are refused, and so is what follows them.
#[test]
fn ambiguous_heads_end_the_connection() {
    let body = result("1", "good");
    let length = format!("Content-Length: {}\r\n", body.len());
    let (sized, chunks) = (body.clone(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let coded = "Transfer-Encoding: chunked\r\n";
    let rows = [
        (format!("200 OK\r\n{length}{coded}\r\n"), &chunks),
        (format!("200 OK\r\n{coded}{length}\r\n"), &chunks),
        (format!("200 OK\r\n{coded}{coded}\r\n"), &chunks),
        (format!("200 OK\r\n{length}Transfer_Encoding: chunked\r\n\r\n"), &sized),
        (format!("200 OK\r\n{length}TRANSFER_ENCODING: x\r\n\r\n"), &sized),
        (format!("200 OK\r\n{coded}Content_Length: 5\r\n\r\n"), &chunks),
        (format!("200 OK\r\n{length}Content-Length: 5\r\n\r\n"), &sized),
        (format!("200 OK\r\nContent-Length: 5\r\n{length}\r\n"), &sized),
        (format!("200 OK\r\nContent-Length: 5, {}\r\n\r\n", body.len()), &sized),
        (format!("200 OK\n{length}\r\n"), &sized),
        (format!("200 OK\r\nX: 1\n{length}\r\n"), &sized),
        (format!("200 OK\r\n{length}\n"), &sized),
        (format!("200 OK\n{}\n", length.replace('\r', "")), &sized),
        (format!("200 OK\r\n{length} folded\r\n\r\n"), &sized),
        (format!("103 Early Hints\n\nHTTP/1.1 200 OK\r\n{length}\r\n"), &sized),
    ];
    for side in Side::all() {
        for (head, body) in &rows {
            let head = head.replacen("200 OK\r\n", "200 OK\r\nContent-Type: application/json\r\n", 1);
            let whole = format!("HTTP/1.1 {head}{body}");
            side.check(&format!("{head:?}"), vec![Step::Send(whole.into_bytes())], false);
        }
        // The same length twice is one length (RFC 9110, section 8.6).
        let twice = format!("HTTP/1.1 200 OK\r\n{length}{length}Connection: close\r\n\r\n{sized}");
        side.check("the same length twice", vec![Step::Send(twice.into_bytes()), Step::Close], true);
    }
}

/// Interim responses are bounded by their bytes, not only by the time that a response may take.
#[test]
fn a_flood_of_interim_responses_ends() {
    const FLOOD: usize = 1 << 20;
    for side in Side::all() {
        for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"] {
            let (began, sent) = (Instant::now(), side.peer.sent());
            side.check("a flood", vec![Step::Flood(interim.into(), FLOOD)], false);
            let flooded = side.peer.sent() - sent;
            println!("{}: {flooded} bytes, {:?}", side.reader, began.elapsed());
            assert!(flooded < interim.len() * FLOOD, "{}: all of it was read", side.reader);
            let few = [interim.repeat(50).as_bytes(), &good()].concat();
            side.peer.push([vec![Step::Send(few)]]);
            assert!(side.call("first").contains("good"), "{}", side.reader);
        }
    }
}
