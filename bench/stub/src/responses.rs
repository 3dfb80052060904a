//! The responses: constant bytes, except for what repeats the request.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use crate::mode::{BYTES_MAX, Mode};
use crate::request::RequestMethod;
use crate::request_parts::RequestParts;

/// The responses, and the padding that gives a body the requested size.
pub struct Responses {
    tools: String,
    padding: Vec<u8>,
    sessions: Cell<u64>,
    done: Vec<u8>,
    not_post: Vec<u8>,
    bad_request: Vec<u8>,
}

/// A response, in the parts in which it is written.
#[derive(Debug)]
pub enum StubResponse<'a> {
    /// A complete response.
    Whole {
        /// The head, and the body up to the padding.
        front: Vec<u8>,
        /// Padding in the middle of the body.
        padding: &'a [u8],
        /// The end of the body.
        back: &'static [u8],
    },
    /// An event stream with a delay between events.
    Events {
        head: Vec<u8>,
        /// Each is a chunk. The last one includes the end of the body.
        events: Vec<Vec<u8>>,
        /// The delay before each event.
        delay: Duration,
    },
}

const DISCOVER_RESULT: &str = r#""result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public"}}"#;

const UNKNOWN_METHOD: &str = r#""error":{"code":-32601,"message":"unknown method"}}"#;

const CALL_RESULT: &str = r#""result":{"resultType":"complete","content":[{"type":"text","text":""#;

const CALL_RESULT_END: &str = r#""}]}}"#;

/// The head of every event stream.
pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

const STREAM_END: &[u8] = b"0\r\n\r\n";

/// The description of most tools, which have a typical length of some 600 bytes.
const DESCRIPTION: &str = "Looks up records in the inventory by name, by number or by the shelf they stand on, and answers with \
     those that fit, the newest first, each with its place, its owner and the day it was last seen";

impl Responses {
    /// Creates the responses of a server with this many tools.
    pub fn new(tools: u16) -> Self {
        Self {
            tools: list_result(tools),
            padding: vec![b'x'; BYTES_MAX],
            sessions: Cell::new(0),
            done: http_message("200 OK", "", ""),
            not_post: http_message("405 Method Not Allowed", "", ""),
            bad_request: http_message("400 Bad Request", "", ""),
        }
    }

    /// Returns the response to a message. Without `Mcp-Method`, the method is taken from the message.
    pub fn respond(
        &self,
        mode: Mode,
        method: Option<RequestMethod>,
        request: &RequestParts<'_>,
    ) -> StubResponse<'_> {
        match method.unwrap_or_else(|| RequestMethod::parse(request.method)) {
            RequestMethod::Call if mode.events > 0 => event_stream(mode, request),
            RequestMethod::Call => self.call_response(mode, request),
            RequestMethod::Discover => json_response("200 OK", "", request, DISCOVER_RESULT),
            RequestMethod::List => json_response("200 OK", "", request, &self.tools),
            RequestMethod::Initialize => self.initialize_response(request),
            RequestMethod::Ping => json_response("200 OK", "", request, "\"result\":{}}"),
            RequestMethod::Notification => complete(http_message("202 Accepted", "", "")),
            // In the Legacy era, 404 would end the session.
            RequestMethod::Unknown if method.is_none() => {
                json_response("200 OK", "", request, UNKNOWN_METHOD)
            }
            RequestMethod::Unknown => json_response("404 Not Found", "", request, UNKNOWN_METHOD),
        }
    }

    /// An empty 200.
    pub fn done(&self) -> &[u8] {
        &self.done
    }

    /// The response to another HTTP method than POST.
    pub fn not_post(&self) -> &[u8] {
        &self.not_post
    }

    /// The response to an invalid request, after which the connection is closed.
    pub fn bad_request(&self) -> &[u8] {
        &self.bad_request
    }

    fn call_response(&self, mode: Mode, request: &RequestParts<'_>) -> StubResponse<'_> {
        let body = [response_start(request).as_slice(), CALL_RESULT.as_bytes(), request.text].concat();
        let padding = mode.bytes.saturating_sub(body.len() + CALL_RESULT_END.len());
        let len = body.len() + padding + CALL_RESULT_END.len();
        let front = [head("200 OK", "", len).as_bytes(), &body].concat();
        StubResponse::Whole {
            front,
            padding: &self.padding[..padding.min(BYTES_MAX)],
            back: CALL_RESULT_END.as_bytes(),
        }
    }

    fn initialize_response(&self, request: &RequestParts<'_>) -> StubResponse<'_> {
        let session = self.sessions.replace(self.sessions.get() + 1);
        let session = format!("Mcp-Session-Id: stub-{session:016x}\r\n");
        let revision = String::from_utf8_lossy(request.revision);
        let result = format!(
            r#""result":{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"stub","version":"1"}}}}}}"#
        );
        json_response("200 OK", &session, request, &result)
    }
}

/// The start of every response message.
fn response_start(request: &RequestParts<'_>) -> Vec<u8> {
    [br#"{"jsonrpc":"2.0","id":"#, request.id, b","].concat()
}

fn json_response<'a>(status: &str, fields: &str, request: &RequestParts<'_>, rest: &str) -> StubResponse<'a> {
    let body = [response_start(request).as_slice(), rest.as_bytes()].concat();
    complete([head(status, fields, body.len()).as_bytes(), &body].concat())
}

