//! Everyone who listens: Legacy sessions and Modern `subscriptions/listen` streams; and the secrets of the
//! process.
//!
//! Invariant: a change is told once to each session that may know of it and once to each stream that asked.

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

/// Sessions kept before the one unused for longest is dropped. Many clients never end theirs, so they pile up;
/// an idle one costs well under 1 KiB.
const SESSIONS_MAX: usize = 20_000;

/// Modern streams that may be open at once.
const LISTENS_MAX: usize = 20_000;

/// Something that clients may want to read again.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The list of tools.
    Tools,
    /// The list of prompts.
    Prompts,
    /// The list of resources.
    Resources,
    /// The resource with this URI.
    Resource(String),
}

impl Change {
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

/// What a `subscriptions/listen` request asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
}

impl Filter {
    /// Reads `params.notifications`; what is unknown or too much is not honoured, and so not acknowledged.
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

    /// The honoured subset, for the acknowledgement.
    pub fn to_value(&self) -> Value {
        let mut value = json!({});
        let flags = [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ];
        for (key, _) in flags.iter().filter(|(_, wanted)| *wanted) {
            value[*key] = json!(true);
        }
        if !self.uris.is_empty() {
            value["resourceSubscriptions"] = json!(self.uris);
        }
        value
    }

    fn wants(&self, change: &Change) -> bool {
        match change {
            Change::Tools => self.tools,
            Change::Prompts => self.prompts,
            Change::Resources => self.resources,
            Change::Resource(uri) => self.uris.contains(uri),
        }
    }
}

struct Listen {
    /// The id of the `listen` request.
    id: Value,
    filter: Filter,
    stream: Sender,
}

/// Shared by all connections of one server.
#[derive(Default)]
pub struct Hub {
    sessions: RefCell<HashMap<String, Rc<Session>>>,
    listens: RefCell<Vec<Listen>>,
    /// Tool calls begun and cancelled; see [`Hub::calls`].
    begun: Cell<u64>,
    cancelled: Cell<u64>,
    seal: RandomState,
}

impl Hub {
    /// A new session, known from now on. `None` when the machine has no randomness to give.
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

    /// The session with that id.
    pub fn session(&self, id: &str) -> Option<Rc<Session>> {
        let session = self.sessions.borrow().get(id).cloned()?;
        session.last_used.set(Instant::now());
        Some(session)
    }

    /// Forgets a session and ends what it has under way.
    pub fn end(&self, session: &Session) {
        self.sessions.borrow_mut().remove(&session.id);
        session.end();
    }

    /// How many sessions and listen streams there are.
    pub fn listeners(&self) -> (usize, usize) {
        let mut listens = self.listens.borrow_mut();
        listens.retain(|listen| !listen.stream.is_closed());
        (self.sessions.borrow().len(), listens.len())
    }

    /// Adds a Modern stream. `false`: too many.
    pub fn listen(&self, id: Value, filter: Filter, stream: Sender) -> bool {
        let (_, open) = self.listeners();
        if open < LISTENS_MAX {
            self.listens.borrow_mut().push(Listen { id, filter, stream });
        }
        open < LISTENS_MAX
    }

    /// Tells everyone concerned.
    pub fn announce(&self, change: &Change) {
        let message = message::notification(change.method(), &change.params());
        for session in self.sessions.borrow().values() {
            let concerned = match change {
                Change::Resource(uri) => session.watches(uri),
                _ => true,
            };
            if concerned {
                session.notify(message.clone());
            }
        }
        let mut listens = self.listens.borrow_mut();
        listens.retain(|listen| !listen.stream.is_closed());
        for listen in listens.iter().filter(|listen| listen.filter.wants(change)) {
            let mut message = message.clone();
            message["params"]["_meta"] = json!({ meta::SUBSCRIPTION_ID: listen.id });
            // As with sessions, a full queue loses the message: an earlier one in it says the same or more.
            let _ = listen.stream.try_send(message);
        }
    }

    /// Counts a tool call until it ends or is dropped, which is what cancelling does.
    pub fn count_call(self: &Rc<Self>) -> CallCount {
        self.begun.set(self.begun.get() + 1);
        CallCount { hub: Rc::clone(self), finished: false }
    }

    /// Tool calls begun and cancelled since the start.
    pub fn calls(&self) -> (u64, u64) {
        (self.begun.get(), self.cancelled.get())
    }

    /// Text that only this process can have made: it passes through the client, who may try to change it.
    /// `SipHash` under a random key of the process is enough here; a server whose state is worth
    /// stealing takes an AEAD and adds an expiry.
    pub fn seal(&self, bound_to: &str, text: &str) -> String {
        format!("{:016x}.{text}", self.seal.hash_one((bound_to, text)))
    }

    /// The text inside, if this process sealed it for the same purpose.
    pub fn open(&self, bound_to: &str, sealed: &str) -> Option<String> {
        let (_, text) = sealed.split_once('.')?;
        (self.seal(bound_to, text) == sealed).then(|| text.to_owned())
    }
}

/// See [`Hub::count_call`].
pub struct CallCount {
    hub: Rc<Hub>,
    finished: bool,
}

impl CallCount {
    /// The call came to its end.
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

/// 128 random bits as hexadecimal digits.
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

    fn check(notifications: &Value, acknowledged: &Value, change: &Change, delivered: bool) {
        let hub = Hub::default();
        let filter = Filter::parse(notifications);
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
        check(&tools, &tools, &Change::Tools, true);
        check(&tools, &tools, &Change::Prompts, false);
        check(&json!({ "promptsListChanged": false, "x": true }), &json!({}), &Change::Prompts, false);
        let uris = json!({ "resourceSubscriptions": ["a:b"] });
        check(&uris, &uris, &Change::Resource("a:b".into()), true);
        check(&uris, &uris, &Change::Resource("a:c".into()), false);
        check(&json!(null), &json!({}), &Change::Resources, false);
    }

    #[test]
    fn a_session_gets_what_it_watches() {
        let hub = Hub::default();
        let session = hub.create("2025-11-25", json!({}), json!({})).unwrap();
        hub.announce(&Change::Resource("a:b".into()));
        session.subscribe("a:b").unwrap();
        hub.announce(&Change::Resource("a:b".into()));
        hub.announce(&Change::Tools);
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
