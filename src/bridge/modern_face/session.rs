//! A session of the gateway's at a Legacy server, on behalf of the Modern clients of one key that can do the
//! same: of all their calls, or of one at a time.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::super::level::Level;
use super::aside::{Aside, Mouth, aside};
use super::input::{Question, question};
use super::outside::Outside;
use crate::auth::KeyId;
use crate::base::{Fault, Kind};
use crate::frame::{Envelope, Kind as FrameKind, json_string};
use crate::protocol::{ClientCapabilities, Era, Method, RESOURCE_UPDATED, Revision};
use crate::session::{Ask, Introduction, Ready, UpstreamSession, ask};
use crate::upstream::{Pool, UpstreamId};

/// Whose session, where, and what its clients can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The key; none where nobody said.
    pub owner: Option<KeyId>,
    /// The server.
    pub upstream: UpstreamId,
    /// What the server is told that the client can do.
    pub capabilities: ClientCapabilities,
    /// Which of those that are alike: 0 is the one that is there for everything, the others for calls that
    /// are to be alone while it is in use.
    pub place: u8,
}

/// One session. Shared by all workers; opened again when the server lost it.
pub struct FaceSession {
    /// Whose.
    pub key: Key,
    upstream_session: UpstreamSession,
    introduction: Introduction,
    /// The server's whole answer to `initialize`.
    answer: ArcSwapOption<Bytes>,
    /// The next call's id and progress token.
    next: AtomicU64,
    /// Guards what is under way; a few lines at a time.
    state: Mutex<State>,
    /// Told when it was opened again.
    pub reopened: Notify,
    /// Told when it is to end.
    pub over: Notify,
}

struct State {
    /// Calls that the server was asked, by their numbers.
    calls: HashMap<u64, Call>,
    listeners: HashMap<u64, Listener>,
    /// Resources that somebody listens to, and how many do.
    resources: HashMap<String, usize>,
    /// What the server was told to log.
    level: Option<Level>,
    used: Instant,
    /// What the server asked outside of any call.
    outside: Outside,
    /// A call was given up so lately that the server may not have heard of it yet, and may still mean it.
    doubtful_until: Option<Instant>,
    /// No call may begin any more.
    is_over: bool,
}

struct Call {
    mouth: Mouth,
    /// Whether the server may ask its client.
    may_be_asked: bool,
}

/// A client that listens.
pub struct Listener {
    /// What it is told; the events are ready but for its own id of the subscription.
    pub sender: Mouth,
    /// Which lists it wants to be told about.
    pub lists: Vec<Method>,
    /// Which resources.
    pub resources: Vec<String>,
}

/// A call that the server was asked, or a client that listens; given up when dropped.
pub struct Seat {
    /// Where.
    pub session: Arc<FaceSession>,
    /// The id and progress token of a call.
    pub number: u64,
    /// What the server said outside of the call's own stream, and what is certainly meant for it.
    pub aside: Aside,
}

/// A server takes what has no answer, or says that it does, in this time.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// For a server to hear that a call was given up, and for what it had said until then to arrive.
const DOUBTFUL_FOR: Duration = Duration::from_secs(10);

/// For a server that has an event stream and does not say so until it has an event.
const STREAM_SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

impl Key {
    /// Whether it is one that a call has to itself.
    pub fn is_further(&self) -> bool {
        self.place > 0
    }
}

impl FaceSession {
    /// Not open yet.
    pub fn new(key: Key) -> Arc<Self> {
        let ours = Introduction::ours(Revision::LEGACY_LATEST, key.capabilities);
        let state = State {
            calls: HashMap::new(),
            listeners: HashMap::new(),
            resources: HashMap::new(),
            level: None,
            used: Instant::now(),
            outside: Outside::default(),
            doubtful_until: None,
            is_over: false,
        };
        Arc::new(Self {
            key,
            upstream_session: UpstreamSession::default(),
            introduction: Introduction { owner: key.owner, is_apart: key.is_further(), ..ours },
            answer: ArcSwapOption::empty(),
            next: AtomicU64::new(1),
            state: Mutex::new(state),
            reopened: Notify::new(),
            over: Notify::new(),
        })
    }

