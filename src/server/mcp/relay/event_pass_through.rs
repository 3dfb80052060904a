//! An event stream whose events pass unchanged, except that of answers only one to the call passes. An incomplete event is
//! never passed on as if it were complete.

use std::task::{Context, Poll};

use bytes::Bytes;
use memchr::memchr2_iter;

use super::find_answer::{FoundAnswer, find_answer, may_have_message};
use super::relayed_stream::RelayedStream;
use crate::server::mcp::id_prefix::complete_line_end;
use crate::server::reply::body::BodyError;
use metamcp_core::frame::{BoundaryTracker, DataReader, EventReader, write_event};
use metamcp_core::protocol::{AnswerMatch, AnswerReader, add_answer_id};
use metamcp_http::{FailureStage, UpstreamBody, UpstreamError};

/// An event up to this size is held back until it is complete. Bigger events are passed on as they arrive, so
/// that a slow reader cannot make the gateway buffer them.
const HELD_BACK_BYTES_MAX: usize = 64 << 10;

#[derive(Default)]
pub struct EventPassThrough {
    boundary: BoundaryTracker,
    /// The start of an event that is not complete yet.
    held_back: Vec<Bytes>,
    held_back_bytes: usize,
    /// The event under way, if it is too big to be held back.
    long: Option<LongEvent>,
    /// A part of the stream was read, so that no byte order mark can follow.
    is_begun: bool,
    /// Whether the answer was passed on.
    is_answered: bool,
    /// Why the rest of the stream cannot be read. It is handled after the events before it are passed on.
    error: Option<UpstreamError>,
}

/// An event that is not held back.
enum LongEvent {
    /// It is passed on as it arrives. If it is of a call, it is read meanwhile.
    Passed(Option<Box<LongMessage>>),
    /// It is an answer to another call, a further one to this call, or it is of a cancelled call.
    Dropped,
}

/// The message in a long event.
struct LongMessage {
    data: DataReader,
    answer: AnswerReader,
}

impl LongMessage {
    fn push(&mut self, bytes: &[u8]) {
        let Self { data, answer } = self;
        data.push(bytes, |data| answer.push(data));
    }
}

