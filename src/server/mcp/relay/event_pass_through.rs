//! An event stream that needs no change. An incomplete event is never passed on as if it were complete.

use std::task::{Context, Poll};

use bytes::Bytes;
use memchr::{memchr, memchr2_iter, memmem};

use super::relayed_stream::RelayedStream;
use crate::server::mcp::answer_id::{FoundAnswer, LongAnswerCheck, MessageStart, find_answer};
use crate::server::mcp::id_prefix::complete_line_end;
use crate::server::reply::body::BodyError;
use metamcp_core::frame::{BoundaryTracker, EventReader, MessageKind as FrameKind};
use metamcp_core::protocol::is_answer_to;
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
    /// The event under way, if it is too big to be held back.
    long: Option<LongEvent>,
    /// Whether the answer was passed on.
    is_answered: bool,
    /// Whether something was passed on that may have been the answer.
    is_unseen: bool,
}

/// An event that is not held back.
enum LongEvent {
    /// It is passed on as it arrives.
    Passed(MessageStart, Option<LongAnswerCheck>),
    /// It is an answer to another call, or a further one to this call.
    Dropped,
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
    /// Whether the answer was handed out.
    pub fn is_answered(&self) -> bool {
        self.is_answered
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
                Poll::Ready(Some(Ok(chunk))) => match self.push(chunk, stream) {
                    Ok(has_message) => {
                        if has_message {
                            answer.note_message();
                        }
                        continue;
                    }
                    // The client sees that the last part is missing.
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                },
                // The rest of an event that never ended is not an event (WHATWG HTML, 9.2.6), unless a part of it was
                // passed on: then the client must see that the rest is missing.
                Poll::Ready(None) if !self.is_torn() && !self.is_awaited(stream) => return Poll::Ready(None),
                Poll::Ready(None) => UpstreamError::from_stage(FailureStage::BodyIncomplete),
                Poll::Ready(Some(Err(error))) => error,
                Poll::Pending if stream.poll_cut(cx) => return Poll::Ready(self.end_cut(stream)),
                Poll::Pending => {
                    let silence = stream.poll_silence(!self.is_torn(), cx);
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
        answers && self.outcome() == Outcome::Awaited
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
        let error = match self.outcome() {
            Outcome::Passed => return Poll::Ready(None),
            Outcome::Unseen => return Poll::Ready(Some(Err(error.into()))),
            Outcome::Awaited => stream.ask_again(error).err(),
        };
        let Some(error) = error else {
            // The server sends an interrupted event again from its start.
            (self.boundary, self.kept_bytes, self.long) = (BoundaryTracker::new(), 0, None);
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
        match self.outcome() {
            Outcome::Unseen if self.is_torn() || stream.subscription.is_none() => {
                Some(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete).into()))
            }
            Outcome::Unseen | Outcome::Passed => stream.end_cut(true).map(Ok),
            Outcome::Awaited => stream.end_cut(false).map(Ok),
        }
    }

    /// Whether the call was answered before its stream ended or broke off.
    fn outcome(&self) -> Outcome {
        if self.is_answered {
            Outcome::Passed
        } else if self.is_torn() || self.is_unseen {
            Outcome::Unseen
        } else {
            Outcome::Awaited
        }
    }

    /// Whether a part of an event was passed on whose rest is missing.
    fn is_torn(&self) -> bool {
        matches!(self.long, Some(LongEvent::Passed(..)))
    }

    /// Passes on complete events and holds back the rest. Returns whether a message was among them. Fails after an event that
    /// was passed on in parts and turned out to be an answer to another call.
    fn push(&mut self, mut chunk: Bytes, stream: &mut RelayedStream) -> Result<bool, UpstreamError> {
        let mut has_message = false;
        if self.long.is_some() {
            has_message = self.push_long(&mut chunk, stream)?;
        }
        let whole = self.boundary.feed(&chunk);
        if whole > 0 {
            let piece = chunk.split_to(whole);
            self.kept_bytes = 0;
            self.kept.push(piece);
            has_message |= self.kept.iter().any(|part| may_have_message(part));
            self.pass_events(stream);
        }
        if chunk.is_empty() {
            return Ok(has_message);
        }
        self.kept_bytes += chunk.len();
        self.kept.push(chunk);
        if self.kept_bytes > HELD_BACK_BYTES_MAX {
            self.kept_bytes = 0;
            self.begin_long(stream);
        }
        Ok(has_message)
    }

