//! What a worker knows about each of its connections, and how it closes those that are idle or stalled.
//!
//! No connection has a timer of its own, and no request reads the clock. A connection counts events, and the
//! worker compares the counters once per tick. What has not changed since the tick that first saw it has
//! lasted that long, or one tick longer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tokio::sync::Notify;

use super::cached_credential::CachedCredential;
use crate::server::tls::ClientGeneration;
use crate::telemetry::metrics::ConnectionCounts;
use metamcp_config::sections::HttpConfig;
use metamcp_store::auth::ClientCertificate;

/// The state of one connection, as its task, its socket and its requests report it.
pub struct ConnectionActivity {
    protocol: Cell<HttpVersion>,
    /// Requests whose responses have not been written completely.
    in_flight: Cell<u32>,
    /// How many requests have begun, modulo 2^32.
    begun: Cell<u32>,
    /// Whether the task is to be woken when no request is in flight.
    wakes_when_answered: Cell<bool>,
    /// Whether a request head has been received in part.
    in_head: Cell<bool>,
    /// Counts heads that began, and requests that began and ended.
    progress: ProgressCounter,
    /// Counts the times that the client stopped reading, and started again: odd while it does not read.
    blocked: ProgressCounter,
    order: Cell<ConnectionOrder>,
    /// When the first order to end was given.
    ending_since: Cell<Option<Instant>>,
    /// Whether nothing has happened for [`PARK_AFTER`].
    is_quiet: Cell<bool>,
    /// Whether the request in flight is an event stream, which may be silent for days.
    is_streaming: Cell<bool>,
    /// Whether hyper may hold bytes that the socket has not accepted.
    unwritten: Cell<bool>,
    /// The Host of the last request that was admitted.
    pub host: RefCell<Vec<u8>>,
    /// The credential of the last request.
    pub credential: RefCell<Option<CachedCredential>>,
    /// What the client's certificate stands for. Set once, after the handshake.
    pub certificate: Cell<Option<ClientCertificate>>,
    /// The generation of the settings that accepted a certificate of the client. `None` if it has none.
    pub accepted_by: Cell<Option<ClientGeneration>>,
    /// When these settings were first seen to be replaced.
    replaced_at: Cell<Option<Instant>>,
    /// Notified in each tick from the end of the grace on.
    grace_ended: Notify,
    waker: RefCell<Option<Waker>>,
}

/// The protocol, which determines what silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// A byte outside of a request begins a head.
    Http1,
    /// Frames have many purposes. hyper sends pings to check whether the peer is there.
    Http2,
}

/// The instruction to the connection's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionOrder {
    Continue,
    /// Close after the requests in flight.
    Drain,
    /// Close the connection at once.
    Close,
}

/// Long enough that a client that sends one call after another is never parked, and short compared with the
/// idle timeout.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// How long a connection that is to end serves new requests, and starts calls of framed streams and batches: those that are
/// on their way when its client learns of it, as after a hand-over. One of HTTP/1.1 whose client certificate must be verified
/// again ends with the response to the next one.
const CLOSE_AFTER: Duration = Duration::from_secs(5);

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