    /// As the server knows it, when it is open.
    pub fn ready(&self) -> Option<Arc<Ready>> {
        self.upstream_session.ready()
    }

    /// The server does not know it any more.
    pub fn forget(&self, lost: &Arc<Ready>) {
        self.upstream_session.forget(lost);
    }

    /// Opens it when it is not. Cancel safe: another caller opens it then.
    pub async fn open(&self, pool: &Rc<Pool>) -> Result<Arc<Ready>, Fault> {
        let mut is_first = false;
        let hear = |answer: Bytes| {
            is_first = true;
            self.answer.store(Some(Arc::new(answer)));
        };
        let opened = self.upstream_session.open_heard(pool, &self.introduction, None, hear).await;
        let ready = opened.inspect_err(|fault| {
            if fault.kind == Kind::OtherEra {
                // It is another server by now: what it speaks is found out again.
                pool.upstream().note_spoken(Era::Modern, None);
            }
        })?;
        if is_first {
            let resources: Vec<String> = {
                let mut state = self.lock();
                state.level = None;
                // Nobody waits for the answer to what was asked in the session before.
                state.outside = Outside::default();
                state.resources.keys().cloned().collect()
            };
            self.reopened.notify_one();
            // Some servers ask as soon as their stream is open, which is not what a call asks for.
            let _ = timeout(STREAM_SETTLE_TIMEOUT, ready.stream_settled()).await;
            // Not within the call that found it lost, which may be given up.
            let (pool, ready) = (Rc::clone(pool), Arc::clone(&ready));
            spawn_local(async move {
                for uri in resources {
                    subscribe(&pool, &ready, Method::Subscribe, &uri).await;
                }
            });
        }
        Ok(ready)
    }

    /// The server's whole answer to `initialize`.
    pub fn answer(&self) -> Option<Arc<Bytes>> {
        self.answer.load_full()
    }

    /// A place for a call, and whether its client can be asked by it, which a call of a kind that has no round for it cannot.
    /// `None` when the session is over.
    pub fn begin(self: &Arc<Self>, may_be_asked: bool) -> Option<Seat> {
        self.begin_where(may_be_asked, |state| !state.is_over)
    }

    /// The same, where it is the only one, and all that the server asks from then on is of this call.
    pub fn begin_alone(self: &Arc<Self>, may_be_asked: bool) -> Option<Seat> {
        self.begin_where(may_be_asked, |state| {
            !state.is_over && state.calls.is_empty() && !state.is_doubtful()
        })
    }

    fn begin_where(self: &Arc<Self>, may_be_asked: bool, is_fit: impl Fn(&State) -> bool) -> Option<Seat> {
        let (sender, aside) = aside();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if !is_fit(&state) {
            return None;
        }
        state.used = Instant::now();
        state.calls.insert(number, Call { mouth: sender, may_be_asked });
        drop(state);
        Some(Seat { session: Arc::clone(self), number, aside })
    }

    /// A place for one who listens, and the resources that nobody listened to before; `None` when the session
    /// is over.
    pub fn listen(
        self: &Arc<Self>,
        lists: Vec<Method>,
        resources: Vec<String>,
    ) -> Option<(Seat, Vec<String>)> {
        let (sender, aside) = aside();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if state.is_over {
            return None;
        }
        let mut new = Vec::new();
        for uri in &resources {
            let count = state.resources.entry(uri.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                new.push(uri.clone());
            }
        }
        state.listeners.insert(number, Listener { sender, lists, resources });
        drop(state);
        Some((Seat { session: Arc::clone(self), number, aside }, new))
    }

    /// Nobody listens there any more. Gives the resources that nobody else listens to.
    pub fn unlisten(&self, number: u64) -> Vec<String> {
        let mut state = self.lock();
        let Some(listener) = state.listeners.remove(&number) else { return Vec::new() };
        state.used = Instant::now();
        let mut left = Vec::new();
        for uri in listener.resources {
            if let Some(count) = state.resources.get_mut(&uri) {
                *count -= 1;
                if *count == 0 {
                    state.resources.remove(&uri);
                    left.push(uri);
                }
            }
        }
        left
    }

