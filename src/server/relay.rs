//! A upstream's answer on its way to the client: bytes pass as they come, with backpressure, and what the
//! request holds is held until the last of them.

mod tagging;
mod whole;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::again::Again;
use super::body::BodyError;
use super::meter::Meter;
use super::tasks::TaskPass;
use super::{Shared, Worker, reply};
use crate::auth::Identity;
use crate::base::{Fault, Kind, Phase, ServerName};
use crate::limits::Permit;
use crate::session::InFlight;
use crate::telemetry::metrics::{Operation, Outcome as Came, StreamKind, Streaming};
use crate::topology::Topology;
use crate::upstream::{Answer, UpstreamError, UpstreamId};
use tagging::Tagging;
use whole::Whole;

/// What a request holds until its answer has passed.
pub struct Held {
    /// The key's place.
    pub permit: Option<Permit>,
    /// The session's note of the call.
    pub in_flight: Option<InFlight>,
    /// What counts it.
    pub meter: Option<Meter>,
    /// Whose it is: an event stream ends with its key.
    pub identity: Identity,
    /// The server of a subscription, when it is one: it ends with that too, and when the gateway drains.
    pub subscription: Option<UpstreamId>,
    /// What is done about tasks, where the server has them.
    pub tasks: Option<Box<TaskPass>>,
}

/// An answer on its way.
pub struct Relay {
    /// First, so that it is free before the server sees that the answer was given up.
    held: Held,
    answer: Answer,
    pace: Pace,
    /// What counts the message that is answered, where the client takes the answer from here.
    operation: Option<Operation>,
    /// Whether the last bytes were handed out, or the fault that ended them.
    done: bool,
}

/// How the bytes of an answer are passed.
enum Pace {
    /// As they come, behind what was read before.
    Bytes(Bytes),
    /// As they come, but an event that is not whole is held back, so that it never passes for one.
    Events(Stream, Whole),
    /// Event by event, for ids that carry their server.
    Tagged(Stream, Box<Tagging>),
}

/// What every event stream has.
struct Stream {
    worker: Rc<Worker>,
    _streaming: Option<Streaming>,
    server: ServerName,
    /// The request it answers, for an error event at the end.
    id: Option<Bytes>,
    ready: VecDeque<Bytes>,
    /// When the client last got something.
    last: Instant,
    keep_alive: Option<Pin<Box<Sleep>>>,
    /// Whether its last event was handed out.
    ended: bool,
    /// Whether that is an error of ours, and of which kind.
    failed: Option<Kind>,
    /// Completes when the stream is to be cut. Made when first waited for.
    cut: Option<Pin<Box<dyn Future<Output = ()>>>>,
    is_cut: bool,
    identity: Identity,
    /// The change of keys and the second that it was last held against.
    held_against: (u64, u64),
    subscription: Option<UpstreamId>,
    /// Of an answer that its client can take up again.
    again: Option<Box<Again>>,
}

/// A comment: no client sees it, no load balancer thinks the stream idle.
pub const COMMENT: &[u8] = b": keep-alive\n\n";

impl Relay {
    /// Bytes as they come, behind the `first` ones, which were read before.
    pub fn bytes(first: Bytes, answer: Answer, held: Held) -> Self {
        Self { held, answer, pace: Pace::Bytes(first), operation: None, done: false }
    }

    /// An event stream that needs no change.
    pub fn events(
        answer: Answer,
        held: Held,
        worker: &Rc<Worker>,
        server: &ServerName,
        id: Option<Bytes>,
    ) -> Self {
        let stream = Stream::new(worker, server, id, &held);
        Self { held, answer, pace: Pace::Events(stream, Whole::default()), operation: None, done: false }
    }

    /// An event stream from one of several servers.
    pub fn tagged(
        answer: Answer,
        held: Held,
        worker: &Rc<Worker>,
        server: (&ServerName, UpstreamId),
        id: Option<Bytes>,
    ) -> Self {
        let stream = Stream::new(worker, server.0, id, &held);
        let mut held = held;
        let tagging = Box::new(Tagging::new(server.1, stream.id.clone(), held.tasks.take()));
        Self { held, answer, pace: Pace::Tagged(stream, tagging), operation: None, done: false }
    }

    /// Counts the message that this answers, when the last byte has passed.
    pub fn count(&mut self, operation: Operation) {
        self.operation = Some(operation);
    }

    /// Whether it is an event stream.
    pub fn is_events(&self) -> bool {
        !matches!(self.pace, Pace::Bytes(_))
    }

