//! The event stream of one of several servers, passed on event by event with ids that carry their server. Also
//! that of a server whose requests are refused, since its events must be read too.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::refuser::ServerRequestRefuser;
use super::relayed_stream::RelayedStream;
use crate::server::mcp::id_prefix::{self, EventOrigin, ForwardedEvent, ServerRequests};
use crate::server::mcp::tasks::TaskIdTranslation;
use crate::session::MESSAGE_BYTES_MAX;
use crate::upstream::UpstreamId;
use metamcp_core::frame::{Event, EventReader};
use metamcp_http::{FailureStage, UpstreamBody, UpstreamError};

/// The state of a stream whose ids are prefixed.
pub struct EventTagger {
    upstream: UpstreamId,
    /// The raw id of the call, until it is answered.
    awaited: Option<Bytes>,
    reader: EventReader,
    /// The translation of task ids, if the server supports tasks.
    tasks: Option<Box<TaskIdTranslation>>,
    /// Refuses requests of the server, if the client cannot be asked.
    refuser: Option<Box<ServerRequestRefuser>>,
}

impl EventTagger {
    /// For the call with the raw id `awaited`.
    pub fn new(
        upstream: UpstreamId,
        awaited: Option<Bytes>,
        tasks: Option<Box<TaskIdTranslation>>,
        refuser: Option<Box<ServerRequestRefuser>>,
    ) -> Self {
        // On a single endpoint, where events otherwise pass unread, an event may be as long as a message.
        let reader = match refuser {
            Some(_) => EventReader::with_event_limit(MESSAGE_BYTES_MAX),
            None => EventReader::new(),
        };
        Self { upstream, awaited, reader, tasks, refuser }
    }

    /// Whether the answer was handed out.
    pub fn is_answered(&self) -> bool {
        self.awaited.is_none()
    }

    /// Polls for the next event for the client.
    pub fn poll(
        &mut self,
        stream: &mut RelayedStream,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        while !stream.ended {
            if stream.is_revoked() {
                return Poll::Ready(stream.end_cut(self.awaited.is_none()));
            }
            let is_refusing = self.refuser.as_mut().is_some_and(|refuser| refuser.poll_sent(cx).is_pending());
            if !is_refusing {
                match self.reader.next() {
                    Ok(Some(event)) => match self.forward(event, stream, answer) {
                        Some(bytes) => return stream.emit(bytes),
                        None => continue,
                    },
                    Ok(None) => {}
                    Err(error) => {
                        return self.end(stream, error.into());
                    }
                }
            }
            let chunk = if is_refusing { Poll::Pending } else { stream.poll_chunk(answer, cx) };
            let error = match chunk {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.reader.push(chunk);
                    continue;
                }
                // Event ids are removed, so the client cannot resume the stream to get the answer.
                Poll::Ready(None) => UpstreamError::from_stage(FailureStage::BodyIncomplete),
                Poll::Ready(Some(Err(error))) => error,
                Poll::Pending if stream.poll_cut(cx) => {
                    return Poll::Ready(stream.end_cut(self.awaited.is_none()));
                }
                Poll::Pending => {
                    let silence = stream.poll_silence(true, cx);
                    // If the stream is cut, the next round ends it.
                    if !stream.is_cut {
                        return silence;
                    }
                    continue;
                }
            };
            if let Err(error) = self.resume(stream, error) {
                return self.end(stream, error);
            }
        }
        Poll::Ready(None)
    }

    /// Rewrites an event for the client. `None` if it is not forwarded. The answer to a cancelled call is not, and ends the
    /// stream.
    fn forward(
        &mut self,
        event: Event,
        stream: &mut RelayedStream,
        answer: &mut UpstreamBody,
    ) -> Option<Bytes> {
        let was_awaited = self.awaited.is_some();
        let forwarded = self.rewrite(event, stream, answer);
        if was_awaited && self.awaited.is_none() && stream.is_cancelled() {
            stream.ended = true;
            return None;
        }
        forwarded
    }

    fn rewrite(
        &mut self,
        event: Event,
        stream: &mut RelayedStream,
        answer: &mut UpstreamBody,
    ) -> Option<Bytes> {
        if let Some(reconnect) = &mut stream.reconnect {
            event.id.iter().for_each(|id| reconnect.note_id(id));
            event.retry.into_iter().for_each(|retry_ms| reconnect.note_retry(retry_ms));
        }
        let mut scanner = stream.worker.scanner.borrow_mut();
        let requests = if self.refuser.is_some() { ServerRequests::Refuse } else { ServerRequests::Forward };
        let origin = EventOrigin { server: &stream.server, tasks: self.tasks.as_deref(), requests };
        let forwarded = id_prefix::rewrite_event(event, origin, &mut self.awaited, &mut scanner);
        drop(scanner);
        // What is dropped is not of the call, and does not give the server more time for it.
        if !matches!(forwarded, ForwardedEvent::Dropped) {
            stream.note_message(answer);
        }
        match forwarded {
            ForwardedEvent::Untouched(bytes) | ForwardedEvent::Rewritten(bytes) => Some(bytes),
            ForwardedEvent::ListChanged(bytes) => {
                stream.worker.shared.catalog.mark_stale(self.upstream);
                Some(bytes)
            }
            ForwardedEvent::Refused(refusal) => {
                self.refuser.as_mut()?.send(refusal);
                None
            }
            ForwardedEvent::Dropped => None,
        }
    }

    /// Asks the server for the rest while the answer is awaited.
    #[cold]
    fn resume(&mut self, stream: &mut RelayedStream, error: UpstreamError) -> Result<(), UpstreamError> {
        if self.awaited.is_none() {
            return Err(error);
        }
        stream.resume(error)?;
        // The server sends an interrupted event again from its start.
        self.reader = EventReader::new();
        Ok(())
    }

    /// Ends the stream. That is a fault while the answer is awaited.
    fn end(&mut self, stream: &mut RelayedStream, error: UpstreamError) -> Poll<Option<Bytes>> {
        if self.awaited.take().is_none() {
            stream.ended = true;
            return Poll::Ready(None);
        }
        match stream.terminal_event(error) {
            Some(event) => stream.emit(event),
            None => Poll::Ready(None),
        }
    }
}
