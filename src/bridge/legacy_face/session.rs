//! What one client said of itself to a server that has no sessions, and what it has under way there.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::hub::Leavers;
use super::open::Offers;
use crate::auth::KeyId;
use crate::protocol::{ClientCapabilities, Revision, is_same_id};
use crate::upstream::UpstreamId;
use crate::upstream::shim::{Events, Outlet, stream_of};

/// One session. Small, and shared by all workers.
pub struct Session {
    /// The server it is with.
    pub upstream: UpstreamId,
    /// What the client said of itself; the same for all that say so, usually.
    pub introduced: Arc<Introduced>,
    /// Its key.
    pub owner: Option<KeyId>,
    /// What the server offers.
    pub offers: Offers,
    /// Guards what changes; a few lines at a time.
    state: Mutex<State>,
    /// Told when what its tasks heed changed.
    changed: Notify,
    next: AtomicU64,
}

struct State {
    used: Instant,
    /// What most never have.
    rare: Option<Box<Rare>>,
    /// Calls under way: the raw id, a number of our own, and what tells it that it is cancelled.
    calls: Vec<(Bytes, u64, oneshot::Sender<()>)>,
    heed: Heed,
    /// Tasks that listen to the server for it.
    ears: u32,
    /// The client's event stream, and which it is, while there is nothing to listen for; or what leads to it, while the
    /// session comes out of its hub.
    still: Option<(u64, Outlet)>,
    /// Told when it leaves those that are told what others like it are told. `Some` for as long as it is one of a hub's
    /// members: only what holds the lock of those changes it.
    hub: Option<Arc<Leavers>>,
    /// Whether it listens for itself, on the stream that the client has now.
    is_alone: bool,
}

#[derive(Default)]
struct Rare {
    /// Raw JSON.
    log_level: Option<Bytes>,
    /// What the client was asked, by the id that it was asked under.
    asked: Vec<(String, oneshot::Sender<Bytes>)>,
    /// Resources that it subscribed to.
    uris: BTreeSet<String>,
}

// With the counters of its `Arc` the most that the allocator has one size for; there may be thousands.
const _: () = assert!(size_of::<Session>() <= 208);

/// The client's event stream, for a session that listens for itself.
pub struct Own {
    /// Which it is.
    pub stream: u64,
    /// Where it is written.
    pub outlet: Outlet,
    /// What the session's hub tells it, when it is in one, until it leaves that.
    pub hub: Option<Events>,
}

/// What a server is told of a client: sessions in which that is the same are told the same of its lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Alike {
    upstream: UpstreamId,
    owner: Option<KeyId>,
    declared: Bytes,
    client_info: Option<Bytes>,
    log_level: Option<Bytes>,
    offers: Offers,
}

/// What the tasks of a session watch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heed {
    /// Moves with each change of what the client wants to be told of.
    pub wish: u64,
    /// Moves with each event stream of the client, so that the one before ends.
    pub stream: u64,
    /// The newest wish that the server has acknowledged, or refused.
    pub settled: u64,
    /// Whether the session is over.
    pub ended: bool,
}

/// Resources that one session may subscribe to, all of which go into one request: more is a runaway loop.
const URIS_MAX: usize = 1024;

/// The longest of them, as servers take them.
const URI_BYTES_MAX: usize = 8 << 10;

/// Bytes of all of them: they are kept as long as the session, and usual ones have a hundred.
const URIS_BYTES_MAX: usize = 256 << 10;

/// A client introduced itself so.
#[derive(PartialEq, Eq)]
pub struct Introduced {
    /// What it and the gateway speak.
    pub revision: Revision,
    /// What it declared.
    pub capabilities: ClientCapabilities,
    /// The same as raw JSON, for the server.
    pub declared: Bytes,
    /// The raw `clientInfo`, when there was one.
    pub client_info: Option<Bytes>,
}