/// What the client has received of the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The client received it.
    Passed,
    /// An event passed on in part may be the answer.
    Unknown,
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
            if let Some(error) = self.error.take() {
                if let Poll::Ready(end) = self.break_off(stream, error) {
                    return Poll::Ready(end);
                }
                continue;
            }
            if stream.is_revoked() {
                return Poll::Ready(self.end_cut(stream));
            }
            let error = match stream.poll_chunk(answer, cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    if self.push(chunk, stream) {
                        stream.note_message(answer);
                    }
                    continue;
                }
                // The rest of an event that never ended is not an event (WHATWG HTML, 9.2.6), unless a part of it was
                // passed on: then the client must see that the rest is missing.
                Poll::Ready(None) if !self.has_partial_event() && !self.is_awaited(stream) => {
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => UpstreamError::from_stage(FailureStage::BodyIncomplete),
                Poll::Ready(Some(Err(error))) => error,
                Poll::Pending if stream.poll_cut(cx) => return Poll::Ready(self.end_cut(stream)),
                Poll::Pending => {
                    let silence = stream.poll_silence(!self.has_partial_event(), cx);
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
        let answers = stream.reconnect.is_some() || (stream.subscription.is_none() && stream.id.is_some());
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
        self.held_back.clear();
        let error = match self.outcome() {
            Outcome::Passed => return Poll::Ready(None),
            Outcome::Unknown => return Poll::Ready(Some(Err(error.into()))),
            Outcome::Awaited => stream.resume(error).err(),
        };
        let Some(error) = error else {
            // The server sends an interrupted event again from its start.
            (self.boundary, self.held_back_bytes, self.long) = (BoundaryTracker::new(), 0, None);
            return Poll::Pending;
        };
        match stream.terminal_event(error) {
            Some(event) => stream.emit(event).map(|next| next.map(Ok)),
            None => Poll::Ready(None),
        }
    }

    /// Ends a stream that is cut. Inside an event no error can be inserted; the stream then breaks visibly.
    #[cold]
    fn end_cut(&mut self, stream: &mut RelayedStream) -> Option<Result<Bytes, BodyError>> {
        match self.outcome() {
            Outcome::Unknown => Some(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete).into())),
            Outcome::Passed => stream.end_cut(true).map(Ok),
            Outcome::Awaited => stream.end_cut(false).map(Ok),
        }
    }

    /// Whether the call was answered before its stream ended or broke off.
    fn outcome(&self) -> Outcome {
        if self.is_answered {
            Outcome::Passed
        } else if self.has_partial_event() {
            Outcome::Unknown
        } else {
            Outcome::Awaited
        }
    }

    /// Whether a part of an event was passed on whose rest is missing.
    fn has_partial_event(&self) -> bool {
        matches!(self.long, Some(LongEvent::Passed(..)))
    }

    /// Passes on complete events and holds back the rest. Returns whether a message was among them.
    fn push(&mut self, mut chunk: Bytes, stream: &mut RelayedStream) -> bool {
        let mut has_message = false;
        if self.long.is_some() {
            has_message = self.push_long(&mut chunk, stream);
        }
        if self.error.is_some() {
            return has_message;
        }
        let whole = self.boundary.feed(&chunk);
        if whole > 0 {
            let events = chunk.split_to(whole);
            self.held_back_bytes = 0;
            self.held_back.push(events);
            has_message |= self.pass_events(stream);
            self.is_begun = true;
        }
        if chunk.is_empty() {
            return has_message;
        }
        self.held_back_bytes += chunk.len();
        self.held_back.push(chunk);
        if self.held_back_bytes > HELD_BACK_BYTES_MAX {
            self.held_back_bytes = 0;
            self.begin_long(stream);
        }
        has_message
    }

    /// Passes on the complete events that are held back, but of answers only one to this call: a client may take a further one
    /// for the answer to its next call. Returns whether a message may be among them.
    fn pass_events(&mut self, stream: &mut RelayedStream) -> bool {
        let found = match (&stream.id, &self.held_back[..]) {
            (None, _) => FoundAnswer::None,
            (Some(id), [events]) => find_answer(events, id),
            (Some(_), _) => FoundAnswer::Unclear,
        };
        let is_unchanged = match found {
            FoundAnswer::None => true,
            FoundAnswer::ThisCall if stream.is_cancelled() => false,
            FoundAnswer::ThisCall => !std::mem::replace(&mut self.is_answered, true),
            FoundAnswer::Unclear => false,
        };
        if !is_unchanged {
            return self.read_events(stream);
        }
        // A subscription has no bound for the time between its messages.
        let has_message = self.held_back.iter().any(|events| may_have_message(events));
        stream.ready.extend(self.held_back.drain(..));
        has_message
    }

    /// Does the same by reading the events one by one.
    fn read_events(&mut self, stream: &mut RelayedStream) -> bool {
        let events = std::mem::take(&mut self.held_back);
        let mut reader = if self.is_begun { EventReader::mid_stream() } else { EventReader::new() };
        let (mut passed, mut is_changed) = (Vec::new(), false);
        let mut has_message = false;
        for bytes in &events {
            reader.push(bytes.clone());
            loop {
                let event = match reader.next() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(error) => {
                        stream.ready.extend(passed);
                        self.error = Some(error.into());
                        return has_message;
                    }
                };
                let data = event.data.filter(|data| !data.is_empty());
                let is_message = data.is_some();
                match data.map_or(ForwardedMessage::Unchanged, |data| self.forwarding(&data, stream)) {
                    ForwardedMessage::Unchanged => {
                        has_message |= is_message;
                        passed.push(complete_line_end(event.raw));
                    }
                    ForwardedMessage::Rewritten(event) => {
                        (has_message, is_changed) = (true, true);
                        passed.push(event);
                    }
                    // It is not of the call, and does not give the server more time for it.
                    ForwardedMessage::Dropped => is_changed = true,
                }
            }
        }
        stream.ready.extend(if is_changed { passed } else { events });
        has_message
    }

    /// What is forwarded of a message. If it is the answer to this call, that is noted.
    fn forwarding(&mut self, data: &Bytes, stream: &mut RelayedStream) -> ForwardedMessage {
        let Some(id) = &stream.id else { return ForwardedMessage::Unchanged };
        match AnswerMatch::of_text(data, id) {
            AnswerMatch::NotAnswer => ForwardedMessage::Unchanged,
            AnswerMatch::ThisCall | AnswerMatch::ErrorWithoutId if stream.is_cancelled() => {
                stream.ended = true;
                ForwardedMessage::Dropped
            }
            AnswerMatch::ThisCall if !self.is_answered => {
                self.is_answered = true;
                ForwardedMessage::Unchanged
            }
            AnswerMatch::ErrorWithoutId if !self.is_answered => {
                let scanned = stream.worker.scanner.borrow_mut().scan(data);
                let answer = scanned.ok().and_then(|envelope| add_answer_id(data, &envelope, id));
                let Some(answer) = answer else { return ForwardedMessage::Dropped };
                self.is_answered = true;
                ForwardedMessage::Rewritten(write_event(&answer))
            }
            // An unreadable text may hold the answer to another call, as one of two in an event does.
            _ => ForwardedMessage::Dropped,
        }
    }

    /// Begins to pass on the event that is held back, which is too big for that.
    fn begin_long(&mut self, stream: &mut RelayedStream) {
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        let Some(id) = stream.id.clone() else {
            stream.ready.extend(self.held_back.drain(..));
            self.long = Some(LongEvent::Passed(None));
            return;
        };
        if stream.is_cancelled() {
            // It may be the answer, behind which the server ends the stream.
            self.held_back.clear();
            self.long = Some(LongEvent::Dropped);
            return;
        }
        let data = if is_begun { DataReader::mid_stream() } else { DataReader::new() };
        let mut message = Box::new(LongMessage { data, answer: AnswerReader::new(id) });
        self.held_back.iter().for_each(|bytes| message.push(bytes));
        if self.is_refused(message.answer.so_far()) {
            self.held_back.clear();
            self.long = Some(LongEvent::Dropped);
        } else {
            stream.ready.extend(self.held_back.drain(..));
            self.long = Some(LongEvent::Passed(Some(message)));
        }
    }

    /// Whether the message of a long event, as far as it is known, must not be passed on. An error without an id could not be
    /// given one, and its client would wait for ever.
    fn is_refused(&self, message: AnswerMatch) -> bool {
        match message {
            AnswerMatch::OtherCall | AnswerMatch::ErrorWithoutId => true,
            AnswerMatch::ThisCall | AnswerMatch::Unidentified => self.is_answered,
            AnswerMatch::NotAnswer | AnswerMatch::Unreadable => false,
        }
    }

    /// Takes the rest of a long event from the start of `chunk`, as far as it has arrived. Returns whether it is complete.
    fn push_long(&mut self, chunk: &mut Bytes, stream: &mut RelayedStream) -> bool {
        let end = first_boundary(self.boundary, chunk);
        let part = chunk.split_to(end.unwrap_or(chunk.len()));
        self.boundary.feed(&part);
        let mut is_answer = false;
        match &mut self.long {
            Some(LongEvent::Passed(Some(message))) => {
                message.push(&part);
                let found = if end.is_some() { message.answer.finish() } else { message.answer.so_far() };
                // Without this part, an answer that turns out to be for another call stays incomplete.
                if self.is_refused(found) {
                    self.error = Some(UpstreamError::from_stage(FailureStage::InvalidResponse));
                    return false;
                }
                is_answer = found == AnswerMatch::ThisCall;
                stream.ready.push_back(part);
            }
            Some(LongEvent::Passed(None)) => stream.ready.push_back(part),
            Some(LongEvent::Dropped) | None => {}
        }
        if end.is_none() {
            return false;
        }
        self.is_answered |= is_answer;
        matches!(self.long.take(), Some(LongEvent::Passed(_)))
    }
}

/// What is forwarded of an event.
enum ForwardedMessage {
    Unchanged,
    Rewritten(Bytes),
    Dropped,
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
}
