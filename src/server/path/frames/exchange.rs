//! One request of a framed stream, from the message to its answer, with the server messages before it.
//!
//! On a plain HTTP connection, a response can only answer its own request. On a framed stream the answers of
//! several servers to many requests share one response, so an answer passes under the id of its own request
//! or not at all.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use tokio::time::timeout;

use super::context::{FrameContext, InputGuard};
use crate::server::mcp::call::Call;
use crate::server::reply::body::{BodyPoll, ResponseBody};
use crate::server::reply::reply::Reply;
use crate::session::MESSAGE_BYTES_MAX;
use metamcp_core::base::{ChargedBuffer, Fault, FaultKind, OutOfMemory};
use metamcp_core::frame::{Envelope, EventReader, IdForm, MessageKind as FrameKind, SseError, splice};
use metamcp_core::protocol::{Era, McpMethod, UNNUMBERED, header, is_same_id, method_number};

/// Bytes that each call may buffer of an incomplete answer. For more, it waits for a turn.
pub const BUFFERED_BYTES: usize = 64 << 10;

/// A server usually ends its stream in the same packet as the answer. One that does not is abandoned after
/// this time; the request's id is free once the answer is sent.
const END_TIMEOUT: Duration = Duration::from_millis(50);

/// Answers a request and returns its id. Dropping the future cancels the request at its server.
pub async fn answer(context: Rc<FrameContext>, call: Box<Call>, number: u64) -> Bytes {
    let id = call.id();
    if let Err(fault) = run(&context, call, &id).await {
        context.outbox.room().await;
        context.send_fault(fault.with_id(Some(id.clone())), number);
    }
    id
}

async fn run(context: &Rc<FrameContext>, call: Box<Call>, id: &Bytes) -> Result<(), Fault> {
    let opens = call.method == Some(McpMethod::Initialize) && call.era() == Era::Legacy;
    let reply = context.send(call).await?;
    if opens {
        context.adopt_session(&reply)?;
    }
    let Reply { content_type, body, .. } = reply;
    if content_type.is_some_and(|value| header::is_event_stream(value.as_bytes())) {
        let last =
            Events { context, id, input_guard: None, is_unread: false }.forward_until_answer(body).await?;
        context.outbox.room().await;
        context.outbox.answer(&[last]);
        return Ok(());
    }
    match body.into_ready() {
        // The gateway built it, under this id.
        BodyPoll::Pieces(pieces) => context.outbox.answer(&pieces),
        BodyPoll::Whole(bytes) => {
            context.outbox.room().await;
            context.outbox.answer(&[check_answer(context, bytes, id)?]);
        }
        BodyPoll::Arriving(body) => {
            let _turn = context.large_answers.acquire().await;
            let bytes = gather(body).await?;
            context.outbox.room().await;
            context.outbox.answer(&[check_answer(context, bytes, id)?]);
        }
    }
    Ok(())
}

/// Collects a whole answer. A frame states its length first, and no other message may come between the parts
/// of a line.
async fn gather(mut body: ResponseBody) -> Result<Bytes, Fault> {
    let mut whole = ChargedBuffer::default();
    while let Some(bytes) = next(&mut body).await? {
        if whole.len() + bytes.len() > MESSAGE_BYTES_MAX {
            return Err(too_long());
        }
        whole.extend(&bytes).map_err(no_memory)?;
    }
    Ok(whole.freeze())
}

async fn next(body: &mut ResponseBody) -> Result<Option<Bytes>, Fault> {
    match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => {
            let text = "the answer broke off; the call may have run";
            Err(Fault::upstream(FaultKind::ConnectionLost, text).with_source(error))
        }
    }
}

#[cold]
fn no_memory(error: OutOfMemory) -> Fault {
    let text = "the gateway has no memory left for the answer (limits.memory_max); the call may have run";
    Fault::upstream(FaultKind::OutOfMemory, text).with_source(error)
}

/// The fault of an answer whose event cannot be read.
#[cold]
fn unreadable(error: SseError) -> Fault {
    match error {
        SseError::TooLong => too_long().with_source(error),
        SseError::OutOfMemory(error) => no_memory(error),
    }
}

#[cold]
fn too_long() -> Fault {
    let text = format!("the answer is over {MESSAGE_BYTES_MAX} bytes; ask for it by a request of its own");
    Fault::upstream(FaultKind::InvalidResponse, text)
}

