//! An event stream that needs no change. An incomplete event is never passed on as if it were complete.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::relayed_stream::RelayedStream;
use crate::server::mcp::answer_id::is_free_of_foreign_answers;
use crate::server::mcp::id_prefix::complete_line_end;
use crate::server::reply::body::BodyError;
use metamcp_core::frame::{BoundaryTracker, EventReader, MessageKind as FrameKind};
use metamcp_core::protocol::{is_answer_to, is_same_id};
use metamcp_http::{FailureStage, UpstreamBody, UpstreamError};

/// An event up to this size is held back until it is complete. Bigger events are passed on as they arrive, so
/// that a slow reader cannot make the gateway buffer them.
const HELD_BACK_BYTES_MAX: usize = 64 << 10;

#[derive(Default)]
pub struct EventPassThrough {
    boundary: BoundaryTracker,
    /// The start of an event that is not complete yet.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Whether part of an event was passed on because it is too big to be held back.
    torn: bool,
    /// The newest events that were passed on whole, to find out whether one was the answer.
    passed: Vec<Bytes>,
    /// The outcome known from earlier events, in a stream that may be resumed elsewhere.
    settled: Option<Outcome>,
    /// Whether the newest event was passed on in parts, so that its content is unknown.
    passed_unseen: bool,
}

/// What the client has received of the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The client received it.
    Passed,
    /// An event passed on in parts may have been the answer.
    Unseen,
    /// The answer has not arrived.
    Awaited,
}

impl EventPassThrough {
    /// Whether the answer was handed out, as far as the stream was searched for it.
    pub fn is_answered(&self) -> bool {
        self.settled == Some(Outcome::Passed)
    }

    /// Polls for the next bytes for the client.
    pub fn poll(
        &mut self,
        stream: &mut RelayedStream,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(bytes) = stream.ready.pop_front() {
                return stream.emit(bytes).map(|next| next.map(Ok));
            }
            if stream.ended {
                return Poll::Ready(None);
            }
            if stream.is_revoked() {
                return Poll::Ready(self.end_cut(stream));
            }
            let error = match stream.poll_chunk(answer, cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    if self.push(chunk, stream) {
                        answer.note_message();
                    }
                    continue;
                }
                // The rest of an event that never ended is not an event (WHATWG HTML, 9.2.6), unless a part of it was
                // passed on: then the client must see that the rest is missing.
                Poll::Ready(None) if !self.torn && !self.is_awaited(stream) => return Poll::Ready(None),
                Poll::Ready(None) => UpstreamError::from_stage(FailureStage::BodyIncomplete),
                Poll::Ready(Some(Err(error))) => error,
                Poll::Pending if stream.poll_cut(cx) => return Poll::Ready(self.end_cut(stream)),
                Poll::Pending => {
                    let silence = stream.poll_silence(!self.torn, cx);
                    // If the stream is cut, the next round ends it.
                    if !stream.is_cut {
                        return silence.map(|next| next.map(Ok));
                    }
                    continue;
                }
            };
            if let Poll::Ready(end) = self.break_off(stream, error) {
                return Poll::Ready(end);
            }
        }
    }

    /// Whether the stream ended without the answer, as far as that can be known.
    fn is_awaited(&self, stream: &RelayedStream) -> bool {
        let answers = stream.again.is_some() || (stream.subscription.is_none() && stream.id.is_some());
        answers && matches!(self.outcome(stream), Outcome::Awaited)
    }

    /// Handles a broken stream: returns what the client gets, or pending while the server is asked to resume
    /// it.
    #[cold]
    fn break_off(
        &mut self,
        stream: &mut RelayedStream,
        error: UpstreamError,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.kept.clear();
        let error = match self.outcome(stream) {
            Outcome::Passed => return Poll::Ready(None),
            Outcome::Unseen => return Poll::Ready(Some(Err(error.into()))),
            Outcome::Awaited => stream.ask_again(error).err(),
        };
        let Some(error) = error else {
            // The server sends an interrupted event again from its start.
            (self.boundary, self.kept_bytes) = (BoundaryTracker::new(), 0);
            return Poll::Pending;
        };
        match stream.terminal_event(error) {
            Some(event) => stream.emit(event).map(|next| next.map(Ok)),
            None => Poll::Ready(None),
        }
    }

    /// Ends a stream that is cut. Inside an event no error can be inserted, nor if it is unknown whether the
    /// client has its answer; the stream then breaks visibly. A subscription has no answer.
    #[cold]
    fn end_cut(&mut self, stream: &mut RelayedStream) -> Option<Result<Bytes, BodyError>> {
        match self.outcome(stream) {
            Outcome::Unseen if self.torn || stream.subscription.is_none() => {
                Some(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete).into()))
            }
            Outcome::Unseen | Outcome::Passed => stream.end_cut(true).map(Ok),
            Outcome::Awaited => stream.end_cut(false).map(Ok),
        }
    }

    /// Whether the call was answered before its stream ended or broke off.
    fn outcome(&self, stream: &RelayedStream) -> Outcome {
        if let Some(settled) = self.settled {
            return settled;
        }
        if self.torn || self.passed_unseen {
            return Outcome::Unseen;
        }
        // The last event is nearly always the answer.
        if let [piece] = &self.passed[..]
            && let Some(last) = last_event(piece)
            && outcome_of(&[last], stream) == Outcome::Passed
        {
            return Outcome::Passed;
        }
        outcome_of(&self.passed, stream)
    }

    /// Passes on complete events and holds back the rest. Returns whether a message was among them.
    fn push(&mut self, mut chunk: Bytes, stream: &mut RelayedStream) -> bool {
        let whole = self.boundary.feed(&chunk);
        let mut has_message = false;
        if whole > 0 {
            let piece = chunk.split_to(whole);
            if self.torn || !self.kept.is_empty() || !is_blank(&piece) {
                self.passed.clear();
                self.passed.extend(self.kept.iter().cloned().chain([piece.clone()]));
                self.passed_unseen = self.torn;
                has_message = true;
            }
            let was_torn = std::mem::take(&mut self.torn);
            self.kept_bytes = 0;
            self.kept.push(piece);
            if was_torn || is_free_of_foreign(&self.kept, stream) {
                stream.ready.extend(self.kept.drain(..));
            } else {
                drop_foreign_answers(&mut self.kept, stream);
            }
            // A server may send more after its answer. Reconnecting then would deliver the answer twice.
            if stream.again.is_some() && self.settled.is_none() {
                self.settled = Some(self.outcome(stream)).filter(|outcome| *outcome != Outcome::Awaited);
            }
        }
        if chunk.is_empty() {
            return has_message;
        }
        if self.torn || self.kept_bytes + chunk.len() > HELD_BACK_BYTES_MAX {
            stream.ready.extend(self.kept.drain(..));
            (self.kept_bytes, self.torn) = (0, true);
            stream.ready.push_back(chunk);
        } else {
            self.kept_bytes += chunk.len();
            self.kept.push(chunk);
        }
        has_message
    }
}

