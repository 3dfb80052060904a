//! Collects the answer to a call whose response carries the answers of other calls, too.
//!
//! On a plain HTTP connection, a response can only answer its own request. In a batch and on a framed stream the answers of
//! several servers share one response, so an answer passes under the id of its own request or not at all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body as _;

use crate::server::reply::body::ResponseBody;
use crate::session::MESSAGE_BYTES_MAX;
use metamcp_core::base::{ChargedBuffer, Fault, FaultKind, OutOfMemory};
use metamcp_core::frame::{Envelope, Scanner, SseError};
use metamcp_core::protocol::{AnswerMatch, add_answer_id};

/// Collects a whole answer.
pub async fn collect(mut body: ResponseBody) -> Result<Bytes, Fault> {
    let mut whole = ChargedBuffer::default();
    while let Some(bytes) = next_bytes(&mut body).await? {
        if whole.len() + bytes.len() > MESSAGE_BYTES_MAX {
            return Err(too_long());
        }
        whole.extend(&bytes).map_err(no_memory)?;
    }
    Ok(whole.freeze())
}

/// The next bytes of a body; `None` at its end.
pub async fn next_bytes(body: &mut ResponseBody) -> Result<Option<Bytes>, Fault> {
    match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => {
            let text = "the answer broke off; the call may have run";
            Err(Fault::upstream(FaultKind::ConnectionLost, text).with_source(error))
        }
    }
}

/// The message, if it is valid, so that others may follow it, and answers the request with that id. An error without an id gets
/// this one.
pub fn check_answer(scanner: &RefCell<Scanner>, message: Bytes, id: &Bytes) -> Result<Bytes, Fault> {
    let envelope = scanner.borrow_mut().scan(&message);
    let envelope = envelope.map_err(|refused| not_an_answer().with_source(refused.error))?;
    answer_under_id(message, &envelope, id).ok_or_else(not_an_answer)
}

/// The message, if it answers the request with that id. An error without an id gets this one.
pub fn answer_under_id(message: Bytes, envelope: &Envelope, id: &Bytes) -> Option<Bytes> {
    match AnswerMatch::of_envelope(&message, envelope, id) {
        AnswerMatch::ThisCall => Some(message),
        AnswerMatch::ErrorWithoutId => add_answer_id(&message, envelope, id),
        _ => None,
    }
}

/// The fault of an answer whose event cannot be read.
#[cold]
pub fn unreadable(error: SseError) -> Fault {
    match error {
        SseError::TooLong => too_long().with_source(error),
        SseError::OutOfMemory(error) => no_memory(error),
    }
}

#[cold]
pub fn not_an_answer() -> Fault {
    Fault::upstream(
        FaultKind::InvalidResponse,
        "the server answered what is no answer to this request; it may have run",
    )
}

/// The fault of a stream that ended early.
#[cold]
pub fn no_answer() -> Fault {
    Fault::upstream(FaultKind::ConnectionLost, "the stream ended without an answer; the call may have run")
}

#[cold]
pub fn no_memory(error: OutOfMemory) -> Fault {
    let text = "the gateway has no memory left for the answer (limits.memory_max); the call may have run";
    Fault::upstream(FaultKind::OutOfMemory, text).with_source(error)
}

#[cold]
fn too_long() -> Fault {
    let text = format!("the answer is over {MESSAGE_BYTES_MAX} bytes; ask for it by a request of its own");
    Fault::upstream(FaultKind::InvalidResponse, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, expected: Option<&str>) {
        let message = Bytes::copy_from_slice(message.as_bytes());
        let answer = check_answer(&RefCell::default(), message, &Bytes::from_static(b"\"a\""));
        assert_eq!(answer.ok().as_deref(), expected.map(str::as_bytes));
    }

    #[test]
    fn an_answer_passes_under_its_own_id() {
        let own = r#"{"jsonrpc":"2.0","id":"a","result":{}}"#;
        check(own, Some(own));
        let escaped = r#"{"jsonrpc":"2.0","id":"\u0061","error":{"code":1,"message":"x"}}"#;
        check(escaped, Some(escaped));
        check(r#"{"jsonrpc":"2.0","id":"b","result":{}}"#, None);
        check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, None);
        check(r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, None);
        check(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, None);
        check(
            r#" {"jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#,
            Some(r#" {"id":"a","jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#),
        );
    }
}
