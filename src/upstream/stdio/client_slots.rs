//! The clients of one process: their event streams and subscriptions.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use metamcp_core::base::KeyId;
use metamcp_core::protocol::ClientCapabilities;
use metamcp_http::multiplex::ClientStream;

/// Identifies one of a process's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientSlotId(pub u64);

/// The session that a client slot is for, and how it was opened.
#[derive(Debug, Clone)]
pub struct SessionOrigin {
    /// The id of the session.
    pub session: HeaderValue,
    /// The key of the client. `None` for the gateway's own session for its lists.
    pub owner: Option<KeyId>,
    /// The number of the client's session, however often it is opened again.
    pub client_session: Option<u64>,
    /// The `params` of its `initialize`.
    pub params: Bytes,
    /// What these say that the client can do.
    pub capabilities: ClientCapabilities,
    /// Whether the session was opened for calls that need a process to themselves.
    pub is_additional: bool,
}

/// One client of a process.
pub struct ClientSlot {
    pub origin: SessionOrigin,
    pub stream: ClientStream,
    /// The `params` of its last `logging/setLevel`.
    pub log_level: Option<Bytes>,
    /// Whether it has made a call during which it could be asked.
    pub has_called: bool,
    /// Set while the session moves to a process of its own, and notified when it has moved.
    pub moving: Option<Rc<Notify>>,
    /// URIs of the resources that the client subscribed to.
    subscriptions: HashSet<String>,
    /// Until then the process is kept for the first call of this client.
    first_call_until: Option<Instant>,
    /// Until then the process may still be working on a call that this client cancelled, or the client is
    /// about to listen.
    uncertain_until: Option<Instant>,
}

/// All clients of a process.
#[derive(Default)]
pub struct ClientSlots {
    next: u64,
    slots: HashMap<ClientSlotId, ClientSlot>,
    /// The last client that left.
    departed: Option<Departure>,
}

/// A client that left: the process may still say what is due to its calls.
struct Departure {
    /// `None` if clients with different keys left shortly after each other.
    owner: Option<KeyId>,
    until: Instant,
}

/// Resources that one client may subscribe to on one process: more is a runaway loop.
pub const SUBSCRIPTIONS_MAX: usize = 4096;

/// A process that was told of a cancellation stops within this, or practically never.
const CANCEL_SETTLE_TIME: Duration = Duration::from_secs(10);

/// What a process says about the calls of a client that left comes within this, as after a cancellation.
const DEPARTURE_SETTLE_TIME: Duration = CANCEL_SETTLE_TIME;

/// A new client listens within this, if at all: its stream is answered before the process learns of the
/// client. Until then it counts as listening, even while another client has the only call in flight.
/// Otherwise it would be chance, from one moment to the next, whether a request of the process is refused or
/// passed on.
const LISTEN_SETTLE_TIME: Duration = Duration::from_secs(1);

/// A session that was just opened calls within this: the gateway opens it again for a call that it sends at
/// once, and clients call as soon as they know what the server can do. Less than most `queue_timeout`s, so
/// that sessions that wait for a process get one from those that do not call.
const FIRST_CALL_TIME: Duration = Duration::from_secs(2);

impl ClientSlot {
    /// Whether this is a client's session, not the gateway's own for its lists.
    pub fn is_client(&self) -> bool {
        self.origin.owner.is_some()
    }

    /// Whether a client listens.
    pub fn is_listening(&self) -> bool {
        self.is_client() && self.stream.is_open()
    }

    /// Iterates over the resources that the client subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(String::as_str)
    }

    /// Whether a message of the process may be about a call that this client cancelled, or for a client that
    /// is new.
    pub fn is_uncertain(&self, now: Instant) -> bool {
        self.uncertain_until.is_some_and(|until| now < until)
    }
}

