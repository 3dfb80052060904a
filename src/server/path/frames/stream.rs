//! The state machine of one framed stream.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::context::FrameContext;
use super::intake::{AcceptedMessages, DrainCause, MessageIntake};
use super::session_follower::SessionFollower;
use crate::limits::Permit;
use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::cached_credential::CredentialEpoch;
use crate::server::reply::body::{BodyError, BodySource};
use crate::server::worker::SharedState;
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind, ShutdownPhase};
use metamcp_core::frame::{MessageReader, StreamItem, StreamRemainder};
use metamcp_store::auth::Identity;

/// The body of the response. Each poll reads, answers and returns the bytes to write.
pub struct FramedBody {
    context: Rc<FrameContext>,
    /// The body of the request; `None` after its end.
    incoming: Option<Incoming>,
    reader: MessageReader,
    intake: MessageIntake,
    follower: Option<SessionFollower>,
    phase: BodyPhase,
    notices: Pin<Box<dyn Future<Output = StreamNotice>>>,
    clock: Clock,
    /// Polls without progress since the last one with progress.
    idle_polls: u8,
    _permit: Permit,
}

/// The phase of a stream. It only moves forward.
enum BodyPhase {
    Open,
    /// The gateway or the connection drains: requests are rejected, in-flight ones may end.
    Draining(DrainCause),
    /// No message is accepted. In-flight requests are answered, then comes the final fault, if there is one.
    Ending(Option<Fault>),
    /// The final fault is sent. What the client still sends is discarded until it has read the fault: closing
    /// a connection with unread bytes resets it, and the client would lose the fault.
    Lingering(Pin<Box<Sleep>>),
    Over,
}

/// An event outside the message flow.
enum StreamNotice {
    /// The credential is no longer valid.
    Revoked,
    /// The gateway is shutting down.
    Phase(ShutdownPhase),
    /// The connection was ordered to end some time ago.
    ConnectionEnds,
}

struct Clock {
    tick: Pin<Box<Sleep>>,
    period: Duration,
    /// Messages received and sent, as of the last tick.
    seen: (u64, u64),
    /// Whether the client has sent anything since the last tick, an empty line included.
    has_received: bool,
    /// The time of the last activity, to the precision of a tick.
    active_at: Instant,
    /// Since when one message has been incomplete.
    incomplete_since: Option<Instant>,
    /// The credential epoch of the last check.
    checked: CredentialEpoch,
}

/// Messages that are accepted before other work gets its turn.
const MESSAGES_AT_ONCE: usize = 128;

/// Polls without progress before pending bytes are written. hyper yields one chunk of the request per poll,
/// and a client may send each message in a chunk of its own; so one write carries the answers to everything
/// that has arrived.
const IDLE_POLLS_MAX: u8 = 2;

/// Time for a client to read the final fault and to close: longer than a round trip around the world. A client that sends on
/// is read from for some time after the end of the response, too.
const LINGER: Duration = Duration::from_millis(500);

impl FramedBody {
    /// For an authenticated and admitted client. `session` is the session that the head of the stream names.
    pub fn new(
        context: Rc<FrameContext>,
        activity: Rc<ConnectionActivity>,
        (first, incoming): (Bytes, Incoming),
        session: Option<Arc<Session>>,
        permit: Permit,
    ) -> Self {
        let config = &context.worker.settings().config;
        let mut reader = MessageReader::new(context.outbox.form(), config.body_bytes_max);
        reader.push(first);
        let period = config.keep_alive.min(config.idle_timeout).min(config.body_timeout);
        let shared = Arc::clone(&context.worker.shared);
        let identity = context.identity.clone();
        let notices = Box::pin(notice_while_open(notice(shared, identity, ShutdownPhase::Drain), activity));
        Self {
            follower: session.map(|session| SessionFollower::start(&context, session)),
            intake: MessageIntake::new(Rc::clone(&context)),
            incoming: Some(incoming),
            reader,
            phase: BodyPhase::Open,
            notices,
            clock: Clock::new(period),
            idle_polls: 0,
            _permit: permit,
            context,
        }
    }

