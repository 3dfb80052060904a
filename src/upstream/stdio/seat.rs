//! One client's place at a process: what it listens to, and what waits for it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::super::shim::Mailbox;

/// Which of a process's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeatId(pub u64);

/// One client's place.
pub struct Seat {
    /// What the client calls it.
    pub session: HeaderValue,
    /// Whether it is a client's, and not the gateway's own for its lists.
    pub is_clients: bool,
    /// Its event stream.
    pub mailbox: Mailbox,
    /// URIs of resources whose changes it wants to be told.
    subscriptions: HashSet<String>,
    /// Until when the process may still be at a call that this client gave up, or the client is about to listen.
    doubtful_until: Option<Instant>,
}

/// All of them.
#[derive(Default)]
pub struct Seats {
    next: u64,
    taken: HashMap<SeatId, Seat>,
}

/// Resources that one client may subscribe to on one process: more is a runaway loop.
pub const SUBSCRIPTIONS_MAX: usize = 4096;

/// A process that was told that a call is given up stops within this, or as good as never.
const DOUBTFUL_FOR: Duration = Duration::from_secs(10);

/// A client that has come listens within this, if it does: its stream is answered before the process knows of it. Until then
/// it counts as one that listens, also against a client that alone has a call under way: else it would be chance, from one
/// moment to the next, whether what the process asks is refused or passed on.
const COMES_WITHIN: Duration = Duration::from_secs(1);

impl Seat {
    /// Whether a client listens.
    pub fn is_listening(&self) -> bool {
        self.is_clients && self.mailbox.is_open()
    }

    /// Whether what the process says may be about a call that this client gave up, or for one that has just come.
    pub fn is_doubtful(&self, now: Instant) -> bool {
        self.doubtful_until.is_some_and(|until| now < until)
    }
}

impl Seats {
    /// A place for a client.
    pub fn take(&mut self, session: HeaderValue, is_clients: bool) -> SeatId {
        let id = SeatId(self.next);
        self.next += 1;
        let seat = Seat {
            session,
            is_clients,
            mailbox: Mailbox::default(),
            subscriptions: HashSet::new(),
            doubtful_until: is_clients.then(|| Instant::now() + COMES_WITHIN),
        };
        self.taken.insert(id, seat);
        id
    }

    /// The place is free. Gives the URIs that nobody is subscribed to any more.
    pub fn leave(&mut self, id: SeatId) -> Vec<String> {
        let Some(seat) = self.taken.remove(&id) else { return Vec::new() };
        seat.subscriptions.into_iter().filter(|uri| !self.is_subscribed(uri)).collect()
    }

    /// One of them.
    pub fn get(&mut self, id: SeatId) -> Option<&mut Seat> {
        self.taken.get_mut(&id)
    }

    /// The only one of which that holds.
    pub fn only(&self, holds: impl Fn(SeatId, &Seat) -> bool) -> Option<SeatId> {
        let mut ids = self.taken.iter().filter(|(id, seat)| holds(**id, seat)).map(|(id, _)| *id);
        ids.next().filter(|_| ids.next().is_none())
    }

    /// One of its calls was given up.
    pub fn doubt(&mut self, id: SeatId) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.doubtful_until = Some(Instant::now() + DOUBTFUL_FOR);
        }
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.taken.values_mut()
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether a client listens.
    pub fn is_listening(&self) -> bool {
        self.taken.values().any(Seat::is_listening)
    }

    /// Notes a subscription; false when there are too many.
    pub fn subscribe(&mut self, id: SeatId, uri: String) -> bool {
        let Some(seat) = self.taken.get_mut(&id) else { return false };
        let has_room = seat.subscriptions.len() < SUBSCRIPTIONS_MAX;
        if has_room {
            seat.subscriptions.insert(uri);
        }
        has_room
    }

    /// The subscription is over; true when another client still has it.
    pub fn unsubscribe(&mut self, id: SeatId, uri: &str) -> bool {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.subscriptions.remove(uri);
        }
        self.is_subscribed(uri)
    }

    /// Those who subscribed to it.
    pub fn subscribers<'a>(&'a mut self, uri: &'a str) -> impl Iterator<Item = &'a mut Seat> {
        self.taken.values_mut().filter(move |seat| seat.subscriptions.contains(uri))
    }

    /// Takes all, for their sessions.
    pub fn drain(&mut self) -> impl Iterator<Item = Seat> {
        self.taken.drain().map(|(_, seat)| seat)
    }

    fn is_subscribed(&self, uri: &str) -> bool {
        self.taken.values().any(|seat| seat.subscriptions.contains(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_is_certain() {
        let mut seats = Seats::default();
        let only = |seats: &Seats| seats.only(|_, _| true);
        assert_eq!(only(&seats), None);
        let one = seats.take(session("a"), true);
        assert_eq!(only(&seats), Some(one));
        let other = seats.take(session("b"), true);
        assert_eq!(only(&seats), None);
        let doubtful = |seats: &Seats| seats.only(|_, seat| seat.is_doubtful(Instant::now()));
        assert_eq!(doubtful(&seats), None, "both have just come");
        tokio::time::advance(COMES_WITHIN).await;
        seats.take(session("c"), false);
        assert_eq!(doubtful(&seats), None, "the gateway itself listens to nothing");
        let new = seats.take(session("d"), true);
        assert_eq!(doubtful(&seats), Some(new));
        tokio::time::advance(COMES_WITHIN).await;
        assert_eq!(doubtful(&seats), None);
        seats.doubt(other);
        assert_eq!(doubtful(&seats), Some(other));
        tokio::time::advance(DOUBTFUL_FOR).await;
        assert_eq!(doubtful(&seats), None);
        for left in [one, new, SeatId(new.0 - 1)] {
            seats.leave(left);
        }
        assert_eq!((only(&seats), seats.len()), (Some(other), 1));
    }

    #[test]
    fn counts_subscriptions() {
        let mut seats = Seats::default();
        let (one, other) = (seats.take(session("a"), true), seats.take(session("b"), true));
        for (seat, uri) in [(one, "x"), (one, "x"), (other, "x"), (one, "y"), (other, "z")] {
            assert!(seats.subscribe(seat, uri.into()));
        }
        let check = |seats: &mut Seats, uri: &str, expected: &[&str]| {
            let mut found: Vec<_> =
                seats.subscribers(uri).map(|seat| seat.session.to_str().unwrap().to_owned()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{uri}");
        };
        check(&mut seats, "x", &["a", "b"]);
        check(&mut seats, "y", &["a"]);
        check(&mut seats, "w", &[]);
        assert!(seats.unsubscribe(one, "x"), "the other still has it");
        check(&mut seats, "x", &["b"]);
        assert!(!seats.unsubscribe(other, "x"));
        seats.subscribe(one, "z".into());
        assert_eq!(seats.leave(one), ["y"], "nobody else has it");
        assert_eq!(seats.leave(one), Vec::<String>::new());
        check(&mut seats, "z", &["b"]);
        let full = (0..2 * SUBSCRIPTIONS_MAX).take_while(|n| seats.subscribe(other, n.to_string())).count();
        assert_eq!(full, SUBSCRIPTIONS_MAX - 1);
    }
}
