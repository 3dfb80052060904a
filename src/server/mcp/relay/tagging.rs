//! The event stream of one of several servers, passed on event by event with ids that carry their server.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::stream::Stream;
use crate::server::mcp::id_prefix::{self, ForwardedEvent};
use crate::server::mcp::tasks::TaskPass;
use crate::upstream::UpstreamId;
use metamcp_core::frame::EventReader;
use metamcp_http::{FailureStage, UpstreamBody, UpstreamError};

/// The state of a stream whose ids are prefixed.
pub struct EventTagger {
    upstream: UpstreamId,
    /// The raw id of the call, until it is answered.
    awaited: Option<Bytes>,
    reader: EventReader,
    /// The translation of task ids, if the server supports tasks.
    tasks: Option<Box<TaskPass>>,
}

impl EventTagger {
    /// For the call with the raw id `awaited`.
    pub fn new(upstream: UpstreamId, awaited: Option<Bytes>, tasks: Option<Box<TaskPass>>) -> Self {
        Self { upstream, awaited, reader: EventReader::new(), tasks }
    }

    /// Whether the answer was handed out.
    pub fn is_answered(&self) -> bool {
        self.awaited.is_none()
    }

    /// Polls for the next event for the client.
    pub fn poll(
        &mut self,
        stream: &mut Stream,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Bytes>> {
        while !stream.ended {
            if stream.is_taken_back() {
                return Poll::Ready(stream.end_cut(self.awaited.is_none()));
            }
            match self.reader.next() {
                Ok(Some(event)) => {
                    if let Some(again) = &mut stream.again {
                        event.id.iter().for_each(|id| again.note_id(id));
                        event.retry.into_iter().for_each(|retry_ms| again.note_retry(retry_ms));
                    }
                    let mut scanner = stream.worker.scanner.borrow_mut();
                    let tasks = self.tasks.as_deref();
                    match id_prefix::pass(event, (&stream.server, tasks), &mut self.awaited, &mut scanner) {
                        ForwardedEvent::Untouched(bytes) | ForwardedEvent::Tagged(bytes) => {
                            drop(scanner);
                            return stream.pass(bytes);
                        }
                        ForwardedEvent::ListChanged(bytes) => {
                            drop(scanner);
                            stream.worker.shared.catalog.mark_stale(self.upstream);
                            return stream.pass(bytes);
                        }
                        ForwardedEvent::Dropped => continue,
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    return self.end(stream, UpstreamError::new(FailureStage::InvalidResponse, error));
                }
            }
            let error = match stream.poll_chunk(answer, cx) {
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
            if let Err(error) = self.ask_again(stream, error) {
                return self.end(stream, error);
            }
        }
        Poll::Ready(None)
    }

    /// Asks the server for the rest while the answer is awaited.
    #[cold]
    fn ask_again(&mut self, stream: &mut Stream, error: UpstreamError) -> Result<(), UpstreamError> {
        if self.awaited.is_none() {
            return Err(error);
        }
        stream.ask_again(error)?;
        // The server sends an interrupted event again from its start.
        self.reader = EventReader::new();
        Ok(())
    }

    /// Ends the stream. That is a fault while the answer is awaited.
    fn end(&mut self, stream: &mut Stream, error: UpstreamError) -> Poll<Option<Bytes>> {
        if self.awaited.take().is_none() {
            stream.ended = true;
            return Poll::Ready(None);
        }
        let event = stream.terminal_event(error);
        stream.pass(event)
    }
}
