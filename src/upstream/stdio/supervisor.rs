//! The task that owns the processes of one server: it takes what is asked of the server, and gives it to the
//! process that it is for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderValue, StatusCode};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::super::shim::{Backoff, HttpOperation, LocalResponse, event_channel};
use super::super::{EraChoice, FailureStage};
use super::inbound::method_of;
use super::link::{Common, Counts, Link, Pending, To, Way, What};
use super::open::Introduced;
use super::process::Spawned;
use super::seat::SeatId;
use super::server::{Call, Health, ProcessHealth};
use super::tally::Tally;
use super::turn::Turns;
use super::{Program, Sharing};
use crate::auth::KeyId;
use metamcp_core::base::ServerName;
use metamcp_core::frame::{Envelope, MessageKind, Scanner};
use metamcp_core::protocol::{Era, McpMethod, code};

/// What the supervising task is told.
pub enum Message {
    /// Something is asked of the server.
    Call(Call),
    /// How is it?
    Health(oneshot::Sender<Health>),
    /// All of it is to end; told when it has.
    Stop(oneshot::Sender<()>),
}

/// The processes of one server.
pub struct Supervisor {
    /// What they have in common.
    pub common: Rc<Common>,
    /// The era as configured.
    pub era: EraChoice,
    /// As found out.
    pub found_era: Cell<Option<Era>>,
    /// Held by the one who finds out.
    pub probing: Mutex<()>,
    /// A process that was started and not spoken to.
    pub spare: RefCell<Option<Spawned>>,
    /// Told when there should be one.
    pub want_spare: Notify,
    /// Nothing is started any more.
    pub is_over: Cell<bool>,
    /// Told when that is so.
    pub told_over: Notify,
    /// Places among those that are starting.
    pub turns: Turns,
    /// Processes by who may use them.
    slots: RefCell<HashMap<Key, Rc<Slot>, RandomState>>,
}

/// Who uses a process, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// In sessions whose clients are alike.
    Legacy(Who, Bytes),
    /// Without sessions.
    Modern(Who),
}

/// Who uses a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Anybody.
    Everybody,
    /// Clients with this key; without one, the gateway itself.
    Key(Option<KeyId>),
    /// The session of a client, however often it is opened: one whose calls crash its process waits longer each
    /// time, and no other does.
    Place(u64),
    /// The session that this call opened.
    Session(u64),
}

/// The place of one process. Its locks are held by whoever starts it, so that a burst of first calls starts
/// one.
#[derive(Default)]
pub struct Slot {
    /// One that was introduced to.
    pub legacy: Mutex<Option<Rc<Introduced>>>,
    /// One that needs no introduction.
    pub modern: Mutex<Option<Rc<Link>>>,
    /// When the next may be started here.
    pub backoff: Rc<RefCell<Backoff>>,
}

/// Between two looks for idle processes; less where they may be idle for less than four of it.
const SWEEP_MAX: Duration = Duration::from_secs(5);

/// The same, at least.
const SWEEP_MIN: Duration = Duration::from_millis(250);

/// For all processes to end. Each has less than that for itself, and all end at once.
const STOP_TIMEOUT: Duration = Duration::from_millis(5500);

impl Supervisor {
    /// Of a server of which no process runs.
    pub fn new(name: ServerName, program: Program, era: EraChoice, tally: Arc<Tally>) -> Rc<Self> {
        let common = Common {
            name,
            program,
            scanner: RefCell::new(Scanner::new()),
            ways: RefCell::default(),
            sessions: RefCell::default(),
            links: RefCell::default(),
            tally,
            ended: Notify::new(),
            backoff: RefCell::default(),
            told_of_sharing: Cell::new(false),
            told_of_ids: Cell::new(false),
            counts: Counts::default(),
        };
        Rc::new(Self {
            common: Rc::new(common),
            era,
            found_era: Cell::new(None),
            probing: Mutex::default(),
            spare: RefCell::default(),
            want_spare: Notify::new(),
            is_over: Cell::new(false),
            told_over: Notify::new(),
            turns: Turns::new(),
            slots: RefCell::default(),
        })
    }

