//! What goes between the thread of a server and the one that asks: what is asked one way, answers the other.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::super::UpstreamError;
use super::outlet::EventSource;

/// What is asked.
pub enum HttpOperation {
    /// That it takes a message.
    Post(Bytes),
    /// The event stream of a session.
    Get,
    /// The end of a session.
    Delete,
}

/// What comes of it.
pub type CallOutcome = Result<LocalResponse, UpstreamError>;

/// An answer, as a Streamable HTTP server would give it.
pub struct LocalResponse {
    /// The status.
    pub status: StatusCode,
    /// Of the session that was opened.
    pub session_id: Option<HeaderValue>,
    /// The rest.
    pub body: LocalBody,
}

/// The body of an answer.
pub enum LocalBody {
    /// One message, or none.
    Message(Bytes),
    /// An event stream.
    Events(EventSource),
}

impl LocalResponse {
    /// Nothing but a status.
    pub fn from_status(status: StatusCode) -> Self {
        Self { status, session_id: None, body: LocalBody::Message(Bytes::new()) }
    }

    /// A message.
    pub fn from_message(message: Bytes) -> Self {
        Self { status: StatusCode::OK, session_id: None, body: LocalBody::Message(message) }
    }

    /// A message of ours: the error of a call whose raw id is given.
    pub fn from_error(status: StatusCode, id: &[u8], code: i32, text: &str) -> Self {
        Self::from_error_data(status, id, code, text, None)
    }

    /// Likewise, with `data`.
    pub fn from_error_data(
        status: StatusCode,
        id: &[u8],
        code: i32,
        text: &str,
        data: Option<&Value>,
    ) -> Self {
        let id = if id.is_empty() { "null".into() } else { String::from_utf8_lossy(id) };
        let text = Value::from(text);
        let data = data.map_or_else(String::new, |data| format!(r#","data":{data}"#));
        let message =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text}{data}}}}}"#);
        Self { status, ..Self::from_message(message.into()) }
    }

    /// Events to come.
    pub fn from_events(events: EventSource) -> Self {
        Self { status: StatusCode::OK, session_id: None, body: LocalBody::Events(events) }
    }
}

/// The asker's hold on a call: dropped before the answer has passed, it tells the server to stop.
pub struct CallGuard {
    gone: UnboundedSender<u64>,
    /// `None` once there is nothing to stop.
    number: Option<u64>,
}

impl CallGuard {
    /// On a call.
    pub fn new(gone: UnboundedSender<u64>, number: u64) -> Self {
        Self { gone, number: Some(number) }
    }

    /// The answer has passed.
    pub fn release(&mut self) {
        self.number = None;
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            // The server may be gone. There is at most one such message for each call.
            let _ = self.gone.send(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_call_is_given_up_once() {
        let (gone, mut seen) = mpsc::unbounded_channel();
        drop(CallGuard::new(gone.clone(), 7));
        let mut done = CallGuard::new(gone, 8);
        done.release();
        drop(done);
        assert_eq!((seen.try_recv(), seen.try_recv().is_err()), (Ok(7), true));
    }

    #[test]
    fn errors_are_json() {
        let check = |id: &str, text: &str, expected: &str| {
            let LocalBody::Message(message) =
                LocalResponse::from_error(StatusCode::OK, id.as_bytes(), -32600, text).body
            else {
                panic!("a message");
            };
            assert_eq!(message, expected);
        };
        check("1", "a", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"a"}}"#);
        check("\"x\"", "\"", r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"\""}}"#);
        check("", "a", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a"}}"#);
    }
}