    /// From now on the server is asked again where its stream breaks, and a stream that ends without an answer is one
    /// that broke.
    pub fn ask_again_by(&mut self, again: Box<Again>) {
        if let Some(stream) = self.stream() {
            stream.again = Some(again);
        }
    }

    /// Whether the answer was handed out, as far as that is known of a stream that its client can take up again.
    pub fn is_answered(&self) -> bool {
        match &self.pace {
            Pace::Bytes(_) => false,
            Pace::Events(stream, whole) => stream.ready.is_empty() && whole.is_answered(),
            Pace::Tagged(_, tagging) => tagging.is_answered(),
        }
    }

    /// Nobody waits for the answer any more: a stream that ended has ended.
    pub fn ask_no_more(&mut self) {
        if let Some(stream) = self.stream() {
            stream.ended |= stream.again.take().is_some_and(|again| again.is_asking());
        }
    }

    /// What asks the server again.
    pub fn again(&mut self) -> Option<&mut Again> {
        self.stream()?.again.as_deref_mut()
    }

    fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.pace {
            Pace::Bytes(_) => None,
            Pace::Events(stream, _) | Pace::Tagged(stream, _) => Some(stream),
        }
    }

    /// The next bytes for the client.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let next = self.poll_next(cx);
        match &next {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(bytes))) => {
                self.held.meter.iter_mut().for_each(|meter| meter.pass(bytes.len()));
                self.operation.iter_mut().for_each(|operation| operation.pass(bytes.len()));
                match &self.pace {
                    // The answer itself, or something behind it.
                    Pace::Tagged(_, tagging) if tagging.is_answered() => self.end(self.failure()),
                    Pace::Events(..) => {
                        self.held.meter.iter_mut().for_each(Meter::pass_unread);
                        self.operation.iter_mut().for_each(Operation::pass_unread);
                    }
                    _ => {}
                }
            }
            Poll::Ready(Some(Err(_))) => self.end(Some(Kind::Broken)),
            Poll::Ready(None) => {}
        }
        if self.is_ended() {
            // Before the last bytes pass, not with the drop of all of this.
            self.end(self.failure());
        }
        next
    }

    /// Counts what became of the call. Only the first time counts.
    fn end(&mut self, failure: Option<Kind>) {
        let (meter, operation) = (self.held.meter.as_mut(), self.operation.take());
        if let Some(meter) = meter {
            match failure {
                None => meter.end(Came::Answer),
                Some(kind) => meter.fail(Some(kind)),
            }
        }
        if let Some(operation) = operation {
            match failure {
                None => operation.end(Came::Answer),
                Some(kind) => operation.break_off(kind),
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        match &mut self.pace {
            Pace::Bytes(first) if !first.is_empty() => Poll::Ready(Some(Ok(std::mem::take(first)))),
            Pace::Bytes(_) => {
                let next = self.answer.poll_chunk(cx);
                self.done = matches!(next, Poll::Ready(None | Some(Err(_))));
                next.map(|next| next.map(|bytes| bytes.map_err(BodyError::from)))
            }
            Pace::Events(stream, whole) => {
                let next = whole.poll(stream, &mut self.answer, cx);
                self.done |= matches!(next, Poll::Ready(None | Some(Err(_))));
                next
            }
            Pace::Tagged(stream, tagging) => {
                let next = tagging.poll(stream, &mut self.answer, cx).map(|next| next.map(Ok));
                self.done |= matches!(next, Poll::Ready(None));
                next
            }
        }
    }

    /// What error of ours stands in place of the server's answer.
    pub fn failure(&self) -> Option<Kind> {
        match &self.pace {
            Pace::Bytes(_) => None,
            Pace::Events(stream, _) | Pace::Tagged(stream, _) => stream.failed,
        }
    }

    /// Whether the last byte was handed out.
    pub fn is_ended(&self) -> bool {
        let has_no_more = matches!(&self.pace, Pace::Bytes(first) if first.is_empty());
        self.done || (has_no_more && self.answer.is_ended())
    }

    /// How many bytes there will be, where the upstream said and nothing is added.
    pub fn length(&self) -> Option<u64> {
        match &self.pace {
            Pace::Bytes(first) => Some(self.answer.length()? + first.len() as u64),
            _ => None,
        }
    }
}

impl Stream {
    fn new(worker: &Rc<Worker>, server: &ServerName, id: Option<Bytes>, held: &Held) -> Self {
        Self {
            worker: Rc::clone(worker),
            _streaming: worker.streaming(match held.subscription {
                None => StreamKind::Call,
                Some(_) => StreamKind::Subscription,
            }),
            server: server.clone(),
            id,
            ready: VecDeque::new(),
            last: Instant::now(),
            keep_alive: None,
            ended: false,
            failed: None,
            cut: None,
            is_cut: false,
            identity: held.identity.clone(),
            // None of them: the key may have been taken back before there was a stream.
            held_against: (u64::MAX, 0),
            subscription: held.subscription,
            again: None,
        }
    }

    /// The server's next bytes.
    fn poll_chunk(
        &mut self,
        answer: &mut Answer,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match &mut self.again {
            None => answer.poll_chunk(cx),
            Some(again) => again.poll_chunk(answer, cx),
        }
    }

    /// Asks the server for what follows; gives the error back when that is not to be had.
    #[cold]
    fn ask_again(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        match &mut self.again {
            None => Err(error),
            Some(again) => again.ask(error),
        }
    }

    fn pass(&mut self, bytes: Bytes) -> Poll<Option<Bytes>> {
        self.last = Instant::now();
        Poll::Ready(Some(bytes))
    }

    /// Whether the key was taken back, the gateway cuts what is still under way, or a subscription's time is over.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let (shared, identity) = (&self.worker.shared, &self.identity);
        let cut = self.cut.get_or_insert_with(|| match self.subscription {
            None => Box::pin(call_over(Arc::clone(shared), identity.clone())),
            Some(upstream) => Box::pin(subscription_over(Arc::clone(shared), identity.clone(), upstream)),
        });
        self.is_cut = self.is_cut || cut.as_mut().poll(cx).is_ready();
        self.is_cut
    }

    /// The same of the key alone, for a server that never lets anybody wait. Costs a comparison, until a key changes or
    /// the second is over: nobody tells of a key that expires.
    fn is_taken_back(&mut self) -> bool {
        let now = (self.worker.keys_version(), self.worker.now_s());
        if std::mem::replace(&mut self.held_against, now) != now {
            self.is_cut = self.is_cut || !self.worker.shared.auth.still_valid(&self.identity);
        }
        self.is_cut
    }

    /// The end of a stream that is cut between two events.
    #[cold]
    fn end_cut(&mut self, answered: bool) -> Option<Bytes> {
        self.ended = true;
        if answered || self.subscription.is_some() {
            return None;
        }
        let fault = if self.worker.shared.auth.still_valid(&self.identity) {
            Fault::gateway(Kind::Stopping, "the gateway stops; the call may have run")
        } else {
            Fault::client(
                Kind::Unauthenticated,
                "the key was switched off or changed, or it has expired; the call may have run",
            )
        };
        self.failed = Some(fault.kind);
        Some(reply::terminal_event(&fault.answering(self.id.clone())))
    }

    /// While nothing comes: a comment now and then, where one may stand, and a look at the key. Pending and cut, when
    /// that has expired.
    fn poll_silence(&mut self, may_comment: bool, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let due = self.last + self.worker.shared.config.keep_alive;
        let sleep = self.keep_alive.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() < due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            self.last = Instant::now();
            sleep.as_mut().reset(self.last + self.worker.shared.config.keep_alive);
            self.is_cut = self.is_cut || !self.worker.shared.auth.still_valid(&self.identity);
            if self.is_cut {
                break;
            }
            if may_comment {
                return Poll::Ready(Some(Bytes::from_static(COMMENT)));
            }
        }
        Poll::Pending
    }

    #[cold]
    fn terminal_event(&mut self, error: UpstreamError) -> Bytes {
        let fault = error.into_fault(&self.server).answering(self.id.clone());
        (self.ended, self.failed) = (true, Some(fault.kind));
        self.worker.note_fault(&fault);
        reply::terminal_event(&fault)
    }
}

async fn reached(mut phase: watch::Receiver<Phase>, least: Phase) {
    // A sender that is gone means that the process ends.
    let _ = phase.wait_for(|phase| *phase >= least).await;
}

/// The key was taken back, or the gateway cuts what is still under way.
async fn call_over(shared: Arc<Shared>, identity: Identity) {
    tokio::select! {
        () = shared.auth.taken_back(&identity, shared.keys.clone()) => {}
        () = reached(shared.phase.clone(), Phase::Cut) => {}
    }
}

/// The key was taken back, the server is gone, or the gateway drains.
async fn subscription_over(shared: Arc<Shared>, identity: Identity, upstream: UpstreamId) {
    let mut topologies = shared.topology.clone();
    let is_gone = |topology: &Arc<Topology>| topology.upstream(upstream).is_none();
    tokio::select! {
        () = shared.auth.taken_back(&identity, shared.keys.clone()) => {}
        _ = topologies.wait_for(is_gone) => {}
        () = reached(shared.phase.clone(), Phase::Drain) => {}
    }
}