impl ClientSlots {
    pub fn add(&mut self, origin: SessionOrigin) -> ClientSlotId {
        let id = ClientSlotId(self.next);
        self.next += 1;
        let is_client = origin.owner.is_some();
        let slot = ClientSlot {
            origin,
            log_level: None,
            has_called: false,
            moving: None,
            stream: ClientStream::default(),
            subscriptions: HashSet::new(),
            first_call_until: Some(Instant::now() + FIRST_CALL_TIME),
            uncertain_until: is_client.then(|| Instant::now() + LISTEN_SETTLE_TIME),
        };
        self.slots.insert(id, slot);
        id
    }

    /// Removes a client. Returns the URIs that nobody is subscribed to any more.
    pub fn remove(&mut self, id: ClientSlotId) -> Vec<String> {
        let Some(slot) = self.slots.remove(&id) else { return Vec::new() };
        if slot.is_client() {
            let (now, owner) = (Instant::now(), slot.origin.owner);
            let before = self.departed.take().filter(|before| now < before.until);
            let owner = owner.filter(|_| before.is_none_or(|before| before.owner == owner));
            self.departed = Some(Departure { owner, until: now + DEPARTURE_SETTLE_TIME });
        }
        slot.subscriptions.into_iter().filter(|uri| !self.is_subscribed(uri)).collect()
    }

    pub fn get(&self, id: ClientSlotId) -> Option<&ClientSlot> {
        self.slots.get(&id)
    }

    pub fn get_mut(&mut self, id: ClientSlotId) -> Option<&mut ClientSlot> {
        self.slots.get_mut(&id)
    }

    /// Returns the client for which the predicate holds, if there is exactly one.
    pub fn find_only(&self, predicate: impl Fn(ClientSlotId, &ClientSlot) -> bool) -> Option<ClientSlotId> {
        let mut ids = self.slots.iter().filter(|(id, slot)| predicate(**id, slot)).map(|(id, _)| *id);
        ids.next().filter(|_| ids.next().is_none())
    }

    /// Whether there is any session of a client.
    pub fn has_client(&self) -> bool {
        self.slots.values().any(ClientSlot::is_client)
    }

    /// Whether clients with different keys have sessions, or had one a moment ago.
    pub fn has_several_owners(&self, now: Instant) -> bool {
        let mut owners = self.slots.values().filter_map(|slot| slot.origin.owner);
        let Some(first) = owners.next() else { return false };
        let departed = self.departed.as_ref().filter(|departed| now < departed.until);
        owners.any(|owner| owner != first) || departed.is_some_and(|departed| departed.owner != Some(first))
    }

    /// Marks a client as uncertain, because one of its calls was cancelled.
    pub fn mark_uncertain(&mut self, id: ClientSlotId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.uncertain_until = Some(Instant::now() + CANCEL_SETTLE_TIME);
        }
    }

    /// Notes that a client calls.
    pub fn note_call(&mut self, id: ClientSlotId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.first_call_until = None;
        }
    }

    /// Whether a client is new and has not called yet.
    pub fn is_awaiting_call(&self, now: Instant) -> bool {
        self.slots.values().any(|slot| slot.first_call_until.is_some_and(|until| now < until))
    }

    /// Whether a client has set a log level.
    pub fn has_log_level(&self) -> bool {
        self.slots.values().any(|slot| slot.log_level.is_some())
    }

    /// Whether a session needs the process to itself, for the calls that it was opened for.
    pub fn has_additional(&self) -> bool {
        self.slots.values().any(|slot| slot.origin.is_additional)
    }

    /// Whether a client is subscribed to a resource.
    pub fn has_subscriptions(&self) -> bool {
        self.slots.values().any(|slot| !slot.subscriptions.is_empty())
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ClientSlot> {
        self.slots.values_mut()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether any client listens.
    pub fn is_listening(&self) -> bool {
        self.slots.values().any(ClientSlot::is_listening)
    }

    /// Adds a subscription. False when the client has too many.
    pub fn subscribe(&mut self, id: ClientSlotId, uri: String) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let has_room = slot.subscriptions.len() < SUBSCRIPTIONS_MAX;
        if has_room {
            slot.subscriptions.insert(uri);
        }
        has_room
    }

    /// Removes a subscription. Returns whether another client still has it.
    pub fn unsubscribe(&mut self, id: ClientSlotId, uri: &str) -> bool {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.subscriptions.remove(uri);
        }
        self.is_subscribed(uri)
    }

    /// Iterates over the clients that subscribed to a resource.
    pub fn subscribers<'a>(&'a mut self, uri: &'a str) -> impl Iterator<Item = &'a mut ClientSlot> {
        self.slots.values_mut().filter(move |slot| slot.subscriptions.contains(uri))
    }

    pub fn drain(&mut self) -> impl Iterator<Item = ClientSlot> {
        self.slots.drain().map(|(_, slot)| slot)
    }

    fn is_subscribed(&self, uri: &str) -> bool {
        self.slots.values().any(|slot| slot.subscriptions.contains(uri))
    }
}