    /// Passes on the complete events in `kept`, but of answers only one to this call: a client may take a further one for the
    /// answer to its next call.
    fn pass_events(&mut self, stream: &mut RelayedStream) {
        let is_passed = match (&stream.id, &self.kept[..]) {
            (None, _) => true,
            // Whether the answer was among the events decides whether the server is asked to resume the stream.
            (Some(id), [piece]) if stream.again.is_none() => match find_answer(piece, id) {
                FoundAnswer::None => true,
                FoundAnswer::Own(_) if self.is_answered => false,
                FoundAnswer::Own(range) => {
                    let message = piece.slice(range);
                    let scanned = stream.worker.scanner.borrow_mut().scan(&message);
                    self.is_answered = scanned.is_ok_and(|envelope| is_answer_to(id, &message, &envelope));
                    true
                }
                FoundAnswer::Unclear => false,
            },
            (Some(_), _) => false,
        };
        if is_passed {
            stream.ready.extend(self.kept.drain(..));
        } else {
            self.read_events(stream);
        }
    }

    /// Does the same by reading the events one by one.
    fn read_events(&mut self, stream: &mut RelayedStream) {
        let events = std::mem::take(&mut self.kept);
        let (mut reader, mut passed, mut is_changed) = (EventReader::new(), Vec::new(), false);
        for bytes in &events {
            reader.push(bytes.clone());
            while let Ok(Some(event)) = reader.next() {
                let data = event.data.as_ref().filter(|data| !data.is_empty());
                if data.is_none_or(|data| self.is_to_pass(data, stream)) {
                    passed.push(complete_line_end(event.raw));
                } else {
                    is_changed = true;
                }
            }
        }
        stream.ready.extend(if is_changed { passed } else { events });
    }

    /// Whether a message is no answer, or the first one to this call, which is noted.
    fn is_to_pass(&mut self, data: &Bytes, stream: &RelayedStream) -> bool {
        let Some(id) = &stream.id else { return true };
        let Ok(envelope) = stream.worker.scanner.borrow_mut().scan(data) else {
            // The client may be able to read it, and receives no other answer.
            self.is_unseen |= stream.again.is_some();
            return true;
        };
        if !matches!(envelope.kind, FrameKind::Response | FrameKind::Error) {
            return true;
        }
        let is_answer = !self.is_answered && is_answer_to(id, data, &envelope);
        self.is_answered |= is_answer;
        is_answer
    }

    /// Begins to pass on the event in `kept`, which is too big to be held back.
    fn begin_long(&mut self, stream: &mut RelayedStream) {
        let check = stream.id.clone().map(LongAnswerCheck::new);
        let data = start_of_data(&self.kept);
        let start = check.as_ref().map_or(MessageStart::Other, |check| check.read_start(&data));
        let is_dropped = match start {
            MessageStart::Foreign => true,
            MessageStart::Own | MessageStart::Answer => self.is_answered,
            MessageStart::Other | MessageStart::Unknown => false,
        };
        if is_dropped {
            self.kept.clear();
            self.long = Some(LongEvent::Dropped);
            return;
        }
        let mut check = check.filter(|_| start == MessageStart::Answer);
        for bytes in self.kept.drain(..) {
            if let Some(check) = &mut check {
                check.push(&bytes);
            }
            stream.ready.push_back(bytes);
        }
        self.long = Some(LongEvent::Passed(start, check));
    }