impl Session {
    /// One in which nothing was asked yet.
    pub fn new(
        upstream: UpstreamId,
        introduced: Arc<Introduced>,
        owner: Option<KeyId>,
        offers: Offers,
    ) -> Arc<Self> {
        Arc::new(Self {
            upstream,
            introduced,
            owner,
            offers,
            state: Mutex::new(State::new()),
            changed: Notify::new(),
            next: AtomicU64::new(1),
        })
    }

    /// A number that nothing else in this session has or had.
    pub fn mint(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Marks it used.
    pub fn touch(&self) {
        lock(&self.state).used = Instant::now();
    }

    /// When it was last used, and whether somebody listens: those go last.
    pub fn rank(&self) -> (bool, Instant) {
        let state = lock(&self.state);
        let is_heard = state.ears > 0 || state.still.as_ref().is_some_and(|(_, outlet)| !outlet.is_left());
        (is_heard, state.used)
    }

    /// The raw level that the client wants log messages from.
    pub fn log_level(&self) -> Option<Bytes> {
        lock(&self.state).rare.as_ref()?.log_level.clone()
    }

    /// Remembers it.
    pub fn set_log_level(&self, level: Bytes) {
        lock(&self.state).rare().log_level = Some(level);
    }

    /// Notes a call under way until the guard is dropped.
    pub fn begin(self: &Arc<Self>, id: Bytes) -> UnderWay {
        let (cancel, cancelled) = oneshot::channel();
        let number = self.mint();
        let mut state = lock(&self.state);
        if !state.heed.ended {
            state.calls.push((id, number, cancel));
        }
        drop(state);
        UnderWay { session: Arc::clone(self), number, cancelled }
    }

    /// The client cancels a call of its own.
    pub fn cancel(&self, id: &[u8]) {
        let mut state = lock(&self.state);
        for (_, _, cancel) in state.calls.extract_if(.., |(other, ..)| is_same_id(other, id)) {
            // It may be over in this moment.
            let _ = cancel.send(());
        }
    }

    /// Keeps the client's event stream until there is something to listen for, another takes over, or the session ends.
    pub fn keep_still(&self, stream: u64, outlet: Outlet) {
        let mut state = lock(&self.state);
        if !state.heed.ended && state.heed.stream == stream {
            state.still = Some((stream, outlet));
        }
    }

    /// The event stream that was kept, for one task that listens for this session alone; `None` when there is one, or no
    /// stream. What the hub tells goes there in the meantime, so many events ahead of it.
    pub fn go_alone(&self, events_max: usize) -> Option<Own> {
        let mut state = lock(&self.state);
        if state.is_alone {
            return None;
        }
        let (stream, outlet) = state.still.take()?;
        state.is_alone = true;
        let mut hub = None;
        if state.hub.is_some() {
            let (inlet, events) = stream_of(events_max);
            state.still = Some((stream, inlet));
            hub = Some(events);
        }
        Some(Own { stream, outlet, hub })
    }

    /// Sends the client an event on the stream that is kept, when there is room for it.
    pub fn tell_still(&self, event: &Bytes) {
        if let Some((_, outlet)) = &lock(&self.state).still {
            // One that does not read has as many before it.
            let _ = outlet.put(event.clone());
        }
    }

    /// Whether the server tells of lists that changed.
    pub fn has_changing_lists(&self) -> bool {
        let Offers { tools_changed, prompts_changed, resources_changed, .. } = self.offers;
        tools_changed || prompts_changed || resources_changed
    }

    /// Whether the client has subscribed to resources.
    pub fn has_uris(&self) -> bool {
        lock(&self.state).rare.as_ref().is_some_and(|rare| !rare.uris.is_empty())
    }

    /// What others may have in common with it.
    pub fn alike(&self) -> Alike {
        let Introduced { declared, client_info, .. } = &*self.introduced;
        Alike {
            upstream: self.upstream,
            owner: self.owner,
            declared: declared.clone(),
            client_info: client_info.clone(),
            log_level: self.log_level(),
            offers: self.offers,
        }
    }

    /// One that nobody knows, of which the server is told the same.
    pub fn twin(&self) -> Arc<Self> {
        let twin = Self::new(self.upstream, Arc::clone(&self.introduced), self.owner, self.offers);
        self.log_level().into_iter().for_each(|level| twin.set_log_level(level));
        twin
    }

    /// It is in that hub from now on; false when it is in one, or has no stream that is kept. For who holds the lock of the
    /// hub's members.
    pub fn enter_hub(&self, hub: &Arc<Leavers>) -> bool {
        let mut state = lock(&self.state);
        let enters = state.still.is_some() && state.hub.is_none();
        if enters {
            state.hub = Some(Arc::clone(hub));
        }
        enters
    }

    /// The hub has nothing more to tell it on that stream; it is taken out of it later.
    pub fn leave_hub(&self, stream: u64) {
        let mut state = lock(&self.state);
        let left = state.still.take_if(|(other, _)| *other == stream);
        if left.is_some() {
            state.tell_hub();
        }
        drop(state);
        drop(left);
    }

    /// Whether there is a stream that its hub tells it on; else it is in none any more. For who holds the lock of the hub's
    /// members.
    pub fn stays_in_hub(&self) -> bool {
        let mut state = lock(&self.state);
        let left = state.still.take_if(|(_, outlet)| outlet.is_left());
        let stays = state.still.is_some();
        if !stays {
            state.hub = None;
        }
        drop(state);
        drop(left);
        stays
    }

    /// It is in no hub any more, and has no stream that is kept: both at once. For who holds the lock of the hub's members.
    pub fn quit_hub(&self) -> Option<Outlet> {
        let mut state = lock(&self.state);
        state.hub = None;
        state.still.take().map(|(_, outlet)| outlet)
    }

    /// Waits for the client's answer to what it is asked under that id, until the guard is dropped.
    pub fn expect(self: &Arc<Self>, id: String) -> Asked {
        let (answer, answered) = oneshot::channel();
        let mut state = lock(&self.state);
        if !state.heed.ended {
            state.rare().asked.push((id.clone(), answer));
        }
        drop(state);
        Asked { session: Arc::clone(self), id, answered }
    }

    /// The client answered; false when it was not asked that, or not any more.
    pub fn answered(&self, id: &str, message: Bytes) -> bool {
        let mut state = lock(&self.state);
        let asked = state.rare.as_mut().and_then(|rare| {
            let at = rare.asked.iter().position(|(asked, _)| asked == id)?;
            Some(rare.asked.swap_remove(at))
        });
        drop(state);
        asked.is_some_and(|(_, asked)| asked.send(message).is_ok())
    }

    /// Notes a subscription. `None`: there are too many, or the URI is too long. Else the wish that has it.
    pub fn subscribe(&self, uri: &str) -> Option<u64> {
        if uri.len() > URI_BYTES_MAX {
            return None;
        }
        let mut state = lock(&self.state);
        let uris = &mut state.rare().uris;
        let has_room = || {
            let bytes: usize = uris.iter().map(String::len).sum();
            uris.len() < URIS_MAX && bytes + uri.len() <= URIS_BYTES_MAX
        };
        if !(uris.contains(uri) || has_room()) {
            return None;
        }
        let is_new = uris.insert(uri.to_owned());
        Some(self.wish(state, is_new))
    }

    /// The subscription is over.
    pub fn unsubscribe(&self, uri: &str) -> u64 {
        let mut state = lock(&self.state);
        let was_there = state.rare.as_mut().is_some_and(|rare| rare.uris.remove(uri));
        state.tidy();
        self.wish(state, was_there)
    }

    /// The resources that it subscribed to, and the wish that has them.
    pub fn uris(&self) -> (u64, Vec<String>) {
        let state = lock(&self.state);
        let uris = state.rare.iter().flat_map(|rare| rare.uris.iter().cloned());
        (state.heed.wish, uris.collect())
    }

    /// The newest wish, a newer one when it changed.
    fn wish(&self, mut state: MutexGuard<'_, State>, has_changed: bool) -> u64 {
        state.heed.wish += u64::from(has_changed);
        let wish = state.heed.wish;
        drop(state);
        if has_changed {
            self.changed.notify_waiters();
        }
        wish
    }

    /// Somebody listens to the server for it, until that is dropped.
    pub fn ear(self: &Arc<Self>) -> Ear {
        lock(&self.state).ears += 1;
        Ear(Arc::clone(self))
    }

    /// Waits until what its tasks heed is so. Cancel safe.
    pub async fn until(&self, is_so: impl Fn(&Heed) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Told from here on.
            changed.as_mut().enable();
            if is_so(&lock(&self.state).heed) {
                return;
            }
            changed.await;
        }
    }

