//! All clients that receive notifications, Legacy sessions and Modern `subscriptions/listen` streams, and the secret of the
//! process.
//!
//! Invariant: a change is sent once to each session that it concerns, and once to each stream that subscribed to it.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::RandomState},
    fmt::Write as _,
    hash::BuildHasher,
    rc::Rc,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    message,
    protocol::meta,
    session::{SUBSCRIPTIONS_MAX, Session, URI_BYTES_MAX},
    sse::Sender,
};

/// Sessions that are kept before the least recently used one is evicted. Many clients never end their session; an idle one
/// uses well under 1 KiB.
const SESSIONS_MAX: usize = 20_000;

/// Modern streams that can be open at once.
const LISTENS_MAX: usize = 20_000;

/// A change that clients are notified of.
#[derive(Clone, Debug, PartialEq)]
pub enum ContentChange {
    /// The list of tools.
    Tools,
    /// The list of prompts.
    Prompts,
    /// The list of resources.
    Resources,
    /// The resource with this URI.
    Resource(String),
}

impl ContentChange {
    fn method(&self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources => "notifications/resources/list_changed",
            Self::Resource(_) => "notifications/resources/updated",
        }
    }

    fn params(&self) -> Value {
        match self {
            Self::Resource(uri) => json!({ "uri": uri }),
            _ => json!({}),
        }
    }
}

/// What a `subscriptions/listen` request subscribes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionFilter {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
}

impl SubscriptionFilter {
    /// Parses `params.notifications`. Unknown and excess entries are not honoured, and so not acknowledged.
    pub fn parse(notifications: &Value) -> Self {
        let wants = |key: &str| notifications[key] == Value::Bool(true);
        let uris = notifications["resourceSubscriptions"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            tools: wants("toolsListChanged"),
            prompts: wants("promptsListChanged"),
            resources: wants("resourcesListChanged"),
            uris: uris
                .iter()
                .filter_map(Value::as_str)
                .filter(|uri| uri.len() <= URI_BYTES_MAX)
                .take(SUBSCRIPTIONS_MAX)
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Returns the honoured entries, for the acknowledgement.
    pub fn to_value(&self) -> Value {
        let mut value = json!({});
        let flags = [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ];
        for (key, _) in flags.iter().filter(|(_, is_set)| *is_set) {
            value[*key] = json!(true);
        }
        if !self.uris.is_empty() {
            value["resourceSubscriptions"] = json!(self.uris);
        }
        value
    }

    fn wants(&self, change: &ContentChange) -> bool {
        match change {
            ContentChange::Tools => self.tools,
            ContentChange::Prompts => self.prompts,
            ContentChange::Resources => self.resources,
            ContentChange::Resource(uri) => self.uris.contains(uri),
        }
    }
}

struct ListenStream {
    /// The id of the `listen` request.
    id: Value,
    filter: SubscriptionFilter,
    stream: Sender,
}

/// The sessions and streams of one server, shared by all its connections.
#[derive(Default)]
pub struct Hub {
    sessions: RefCell<HashMap<String, Rc<Session>>>,
    listens: RefCell<Vec<ListenStream>>,
    /// Counts of tool calls; see [`Hub::calls`].
    begun: Cell<u64>,
    cancelled: Cell<u64>,
    seal: RandomState,
}

impl Hub {
    /// Creates a session. `None` if the system provides no random bytes.
    pub fn create(&self, version: &'static str, capabilities: Value, info: Value) -> Option<Rc<Session>> {
        let session = Rc::new(Session::new(random_id()?, version, capabilities, info));
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.values().min_by_key(|session| session.last_used.get()).cloned();
            if let Some(oldest) = oldest {
                sessions.remove(&oldest.id);
                oldest.end();
            }
        }
        sessions.insert(session.id.clone(), Rc::clone(&session));
        Some(session)
    }

    /// Returns the session with this id, and marks it as used.
    pub fn session(&self, id: &str) -> Option<Rc<Session>> {
        let session = self.sessions.borrow().get(id).cloned()?;
        session.last_used.set(Instant::now());
        Some(session)
    }

    /// Removes a session and ends its calls.
    pub fn end(&self, session: &Session) {
        self.sessions.borrow_mut().remove(&session.id);
        session.end();
    }

    /// Counts the sessions and the listen streams.
    pub fn listeners(&self) -> (usize, usize) {
        let mut listens = self.listens.borrow_mut();
        listens.retain(|listen| !listen.stream.is_closed());
        (self.sessions.borrow().len(), listens.len())
    }

    /// Adds a Modern stream; returns `false` if there are too many.
    pub fn listen(&self, id: Value, filter: SubscriptionFilter, stream: Sender) -> bool {
        let (_, open) = self.listeners();
        if open < LISTENS_MAX {
            self.listens.borrow_mut().push(ListenStream { id, filter, stream });
        }
        open < LISTENS_MAX
    }

    /// Notifies every session and stream that the change concerns.
    pub fn announce(&self, change: &ContentChange) {
        let message = message::notification(change.method(), &change.params());
        for session in self.sessions.borrow().values() {
            let is_concerned = match change {
                ContentChange::Resource(uri) => session.watches(uri),
                _ => true,
            };
            if is_concerned {
                session.notify(message.clone());
            }
        }
        let mut listens = self.listens.borrow_mut();
        listens.retain(|listen| !listen.stream.is_closed());
        for listen in listens.iter().filter(|listen| listen.filter.wants(change)) {
            let mut message = message.clone();
            message["params"]["_meta"] = json!({ meta::SUBSCRIPTION_ID: listen.id });
            // As with sessions, a full queue drops the message: an earlier one in it has the same effect.
            let _ = listen.stream.try_send(message);
        }
    }

    /// Counts a tool call as begun. If the guard is dropped before [`CallCount::finish`], it counts as cancelled.
    pub fn count_call(self: &Rc<Self>) -> CallCount {
        self.begun.set(self.begun.get() + 1);
        CallCount { hub: Rc::clone(self), finished: false }
    }

    /// Returns the numbers of tool calls begun and cancelled since the start.
    pub fn calls(&self) -> (u64, u64) {
        (self.begun.get(), self.cancelled.get())
    }

    /// Authenticates a text that passes through the client, which may try to change it. `SipHash` with a random key of the
    /// process is enough for a demonstration; a server with valuable state should use an AEAD and an expiry.
    pub fn seal(&self, bound_to: &str, text: &str) -> String {
        format!("{:016x}.{text}", self.seal.hash_one((bound_to, text)))
    }

    /// Returns the text, if this process sealed it for the same purpose.
    pub fn open(&self, bound_to: &str, sealed: &str) -> Option<String> {
        let (_, text) = sealed.split_once('.')?;
        (self.seal(bound_to, text) == sealed).then(|| text.to_owned())
    }
}

/// Counts one tool call; see [`Hub::count_call`].
pub struct CallCount {
    hub: Rc<Hub>,
    finished: bool,
}

impl CallCount {
    /// Records that the call was not cancelled.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for CallCount {
    fn drop(&mut self) {
        if !self.finished {
            self.hub.cancelled.set(self.hub.cancelled.get() + 1);
        }
    }
}

/// Returns 128 random bits as hexadecimal digits.
pub fn random_id() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    let mut id = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn check(notifications: &Value, acknowledged: &Value, change: &ContentChange, delivered: bool) {
        let hub = Hub::default();
        let filter = SubscriptionFilter::parse(notifications);
        assert_eq!(&filter.to_value(), acknowledged);
        let (stream, mut messages) = mpsc::channel(4);
        assert!(hub.listen(json!("listen-1"), filter, stream));
        hub.announce(change);
        let message = messages.try_recv().ok();
        assert_eq!(message.is_some(), delivered, "{notifications} {change:?}");
        if let Some(message) = message {
            assert_eq!(message["params"]["_meta"][meta::SUBSCRIPTION_ID], "listen-1");
        }
    }

