//! One request of a framed stream, from the message to its answer, with the server messages before it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::context::{FrameContext, InputGuard};
use crate::server::mcp::call::Call;
use crate::server::mcp::whole_answer;
use crate::server::reply::body::{BodyPoll, ResponseBody};
use crate::server::reply::reply::Reply;
use crate::session::MESSAGE_BYTES_MAX;
use metamcp_core::base::Fault;
use metamcp_core::frame::{Envelope, EventReader, MessageKind as FrameKind};
use metamcp_core::protocol::{Era, McpMethod, UNNUMBERED, header, method_number};

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
            context.outbox.answer(&[whole_answer::check_answer(&context.worker.scanner, bytes, id)?]);
        }
        BodyPoll::Arriving(body) => {
            let _turn = context.large_answers.acquire().await;
            // A frame states its length first, and no other message may come between the parts of a line.
            let bytes = whole_answer::collect(body).await?;
            context.outbox.room().await;
            context.outbox.answer(&[whole_answer::check_answer(&context.worker.scanner, bytes, id)?]);
        }
    }
    Ok(())
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
        while let Some(bytes) = whole_answer::next_bytes(&mut body).await? {
            held += bytes.len();
            if held > BUFFERED_BYTES && turn.is_none() {
                turn = Some(self.context.large_answers.acquire().await);
            }
            reader.push(bytes);
            if let Some(answer) = self.read(&mut reader).await? {
                let ending = async { while let Ok(Some(_)) = whole_answer::next_bytes(&mut body).await {} };
                let _ = timeout(END_TIMEOUT, ending).await;
                return Ok(answer);
            }
            if reader.is_at_boundary() {
                (held, turn) = (0, None);
            }
        }
        if self.is_unread {
            return Err(whole_answer::not_an_answer());
        }
        Err(whole_answer::no_answer())
    }

    /// Forwards complete events. Returns the answer when it arrives.
    async fn read(&mut self, reader: &mut EventReader) -> Result<Option<Bytes>, Fault> {
        while let Some(event) = reader.next().map_err(whole_answer::unreadable)? {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let scanned = self.context.worker.scanner.borrow_mut().scan(&data);
            // A client could parse it as the answer to another request, so it is not forwarded.
            let Ok(envelope) = scanned else {
                self.is_unread = true;
                continue;
            };
            match envelope.kind {
                FrameKind::Response | FrameKind::Error => {
                    match whole_answer::answer_under_id(data, &envelope, self.id) {
                        Some(answer) => return Ok(Some(answer)),
                        None => self.is_unread = true,
                    }
                }
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