fn complete<'a>(front: Vec<u8>) -> StubResponse<'a> {
    StubResponse::Whole { front, padding: b"", back: b"" }
}

fn http_message(status: &str, fields: &str, body: &str) -> Vec<u8> {
    [head(status, fields, body.len()), body.to_owned()].concat().into()
}

fn head(status: &str, fields: &str, len: usize) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {len}\r\n\r\n")
}

/// Progress notifications and then the response. Each is an event in a chunk of its own.
fn event_stream<'a>(mode: Mode, request: &RequestParts<'_>) -> StubResponse<'a> {
    let total = mode.events.to_string();
    let mut events: Vec<_> = (1..=mode.events)
        .map(|number| {
            event_chunk(&[
                br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#,
                request.token,
                br#","progress":"#,
                number.to_string().as_bytes(),
                br#","total":"#,
                total.as_bytes(),
                b"}}",
            ])
        })
        .collect();
    let spent =
        response_start(request).len() + CALL_RESULT.len() + request.text.len() + CALL_RESULT_END.len();
    let padding = vec![b'x'; mode.bytes.saturating_sub(spent)];
    let parts = [
        &response_start(request),
        CALL_RESULT.as_bytes(),
        request.text,
        &padding,
        CALL_RESULT_END.as_bytes(),
    ];
    events.push([&event_chunk(&parts), STREAM_END].concat());
    if mode.delay.is_zero() {
        return complete([STREAM_HEAD, &events.concat()].concat());
    }
    StubResponse::Events { head: STREAM_HEAD.to_vec(), events, delay: mode.delay }
}

/// Encodes an event as one chunk.
fn event_chunk(message: &[&[u8]]) -> Vec<u8> {
    let (front, back) = (b"event: message\ndata: ", b"\n\n");
    let len = front.len() + message.iter().map(|part| part.len()).sum::<usize>() + back.len();
    [format!("{len:x}\r\n").as_bytes(), front, &message.concat(), back, b"\r\n"].concat()
}

fn list_result(tools: u16) -> String {
    let mut text = r#""result":{"resultType":"complete","tools":["#.to_owned();
    for number in 1..=tools {
        if number == 1 {
            text +=
                r#"{"name":"echo","description":"Responses with a text","inputSchema":{"type":"object"}}"#;
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

    fn text(response: StubResponse<'_>) -> String {
        let bytes = match response {
            StubResponse::Whole { front, padding, back } => [&front, padding, back].concat(),
            StubResponse::Events { head, events, .. } => [head, events.concat()].concat(),
        };
        String::from_utf8(bytes).expect("it is text")
    }

    fn respond_to(mode: Mode, body: &[u8]) -> String {
        text(Responses::new(2).respond(mode, None, &RequestParts::find(body)))
    }

    #[track_caller]
    fn check(bytes: usize, expected: usize) {
        let text = respond_to(Mode { bytes, ..Mode::default() }, CALL);
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head");
        assert_eq!(body.len(), expected, "{bytes}");
        assert!(head.ends_with(&format!("Content-Length: {expected}")), "{head}");
        assert!(body.contains(r#""id":7,"#) && body.contains("\"call 7"), "{body:.200}");
    }

    #[test]
    fn call_bodies_have_the_requested_size() {
        let smallest =
            r#"{"jsonrpc":"2.0","id":7,"#.len() + CALL_RESULT.len() + "call 7".len() + CALL_RESULT_END.len();
        check(0, smallest);
        check(smallest, smallest);
        check(64 << 10, 64 << 10);
        check(1 << 20, 1 << 20);
    }

    #[test]
    fn a_delay_does_not_change_the_stream() {
        let mode = Mode { events: 3, ..Mode::default() };
        let at_once = respond_to(mode, CALL);
        assert_eq!(at_once, respond_to(Mode { delay: Duration::from_millis(1), ..mode }, CALL));
        assert_eq!(at_once.matches(r#""progressToken":7,"#).count(), 3);
        assert_eq!(at_once.matches("data: ").count(), 4);
        assert!(at_once.ends_with("0\r\n\r\n"));
    }

    #[test]
    fn other_methods_have_responses() {
        let status = |body: &[u8]| respond_to(Mode::default(), body)[9..12].to_owned();
        assert_eq!(status(br#"{"method":"notifications/initialized"}"#), "202");
        assert_eq!(status(br#"{"id":1,"method":"resources/list"}"#), "200");
        let unknown = Responses::new(1);
        let unknown =
            unknown.respond(Mode::default(), Some(RequestMethod::Unknown), &RequestParts::find(b"{}"));
        assert!(text(unknown).starts_with("HTTP/1.1 404 "));
        let opened = respond_to(Mode::default(), br#"{"id":1,"method":"initialize"}"#);
        assert!(opened.contains("\r\nMcp-Session-Id: stub-0000000000000000\r\n"), "{opened}");
        let listed = respond_to(Mode::default(), br#"{"id":1,"method":"tools/list"}"#);
        assert_eq!(listed.matches(r#""inputSchema":"#).count(), 2);
    }
}