    /// Takes what is asked until nobody can ask any more, then ends all processes. In a `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut asked: mpsc::Receiver<Message>,
        mut given_up: mpsc::UnboundedReceiver<u64>,
    ) {
        let every = (self.common.program.settings.idle_timeout / 4).clamp(SWEEP_MIN, SWEEP_MAX);
        let mut sweep = interval(every);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if self.common.program.settings.prewarm {
            self.want_spare.notify_one();
        }
        loop {
            tokio::select! {
                message = asked.recv() => match message {
                    Some(Message::Call(call)) => self.take(call),
                    Some(Message::Health(reply)) => drop(reply.send(self.health())),
                    Some(Message::Stop(reply)) => {
                        self.stop().await;
                        // Whoever asked may not wait.
                        let _ = reply.send(());
                    }
                    None => break,
                },
                Some(number) = given_up.recv() => self.give_up(number),
                () = self.want_spare.notified() => self.keep_spare(),
                _ = sweep.tick() => self.sweep(),
            }
        }
        self.stop().await;
    }

    /// The place of a process.
    pub fn slot(&self, key: Key) -> Rc<Slot> {
        Rc::clone(self.slots.borrow_mut().entry(key).or_default())
    }

    /// A client has gone for good.
    pub fn leave(&self, session: &HeaderValue) -> bool {
        let Some((link, seat)) = self.common.sessions.borrow_mut().remove(session) else { return false };
        link.leave(seat);
        if link.is_ones_own.get() && link.state.borrow().seats.len() == 0 {
            link.close(FailureStage::NoResponse);
            link.end();
        }
        true
    }

    /// Asks for another spare, when there is to be one.
    pub fn keep_spare_soon(&self) {
        if self.common.program.settings.prewarm {
            self.want_spare.notify_one();
        }
    }

    /// Whatever comes of it goes to the call itself.
    fn take(self: &Rc<Self>, call: Call) {
        match (&call.verb, &call.session) {
            (HttpOperation::Post(message), session) => {
                let message = message.clone();
                let scanned = self.common.scanner.borrow_mut().scan(&message);
                match (scanned, session) {
                    (Ok(envelope), Some(session)) => {
                        let session = session.clone();
                        self.in_session(call, &message, &envelope, &session);
                    }
                    (Ok(envelope), None) => self.outside_sessions(call, message, envelope),
                    (Err(refused), _) => {
                        let id = refused.id.map_or(&b""[..], |id| id.span.slice(&message));
                        let text = refused.error.to_string();
                        let reply = LocalResponse::from_error(
                            StatusCode::BAD_REQUEST,
                            id,
                            refused.error.code(),
                            &text,
                        );
                        answer(call, reply);
                    }
                }
            }
            (HttpOperation::Get, Some(session)) => match self.find(session) {
                Some((link, seat)) => self.listen(call, &link, seat),
                None => answer(call, LocalResponse::from_status(StatusCode::NOT_FOUND)),
            },
            (HttpOperation::Delete, Some(session)) => {
                let status = if self.leave(session) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
                answer(call, LocalResponse::from_status(status));
            }
            (HttpOperation::Get | HttpOperation::Delete, None) => {
                answer(call, LocalResponse::from_status(StatusCode::METHOD_NOT_ALLOWED))
            }
        }
    }

    fn find(&self, session: &HeaderValue) -> Option<(Rc<Link>, SeatId)> {
        self.common.sessions.borrow().get(session).filter(|(link, _)| link.is_alive()).cloned()
    }

    /// Opens the event stream of a seat.
    fn listen(&self, call: Call, link: &Rc<Link>, seat: SeatId) {
        if call.reply.is_closed() {
            // It would take the place of one that is read.
            return;
        }
        let (outlet, events) = event_channel();
        if let Some(seat) = link.state.borrow_mut().seats.get(seat) {
            seat.mailbox.open(call.number, outlet);
        }
        self.common.ways.borrow_mut().insert(call.number, Way::Stream(Rc::downgrade(link), seat));
        link.touch();
        answer(call, LocalResponse::from_events(events));
    }

    /// Whether it is about tasks, which on a process that everybody shares would be everybody's.
    fn is_of_all(&self, message: &Bytes, envelope: &Envelope) -> bool {
        self.common.program.settings.sharing == Sharing::Shared
            && envelope.method.is_some_and(|method| method.decode_bytes(message).starts_with(b"tasks/"))
    }

    /// A message of a client that has a seat.
    fn in_session(&self, call: Call, message: &Bytes, envelope: &Envelope, session: &HeaderValue) {
        let Some((link, seat)) = self.find(session) else {
            return answer(call, LocalResponse::from_status(StatusCode::NOT_FOUND));
        };
        link.touch();
        let method = method_of(message, envelope);
        match envelope.kind {
            MessageKind::Request if self.is_of_all(message, envelope) => {
                let id = envelope.id.map_or(&b""[..], |id| id.span.slice(message));
                let text = "this server has no tasks, for its process is shared by everybody";
                answer(call, LocalResponse::from_error(StatusCode::OK, id, code::METHOD_NOT_FOUND, text));
            }
            MessageKind::Request => Self::ask(call, &link, Some(seat), message, envelope),
            MessageKind::Response | MessageKind::Error => {
                let is_asked = envelope.id.is_some_and(|id| link.take_asked(seat, id.span.slice(message)));
                if is_asked {
                    link.tell(message, &[]);
                } else {
                    Counts::add(&self.common.counts.unmeant);
                }
                answer(call, LocalResponse::from_status(StatusCode::ACCEPTED));
            }
            MessageKind::Notification => {
                match method {
                    // The process was told when it was introduced to.
                    Some(McpMethod::Initialized) => {}
                    Some(McpMethod::Cancelled) => {
                        if let Some(id) = envelope.params.request_id {
                            link.cancel(seat, id.span.slice(message));
                        }
                    }
                    _ => {
                        link.tell(message, &[]);
                    }
                }
                answer(call, LocalResponse::from_status(StatusCode::ACCEPTED));
            }
        }
    }

    /// A message that names no session: of the Modern era, or the first of a Legacy one.
    fn outside_sessions(self: &Rc<Self>, call: Call, message: Bytes, envelope: Envelope) {
        let is_request = envelope.kind == MessageKind::Request;
        let method = method_of(&message, &envelope);
        if !is_request {
            // The only ones of the Modern era are cancellations, which to a client are closed connections.
            return answer(call, LocalResponse::from_status(StatusCode::ACCEPTED));
        }
        if method == Some(McpMethod::Initialize) {
            spawn_local(Rc::clone(self).initialize(call, message, envelope));
            return;
        }
        let id = envelope.id.map_or(&b""[..], |id| id.span.slice(&message));
        if envelope.params.meta.protocol_version.is_none() {
            return answer(
                call,
                LocalResponse::from_error(StatusCode::BAD_REQUEST, id, code::LEGACY_TRANSPORT, NO_SESSION),
            );
        }
        let supervisor = Rc::clone(self);
        spawn_local(async move {
            match supervisor.is_modern().await {
                Ok(true) => match supervisor.modern(&call).await {
                    Ok(link) => Self::ask(call, &link, None, &message, &envelope),
                    Err(error) => drop(call.reply.send(Err(error))),
                },
                Ok(false) => {
                    let id = envelope.id.map_or(&b""[..], |id| id.span.slice(&message));
                    answer(
                        call,
                        LocalResponse::from_error(
                            StatusCode::BAD_REQUEST,
                            id,
                            code::LEGACY_TRANSPORT,
                            NO_SESSION,
                        ),
                    );
                }
                Err(error) => drop(call.reply.send(Err(error))),
            }
        });
    }

    /// Asks a process a client's question.
    fn ask(call: Call, link: &Rc<Link>, seat: Option<SeatId>, message: &Bytes, envelope: &Envelope) {
        let method = method_of(message, envelope);
        let uri = || envelope.params.uri.map(|uri| uri.decode(message).into_owned());
        let what = match (method, uri()) {
            (Some(McpMethod::Subscribe), Some(uri)) => What::Subscribe(uri),
            (Some(McpMethod::Unsubscribe), Some(uri)) => {
                let is_wanted =
                    seat.is_some_and(|seat| link.state.borrow_mut().seats.unsubscribe(seat, &uri));
                if is_wanted {
                    // Another client is still told of it, so the process must go on telling.
                    let id = envelope.id.map_or(&b""[..], |id| id.span.slice(message));
                    let done = [br#"{"jsonrpc":"2.0","id":"#, id, br#","result":{}}"#].concat();
                    return answer(call, LocalResponse::from_message(done.into()));
                }
                What::Call
            }
            (Some(McpMethod::Listen), _) => What::Listen,
            _ if envelope.params.meta.log_level.is_some() => What::Logged,
            _ => What::Call,
        };
        if call.reply.is_closed() {
            return;
        }
        let Call { number, reply, .. } = call;
        let pending = Pending { call: Some(number), seat, what, to: To::Waiting(reply) };
        if let Err(pending) = link.ask(message, envelope, pending) {
            let stage = if link.is_alive() { FailureStage::QueueFull } else { FailureStage::NotSent };
            pending.fail(stage);
        }
    }

    fn give_up(&self, number: u64) {
        let way = self.common.ways.borrow_mut().remove(&number);
        match way {
            Some(Way::Call(link, number)) => {
                if let Some(link) = link.upgrade() {
                    link.give_up(number);
                }
            }
            Some(Way::Stream(link, seat)) => {
                if let Some(link) = link.upgrade() {
                    if let Some(seat) = link.state.borrow_mut().seats.get(seat) {
                        seat.mailbox.close(number);
                    }
                    link.touch();
                }
            }
            // It was over, or has not begun: then it sees that nobody waits.
            None => {}
        }
    }

    /// Ends what was idle for too long, and forgets places where nothing runs.
    fn sweep(&self) {
        let now = Instant::now();
        let links = self.common.links.borrow().clone();
        let mut longest = Duration::ZERO;
        for link in links {
            longest = longest.max(link.began.elapsed());
            if link.is_idle_for(now, self.common.program.settings.idle_timeout) {
                tracing::debug!(server = %self.common.name, pid = link.pid, "an idle process is ended");
                link.close(FailureStage::NoResponse);
                link.end();
            }
        }
        self.common.backoff.borrow_mut().note_running(longest);
        self.slots.borrow_mut().retain(|_, slot| Rc::strong_count(slot) > 1 || slot.is_in_use());
        let spare = self.spare.borrow_mut().take();
        if let Some(spare) = spare.and_then(|spare| self.running(spare)) {
            *self.spare.borrow_mut() = Some(spare);
        } else {
            self.keep_spare_soon();
        }
    }

    /// Starts a spare, unless there is one, or no room, or the server fails.
    fn keep_spare(&self) {
        let common = &self.common;
        let has_room = common.tally.running() < common.program.settings.processes_max;
        let may_start = common.backoff.borrow().wait(Instant::now()).is_zero();
        if self.spare.borrow().is_some() || !has_room || !may_start {
            return;
        }
        // A failure was noted; the sweep tries again.
        if let Ok(spawned) = self.spawn() {
            *self.spare.borrow_mut() = Some(spawned);
        }
    }

    /// Ends all processes and waits until they have ended. Whoever waits for one that is not started yet is
    /// told, and none is started from now on.
    pub async fn stop(&self) {
        self.is_over.set(true);
        self.told_over.notify_waiters();
        if let Some(spare) = self.spare.borrow_mut().take() {
            spawn_local(spare.discard(Rc::clone(&self.common)));
        }
        let links = self.common.links.borrow().clone();
        for link in links {
            link.close(FailureStage::NoResponse);
            link.end();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            let ended = self.common.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.common.tally.running() == 0 {
                return;
            }
            if timeout_at(deadline, ended).await.is_err() {
                let left = self.common.tally.running();
                tracing::error!(server = %self.common.name, left, "processes do not end");
                return;
            }
        }
    }

    fn health(&self) -> Health {
        let now = Instant::now();
        let (common, counts) = (&self.common, &self.common.counts);
        let tally = common.tally.look();
        let of_link = |link: &Rc<Link>| {
            let state = link.state.borrow();
            ProcessHealth {
                pid: link.pid,
                era: link.era,
                ran: link.began.elapsed(),
                sessions: state.seats.len(),
                in_flight: state.table.len(),
            }
        };
        Health {
            processes: common.links.borrow().iter().map(of_link).collect(),
            running: tally.running,
            failures_in_a_row: common.backoff.borrow().failures(),
            next_start_in: common.backoff.borrow().wait(now),
            started: tally.started,
            failed: tally.failed,
            nonsense: counts.nonsense.get(),
            unmeant: counts.unmeant.get(),
            lost: counts.lost.get(),
            refused: counts.refused.get(),
        }
    }
}

impl Slot {
    /// Whether a process is there or about to be, or may not be.
    fn is_in_use(&self) -> bool {
        if !self.backoff.borrow().wait(Instant::now()).is_zero() {
            return true;
        }
        let legacy = self
            .legacy
            .try_lock()
            .map_or(true, |there| there.as_ref().is_some_and(|introduced| introduced.link.is_alive()));
        legacy
            || self.modern.try_lock().map_or(true, |there| there.as_ref().is_some_and(|link| link.is_alive()))
    }
}

fn answer(call: Call, reply: LocalResponse) {
    // Whoever asked may have gone.
    let _ = call.reply.send(Ok(reply));
}

/// Nothing of the Modern era is in it, so that a client that speaks both falls back to a session.
const NO_SESSION: &str =
    "this server is spoken to in sessions, of revisions up to 2025-11-25; send `initialize` first";