    /// Whether a call is the only one. Then what the server says without naming a call is certainly meant for
    /// it.
    pub fn is_alone(&self, number: u64) -> bool {
        let state = self.lock();
        state.calls.len() == 1 && state.calls.contains_key(&number) && !state.is_doubtful()
    }

    /// Keeps what the server asks outside of any call until one comes that can be asked; false when it is to
    /// be refused: what the session's clients did not declare, what may be of a call that is under way or
    /// was given up, and what there is no room for.
    pub fn keep_outside(
        &self,
        message: &Bytes,
        envelope: &Envelope,
        wait_max: Duration,
        place: OwnedSemaphorePermit,
    ) -> bool {
        let asked = question(message, envelope, self.key.capabilities, String::new());
        let mut state = self.lock();
        let is_of_none = !state.is_doubtful() && !state.calls.values().any(|call| call.may_be_asked);
        is_of_none
            && !state.is_over
            && matches!(asked, Some(Question::Ask(_)))
            && state.outside.keep(message, envelope, wait_max, place)
    }

    /// What was asked outside of any call, for one that can be asked.
    pub fn take_outside(&self) -> Vec<Bytes> {
        self.lock().outside.take()
    }

    /// What was asked so, and no call came for in time.
    pub fn overdue_outside(&self) -> Vec<Bytes> {
        self.lock().outside.overdue()
    }

    /// The server has withdrawn a request. `id` is raw.
    pub fn cancel_outside(&self, id: &[u8]) {
        self.lock().outside.cancel(id);
    }

    /// A call was given up: for a while nobody can say whom the server means that names no call.
    pub fn note_given_up(&self) {
        self.lock().doubtful_until = Some(Instant::now() + DOUBTFUL_FOR);
    }

    /// Whether it goes on: it is not ended for being idle from now on.
    pub fn touch(&self) -> bool {
        let mut state = self.lock();
        state.used = Instant::now();
        !state.is_over
    }

    /// Whether somebody listens to that resource.
    pub fn has_listener_of(&self, uri: &str) -> bool {
        self.lock().resources.contains_key(uri)
    }

    /// Whether somebody listens.
    pub fn is_listened_to(&self) -> bool {
        !self.lock().listeners.is_empty()
    }

