//! A Legacy session: what the client declared, its GET stream, its calls in flight, and the requests that it has not answered
//! yet.
//!
//! Invariant: a message for the session goes to exactly one stream. Knows nothing of HTTP or content.

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
    protocol::{LogLevel, RpcError},
    replay::Replay,
    sse::{QUEUE_MESSAGES_MAX, Sender},
};

/// Messages kept until the client opens its GET stream. SDKs open it right after `initialized`, so the gap is short.
const BACKLOG_MESSAGES_MAX: usize = 32;

/// Resources that one client can subscribe to, in either era.
pub const SUBSCRIPTIONS_MAX: usize = 256;

/// The limit for the URI of a subscription, which is kept. Common servers accept no longer ones in a request line either.
pub const URI_BYTES_MAX: usize = 8 << 10;

/// Calls that one session can have in flight.
const CALLS_MAX: usize = 1024;

/// Resumable streams kept for one session; the oldest are dropped first.
const REPLAYS_MAX: usize = 32;

/// The client's result or error for a request of this server.
pub type ClientReply = Result<Value, RpcError>;

#[derive(Debug)]
pub struct Session {
    /// A random id that cannot be guessed; see `hub`.
    pub id: String,
    /// The protocol revision that was negotiated.
    pub version: &'static str,
    /// The capabilities that the client declared in `initialize`.
    pub capabilities: Value,
    /// The name and version that the client sent in `initialize`.
    pub client_info: Value,
    /// The lowest level of log messages to send.
    pub log_level: Cell<LogLevel>,
    /// When the client last sent a request.
    pub last_used: Cell<Instant>,
    stream: RefCell<Option<Sender>>,
    backlog: RefCell<VecDeque<Value>>,
    subscriptions: RefCell<BTreeSet<String>>,
    calls: RefCell<HashMap<Value, AbortHandle>>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<ClientReply>>>,
    next_request: Cell<u64>,
    replays: RefCell<VecDeque<Rc<Replay>>>,
    next_replay: Cell<u64>,
}

impl Session {
    /// Creates a session without streams, calls or subscriptions.
    pub fn new(id: String, version: &'static str, capabilities: Value, client_info: Value) -> Self {
        Self {
            id,
            version,
            capabilities,
            client_info,
            log_level: Cell::new(LogLevel::Debug),
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

    /// Opens the GET stream; `None` if another one is open.
    pub fn open_stream(&self) -> Option<mpsc::Receiver<Value>> {
        let mut stream = self.stream.borrow_mut();
        if stream.as_ref().is_some_and(|stream| !stream.is_closed()) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
        for message in self.backlog.borrow_mut().drain(..) {
            // The backlog is shorter than the queue, so every message fits.
            let _ = sender.try_send(message);
        }
        *stream = Some(sender);
        Some(receiver)
    }

    /// Sends a message that belongs to no request. If the client is too slow, the message is dropped: all such messages only
    /// say that something has changed.
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

    /// Opens a resumable stream.
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

    /// Returns the resumable stream with this number.
    pub fn replay(&self, number: u64) -> Option<Rc<Replay>> {
        self.replays.borrow().iter().find(|replay| replay.number == number).cloned()
    }

    /// Subscribes to a resource.
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

    /// Ends the subscription to a resource.
    pub fn unsubscribe(&self, uri: &str) {
        self.subscriptions.borrow_mut().remove(uri);
    }

    /// Whether the session is subscribed to a resource.
    pub fn watches(&self, uri: &str) -> bool {
        self.subscriptions.borrow().contains(uri)
    }

    /// Records a call so that the client can cancel it. Returns `false` if its id is in use or there are too many calls.
    pub fn begin(&self, id: &Value, task: AbortHandle) -> bool {
        let mut calls = self.calls.borrow_mut();
        if calls.len() >= CALLS_MAX || calls.contains_key(id) {
            return false;
        }
        calls.insert(id.clone(), task);
        true
    }

    /// Removes a call that has ended.
    pub fn finish(&self, id: &Value) {
        self.calls.borrow_mut().remove(id);
    }

    /// Aborts a call that the client has cancelled.
    pub fn cancel(&self, id: &Value) {
        if let Some(task) = self.calls.borrow_mut().remove(id) {
            task.abort();
        }
    }

    /// Aborts all calls and ends all streams.
    pub fn end(&self) {
        for (_, task) in self.calls.borrow_mut().drain() {
            task.abort();
        }
        self.stream.borrow_mut().take();
        for replay in self.replays.borrow_mut().drain(..) {
            replay.finish();
        }
    }

    /// Sends a request to the client on `stream` and waits for the reply; `None` if the stream closes first. Cancel safe:
    /// dropping the future removes the request.
    pub async fn request(&self, stream: &Sender, method: &str, params: &Value) -> Option<ClientReply> {
        let id = self.next_request.get();
        self.next_request.set(id + 1);
        let (sender, reply) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let _removal = PendingRequest { session: self, id };
        stream.send(message::request(id, method, params)).await.ok()?;
        tokio::select! {
            reply = reply => reply.ok(),
            () = stream.closed() => None,
        }
    }

    /// Passes a reply to the call that waits for it; ignored if there is none.
    pub fn reply(&self, id: &Value, reply: ClientReply) {
        let waiting = id.as_u64().and_then(|id| self.waiting.borrow_mut().remove(&id));
        if let Some(waiting) = waiting {
            // It fails if the call was cancelled a moment ago.
            let _ = waiting.send(reply);
        }
    }
}

/// Removes a request from those that wait for a reply, when dropped.
struct PendingRequest<'a> {
    session: &'a Session,
    id: u64,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.session.waiting.borrow_mut().remove(&self.id);
    }
}