impl ConnectionActivity {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            protocol: Cell::new(HttpVersion::Http1),
            in_flight: Cell::new(0),
            begun: Cell::new(0),
            wakes_when_answered: Cell::new(false),
            in_head: Cell::new(false),
            progress: ProgressCounter::default(),
            blocked: ProgressCounter::default(),
            order: Cell::new(ConnectionOrder::Continue),
            ending_since: Cell::new(None),
            is_quiet: Cell::new(false),
            is_streaming: Cell::new(false),
            unwritten: Cell::new(false),
            host: RefCell::default(),
            credential: RefCell::new(None),
            certificate: Cell::new(None),
            accepted_by: Cell::new(None),
            replaced_at: Cell::new(None),
            grace_ended: Notify::new(),
            waker: RefCell::new(None),
        })
    }

    /// Sets the protocol, once the first bytes have shown it.
    pub fn set_protocol(&self, speaks: HttpVersion) {
        self.protocol.set(speaks);
        self.in_head.set(false);
        self.progress.note();
    }

    /// Records that bytes were received.
    pub fn note_read(&self) {
        self.is_quiet.set(false);
        if self.protocol.get() == HttpVersion::Http1
            && self.in_flight.get() == 0
            && !self.in_head.replace(true)
        {
            self.progress.note();
        }
    }

    /// Records whether there are bytes left to write.
    pub fn note_unwritten(&self, is_left: bool) {
        self.unwritten.set(is_left);
    }

    /// Whether there are bytes left to write.
    pub fn has_unwritten(&self) -> bool {
        self.unwritten.get()
    }

    /// Records whether the client accepted bytes.
    pub fn note_write(&self, taken: bool) {
        if taken == self.is_stalled() {
            self.blocked.note();
        }
    }

    fn is_stalled(&self) -> bool {
        self.blocked.count.get() % 2 == 1
    }

    /// Counts a request as in flight until the guard is dropped, with the last byte of the response.
    pub fn begin_request(self: &Rc<Self>) -> ActiveRequest {
        self.in_flight.set(self.in_flight.get() + 1);
        self.begun.set(self.begun.get().wrapping_add(1));
        self.in_head.set(false);
        self.is_quiet.set(false);
        self.progress.note();
        ActiveRequest(Rc::clone(self))
    }

    /// How many requests have begun on the connection, modulo 2^32.
    pub fn requests_begun(&self) -> u32 {
        self.begun.get()
    }

    /// How many requests have begun, and are not answered completely.
    pub fn requests_in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Wakes the task when no request is in flight any more.
    pub fn wake_when_answered(&self) {
        self.wakes_when_answered.set(true);
    }

    /// Sets whether the request in flight is an event stream.
    pub fn note_stream(&self, streams: bool) {
        self.is_streaming.set(streams);
        self.note_progress();
    }

    /// Records that a part of a response was written.
    pub fn note_progress(&self) {
        self.is_quiet.set(false);
        self.progress.note();
    }

    /// The current order. The task is woken when it changes.
    pub fn current_order(&self, waker: &Waker) -> ConnectionOrder {
        let mut stored = self.waker.borrow_mut();
        if !stored.as_ref().is_some_and(|stored| stored.will_wake(waker)) {
            *stored = Some(waker.clone());
        }
        self.order.get()
    }

    /// Gives an order. An order never becomes less strict.
    pub fn tighten_order(&self, order: ConnectionOrder) {
        if order > self.order.get() {
            self.order.set(order);
            self.ending_since.set(self.ending_since.get().or_else(|| Some(Instant::now())));
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether the next response is the last one of the connection, and says so.
    pub fn is_closing(&self) -> bool {
        self.replaced_at.get().is_some() || self.order.get() != ConnectionOrder::Continue
    }

    /// Whether new requests are refused: over HTTP/2, some time after an order to end. A client that does not acknowledge the
    /// first GOAWAY never gets the one that forbids them (RFC 9113, section 6.8), and could begin streams until a deadline.
    pub fn refuses_requests(&self, now: Instant) -> bool {
        self.protocol.get() == HttpVersion::Http2 && self.is_grace_over(now)
    }

    /// Whether the requests in flight start no more calls: those of a framed stream or a batch, some time after the connection
    /// was ordered to end or its client certificate has to be verified again.
    pub fn is_grace_over(&self, now: Instant) -> bool {
        let since = self.ending_since.get().into_iter().chain(self.replaced_at.get()).min();
        since.is_some_and(|since| now.saturating_duration_since(since) >= CLOSE_AFTER)
    }

    /// Completes when the requests in flight start no more calls, up to a tick late. Cancel safe.
    pub async fn wait_for_grace_end(&self) {
        while !self.is_grace_over(Instant::now()) {
            // Registered before the next tick, as everything runs on one thread.
            self.grace_ended.notified().await;
        }
    }

    /// Ends a connection whose client certificate was accepted by settings that are replaced, so that the next handshake
    /// decides by the new ones. Requests in flight have as long as after a hand-over. Called once per tick.
    fn end_if_outdated(&self, now: Instant, config: &HttpConfig, current: ClientGeneration) {
        if self.accepted_by.get().is_none_or(|accepted_by| accepted_by == current) {
            return;
        }
        let replaced_at = self.replaced_at.get().unwrap_or(now);
        self.replaced_at.set(Some(replaced_at));
        let since = now.saturating_duration_since(replaced_at);
        if since >= CLOSE_AFTER + config.handover_deadline {
            self.tighten_order(ConnectionOrder::Close);
        } else if since >= CLOSE_AFTER || self.protocol.get() == HttpVersion::Http2 {
            self.tighten_order(ConnectionOrder::Drain);
        }
    }

    /// Whether the connection may be parked: nothing has happened for a while, and at most a silent stream is
    /// in flight. The task is woken when this becomes true. Always false for a connection that is to close,
    /// which its task does.
    pub fn can_park(&self) -> bool {
        self.is_quiet.get() && self.order.get() == ConnectionOrder::Continue
    }

    /// When the connection was last seen to change.
    pub fn last_changed_at(&self) -> Instant {
        self.progress.seen.get().map_or_else(Instant::now, |(_, since)| since)
    }

    /// Checks whether the connection may be parked. Called once per tick.
    fn update_can_park(&self, now: Instant) {
        let is_silent = (self.in_flight.get() == 0 || self.is_streaming.get()) && !self.in_head.get();
        if is_silent && self.progress.unchanged_for(now) >= PARK_AFTER && !self.is_quiet.replace(true) {
            self.wake();
        }
    }

    /// Whether the client has exceeded a timeout. Called once per tick.
    fn is_overdue(&self, now: Instant, config: &HttpConfig) -> bool {
        let (still, stalled) = (self.progress.unchanged_for(now), self.blocked.unchanged_for(now));
        let is_idle = self.in_flight.get() == 0 && !self.in_head.get();
        (self.in_head.get() && still >= config.header_timeout)
            || (self.is_stalled() && stalled >= config.idle_timeout)
            || (is_idle && still >= config.idle_timeout)
    }
}

/// Counts events, so that recording one does not read the clock.
#[derive(Default)]
pub struct ProgressCounter {
    count: Cell<u32>,
    /// The count when it was last seen to have changed, and the time of that.
    seen: Cell<Option<(u32, Instant)>>,
}

impl ProgressCounter {
    /// Records an event, without a look at the clock.
    pub fn note(&self) {
        self.count.set(self.count.get().wrapping_add(1));
    }

    /// How long the count has not changed, as observed by calls of this method.
    pub fn unchanged_for(&self, now: Instant) -> Duration {
        match self.seen.get() {
            Some((count, since)) if count == self.count.get() => now.saturating_duration_since(since),
            _ => {
                self.seen.set(Some((self.count.get(), now)));
                Duration::ZERO
            }
        }
    }
}

/// Counts a request as in flight until it is dropped.
pub struct ActiveRequest(Rc<ConnectionActivity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.progress.note();
        if self.0.in_flight.get() == 0 && self.0.wakes_when_answered.take() {
            self.0.wake();
        }
    }
}

