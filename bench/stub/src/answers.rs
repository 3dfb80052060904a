//! Every answer there is: ready bytes, but for what repeats the request.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use crate::asked::Asked;
use crate::mode::{BYTES_MAX, Mode};
use crate::request::Method;

/// The answers, and the letters that make a body as long as is asked for.
pub struct Answers {
    tools: String,
    padding: Vec<u8>,
    sessions: Cell<u64>,
    done: Vec<u8>,
    not_post: Vec<u8>,
    bad_request: Vec<u8>,
}

/// An answer, in the parts in which it is written.
#[derive(Debug)]
pub enum Begun<'a> {
    /// All of it is there.
    Whole {
        /// Head, and the body up to its padding.
        front: Vec<u8>,
        /// Letters in the middle of the body.
        padding: &'a [u8],
        /// The end of the body.
        back: &'static [u8],
    },
    /// An event stream whose events come one by one.
    Events {
        /// The head.
        head: Vec<u8>,
        /// Each a chunk of its own; the last has the end of the body with it.
        events: Vec<Vec<u8>>,
        /// Before each of them.
        delay: Duration,
    },
}

const DISCOVERED: &str = r#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public"}}"#;

const UNKNOWN: &str = r#""error":{"code":-32601,"message":"unknown method"}}"#;

const CALLED: &str = r#""result":{"resultType":"complete","content":[{"type":"text","text":""#;

const CALLED_END: &str = r#""}]}}"#;

/// Of every event stream.
pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

const STREAM_END: &[u8] = b"0\r\n\r\n";

/// Tools of a length that is usual: some 600 bytes each.
const DESCRIPTION: &str = "Looks up records in the inventory by name, by number or by the shelf they stand on, and answers with \
     those that fit, the newest first, each with its place, its owner and the day it was last seen";

impl Answers {
    /// With so many tools.
    pub fn new(tools: u16) -> Self {
        Self {
            tools: listed(tools),
            padding: vec![b'x'; BYTES_MAX],
            sessions: Cell::new(0),
            done: whole("200 OK", "", ""),
            not_post: whole("405 Method Not Allowed", "", ""),
            bad_request: whole("400 Bad Request", "", ""),
        }
    }

    /// What answers a message; without `Mcp-Method`, the message itself says what it asks for.
    pub fn begin(&self, mode: Mode, method: Option<Method>, asked: &Asked<'_>) -> Begun<'_> {
        match method.unwrap_or_else(|| Method::of(asked.method)) {
            Method::Call if mode.events > 0 => events(mode, asked),
            Method::Call => self.called(mode, asked),
            Method::Discover => short("200 OK", "", asked, DISCOVERED),
            Method::List => short("200 OK", "", asked, &self.tools),
            Method::Initialize => self.initialized(asked),
            Method::Ping => short("200 OK", "", asked, "\"result\":{}}"),
            Method::Notification => ready(whole("202 Accepted", "", "")),
            // In the older era, 404 would be the end of the session.
            Method::Unknown if method.is_none() => short("200 OK", "", asked, UNKNOWN),
            Method::Unknown => short("404 Not Found", "", asked, UNKNOWN),
        }
    }

    /// An empty 200.
    pub fn done(&self) -> &[u8] {
        &self.done
    }

    /// The answer to what is no POST.
    pub fn not_post(&self) -> &[u8] {
        &self.not_post
    }

    /// The answer to what is no request, after which the connection ends.
    pub fn bad_request(&self) -> &[u8] {
        &self.bad_request
    }

    fn called(&self, mode: Mode, asked: &Asked<'_>) -> Begun<'_> {
        let body = [begun(asked).as_slice(), CALLED.as_bytes(), asked.text].concat();
        let padding = mode.bytes.saturating_sub(body.len() + CALLED_END.len());
        let len = body.len() + padding + CALLED_END.len();
        let front = [head("200 OK", "", len).as_bytes(), &body].concat();
        Begun::Whole { front, padding: &self.padding[..padding.min(BYTES_MAX)], back: CALLED_END.as_bytes() }
    }

    fn initialized(&self, asked: &Asked<'_>) -> Begun<'_> {
        let session = self.sessions.replace(self.sessions.get() + 1);
        let session = format!("Mcp-Session-Id: stub-{session:016x}\r\n");
        let revision = String::from_utf8_lossy(asked.revision);
        let result = format!(
            r#""result":{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"stub","version":"1"}}}}}}"#
        );
        short("200 OK", &session, asked, &result)
    }
}

/// The beginning of every message that answers.
fn begun(asked: &Asked<'_>) -> Vec<u8> {
    [br#"{"jsonrpc":"2.0","id":"#, asked.id, b","].concat()
}

fn short<'a>(status: &str, fields: &str, asked: &Asked<'_>, rest: &str) -> Begun<'a> {
    let body = [begun(asked).as_slice(), rest.as_bytes()].concat();
    ready([head(status, fields, body.len()).as_bytes(), &body].concat())
}

fn ready<'a>(front: Vec<u8>) -> Begun<'a> {
    Begun::Whole { front, padding: b"", back: b"" }
}

fn whole(status: &str, fields: &str, body: &str) -> Vec<u8> {
    [head(status, fields, body.len()), body.to_owned()].concat().into()
}

fn head(status: &str, fields: &str, len: usize) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {len}\r\n\r\n")
}

/// Progress, and then the answer, each an event in a chunk of its own.
fn events<'a>(mode: Mode, asked: &Asked<'_>) -> Begun<'a> {
    let total = mode.events.to_string();
    let mut events: Vec<_> = (1..=mode.events)
        .map(|number| {
            chunk(&[
                br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#,
                asked.token,
                br#","progress":"#,
                number.to_string().as_bytes(),
                br#","total":"#,
                total.as_bytes(),
                b"}}",
            ])
        })
        .collect();
    let spent = begun(asked).len() + CALLED.len() + asked.text.len() + CALLED_END.len();
    let padding = vec![b'x'; mode.bytes.saturating_sub(spent)];
    let parts = [&begun(asked), CALLED.as_bytes(), asked.text, &padding, CALLED_END.as_bytes()];
    events.push([&chunk(&parts), STREAM_END].concat());
    if mode.delay.is_zero() {
        return ready([STREAM_HEAD, &events.concat()].concat());
    }
    Begun::Events { head: STREAM_HEAD.to_vec(), events, delay: mode.delay }
}

