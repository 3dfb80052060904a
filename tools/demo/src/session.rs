//! What a Legacy session holds: the client's word on itself, its GET stream, its calls in flight, and the
//! requests that wait for its answer.
//!
//! Invariant: a message for the session goes on exactly one stream. Knows nothing of HTTP or content.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap, VecDeque},
    rc::Rc,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    message,
    protocol::{Level, RpcError},
    replay::Replay,
    sse::{QUEUE_MESSAGES_MAX, Sender},
};

/// Messages kept for a client that has not opened its GET stream yet. SDKs open it right after
/// `initialized`, so only that gap must be bridged.
const BACKLOG_MESSAGES_MAX: usize = 32;

/// Resources one client may watch, in either era.
pub const SUBSCRIPTIONS_MAX: usize = 256;

/// A URI that is watched is kept. Common servers take no longer ones in a request line either.
pub const URI_BYTES_MAX: usize = 8 << 10;

/// Calls one session may have in flight.
const CALLS_MAX: usize = 1024;

/// Resumable streams that one session keeps; the oldest go first.
const REPLAYS_MAX: usize = 32;

/// The outcome that a client reported for a request of ours.
pub type Reply = Result<Value, RpcError>;

/// One Legacy session.
#[derive(Debug)]
pub struct Session {
    /// Unguessable; see `hub`.
    pub id: String,
    /// The revision that `initialize` agreed on.
    pub version: &'static str,
    /// What the client declared in `initialize`.
    pub capabilities: Value,
    /// Who the client says it is.
    pub client_info: Value,
    /// Messages below this level are not sent.
    pub log_level: Cell<Level>,
    /// When the client was last heard of.
    pub last_used: Cell<Instant>,
    stream: RefCell<Option<Sender>>,
    backlog: RefCell<VecDeque<Value>>,
    subscriptions: RefCell<BTreeSet<String>>,
    calls: RefCell<HashMap<Value, AbortHandle>>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Reply>>>,
    next_request: Cell<u64>,
    replays: RefCell<VecDeque<Rc<Replay>>>,
    next_replay: Cell<u64>,
}

impl Session {
    /// A session without streams, calls or subscriptions.
    pub fn new(id: String, version: &'static str, capabilities: Value, client_info: Value) -> Self {
        Self {
            id,
            version,
            capabilities,
            client_info,
            log_level: Cell::new(Level::Debug),
            last_used: Cell::new(Instant::now()),
            stream: RefCell::default(),
            backlog: RefCell::default(),
            subscriptions: RefCell::default(),
            calls: RefCell::default(),
            waiting: RefCell::default(),
            next_request: Cell::new(1),
            replays: RefCell::default(),
            next_replay: Cell::new(1),
        }
    }

    /// Opens the GET stream; `None` while another one is open.
    pub fn open_stream(&self) -> Option<mpsc::Receiver<Value>> {
        let mut stream = self.stream.borrow_mut();
        if stream.as_ref().is_some_and(|stream| !stream.is_closed()) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
        for message in self.backlog.borrow_mut().drain(..) {
            // The backlog is shorter than the queue, so every message finds room.
            let _ = sender.try_send(message);
        }
        *stream = Some(sender);
        Some(receiver)
    }

    /// Sends a message that belongs to no request. A client too slow to take it loses it: all such messages
    /// say only that something should be read again.
    pub fn notify(&self, message: Value) {
        let stream = self.stream.borrow();
        if let Some(stream) = stream.as_ref().filter(|stream| !stream.is_closed()) {
            let _ = stream.try_send(message);
        } else {
            let mut backlog = self.backlog.borrow_mut();
            if backlog.len() < BACKLOG_MESSAGES_MAX {
                backlog.push_back(message);
            }
        }
    }

    /// Begins a stream that the client may come back to.
    pub fn open_replay(&self) -> Rc<Replay> {
        let number = self.next_replay.get();
        self.next_replay.set(number + 1);
        let replay = Rc::new(Replay::new(number));
        let mut replays = self.replays.borrow_mut();
        if replays.len() == REPLAYS_MAX {
            replays.pop_front();
        }
        replays.push_back(Rc::clone(&replay));
        replay
    }

    /// A stream that was begun so.
    pub fn replay(&self, number: u64) -> Option<Rc<Replay>> {
        self.replays.borrow().iter().find(|replay| replay.number == number).cloned()
    }

    /// Watches a resource.
    pub fn subscribe(&self, uri: &str) -> Result<(), RpcError> {
        if uri.len() > URI_BYTES_MAX {
            return Err(RpcError::invalid_params("The URI is longer than 8 KiB"));
        }
        let mut subscriptions = self.subscriptions.borrow_mut();
        if subscriptions.len() >= SUBSCRIPTIONS_MAX && !subscriptions.contains(uri) {
            return Err(RpcError::invalid_params("Too many subscriptions: end some of them first"));
        }
        subscriptions.insert(uri.to_owned());
        Ok(())
    }

    /// Watches it no longer.
    pub fn unsubscribe(&self, uri: &str) {
        self.subscriptions.borrow_mut().remove(uri);
    }

    /// Is this resource watched?
    pub fn watches(&self, uri: &str) -> bool {
        self.subscriptions.borrow().contains(uri)
    }

    /// Remembers a call so that the client can cancel it. `false`: the id is taken, or there are too many.
    pub fn begin(&self, id: &Value, task: AbortHandle) -> bool {
        let mut calls = self.calls.borrow_mut();
        if calls.len() >= CALLS_MAX || calls.contains_key(id) {
            return false;
        }
        calls.insert(id.clone(), task);
        true
    }

    /// Forgets a call that ended.
    pub fn finish(&self, id: &Value) {
        self.calls.borrow_mut().remove(id);
    }

    /// The client wants no answer any more.
    pub fn cancel(&self, id: &Value) {
        if let Some(task) = self.calls.borrow_mut().remove(id) {
            task.abort();
        }
    }

    /// Ends everything that is under way.
    pub fn end(&self) {
        for (_, task) in self.calls.borrow_mut().drain() {
            task.abort();
        }
        self.stream.borrow_mut().take();
        for replay in self.replays.borrow_mut().drain(..) {
            replay.finish();
        }
    }

    /// Sends a request to the client on `stream` and waits for its reply. When the call is cancelled
    /// meanwhile, the dropped future forgets the request.
    pub async fn request(&self, stream: &Sender, method: &str, params: &Value) -> Option<Reply> {
        let id = self.next_request.get();
        self.next_request.set(id + 1);
        let (sender, reply) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let _forget = Forget { session: self, id };
        stream.send(message::request(id, method, params)).await.ok()?;
        tokio::select! {
            reply = reply => reply.ok(),
            () = stream.closed() => None,
        }
    }

    /// Hands a reply to whoever waits for it; a reply to nothing is ignored.
    pub fn reply(&self, id: &Value, reply: Reply) {
        let waiting = id.as_u64().and_then(|id| self.waiting.borrow_mut().remove(&id));
        if let Some(waiting) = waiting {
            // The call may have been cancelled a moment ago.
            let _ = waiting.send(reply);
        }
    }
}

struct Forget<'a> {
    session: &'a Session,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.session.waiting.borrow_mut().remove(&self.id);
    }
}