/// The message, if it is the answer to the request with that id.
fn check_answer(context: &FrameContext, message: Bytes, id: &Bytes) -> Result<Bytes, Fault> {
    let envelope = context.worker.scanner.borrow_mut().scan(&message);
    let envelope = envelope.map_err(|refused| not_an_answer().with_source(refused.error))?;
    answer_under_id(message, &envelope, id).ok_or_else(not_an_answer)
}

#[cold]
fn not_an_answer() -> Fault {
    Fault::upstream(
        FaultKind::InvalidResponse,
        "the server answered what is no answer to this request; it may have run",
    )
}

/// The message, if it answers the request with that id. An error without an id gets this one.
fn answer_under_id(message: Bytes, envelope: &Envelope, id: &Bytes) -> Option<Bytes> {
    if !matches!(envelope.kind, FrameKind::Response | FrameKind::Error) {
        return None;
    }
    match envelope.id {
        Some(said) if is_same_id(said.span.slice(&message), id) => Some(message),
        Some(said) if said.form == IdForm::Null => {
            Some(splice(&message, &[(said.span, id.clone())]).ok()?.parts().concat().into())
        }
        Some(_) => None,
        None => {
            let behind_brace = memchr::memchr(b'{', &message)? + 1;
            let (head, tail) = message.split_at(behind_brace);
            Some([head, b"\"id\":", id, b",", tail].concat().into())
        }
    }
}

/// An answer in an event stream.
struct Events<'a> {
    context: &'a Rc<FrameContext>,
    id: &'a Bytes,
    /// Set once the server has sent the client a request.
    input_guard: Option<InputGuard>,
    /// Whether an event could not be parsed, or answered another request.
    is_unread: bool,
}

impl Events<'_> {
    /// Forwards the messages before the answer, and returns the answer.
    async fn forward_until_answer(mut self, mut body: ResponseBody) -> Result<Bytes, Fault> {
        let mut reader = EventReader::with_event_limit(MESSAGE_BYTES_MAX);
        let (mut held, mut turn) = (0, None);
        while let Some(bytes) = next(&mut body).await? {
            held += bytes.len();
            if held > BUFFERED_BYTES && turn.is_none() {
                turn = Some(self.context.large_answers.acquire().await);
            }
            reader.push(bytes);
            if let Some(answer) = self.read(&mut reader).await? {
                let ending = async { while let Ok(Some(_)) = next(&mut body).await {} };
                let _ = timeout(END_TIMEOUT, ending).await;
                return Ok(answer);
            }
            if reader.is_at_boundary() {
                (held, turn) = (0, None);
            }
        }
        if self.is_unread {
            return Err(not_an_answer());
        }
        Err(Fault::upstream(
            FaultKind::ConnectionLost,
            "the stream ended without an answer; the call may have run",
        ))
    }

    /// Forwards complete events. Returns the answer when it arrives.
    async fn read(&mut self, reader: &mut EventReader) -> Result<Option<Bytes>, Fault> {
        while let Some(event) = reader.next().map_err(unreadable)? {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let scanned = self.context.worker.scanner.borrow_mut().scan(&data);
            // A client could parse it as the answer to another request, so it is not forwarded.
            let Ok(envelope) = scanned else {
                self.is_unread = true;
                continue;
            };
            match envelope.kind {
                FrameKind::Response | FrameKind::Error => match answer_under_id(data, &envelope, self.id) {
                    Some(answer) => return Ok(Some(answer)),
                    None => self.is_unread = true,
                },
                FrameKind::Request | FrameKind::Notification => {
                    if envelope.kind == FrameKind::Request && self.input_guard.is_none() {
                        self.input_guard = Some(self.context.begin_input());
                    }
                    self.context.outbox.room().await;
                    self.context.outbox.push(
                        std::slice::from_ref(&data),
                        0,
                        method_number_of(&envelope, &data),
                    );
                }
            }
        }
        Ok(None)
    }
}

/// The number of a message's method.
pub fn method_number_of(envelope: &Envelope, message: &[u8]) -> u32 {
    envelope.method.map_or(UNNUMBERED, |method| method_number(&method.decode_bytes(message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_core::frame::Scanner;

    #[track_caller]
    fn check(message: &str, expected: Option<&str>) {
        let message = Bytes::copy_from_slice(message.as_bytes());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let answer = answer_under_id(message, &envelope, &Bytes::from_static(b"\"a\""));
        assert_eq!(answer.as_deref(), expected.map(str::as_bytes));
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
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#,
            Some(r#"{"jsonrpc":"2.0","id":"a","error":{"code":1,"message":"x"}}"#),
        );
        check(
            r#" {"jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#,
            Some(r#" {"id":"a","jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#),
        );
    }
}