    #[test]
    fn filters() {
        let tools = json!({ "toolsListChanged": true });
        check(&tools, &tools, &ContentChange::Tools, true);
        check(&tools, &tools, &ContentChange::Prompts, false);
        check(&json!({ "promptsListChanged": false, "x": true }), &json!({}), &ContentChange::Prompts, false);
        let uris = json!({ "resourceSubscriptions": ["a:b"] });
        check(&uris, &uris, &ContentChange::Resource("a:b".into()), true);
        check(&uris, &uris, &ContentChange::Resource("a:c".into()), false);
        check(&json!(null), &json!({}), &ContentChange::Resources, false);
    }

    #[test]
    fn a_session_receives_what_it_subscribed_to() {
        let hub = Hub::default();
        let session = hub.create("2025-11-25", json!({}), json!({})).unwrap();
        hub.announce(&ContentChange::Resource("a:b".into()));
        session.subscribe("a:b").unwrap();
        hub.announce(&ContentChange::Resource("a:b".into()));
        hub.announce(&ContentChange::Tools);
        let mut stream = session.open_stream().unwrap();
        assert!(session.open_stream().is_none(), "one stream at a time");
        assert_eq!(stream.try_recv().unwrap()["method"], "notifications/resources/updated");
        assert_eq!(stream.try_recv().unwrap()["method"], "notifications/tools/list_changed");
        assert!(stream.try_recv().is_err());
        drop(stream);
        assert!(session.open_stream().is_some());
    }

    #[test]
    fn seals() {
        let hub = Hub::default();
        let sealed = hub.seal("tool", "round=1");
        assert_eq!(hub.open("tool", &sealed).as_deref(), Some("round=1"));
        assert_eq!(hub.open("other", &sealed), None);
        assert_eq!(hub.open("tool", &format!("{sealed}2")), None);
        assert_eq!(hub.open("tool", "nonsense"), None);
        assert_eq!(Hub::default().open("tool", &sealed), None);
    }
}
