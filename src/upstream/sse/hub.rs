//! The task that owns the event streams of one server: it takes what is asked of the server, and gives it to
//! the session that it is for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval};
use url::Url;

use super::super::shim::{CallOutcome, HttpOperation, LocalResponse, event_channel};
use super::super::{FailureStage, Upstream, UpstreamPool};
use super::link::{Link, What};
use super::open::Failures;
use super::server::Call;
use metamcp_core::base::ServerName;
use metamcp_core::frame::{Envelope, MessageKind, Scanner};
use metamcp_core::protocol::{McpMethod, code};

/// The event streams of one server, and what they have in common.
pub struct Hub {
    /// Its name.
    pub name: ServerName,
    /// Where streams are opened.
    pub url: Url,
    /// Connections for all that is sent.
    pub pool: Rc<UpstreamPool>,
    /// Reads what is sent and said on this thread.
    pub scanner: RefCell<Scanner>,
    /// Where each call is, for when it is given up.
    pub ways: RefCell<HashMap<u64, Way, RandomState>>,
    /// Where each session is.
    pub sessions: RefCell<HashMap<HeaderValue, Rc<Link>, RandomState>>,
    /// Streams that could not be opened.
    pub failures: RefCell<Failures>,
}

/// Where a call is.
pub enum Way {
    /// Under way, by its number there.
    Call(Weak<Link>, u64),
    /// The client's event stream.
    Stream(Weak<Link>),
    /// It opened that session.
    Opening(Weak<Link>),
}

/// Between two looks for idle connections, which are kept for some seconds.
const SWEEP: Duration = Duration::from_secs(1);

/// A session that nothing was asked in and nobody listened to for so long was left behind: the gateway ends
/// those of its clients before. Its client, if there is one, gets another at its next call.
const IDLE_TIMEOUT: Duration = Duration::from_hours(24);

/// Sessions of one server at once, each a connection: some 10 KiB here, and a descriptor.
const SESSIONS_MAX: usize = 10_000;

impl Hub {
    /// Of a server that was not spoken to.
    pub fn new(wire: Arc<Upstream>, url: Url) -> Rc<Self> {
        Rc::new(Self {
            name: wire.name().clone(),
            url,
            pool: UpstreamPool::new(wire),
            scanner: RefCell::new(Scanner::new()),
            ways: RefCell::default(),
            sessions: RefCell::default(),
            failures: RefCell::default(),
        })
    }

