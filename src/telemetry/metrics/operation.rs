//! What is counted of one message, by the worker that has it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use super::desk::{Connections, Desk};
use super::label::Label;
use crate::base::Kind;
use crate::telemetry::traces::Open;

/// What a worker counts with. Stays on its thread: its cells have no other writer.
pub struct Writer {
    desk: Arc<CachePadded<Desk>>,
    /// So that it cannot be shared between threads.
    _thread: std::marker::PhantomData<Rc<()>>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered. What an answer says is not read: one that tells of an error is an answer.
    Answer,
    /// An error of the gateway's stands in place of the answer, or the server refused it by status.
    Error,
    /// Whoever asked left before the answer was whole.
    Leave,
}

/// Those, and answers that came in pieces: counted apart where it matters when an answer began.
pub(super) const OUTCOMES: usize = 4;

/// The place of the latter.
pub(super) const IN_PIECES: usize = 3;

impl Outcome {
    /// As a label, by place.
    pub(super) const NAMES: [&str; OUTCOMES] = ["ok", "error", "gone", "ok"];
}

/// A message of a client, from when it is here until its answer has passed. Counted when dropped.
pub struct Operation {
    writer: Rc<Writer>,
    began: Instant,
    bytes_in: u64,
    bytes_out: u64,
    endpoint: Label,
    method: usize,
    /// What became of it, if it is dropped now.
    outcome: Outcome,
    /// When it is traced.
    span: Option<Open>,
}

/// A message that went to a server.
pub struct Exchange {
    writer: Rc<Writer>,
    server: Label,
    method: usize,
    is_in_pieces: bool,
    /// When it is traced.
    span: Option<Open>,
}

/// An event stream that is open until this is dropped.
pub struct Streaming {
    writer: Rc<Writer>,
    kind: StreamKind,
}

/// What comes in an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The answer to a call.
    Call,
    /// What servers say outside of calls in a Legacy session.
    Session,
    /// What a Modern client subscribed to.
    Subscription,
}

pub(super) const STREAM_KINDS: usize = 3;

impl StreamKind {
    /// As a label.
    pub(super) const NAMES: [&str; STREAM_KINDS] = ["call", "session", "subscription"];
}

impl Writer {
    pub(super) fn new(desk: Arc<CachePadded<Desk>>) -> Self {
        Self { desk, _thread: std::marker::PhantomData }
    }

    /// A fault was answered by an endpoint; `None`: by none.
    #[cold]
    pub fn note_fault(&self, endpoint: Option<Label>, kind: Kind) {
        let faults = match endpoint {
            Some(endpoint) => &self.desk.endpoint(endpoint).faults,
            None => &self.desk.refused,
        };
        faults[kind.index()].add(1);
    }

    /// How the connections are now.
    pub fn note_connections(&self, connections: Connections) {
        let Connections { open, at_rest, under_way } = connections;
        for (cell, count) in self.desk.connections.iter().zip([open, at_rest, under_way]) {
            cell.set(count as u64);
        }
    }

    /// How many connections to a server are idle now.
    pub fn note_idle(&self, server: Label, connections: usize) {
        self.desk.server(server).idle.set(connections as u64);
    }
}

impl Operation {
    /// Of so many bytes. `method`: its number, when it is one that is told apart.
    #[inline]
    pub fn begin(writer: &Rc<Writer>, endpoint: Label, method: Option<usize>, bytes_in: usize) -> Self {
        Self {
            writer: Rc::clone(writer),
            began: Instant::now(),
            bytes_in: bytes_in as u64,
            bytes_out: 0,
            endpoint,
            method: method.unwrap_or(usize::MAX),
            outcome: Outcome::Leave,
            span: None,
        }
    }

    /// It has a span, which ends with it.
    #[inline]
    #[must_use]
    pub fn traced_by(self, span: Option<Open>) -> Self {
        // Not by an update of the whole: it would be dropped, and so counted.
        let mut traced = self;
        traced.span = span;
        traced
    }