    /// A new event stream of the client takes over from the one before.
    pub fn take_stream(&self) -> u64 {
        let mut state = lock(&self.state);
        state.heed.stream += 1;
        state.is_alone = false;
        let (stream, before) = (state.heed.stream, state.still.take());
        drop(state);
        drop(before);
        self.changed.notify_waiters();
        stream
    }

    /// Says that the server has heard a wish.
    pub fn settle(&self, wish: u64) {
        let mut state = lock(&self.state);
        state.heed.settled = wish.max(state.heed.settled);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until the server has heard that wish, or a newer one. At once when nobody listens. Cancel safe.
    pub async fn settled(&self, wish: u64) {
        if lock(&self.state).ears > 0 {
            self.until(|heed| heed.settled >= wish).await;
        }
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        lock(&self.state).heed.ended
    }

    /// Ends it, and all that is under way in it.
    pub fn end(&self) {
        let mut state = lock(&self.state);
        state.heed.ended = true;
        // To be dropped is to be told.
        let asked = state.rare.as_mut().map(|rare| std::mem::take(&mut rare.asked));
        let under_way = (std::mem::take(&mut state.calls), asked, state.still.take());
        state.tell_hub();
        drop(state);
        drop(under_way);
        self.changed.notify_waiters();
    }
}

impl State {
    fn new() -> Self {
        Self {
            used: Instant::now(),
            rare: None,
            calls: Vec::new(),
            heed: Heed::default(),
            ears: 0,
            still: None,
            hub: None,
            is_alone: false,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// What most never have, and this one no more, is not kept.
    fn tidy(&mut self) {
        self.rare.take_if(|rare| rare.log_level.is_none() && rare.asked.is_empty() && rare.uris.is_empty());
    }

    /// Tells the hub, when it is in one, that it has nothing to be told on any more. In the same hold of the lock in which
    /// that became so: who counts from nothing and locks after that sees it.
    fn tell_hub(&self) {
        self.hub.iter().for_each(|hub| hub.note());
    }
}

/// Somebody who listens to the server for a session.
pub struct Ear(Arc<Session>);

impl Drop for Ear {
    fn drop(&mut self) {
        lock(&self.0.state).ears -= 1;
    }
}

/// A call under way; forgotten when dropped.
pub struct UnderWay {
    session: Arc<Session>,
    number: u64,
    cancelled: oneshot::Receiver<()>,
}

impl UnderWay {
    /// Waits until the client cancels it, or the session is over. Cancel safe.
    pub async fn cancelled(&mut self) {
        // Dropped or sent, it says the same.
        let _ = (&mut self.cancelled).await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.session.state);
        state.calls.retain(|(_, number, _)| *number != self.number);
        if state.calls.is_empty() {
            // A session on which nothing is under way holds no room for it.
            state.calls = Vec::new();
        }
    }
}

/// A question to the client; forgotten when dropped.
pub struct Asked {
    session: Arc<Session>,
    /// The id that it is asked under.
    pub id: String,
    answered: oneshot::Receiver<Bytes>,
}

impl Asked {
    /// Its whole answer; `None` when the session is over. Cancel safe.
    pub async fn answer(&mut self) -> Option<Bytes> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = lock(&self.session.state);
        let Some(rare) = &mut state.rare else { return };
        rare.asked.retain(|(id, _)| *id != self.id);
        if rare.asked.is_empty() {
            rare.asked = Vec::new();
        }
        state.tidy();
    }
}

/// Every change under a lock is one operation on a collection, so a poisoned one guards a whole collection.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A session of a client that declared this.
    pub fn session(declared: &'static str) -> Arc<Session> {
        let introduced = Introduced {
            revision: Revision::LEGACY_LATEST,
            capabilities: ClientCapabilities::from_json(declared.as_bytes()).unwrap(),
            declared: declared.into(),
            client_info: Some(Bytes::from_static(br#"{"name":"c","version":"1"}"#)),
        };
        Session::new(UpstreamId(0), Arc::new(introduced), None, Offers::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_cancelled_by_its_own_id() {
        let session = session("{}");
        let check = async |id: &'static str, cancels: &[u8], expected: bool| {
            let mut call = session.begin(id.into());
            session.cancel(cancels);
            let waits = tokio::time::timeout(std::time::Duration::from_secs(1), call.cancelled());
            assert_eq!(waits.await.is_ok(), expected, "{id}");
        };
        check("1", b"1", true).await;
        check("1", b"\"1\"", false).await;
        check("\"a\"", b"\"\\u0061\"", true).await;
        let mut call = session.begin("2".into());
        session.end();
        call.cancelled().await;
        session.begin("3".into()).cancelled().await;
        assert_eq!(session.expect("x".into()).answer().await, None);
    }

    #[test]
    fn an_answer_is_taken_once_by_who_asked() {
        let session = session("{}");
        let asked = session.expect("q1".into());
        assert!(!session.answered("q2", "{}".into()));
        assert!(session.answered("q1", "{}".into()));
        assert!(!session.answered("q1", "{}".into()), "it was answered before");
        drop(asked);
        drop(session.expect("q3".into()));
        assert!(!session.answered("q3", "{}".into()), "nobody waits");
    }

    #[test]
    fn wishes_are_counted_and_bounded() {
        let session = session("{}");
        assert_eq!(session.subscribe("a"), Some(1));
        assert_eq!(session.subscribe("a"), Some(1), "nothing new");
        assert_eq!(session.subscribe("b"), Some(2));
        assert_eq!(session.unsubscribe("a"), 3);
        assert_eq!(session.unsubscribe("a"), 3);
        assert_eq!(session.uris(), (3, vec!["b".to_owned()]));
        let taken = (0..2 * URIS_MAX).filter(|n| session.subscribe(&n.to_string()).is_some()).count();
        assert_eq!(taken, URIS_MAX - 1);
        assert_eq!(session.subscribe(&"x".repeat(URI_BYTES_MAX + 1)), None);
        let session = self::session("{}");
        let long = |n: usize| format!("{n:0>URI_BYTES_MAX$}");
        let taken = (0..URIS_MAX).filter(|n| session.subscribe(&long(*n)).is_some()).count();
        assert_eq!(taken, URIS_BYTES_MAX / URI_BYTES_MAX);
        assert!(session.subscribe(&long(0)).is_some(), "it has that");
    }

    #[test]
    fn what_a_session_has_no_more_takes_no_room() {
        let session = session("{}");
        let is_spare = || lock(&session.state).rare.is_none();
        assert_eq!(session.subscribe(&"x".repeat(URI_BYTES_MAX + 1)), None);
        assert!(is_spare());
        let asked = session.expect("q1".into());
        session.subscribe("a");
        session.unsubscribe("a");
        assert!(!is_spare(), "somebody waits for an answer");
        drop(asked);
        assert!(is_spare());
        session.set_log_level("\"info\"".into());
        drop(session.expect("q2".into()));
        assert_eq!(session.log_level().as_deref(), Some(&b"\"info\""[..]));
    }
}