    /// When it was last of use; `None` while it is.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.calls.is_empty() && state.listeners.is_empty()).then_some(state.used)
    }

    /// Ends it if it has been of no use for so long; else it goes on.
    pub fn end_if_idle(&self, idle_for: Duration) -> bool {
        let mut state = self.lock();
        let is_idle = state.calls.is_empty() && state.listeners.is_empty();
        state.is_over |= is_idle && state.used.elapsed() >= idle_for;
        state.is_over
    }

    /// Has the server log from that level on, when it does not yet.
    pub async fn log_from(&self, pool: &Rc<Pool>, ready: &Ready, level: Level) {
        let is_told = self.lock().level.is_some_and(|told| told <= level);
        if is_told || !ready.features.logging {
            return;
        }
        let name = level.name();
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":"metamcp-level","method":"logging/setLevel","params":{{"level":"{name}"}}}}"#
        );
        if tell(pool, ready, Method::SetLevel, message.into()).await {
            self.lock().level = Some(level);
        }
    }

    /// Gives what the server said outside of calls to whom it is certainly meant for; false when that is
    /// nobody. A call that does not take it as fast as it comes misses it.
    pub fn route(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let method = envelope.method.map(|method| method.value(message));
        let method = method.as_deref().and_then(Method::parse);
        let mut state = self.lock();
        match (envelope.kind, method) {
            (FrameKind::Notification, Some(Method::Progress)) => {
                let token = envelope.params.progress_token.map(|token| token.span.of(message));
                let call = token.and_then(number).and_then(|number| state.calls.get(&number));
                call.is_some_and(|call| call.mouth.put(message))
            }
            // The id is the server's own; whose request it was, the calls know.
            (FrameKind::Notification, Some(Method::Cancelled)) => {
                if let Some(id) = envelope.params.request_id {
                    state.outside.cancel(id.span.of(message));
                }
                state.calls.values().for_each(|call| {
                    call.mouth.put(message);
                });
                true
            }
            (FrameKind::Notification, _) if is_announced(message, envelope) => {
                state.announce(message, envelope)
            }
            (FrameKind::Notification | FrameKind::Request, _) => {
                let mut calls = state.calls.values();
                let only = calls.next().filter(|_| calls.next().is_none() && !state.is_doubtful());
                let only = only.filter(|call| call.may_be_asked || envelope.kind != FrameKind::Request);
                only.is_some_and(|call| call.mouth.put(message))
            }
            (FrameKind::Response | FrameKind::Error, _) => false,
        }
    }

    /// Tells those who listen.
    pub fn announce(&self, message: &Bytes, envelope: &Envelope) -> bool {
        self.lock().announce(message, envelope)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is something that clients listen for.
pub fn is_announced(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
    let parsed = Method::parse(method.as_bytes());
    method == RESOURCE_UPDATED
        || matches!(
            parsed,
            Some(Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged)
        )
}

impl State {
    fn is_doubtful(&self) -> bool {
        self.doubtful_until.is_some_and(|until| Instant::now() < until)
    }

    fn announce(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
        let list = Method::parse(method.as_bytes());
        let uri = envelope.params.uri.map(|uri| uri.decode(message));
        let mut told = false;
        for listener in self.listeners.values() {
            let of_list = list.is_some_and(|list| listener.lists.contains(&list));
            let of_resource = method == RESOURCE_UPDATED
                && uri.as_deref().is_some_and(|uri| listener.resources.iter().any(|other| other == uri));
            if of_list || of_resource {
                told |= listener.sender.put(message);
            }
        }
        told
    }
}

/// A number in the one form that we write it in.
pub fn number(raw: &[u8]) -> Option<u64> {
    let text = str::from_utf8(raw).ok()?;
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

/// Sends a message whose answer does not matter; false when it was not taken in time.
pub async fn tell(pool: &Rc<Pool>, ready: &Ready, method: Method, message: Bytes) -> bool {
    let asked = Ask { method, message, ready: Some(ready), modern: None };
    let told = timeout(TELL_TIMEOUT, ask(pool, asked)).await;
    let is_taken = matches!(&told, Ok(Ok(heard)) if heard.status.is_success());
    if !is_taken {
        tracing::debug!(server = %pool.upstream().name(), method = method.as_str(), "a message was not taken");
    }
    is_taken
}

/// Begins or ends to be told of a resource.
pub async fn subscribe(pool: &Rc<Pool>, ready: &Ready, method: Method, uri: &str) -> bool {
    let (name, uri) = (method.as_str(), json_string(uri));
    let uri = String::from_utf8_lossy(&uri);
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":"metamcp-subscription","method":"{name}","params":{{"uri":{uri}}}}}"#
    );
    tell(pool, ready, method, message.into()).await
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        if state.calls.remove(&self.number).is_some() {
            state.used = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio::sync::mpsc::error::TryRecvError;

    use super::super::aside::WAITING_MAX;
    use super::*;
    use crate::frame::Scanner;

    fn session() -> Arc<FaceSession> {
        let capabilities = ClientCapabilities::ALL;
        FaceSession::new(Key { owner: None, upstream: UpstreamId(0), capabilities, place: 0 })
    }

    /// Who is told: the places of the seats, in their order.
    #[track_caller]
    fn check(session: &Arc<FaceSession>, seats: &mut [&mut Seat], message: &str, expected: &[usize]) {
        let message = Bytes::from(message.to_owned());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let is_taken = session.route(&message, &envelope);
        let told: Vec<_> = seats
            .iter_mut()
            .enumerate()
            .filter_map(|(at, seat)| seat.aside.try_recv().ok().map(|_| at))
            .collect();
        assert_eq!(told, expected, "{message:?}");
        assert!(is_taken || expected.is_empty(), "{message:?}");
    }

    #[test]
    fn what_is_said_goes_to_whom_it_is_certainly_meant_for() {
        let session = session();
        let ask = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
        let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
        let progress = |token: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
            )
        };
        check(&session, &mut [], ask, &[]);
        let mut one = session.begin(true).expect("it goes on");
        assert!(session.is_alone(one.number));
        for message in [ask, log, &progress("1")] {
            check(&session, &mut [&mut one], message, &[0]);
        }
        let mut other = session.begin(true).expect("it goes on");
        assert!(!session.is_alone(one.number) && !session.is_alone(other.number));
        for message in [ask, log, &progress("\"1\""), &progress("3"), &progress("-1")] {
            check(&session, &mut [&mut one, &mut other], message, &[]);
        }
        check(&session, &mut [&mut one, &mut other], &progress("1"), &[0]);
        check(&session, &mut [&mut one, &mut other], &progress("2"), &[1]);
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#;
        check(&session, &mut [&mut one, &mut other], cancelled, &[0, 1]);
        drop(one);
        check(&session, &mut [&mut other], ask, &[0]);
        // A call that does not take what it is told misses it, and nobody waits.
        let message = Bytes::from_static(log.as_bytes());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let taken = (0..2 * WAITING_MAX).filter(|_| session.route(&message, &envelope)).count();
        assert_eq!(taken, WAITING_MAX);
    }

    #[test]
    fn what_no_call_can_be_asked_waits_for_one_that_can() {
        let ask = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#);
        let envelope = Scanner::new().scan(&ask).expect("a message");
        let places = Arc::new(Semaphore::new(10));
        let check = |calls: &[bool], is_routed: bool, is_kept: bool| {
            let session = session();
            let seats: Vec<_> = calls.iter().map(|may| session.begin(*may).expect("it goes on")).collect();
            assert_eq!(session.route(&ask, &envelope), is_routed, "{calls:?}");
            let place = Arc::clone(&places).try_acquire_owned().expect("there is room");
            let wait_max = Duration::from_secs(1);
            assert_eq!(session.keep_outside(&ask, &envelope, wait_max, place), is_kept, "{calls:?}");
            assert_eq!(session.take_outside().len(), usize::from(is_kept), "{calls:?}");
            drop(seats);
        };
        check(&[], false, true);
        check(&[false], false, true);
        // As two that open the session together.
        check(&[false, false], false, true);
        check(&[true], true, false);
        check(&[false, true], false, false);
        check(&[true, true], false, false);
    }

    #[test]
    fn changes_go_to_those_who_listen() {
        let session = session();
        let uris = |uris: &[&str]| uris.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (mut one, new) =
            session.listen(vec![Method::ToolsListChanged], uris(&["a", "b"])).expect("it goes on");
        assert_eq!(new, ["a", "b"]);
        let (mut other, new) = session.listen(Vec::new(), uris(&["b"])).expect("it goes on");
        assert!(new.is_empty() && session.is_listened_to());
        let updated = |uri: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{uri}"}}}}"#
            )
        };
        let mut seats = [&mut one, &mut other];
        check(&session, &mut seats, &updated("a"), &[0]);
        check(&session, &mut seats, &updated("b"), &[0, 1]);
        check(&session, &mut seats, &updated("c"), &[]);
        let changed =
            |list: &str| format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#);
        check(&session, &mut seats, &changed("tools"), &[0]);
        check(&session, &mut seats, &changed("prompts"), &[]);
        assert_eq!(session.unlisten(one.number), ["a"]);
        assert_eq!(session.unlisten(one.number), Vec::<String>::new());
        assert_eq!(one.aside.try_recv(), Err(TryRecvError::Disconnected));
        assert!(!session.end_if_idle(Duration::ZERO), "somebody listens");
        assert_eq!(session.unlisten(other.number), ["b"]);
        assert!(session.end_if_idle(Duration::ZERO) && session.begin(true).is_none());
    }
}