/// One event in one chunk.
fn chunk(message: &[&[u8]]) -> Vec<u8> {
    let (front, back) = (b"event: message\ndata: ", b"\n\n");
    let len = front.len() + message.iter().map(|part| part.len()).sum::<usize>() + back.len();
    [format!("{len:x}\r\n").as_bytes(), front, &message.concat(), back, b"\r\n"].concat()
}

fn listed(tools: u16) -> String {
    let mut text = r#""result":{"resultType":"complete","tools":["#.to_owned();
    for number in 1..=tools {
        if number == 1 {
            text += r#"{"name":"echo","description":"Answers with a text","inputSchema":{"type":"object"}}"#;
            continue;
        }
        // Writing to a string does not fail.
        let _ = write!(
            text,
            r#",{{"name":"find_records_{number:02}","title":"Find records {number}","description":"{DESCRIPTION}","inputSchema":{{"type":"object","properties":{{"name":{{"type":"string","description":"A part of the name"}},"shelf":{{"type":"string","description":"The shelf, as it is written on it"}},"limit":{{"type":"integer","minimum":1,"maximum":100,"description":"As many as these at most"}}}},"required":["name"]}}}}"#
        );
    }
    text + r#"],"ttlMs":3600000,"cacheScope":"public"}}"#
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &[u8] = br#"{"id":7,"method":"tools/call","params":{"arguments":{"text":"call 7"}}}"#;

    fn text(begun: Begun<'_>) -> String {
        let bytes = match begun {
            Begun::Whole { front, padding, back } => [&front, padding, back].concat(),
            Begun::Events { head, events, .. } => [head, events.concat()].concat(),
        };
        String::from_utf8(bytes).expect("it is text")
    }

    fn answered(mode: Mode, body: &[u8]) -> String {
        text(Answers::new(2).begin(mode, None, &Asked::of(body)))
    }

    #[track_caller]
    fn check(bytes: usize, expected: usize) {
        let text = answered(Mode { bytes, ..Mode::default() }, CALL);
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head");
        assert_eq!(body.len(), expected, "{bytes}");
        assert!(head.ends_with(&format!("Content-Length: {expected}")), "{head}");
        assert!(body.contains(r#""id":7,"#) && body.contains("\"call 7"), "{body:.200}");
    }

    #[test]
    fn call_bodies_have_the_size_asked_for() {
        let smallest = r#"{"jsonrpc":"2.0","id":7,"#.len() + CALLED.len() + "call 7".len() + CALLED_END.len();
        check(0, smallest);
        check(smallest, smallest);
        check(64 << 10, 64 << 10);
        check(1 << 20, 1 << 20);
    }

    #[test]
    fn streams_are_the_same_at_once_and_one_by_one() {
        let mode = Mode { events: 3, ..Mode::default() };
        let at_once = answered(mode, CALL);
        assert_eq!(at_once, answered(Mode { delay: Duration::from_millis(1), ..mode }, CALL));
        assert_eq!(at_once.matches(r#""progressToken":7,"#).count(), 3);
        assert_eq!(at_once.matches("data: ").count(), 4);
        assert!(at_once.ends_with("0\r\n\r\n"));
    }

    #[test]
    fn the_other_methods() {
        let status = |body: &[u8]| answered(Mode::default(), body)[9..12].to_owned();
        assert_eq!(status(br#"{"method":"notifications/initialized"}"#), "202");
        assert_eq!(status(br#"{"id":1,"method":"resources/list"}"#), "200");
        let unknown = Answers::new(1);
        let unknown = unknown.begin(Mode::default(), Some(Method::Unknown), &Asked::of(b"{}"));
        assert!(text(unknown).starts_with("HTTP/1.1 404 "));
        let opened = answered(Mode::default(), br#"{"id":1,"method":"initialize"}"#);
        assert!(opened.contains("\r\nMcp-Session-Id: stub-0000000000000000\r\n"), "{opened}");
        let listed = answered(Mode::default(), br#"{"id":1,"method":"tools/list"}"#);
        assert_eq!(listed.matches(r#""inputSchema":"#).count(), 2);
    }
}