    /// Polls for the next bytes for the client; `None` at the end of the stream.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let before = self.context.outbox.count();
        self.handle_notices(cx);
        let mut moved = self.intake.poll(cx);
        self.poll_follower(cx);
        moved |= self.accept_messages(cx);
        self.conclude(cx);
        self.take_output(moved || self.context.outbox.count() != before, cx)
    }

    /// Handles events outside the message flow.
    fn handle_notices(&mut self, cx: &mut Context<'_>) {
        if matches!(self.phase, BodyPhase::Lingering(_) | BodyPhase::Over) {
            return;
        }
        while let Poll::Ready(notice) = self.notices.as_mut().poll(cx) {
            match notice {
                StreamNotice::Revoked => return self.abort(revoked()),
                StreamNotice::Phase(ShutdownPhase::Abort) => {
                    let text = "the gateway stops; what is not answered may have run";
                    return self.abort(Fault::gateway(FaultKind::ShuttingDown, text));
                }
                StreamNotice::Phase(_) => self.drain(DrainCause::Shutdown),
                StreamNotice::ConnectionEnds => self.drain(DrainCause::ConnectionEnds),
            }
        }
        let worker = &self.context.worker;
        if self.clock.is_new(worker.clock.credential_epoch())
            && !worker.shared.auth.is_still_valid(&self.context.identity)
        {
            return self.abort(revoked());
        }
        if self.clock.tick.as_mut().poll(cx).is_ready() {
            self.tick(cx);
        }
    }

    /// Refuses requests from now on. What comes next is the end.
    #[cold]
    fn drain(&mut self, cause: DrainCause) {
        if matches!(self.phase, BodyPhase::Open) {
            self.phase = BodyPhase::Draining(cause);
        }
        let (shared, identity) = (Arc::clone(&self.context.worker.shared), self.context.identity.clone());
        self.notices = Box::pin(notice(shared, identity, ShutdownPhase::Abort));
    }

    /// Checks timeouts, and keeps a silent stream alive.
    fn tick(&mut self, cx: &mut Context<'_>) {
        let config = &self.context.worker.settings().config;
        let now = Instant::now();
        let before =
            std::mem::replace(&mut self.clock.seen, (self.intake.number(), self.context.outbox.count()));
        let has_received = std::mem::take(&mut self.clock.has_received);
        let is_unchanged = before == self.clock.seen && !has_received;
        if !is_unchanged || !self.intake.is_idle() || self.follower.is_some() {
            self.clock.active_at = now;
        }
        let is_incomplete =
            self.reader.is_mid_message() && before.0 == self.clock.seen.0 && self.intake.has_room();
        self.clock.incomplete_since = is_incomplete.then(|| self.clock.incomplete_since.unwrap_or(now));
        let is_slow = self.clock.incomplete_since.is_some_and(|since| now - since >= config.body_timeout);
        let is_silent = now - self.clock.active_at >= config.idle_timeout;
        if before.1 == self.clock.seen.1 {
            self.context.outbox.shrink();
            self.context.outbox.keep_alive();
        }
        let why = match (is_slow, is_silent) {
            (true, _) => Some("a message was begun and did not come in time (`server.body_timeout`)"),
            (false, true) => Some("nothing was asked for too long (`server.idle_timeout`)"),
            (false, false) => None,
        };
        if let Some(why) = why.filter(|_| matches!(self.phase, BodyPhase::Open)) {
            self.phase = BodyPhase::Ending(Some(Fault::client(FaultKind::BodyTimeout, why)));
        }
        self.clock.tick.as_mut().reset(now + self.clock.period);
        // The timer wakes the task only if it was polled after its reset.
        let _ = self.clock.tick.as_mut().poll(cx);
    }

    /// Ends the stream at once, and cancels everything in flight.
    #[cold]
    fn abort(&mut self, why: Fault) {
        self.intake.cancel_all();
        self.follower = None;
        self.phase = BodyPhase::Ending(Some(why));
    }

    fn poll_follower(&mut self, cx: &mut Context<'_>) {
        if let Some(session) = self.intake.take_initialized() {
            self.follower = Some(SessionFollower::start(&self.context, session));
        }
        if self.follower.as_mut().is_some_and(|follower| follower.poll(&self.context, cx).is_ready()) {
            self.follower = None;
        }
    }

    /// Accepts messages while there is room for their answers. Returns whether there were any.
    fn accept_messages(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        for _ in 0..MESSAGES_AT_ONCE {
            let accepted = match &self.phase {
                BodyPhase::Open => AcceptedMessages::All,
                BodyPhase::Draining(cause) => AcceptedMessages::AnswersOnly(*cause),
                BodyPhase::Lingering(_) => return self.drop_incoming(cx),
                BodyPhase::Ending(_) | BodyPhase::Over => return moved,
            };
            if !self.intake.has_room() {
                return moved;
            }
            match self.reader.next() {
                Ok(Some(StreamItem::Message { header, bytes })) => {
                    self.intake.accept_message(header, bytes, accepted, cx);
                    moved = true;
                }
                Ok(Some(StreamItem::TooLong)) => {
                    self.intake.skip_oversized(self.context.worker.settings().config.body_bytes_max);
                    moved = true;
                }
                Ok(Some(StreamItem::Refused(refusal))) => {
                    self.intake.skip(refusal.into());
                    moved = true;
                }
                Ok(None) => match self.receive(cx) {
                    Poll::Ready(true) => moved = true,
                    Poll::Ready(false) | Poll::Pending => return moved,
                },
                Err(bad) => {
                    let text = format!("{bad}; the messages before it were taken");
                    self.phase = BodyPhase::Ending(Some(Fault::client(FaultKind::InvalidRequest, text)));
                    return true;
                }
            }
        }
        cx.waker().wake_by_ref();
        moved
    }

    /// Receives the next chunk of the request; false at its end.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(false) };
        match std::task::ready!(Pin::new(incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.clock.has_received = true;
                // Trailers have no meaning here.
                self.reader.push(frame.into_data().unwrap_or_default());
                Poll::Ready(true)
            }
            Some(Err(_)) => {
                // The connection is lost, so no fault can be sent.
                self.intake.cancel_all();
                (self.incoming, self.follower, self.phase) = (None, None, BodyPhase::Over);
                Poll::Ready(false)
            }
            None => {
                self.end_of_request(cx);
                Poll::Ready(false)
            }
        }
    }

    /// Handles the end of the request. In-flight requests are still answered.
    fn end_of_request(&mut self, cx: &mut Context<'_>) {
        self.incoming = None;
        let half = match self.reader.finish() {
            StreamRemainder::Empty => false,
            // A truncated message is not complete JSON, so a line that parses was complete.
            StreamRemainder::Line(line) if self.intake.is_whole(&line) => {
                self.intake.accept_message(None, line, AcceptedMessages::All, cx);
                false
            }
            StreamRemainder::Line(_) | StreamRemainder::Incomplete => true,
        };
        let last = half.then(|| {
            let text = "the request ended within a message; those before it were taken";
            Fault::client(FaultKind::BodyIncomplete, text)
        });
        self.phase = match std::mem::replace(&mut self.phase, BodyPhase::Over) {
            BodyPhase::Draining(cause) => BodyPhase::Draining(cause),
            _ => BodyPhase::Ending(last),
        };
    }

    /// Discards what the client sends after the final fault.
    fn drop_incoming(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(incoming) = &mut self.incoming {
            match Pin::new(incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => self.incoming = None,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Moves to the next phase when nothing is in flight.
    fn conclude(&mut self, cx: &mut Context<'_>) {
        let is_over = self.intake.is_over();
        match &mut self.phase {
            BodyPhase::Draining(DrainCause::Shutdown) if is_over && self.intake.is_idle() => {
                let text = "the gateway stops; open another stream";
                self.send_final_fault(Fault::gateway(FaultKind::ShuttingDown, text));
            }
            // Subscriptions do not end by themselves; they end with the stream.
            BodyPhase::Draining(DrainCause::ConnectionEnds) if is_over => {
                let text = "this connection is ending; open another stream on another connection";
                self.send_final_fault(Fault::gateway(FaultKind::ShuttingDown, text));
            }
            BodyPhase::Ending(last) if is_over => match last.take() {
                Some(fault) => self.send_final_fault(fault),
                None => self.phase = BodyPhase::Over,
            },
            _ => {}
        }
        if let BodyPhase::Lingering(time) = &mut self.phase
            && (self.incoming.is_none() || time.as_mut().poll(cx).is_ready())
        {
            self.phase = BodyPhase::Over;
        }
        if matches!(self.phase, BodyPhase::Over) {
            // Cancels subscriptions, which end with the stream.
            self.intake.cancel_all();
            self.follower = None;
        }
    }

    fn send_final_fault(&mut self, fault: Fault) {
        self.intake.cancel_all();
        self.follower = None;
        self.context.send_final_fault(fault);
        self.phase = BodyPhase::Lingering(Box::pin(sleep(LINGER)));
    }

    /// Returns bytes to write, if there are enough for one write or nothing adds to them at the moment.
    fn take_output(&mut self, moved: bool, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let outbox = &self.context.outbox;
        let is_over = matches!(self.phase, BodyPhase::Over);
        if outbox.bytes() == 0 {
            return if is_over { Poll::Ready(None) } else { Poll::Pending };
        }
        self.idle_polls = if moved { 0 } else { self.idle_polls + 1 };
        let is_closing = is_over || matches!(self.phase, BodyPhase::Lingering(_));
        if self.idle_polls < IDLE_POLLS_MAX && !outbox.is_worth_a_write() && !is_closing {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.idle_polls = 0;
        Poll::Ready(outbox.take())
    }
}

impl BodySource for FramedBody {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.poll(cx).map(|next| next.map(Ok))
    }

    /// Not one of the event streams that can leave hyper: its request is read while it is answered.
    fn is_event_stream(&self) -> bool {
        false
    }

    /// Nobody's once it ends: what it held is given back, and its client reads the final fault.
    fn owner(&self) -> Option<&Identity> {
        let is_ending = matches!(self.phase, BodyPhase::Lingering(_) | BodyPhase::Over);
        (!is_ending).then_some(&self.context.identity)
    }
}

impl Drop for FramedBody {
    fn drop(&mut self) {
        self.context.end_session();
    }
}

impl Clock {
    fn new(period: Duration) -> Self {
        let now = Instant::now();
        let tick = Box::pin(sleep_until(now + period));
        // Not the current epoch: the key may have been revoked before this stream existed.
        let checked = CredentialEpoch::NEVER;
        Self {
            tick,
            period,
            seen: (0, 0),
            has_received: false,
            active_at: now,
            incomplete_since: None,
            checked,
        }
    }

    /// Whether the credential has not been checked in this epoch yet.
    fn is_new(&mut self, epoch: CredentialEpoch) -> bool {
        std::mem::replace(&mut self.checked, epoch) != epoch
    }
}

#[cold]
fn revoked() -> Fault {
    let text = "the key was switched off or changed, or it has expired; what is not answered may have run";
    Fault::client(FaultKind::Unauthenticated, text)
}

/// The next notice of a stream that does not drain yet.
async fn notice_while_open(
    notice: impl Future<Output = StreamNotice>,
    activity: Rc<ConnectionActivity>,
) -> StreamNotice {
    tokio::select! {
        notice = notice => notice,
        () = activity.wait_for_grace_end() => StreamNotice::ConnectionEnds,
    }
}

async fn notice(shared: Arc<SharedState>, identity: Identity, least: ShutdownPhase) -> StreamNotice {
    tokio::select! {
        () = shared.auth.wait_for_revocation(&identity, shared.keys.clone()) => StreamNotice::Revoked,
        phase = reached(shared.phase.clone(), least) => StreamNotice::Phase(phase),
    }
}

/// A closed channel means that the process ends.
async fn reached(mut phase: watch::Receiver<ShutdownPhase>, least: ShutdownPhase) -> ShutdownPhase {
    phase.wait_for(|phase| *phase >= least).await.map_or(ShutdownPhase::Abort, |phase| *phase)
}