/// The connections of one worker.
#[derive(Default)]
pub struct ConnectionRegistry {
    live: RefCell<HashMap<u64, Rc<ConnectionActivity>, RandomState>>,
    next: Cell<u64>,
}

impl ConnectionRegistry {
    /// Registers a connection until the guard is dropped.
    pub fn register<'a>(&'a self, activity: &Rc<ConnectionActivity>) -> ConnectionRegistration<'a> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.live.borrow_mut().insert(number, Rc::clone(activity));
        ConnectionRegistration { connections: self, number }
    }

    /// Closes connections that exceeded a timeout, and drains those whose client certificate was accepted by settings other
    /// than the current ones. Called once per tick.
    pub fn sweep(&self, config: &HttpConfig, current: ClientGeneration) {
        let now = Instant::now();
        for activity in self.live.borrow().values() {
            activity.update_can_park(now);
            activity.end_if_outdated(now, config, current);
            if activity.is_grace_over(now) {
                activity.grace_ended.notify_waiters();
            }
            let is_done = activity.refuses_requests(now) && activity.in_flight.get() == 0;
            if is_done || activity.is_overdue(now, config) {
                activity.tighten_order(ConnectionOrder::Close);
            }
        }
        let mut live = self.live.borrow_mut();
        if live.capacity() > ROOM_MIN && live.len() < live.capacity() / 4 {
            live.shrink_to_fit();
        }
    }

    /// The number of registered connections.
    pub fn open(&self) -> usize {
        self.live.borrow().len()
    }

    /// Counts the connections by their state, for metrics.
    pub fn count(&self) -> ConnectionCounts {
        let live = self.live.borrow();
        let at_rest = live.values().filter(|activity| activity.can_park()).count();
        let under_way = live.values().map(|activity| activity.in_flight.get() as usize).sum();
        ConnectionCounts { open: live.len(), idle: at_rest, requests_in_flight: under_way }
    }

    /// Gives all connections the same order.
    pub fn order_all(&self, order: ConnectionOrder) {
        self.live.borrow().values().for_each(|activity| activity.tighten_order(order));
    }
}