    /// Takes what is asked until nobody can ask any more, then closes all streams. In a `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut asked: mpsc::Receiver<Call>,
        mut given_up: mpsc::UnboundedReceiver<u64>,
    ) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                call = asked.recv() => match call {
                    Some(call) => self.take(call),
                    None => break,
                },
                Some(number) = given_up.recv() => self.give_up(number),
                _ = sweep.tick() => self.sweep(),
            }
        }
        for link in self.links() {
            link.close(FailureStage::NoResponse);
        }
    }

    /// Whatever comes of it goes to the call itself.
    pub fn take(self: &Rc<Self>, call: Call) {
        let (verb, session, _) = call.request.to_verb();
        match (verb, session) {
            (HttpOperation::Post(message), session) => {
                let scanned = self.scanner.borrow_mut().scan(&message);
                match (scanned, session) {
                    (Ok(envelope), Some(session)) => self.in_session(call, &message, &envelope, &session),
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
                        answer(call, Ok(reply));
                    }
                }
            }
            (HttpOperation::Get, Some(session)) => match self.find(&session) {
                Some(link) => self.listen(call, &link),
                None => answer(call, Ok(LocalResponse::from_status(StatusCode::NOT_FOUND))),
            },
            (HttpOperation::Delete, Some(session)) => {
                let found = self.find(&session);
                let status = if found.is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
                if let Some(link) = found {
                    link.close(FailureStage::BodyIncomplete);
                }
                answer(call, Ok(LocalResponse::from_status(status)));
            }
            (HttpOperation::Get | HttpOperation::Delete, None) => {
                answer(call, Ok(LocalResponse::from_status(StatusCode::METHOD_NOT_ALLOWED)))
            }
        }
    }

    /// Whether one session more may be opened.
    pub fn has_room(&self) -> bool {
        self.sessions.borrow().len() < SESSIONS_MAX
    }

    /// Nobody waits for that call any more.
    pub fn give_up(&self, number: u64) {
        let way = self.ways.borrow_mut().remove(&number);
        match way {
            Some(Way::Call(link, number)) => {
                if let Some(link) = link.upgrade() {
                    link.give_up(number);
                }
            }
            Some(Way::Stream(link)) => {
                if let Some(link) = link.upgrade() {
                    link.stop_listening(number);
                }
            }
            // The client never learnt of its session.
            Some(Way::Opening(link)) => {
                if let Some(link) = link.upgrade() {
                    link.close(FailureStage::NoResponse);
                }
            }
            // It was over, or has not begun: then it sees that nobody waits.
            None => {}
        }
    }

    fn find(&self, session: &HeaderValue) -> Option<Rc<Link>> {
        self.sessions.borrow().get(session).map(Rc::clone)
    }

    fn links(&self) -> Vec<Rc<Link>> {
        self.sessions.borrow().values().map(Rc::clone).collect()
    }

    /// Opens the event stream of a client.
    fn listen(&self, call: Call, link: &Rc<Link>) {
        if call.reply.is_closed() {
            // It would take the place of one that is read.
            return;
        }
        let (outlet, events) = event_channel();
        link.listen(call.number, outlet);
        self.ways.borrow_mut().insert(call.number, Way::Stream(Rc::downgrade(link)));
        answer(call, Ok(LocalResponse::from_events(events)));
    }

    /// A message of a client that has a session.
    fn in_session(&self, call: Call, message: &Bytes, envelope: &Envelope, session: &HeaderValue) {
        let Some(link) = self.find(session) else {
            return answer(call, Ok(LocalResponse::from_status(StatusCode::NOT_FOUND)));
        };
        match envelope.kind {
            MessageKind::Request => link.ask(call, message, envelope, What::Call),
            MessageKind::Response | MessageKind::Error => {
                let is_asked = envelope.id.is_some_and(|id| link.take_asked(id.span.slice(message)));
                if is_asked {
                    link.pass(call, message.clone());
                } else {
                    tracing::debug!(server = %self.name, "a client answered what it was not asked");
                    answer(call, Ok(LocalResponse::from_status(StatusCode::ACCEPTED)));
                }
            }
            MessageKind::Notification if method_of(message, envelope) == Some(McpMethod::Cancelled) => {
                if let Some(id) = envelope.params.request_id {
                    link.cancel(&call.request, message, id.span);
                }
                answer(call, Ok(LocalResponse::from_status(StatusCode::ACCEPTED)));
            }
            MessageKind::Notification => link.pass(call, message.clone()),
        }
    }

    fn outside_sessions(self: &Rc<Self>, call: Call, message: Bytes, envelope: Envelope) {
        if envelope.kind != MessageKind::Request {
            return answer(call, Ok(LocalResponse::from_status(StatusCode::ACCEPTED)));
        }
        if method_of(&message, &envelope) == Some(McpMethod::Initialize) {
            spawn_local(Rc::clone(self).open(call, message, envelope));
            return;
        }
        let id = envelope.id.map_or(&b""[..], |id| id.span.slice(&message));
        answer(
            call,
            Ok(LocalResponse::from_error(StatusCode::BAD_REQUEST, id, code::LEGACY_TRANSPORT, NO_SESSION)),
        );
    }

    /// Closes connections that were idle for too long, and sessions that were left behind.
    fn sweep(&self) {
        self.pool.sweep();
        let now = Instant::now();
        for link in self.links() {
            if link.is_idle_for(now, IDLE_TIMEOUT) {
                tracing::debug!(server = %self.name, "a session that was left behind is closed");
                link.close(FailureStage::NoResponse);
            }
        }
    }
}

/// What it is about, when that is a method that the gateway knows.
pub fn method_of(message: &Bytes, envelope: &Envelope) -> Option<McpMethod> {
    McpMethod::parse(envelope.method?.decode(message).as_bytes())
}

/// Gives a call what comes of it.
pub fn answer(call: Call, outcome: CallOutcome) {
    // Whoever asked may have gone.
    let _ = call.reply.send(outcome);
}

/// Nothing of the Modern era is in it, so that a client that speaks both falls back to a session.
const NO_SESSION: &str =
    "this server is spoken to in sessions, of revision 2024-11-05; send `initialize` first";