    /// So many bytes of the answer are about to pass.
    #[inline]
    pub fn pass(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Some of an answer is about to pass that is not read here: whoever leaves then may have all it wanted.
    pub fn pass_unread(&mut self) {
        self.outcome = Outcome::Answer;
    }

    /// The last of the answer is about to pass, or none will.
    #[inline]
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// A fault stands at the end of an answer that had begun.
    #[cold]
    pub fn break_off(mut self, kind: Kind) {
        self.writer.note_fault(Some(self.endpoint), kind);
        self.span.iter_mut().for_each(|span| span.fail(kind));
        self.end(Outcome::Error);
    }

    /// A fault stands in place of the answer, told with that code of JSON-RPC.
    #[cold]
    pub fn fail(mut self, kind: Kind, code: i32) {
        self.span.iter_mut().for_each(|span| span.answer_error(kind, code));
        self.end(Outcome::Error);
    }

    /// The server refused it, by that status of HTTP.
    #[cold]
    pub fn refuse(mut self, status: u16) {
        self.span.iter_mut().for_each(|span| span.refuse(status));
        self.end(Outcome::Error);
    }
}

impl Drop for Operation {
    #[inline]
    fn drop(&mut self) {
        let after = self.began.elapsed();
        let desk = &self.writer.desk;
        let cells = desk.endpoint(self.endpoint);
        cells.request_bytes.add(self.bytes_in);
        cells.response_bytes.add(self.bytes_out);
        desk.note_operation(cells, self.endpoint, (self.method, self.outcome as usize), ns(after));
        if let Some(span) = &mut self.span {
            span.end(Outcome::NAMES[self.outcome as usize], after);
        }
    }
}

impl Exchange {
    /// With that server.
    #[inline]
    pub fn begin(writer: &Rc<Writer>, server: Label, method: Option<usize>) -> Self {
        let method = method.unwrap_or(usize::MAX);
        Self { writer: Rc::clone(writer), server, method, is_in_pieces: false, span: None }
    }

    /// It has a span, which ends with it.
    #[inline]
    #[must_use]
    pub fn traced_by(self, span: Option<Open>) -> Self {
        Self { span, ..self }
    }

    /// Another server is asked in its place.
    pub fn pass_on_to(&mut self, server: Label, name: &str) {
        self.server = server;
        self.span.iter_mut().for_each(|span| span.move_to(name));
    }

    /// The answer began after so long, and the rest is to come. One that comes whole begins when it ends.
    pub fn note_first_byte(&mut self, after: Duration) {
        self.is_in_pieces = true;
        let desk = &self.writer.desk;
        desk.note_first_byte(desk.server(self.server), self.server, ns(after));
    }

    /// It ended after so long.
    #[inline]
    pub fn end(&mut self, outcome: Outcome, after: Duration) {
        if let Some(span) = &mut self.span {
            span.end(Outcome::NAMES[outcome as usize], after);
        }
        let desk = &self.writer.desk;
        let outcome = match outcome {
            Outcome::Answer if self.is_in_pieces => IN_PIECES,
            outcome => outcome as usize,
        };
        desk.note_exchange(desk.server(self.server), self.server, (self.method, outcome), ns(after));
    }

    /// It failed by that.
    #[cold]
    pub fn note_fault(&mut self, kind: Kind) {
        self.span.iter_mut().for_each(|span| span.fail(kind));
        self.writer.desk.server(self.server).faults[kind.index()].add(1);
    }
}

impl Streaming {
    /// From now on.
    pub fn open(writer: &Rc<Writer>, kind: StreamKind) -> Self {
        writer.desk.streams[kind as usize].add(1);
        Self { writer: Rc::clone(writer), kind }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.writer.desk.streams[self.kind as usize].sub(1);
    }
}

/// Half a millennium and more is as long as that.
#[inline]
fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