/// A registered connection. Dropping it removes it from the registry.
pub struct ConnectionRegistration<'a> {
    connections: &'a ConnectionRegistry,
    number: u64,
}

impl Drop for ConnectionRegistration<'_> {
    fn drop(&mut self) {
        self.connections.live.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HttpConfig {
        HttpConfig {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            ..crate::server::http1::guard::tests::config("127.0.0.1:0")
        }
    }

    /// Advances the clock by `for_s` seconds, with a tick every second, and checks whether a timeout was
    /// exceeded at any of them.
    #[track_caller]
    fn check(activity: &ConnectionActivity, clock: &mut Instant, for_s: u64, expected: bool) {
        let mut is_overdue = false;
        for _ in 0..for_s {
            *clock += Duration::from_secs(1);
            is_overdue |= activity.is_overdue(*clock, &config());
        }
        assert_eq!(is_overdue, expected, "within {for_s} s");
    }

    #[test]
    fn slow_clients_exceed_a_timeout() {
        let (activity, clock) = (ConnectionActivity::new(), &mut Instant::now());
        check(&activity, clock, 75, false);
        check(&activity, clock, 1, true);
        activity.note_read();
        check(&activity, clock, 5, false);
        // More bytes of the head do not restart its timeout.
        activity.note_read();
        check(&activity, clock, 5, false);
        check(&activity, clock, 1, true);
        let active = activity.begin_request();
        check(&activity, clock, 3600, false);
        activity.note_write(false);
        check(&activity, clock, 75, false);
        activity.note_write(false);
        check(&activity, clock, 1, true);
        activity.note_write(true);
        check(&activity, clock, 3600, false);
        drop(active);
        check(&activity, clock, 75, false);
        check(&activity, clock, 1, true);
    }

    #[test]
    fn a_read_on_http2_begins_no_head() {
        let (activity, clock) = (ConnectionActivity::new(), &mut Instant::now());
        activity.set_protocol(HttpVersion::Http2);
        activity.note_read();
        check(&activity, clock, 11, false);
    }

    /// Checks after each second whether the connection may be parked.
    #[track_caller]
    fn check_can_park(activity: &ConnectionActivity, clock: &mut Instant, expected: &[bool]) {
        for (second, expected) in expected.iter().enumerate() {
            *clock += Duration::from_secs(1);
            activity.update_can_park(*clock);
            assert_eq!(activity.can_park(), *expected, "{second}");
        }
    }

    #[test]
    fn a_closing_connection_is_never_parked() {
        let (activity, clock) = (ConnectionActivity::new(), &mut Instant::now());
        check_can_park(&activity, clock, &[false, false, true, true]);
        let _active = activity.begin_request();
        check_can_park(&activity, clock, &[false; 4]);
        activity.note_stream(true);
        check_can_park(&activity, clock, &[false, false, true]);
        activity.note_progress();
        activity.tighten_order(ConnectionOrder::Drain);
        check_can_park(&activity, clock, &[false; 4]);
        let activity = ConnectionActivity::new();
        check_can_park(&activity, clock, &[false, false, true]);
        activity.tighten_order(ConnectionOrder::Drain);
        check_can_park(&activity, clock, &[false]);
    }

    /// The order of each second after the settings that accepted a client's certificate were replaced: when it changes, and to
    /// what.
    #[track_caller]
    fn check_outdated(protocol: HttpVersion, accepted_by: Option<u64>, expected: &[(u64, ConnectionOrder)]) {
        let activity = ConnectionActivity::new();
        activity.set_protocol(protocol);
        activity.accepted_by.set(accepted_by.map(ClientGeneration));
        let config = HttpConfig { handover_deadline: Duration::from_secs(20), ..config() };
        let (begin, mut changes) = (Instant::now(), Vec::new());
        for second in 0..60 {
            let before = activity.order.get();
            activity.end_if_outdated(begin + Duration::from_secs(second), &config, ClientGeneration(2));
            if activity.order.get() != before {
                changes.push((second, activity.order.get()));
            }
            assert_eq!(activity.is_closing(), !expected.is_empty(), "in second {second}");
            let is_over = activity.is_grace_over(begin + Duration::from_secs(second));
            assert_eq!(is_over, !expected.is_empty() && second >= 5, "in second {second}");
        }
        assert_eq!(changes, expected, "{protocol:?} {accepted_by:?}");
    }

    #[test]
    fn a_connection_ends_with_the_settings_that_accepted_its_certificate() {
        use ConnectionOrder::{Close, Drain};
        check_outdated(HttpVersion::Http1, None, &[]);
        check_outdated(HttpVersion::Http1, Some(2), &[]);
        check_outdated(HttpVersion::Http1, Some(1), &[(5, Drain), (25, Close)]);
        check_outdated(HttpVersion::Http2, None, &[]);
        check_outdated(HttpVersion::Http2, Some(1), &[(0, Drain), (25, Close)]);
    }

    #[test]
    fn a_connection_that_is_to_end_refuses_requests_over_http2() {
        let activity = ConnectionActivity::new();
        activity.set_protocol(HttpVersion::Http2);
        let late = Instant::now() + Duration::from_mins(1);
        assert!(!activity.refuses_requests(late), "not yet ordered to end");
        let _active = activity.begin_request();
        activity.tighten_order(ConnectionOrder::Drain);
        assert!(!activity.refuses_requests(Instant::now()), "a request may be on its way");
        assert!(activity.refuses_requests(late));
        activity.set_protocol(HttpVersion::Http1);
        assert!(!activity.refuses_requests(late), "its next response ends it");
        assert!(activity.is_grace_over(late), "its framed stream starts no more calls");
    }

    #[test]
    fn a_shrunken_registry_frees_memory() {
        let connections = ConnectionRegistry::default();
        let activity = ConnectionActivity::new();
        let many: Vec<_> = (0..1000).map(|_| connections.register(&activity)).collect();
        connections.sweep(&config(), ClientGeneration::default());
        assert_eq!(connections.open(), 1000);
        drop(many);
        connections.sweep(&config(), ClientGeneration::default());
        assert!(connections.live.borrow().capacity() <= ROOM_MIN, "{}", connections.live.borrow().capacity());
    }
}