/// Whether these events certainly contain no answer to another call.
fn is_free_of_foreign(events: &[Bytes], stream: &RelayedStream) -> bool {
    match (&stream.id, events) {
        (None, _) => true,
        (Some(id), [piece]) => is_free_of_foreign_answers(piece, id),
        (Some(_), _) => false,
    }
}

/// Passes on events without answers to other calls: a client may take the answer to its next call from one.
#[cold]
fn drop_foreign_answers(events: &mut Vec<Bytes>, stream: &mut RelayedStream) {
    let (mut reader, mut passed, mut is_changed) = (EventReader::new(), Vec::new(), false);
    for bytes in events.iter() {
        reader.push(bytes.clone());
        while let Ok(Some(event)) = reader.next() {
            let is_foreign = event.data.is_some_and(|data| is_foreign_answer(&data, stream));
            is_changed |= is_foreign;
            if !is_foreign {
                passed.push(complete_line_end(event.raw));
            }
        }
    }
    stream.ready.extend(if is_changed { passed } else { std::mem::take(events) });
    events.clear();
}

/// Whether a message is an answer, but not to this call.
fn is_foreign_answer(data: &Bytes, stream: &RelayedStream) -> bool {
    let mut scanner = stream.worker.scanner.borrow_mut();
    let Ok(envelope) = scanner.scan(data) else { return false };
    let is_answer = matches!(envelope.kind, FrameKind::Response | FrameKind::Error);
    is_answer && stream.id.as_ref().is_some_and(|id| !is_answer_to(id, data, &envelope))
}

/// Whether the answer is among these events.
fn outcome_of(passed: &[Bytes], stream: &RelayedStream) -> Outcome {
    let (mut reader, mut scanner) = (EventReader::new(), stream.worker.scanner.borrow_mut());
    for bytes in passed {
        reader.push(bytes.clone());
        while let Ok(Some(event)) = reader.next() {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let envelope = match scanner.scan(&data) {
                Ok(envelope) => envelope,
                // The client may be able to read it, and receives no other answer.
                Err(_) if stream.again.is_some() => return Outcome::Unseen,
                Err(_) => continue,
            };
            let is_answer = matches!(envelope.kind, FrameKind::Response | FrameKind::Error);
            let ids = envelope.id.zip(stream.id.as_ref());
            if is_answer && ids.is_some_and(|(id, asked)| is_same_id(id.span.slice(&data), asked)) {
                return Outcome::Passed;
            }
        }
    }
    Outcome::Awaited
}

/// The last of several events, if they are separated by line feeds, as nearly all are.
fn last_event(piece: &Bytes) -> Option<Bytes> {
    let before = piece.strip_suffix(b"\n\n")?;
    let start = memchr::memmem::rfind(before, b"\n\n")? + 2;
    Some(piece.slice(start..))
}

/// Whether the bytes carry no message: a keep-alive comment, or the rest of a line end.
fn is_blank(piece: &[u8]) -> bool {
    match piece.first() {
        Some(b':') => memchr::memmem::find(piece, b"data").is_none(),
        Some(b'\n' | b'\r') => piece.iter().all(|byte| matches!(byte, b'\n' | b'\r')),
        _ => false,
    }
}
