//! Notes what a client sets in its session, when the server has accepted it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::server::mcp::call::Call;
use crate::server::reply::reply::Reply;
use crate::server::worker::Worker;
use crate::session::Session;
use metamcp_core::frame::{EventReader, MessageKind, Scanner};
use metamcp_core::protocol::{LogLevel, McpMethod};

/// A setting that a client has requested and its server has not answered yet.
pub struct PendingSetting {
    session: Arc<Session>,
    /// The index of the server in the session's endpoint.
    place: usize,
    setting: ClientSetting,
}

enum ClientSetting {
    LogLevel(LogLevel),
    /// The URI of a resource.
    Subscription(String),
}

/// Reads a response as it passes, until it has seen the answer.
struct AnswerObserver<A> {
    /// `None` if the response is one message.
    events: Option<EventReader>,
    /// Called if the answer is a result. Taken with the answer.
    on_result: Option<A>,
}

impl PendingSetting {
    /// The setting that a call requests, to be noted with its answer. The end of a subscription is noted at once: whatever
    /// the server answers, the client does not want it again.
    pub fn of(call: &Call, session: &Arc<Session>, place: usize) -> Option<Self> {
        if !call.is_request() || !session.has_id() {
            return None;
        }
        let params = &call.envelope.params;
        let uri = || Some(params.uri?.decode(&call.body).into_owned());
        let setting = match call.method? {
            McpMethod::SetLevel => {
                ClientSetting::LogLevel(LogLevel::parse(&params.level?.decode(&call.body))?)
            }
            McpMethod::Subscribe => ClientSetting::Subscription(uri()?),
            McpMethod::Unsubscribe => {
                session.note_unsubscribed(place, &uri()?);
                return None;
            }
            _ => return None,
        };
        Some(Self { session: Arc::clone(session), place, setting })
    }

    fn note(self) {
        let Self { session, place, setting } = self;
        match setting {
            ClientSetting::LogLevel(level) => session.set_log_level(level),
            ClientSetting::Subscription(uri) => session.note_subscribed(place, &uri),
        }
    }
}

/// Returns the reply to a request, an event stream or one message. A setting is noted when a successful answer passes; not if
/// the client leaves before, nor if the answer is longer than any answer to such a request.
pub fn observe_answer(
    worker: &Rc<Worker>,
    setting: Option<PendingSetting>,
    is_event_stream: bool,
    mut reply: Reply,
) -> Reply {
    if let Some(setting) = setting {
        let mut observer = AnswerObserver::new(is_event_stream, || setting.note());
        let worker = Rc::clone(worker);
        reply.body = reply.body.observed(move |bytes| observer.read(&worker.scanner, bytes));
    }
    reply
}

impl<A: FnOnce()> AnswerObserver<A> {
    fn new(is_event_stream: bool, on_result: A) -> Self {
        Self { events: is_event_stream.then(EventReader::new), on_result: Some(on_result) }
    }

    /// Reads the next bytes of the response, or all of it if it is one message.
    fn read(&mut self, scanner: &RefCell<Scanner>, bytes: &Bytes) {
        if self.on_result.is_none() {
            return;
        }
        let Some(events) = &mut self.events else { return self.read_message(scanner, bytes) };
        events.push(bytes.clone());
        loop {
            let message = match self.events.as_mut().map(EventReader::next) {
                Some(Ok(Some(event))) => event.data,
                Some(Ok(None)) | None => return,
                // The client has the same bytes. What it has set is not known.
                Some(Err(_)) => return drop(self.on_result.take()),
            };
            if let Some(message) = message {
                self.read_message(scanner, &message);
            }
        }
    }

    fn read_message(&mut self, scanner: &RefCell<Scanner>, message: &Bytes) {
        let kind = scanner.borrow_mut().scan(message).map(|envelope| envelope.kind);
        if matches!(kind, Ok(MessageKind::Response | MessageKind::Error)) {
            let on_result = self.on_result.take();
            if let Some(on_result) = on_result.filter(|_| kind == Ok(MessageKind::Response)) {
                on_result();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Reads a response in pieces of several sizes. `expected` is how often the setting is noted.
    #[track_caller]
    fn check(is_event_stream: bool, response: &str, expected: u32) {
        let scanner = RefCell::new(Scanner::new());
        let sizes = if is_event_stream { vec![1, 7, response.len()] } else { vec![response.len()] };
        for size in sizes {
            let noted = Cell::new(0);
            let mut observer = AnswerObserver::new(is_event_stream, || noted.set(noted.get() + 1));
            for piece in response.as_bytes().chunks(size) {
                observer.read(&scanner, &Bytes::copy_from_slice(piece));
            }
            assert_eq!(noted.get(), expected, "{response:?} in pieces of {size}");
        }
    }

    #[test]
    fn a_setting_is_noted_with_a_successful_answer() {
        const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        const ERROR: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#;
        const EVENT: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
        let event = |data: &str| format!("event: message\ndata: {data}\n\n");
        for (message, expected) in [(RESULT, 1), (ERROR, 0), ("no JSON", 0), ("", 0)] {
            if !message.is_empty() {
                check(false, message, expected);
            }
            check(true, &event(message), expected);
            check(
                true,
                &[event("").as_str(), ": alive\n\n", &event(EVENT), &event(message)].concat(),
                expected,
            );
        }
        // The first answer counts.
        check(true, &[event(ERROR), event(RESULT)].concat(), 0);
        check(true, &[event(RESULT), event(RESULT)].concat(), 1);
        // Broken off.
        check(true, event(RESULT).trim_end(), 0);
    }
}