#[cfg(test)]
impl SessionOrigin {
    /// The session of a client that declares no capabilities.
    pub fn sample(session: &'static str) -> Self {
        Self {
            session: HeaderValue::from_static(session),
            owner: Some(KeyId::ANONYMOUS),
            client_session: None,
            params: Bytes::new(),
            capabilities: ClientCapabilities::ALL,
            is_additional: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(text: &'static str) -> SessionOrigin {
        SessionOrigin::sample(text)
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_is_certain() {
        let mut slots = ClientSlots::default();
        let only = |slots: &ClientSlots| slots.find_only(|_, _| true);
        assert_eq!(only(&slots), None);
        let one = slots.add(session("a"));
        assert_eq!(only(&slots), Some(one));
        let other = slots.add(session("b"));
        assert_eq!(only(&slots), None);
        let uncertain = |slots: &ClientSlots| slots.find_only(|_, slot| slot.is_uncertain(Instant::now()));
        assert_eq!(uncertain(&slots), None, "both are new");
        tokio::time::advance(LISTEN_SETTLE_TIME).await;
        slots.add(SessionOrigin { owner: None, ..session("c") });
        assert_eq!(uncertain(&slots), None, "the gateway itself listens to nothing");
        let new = slots.add(session("d"));
        assert_eq!(uncertain(&slots), Some(new));
        tokio::time::advance(LISTEN_SETTLE_TIME).await;
        assert_eq!(uncertain(&slots), None);
        slots.mark_uncertain(other);
        assert_eq!(uncertain(&slots), Some(other));
        tokio::time::advance(CANCEL_SETTLE_TIME).await;
        assert_eq!(uncertain(&slots), None);
        for removed in [one, new, ClientSlotId(new.0 - 1)] {
            slots.remove(removed);
        }
        assert_eq!((only(&slots), slots.len()), (Some(other), 1));
    }

    #[test]
    fn counts_subscriptions() {
        let mut slots = ClientSlots::default();
        let (one, other) = (slots.add(session("a")), slots.add(session("b")));
        for (slot, uri) in [(one, "x"), (one, "x"), (other, "x"), (one, "y"), (other, "z")] {
            assert!(slots.subscribe(slot, uri.into()));
        }
        let check = |slots: &mut ClientSlots, uri: &str, expected: &[&str]| {
            let mut found: Vec<_> =
                slots.subscribers(uri).map(|slot| slot.origin.session.to_str().unwrap().to_owned()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{uri}");
        };
        check(&mut slots, "x", &["a", "b"]);
        check(&mut slots, "y", &["a"]);
        check(&mut slots, "w", &[]);
        assert!(slots.unsubscribe(one, "x"), "the other still has it");
        check(&mut slots, "x", &["b"]);
        assert!(!slots.unsubscribe(other, "x"));
        slots.subscribe(one, "z".into());
        assert_eq!(slots.remove(one), ["y"], "nobody else has it");
        assert_eq!(slots.remove(one), Vec::<String>::new());
        check(&mut slots, "z", &["b"]);
        let full = (0..2 * SUBSCRIPTIONS_MAX).take_while(|n| slots.subscribe(other, n.to_string())).count();
        assert_eq!(full, SUBSCRIPTIONS_MAX - 1);
    }
}