    /// Takes the rest of a long event from the start of `chunk`, as far as it has arrived. Returns whether it is complete.
    fn push_long(&mut self, chunk: &mut Bytes, stream: &mut RelayedStream) -> Result<bool, UpstreamError> {
        let end = first_boundary(self.boundary, chunk);
        let part = chunk.split_to(end.unwrap_or(chunk.len()));
        self.boundary.feed(&part);
        if let Some(LongEvent::Passed(_, check)) = &mut self.long {
            if let Some(check) = check {
                check.push(&part);
            }
            // Without its last part, an answer that turns out to be for another call is incomplete.
            if end.is_some() && check.as_ref().is_some_and(LongAnswerCheck::is_foreign_at_end) {
                return Err(UpstreamError::from_stage(FailureStage::InvalidResponse));
            }
            stream.ready.push_back(part);
        }
        if end.is_none() {
            return Ok(false);
        }
        match self.long.take() {
            Some(LongEvent::Passed(MessageStart::Own, _)) => self.is_answered = true,
            Some(LongEvent::Passed(_, Some(check))) if check.is_own_at_end() => self.is_answered = true,
            Some(LongEvent::Passed(MessageStart::Other, _) | LongEvent::Dropped) | None => {}
            Some(LongEvent::Passed(..)) => self.is_unseen = true,
        }
        Ok(true)
    }
}

/// Where the first event ends in `chunk`, which continues what `boundary` has read.
fn first_boundary(mut boundary: BoundaryTracker, chunk: &[u8]) -> Option<usize> {
    let mut start = 0;
    for at in memchr2_iter(b'\n', b'\r', chunk) {
        if boundary.feed(&chunk[start..=at]) > 0 {
            return Some(at + 1);
        }
        start = at + 1;
    }
    None
}

/// The first bytes of the data of an event, as far as its kind and its id can be read from them.
fn start_of_data(event: &[Bytes]) -> Vec<u8> {
    const FIELD: &[u8] = b"data:";
    let mut start = Vec::with_capacity(START_BYTES);
    for bytes in event {
        start.extend_from_slice(&bytes[..bytes.len().min(START_BYTES - start.len())]);
    }
    let is_line_start = |at: &usize| *at == 0 || matches!(start[*at - 1], b'\n' | b'\r');
    let Some(at) = memmem::find_iter(&start, FIELD).find(is_line_start) else { return Vec::new() };
    let mut data = start.split_off(at + FIELD.len());
    if data.first() == Some(&b' ') {
        data.remove(0);
    }
    data
}

/// Has room for the fields before the data, which are short, and for the id.
const START_BYTES: usize = 1024;

/// Whether complete events may carry a message, which is an object: comments and events without data do not.
fn may_have_message(events: &[u8]) -> bool {
    memchr(b'{', events).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_events_ends_at_its_blank_line() {
        let check = |before: &str, chunk: &str, expected: Option<usize>| {
            let mut boundary = BoundaryTracker::new();
            boundary.feed(before.as_bytes());
            assert_eq!(first_boundary(boundary, chunk.as_bytes()), expected, "{before:?} {chunk:?}");
        };
        check("data: a", "b\n\ndata: c\n\n", Some(3));
        check("data: a", "b\ndata: c\n\n\n", Some(11));
        check("data: a\n", "\ndata: c\n\n", Some(1));
        check("data: a\r", "\n\r\ndata: c", Some(2));
        check("data: a", "b\r\n\r\n", Some(4));
        check("data: a", "b\r\rc", Some(3));
        check("data: a", "b\nc\n", None);
        check("data: a", "b", None);
        check("data: a", "", None);
    }

    #[test]
    fn data_begins_after_its_field() {
        let check = |event: &[&str], expected: &str| {
            let event: Vec<Bytes> =
                event.iter().map(|part| Bytes::copy_from_slice(part.as_bytes())).collect();
            assert_eq!(start_of_data(&event), expected.as_bytes(), "{event:?}");
        };
        check(&["data: {}"], "{}");
        check(&["id: data: 7\nda", "ta:", " {\"id\"", ":1"], "{\"id\":1");
        check(&["event: m\r\ndata:{}"], "{}");
        check(&["event: data:\n"], "");
        check(&[&"x".repeat(2000), "\ndata: {}"], "");
        check(&["data: ", &"x".repeat(2000)], &"x".repeat(START_BYTES - 6));
    }
}
