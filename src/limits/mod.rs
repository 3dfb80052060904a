//! Admission: how many requests a key may have in flight, how many event streams it may keep open, how fast it may send
//! requests, and how much it may use in a day and in a month.
//!
//! Invariant: a [`Permit`] is released when it is dropped, which happens with the last byte of the response body.
//!
//! Does not know: what a request asks for, or which upstream it goes to.

mod quota;

pub use quota::{BaseUpdate, QuotaCounters, QuotaExceeded};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::utils::CachePadded;
use metamcp_config::sections::LimitsConfig;

use metamcp_core::base::KeyId;
use metamcp_store::auth::{Identity, Quotas, Rate, UsedAmount};

/// The usage of all keys.
pub struct Limits {
    bounds: Arc<KeyBounds>,
    /// Guards the map, not the counters. A worker locks it once for each key that is new to it.
    usages: Mutex<HashMap<KeyId, Arc<KeyUsage>>>,
}

/// The in-flight requests, open event streams and recent request rate of one key. Padded, since all workers
/// update it.
pub struct KeyUsage {
    in_flight: CachePadded<AtomicUsize>,
    event_streams: CachePadded<AtomicUsize>,
    /// Messages admitted while all slots of calls are taken.
    messages: CachePadded<AtomicUsize>,
    /// Whether the log says that the key has too many event streams. The client cannot raise the limit.
    has_warned_of_streams: AtomicBool,
    bounds: Arc<KeyBounds>,
    /// When the whole burst is available again, in microseconds since `start`: the theoretical arrival time of GCRA.
    burst_restored_us: CachePadded<AtomicU64>,
    start: Instant,
    /// Counts only while the key has a quota.
    quota: CachePadded<QuotaCounters>,
}

/// The limits of every key, as they are now. Each is read on its own.
struct KeyBounds {
    in_flight_max: AtomicUsize,
    event_streams_max: AtomicUsize,
}

/// Why a request is not admitted. The text is sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("this key has too many requests in flight; wait for some to complete")]
    TooManyInFlight,
    #[error("this key has too many event streams open; close some")]
    TooManyEventStreams,
    #[error("this key exceeds its request rate; retry later")]
    RateExceeded,
}

/// What a permit is for. Each has a limit of its own, so that silent streams do not displace calls, and calls not the
/// messages that end them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitKind {
    /// A request that ends with its response. Bounded by `limits.key_in_flight_max` and the key's own concurrency.
    Call,
    /// A response that stays open until a side ends it: a GET stream, `subscriptions/listen`, a framed stream. Bounded
    /// by `limits.key_event_streams_max` alone: a key that may run one call at a time still listens meanwhile.
    EventStream,
    /// A notification or a response, a message that is not read yet, or the end of a session: as a call, but if all slots of
    /// calls are taken, among a few more that are for messages. A call in flight may wait for it, or end because of it.
    Message,
}

/// A slot among a key's in-flight requests or open event streams. Dropping it releases the slot.
pub struct Permit {
    usage: Arc<KeyUsage>,
    kind: PermitKind,
}

/// A call of a key that has a quota, counted when it was admitted.
pub struct ReservedCall {
    usage: Arc<KeyUsage>,
    unix_s: u64,
}

/// Messages of one key in flight beyond the limit of calls. A server accepts one without running anything, so that they
/// end quickly; a client that is told to wait sends it again.
const MESSAGES_MAX: usize = 64;

/// Keys tracked at once. When it is reached, keys that no worker uses are dropped from the map.
const KEYS_MAX: usize = 65_536;

impl Limits {
    pub fn new(config: &LimitsConfig) -> Self {
        Self { bounds: KeyBounds::new(config), usages: Mutex::default() }
    }

    /// Applies other limits, also to keys in use. What is admitted already stays.
    pub fn set(&self, config: &LimitsConfig) {
        self.bounds.in_flight_max.store(config.key_in_flight_max, Ordering::Relaxed);
        self.bounds.event_streams_max.store(config.key_event_streams_max, Ordering::Relaxed);
    }

    /// The usage of a key. Takes a lock, so workers cache the result.
    pub fn usage(&self, identity: &Identity) -> Arc<KeyUsage> {
        self.key_usage(identity.key_id())
    }

    /// The usage of the key with this id.
    pub fn key_usage(&self, key_id: KeyId) -> Arc<KeyUsage> {
        let mut usages = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        if usages.len() >= KEYS_MAX {
            usages.retain(|_, usage| Arc::strong_count(usage) > 1);
        }
        let usage = usages.entry(key_id).or_insert_with(|| Arc::new(KeyUsage::new(Arc::clone(&self.bounds))));
        Arc::clone(usage)
    }
}

impl KeyBounds {
    fn new(config: &LimitsConfig) -> Arc<Self> {
        let (in_flight_max, event_streams_max) = (config.key_in_flight_max, config.key_event_streams_max);
        Arc::new(Self {
            in_flight_max: AtomicUsize::new(in_flight_max),
            event_streams_max: AtomicUsize::new(event_streams_max),
        })
    }
}

impl KeyUsage {
    fn new(bounds: Arc<KeyBounds>) -> Self {
        Self {
            in_flight: CachePadded::new(AtomicUsize::new(0)),
            event_streams: CachePadded::new(AtomicUsize::new(0)),
            messages: CachePadded::new(AtomicUsize::new(0)),
            has_warned_of_streams: AtomicBool::new(false),
            bounds,
            burst_restored_us: CachePadded::new(AtomicU64::new(0)),
            start: Instant::now(),
            quota: CachePadded::default(),
        }
    }

    /// What the key used in the current day and month.
    pub fn quota(&self) -> &QuotaCounters {
        &self.quota
    }

    /// Admits a request if the key is within its limits.
    pub fn admit(self: &Arc<Self>, identity: &Identity, kind: PermitKind) -> Result<Permit, AdmissionError> {
        let permit = self.take(identity, kind)?;
        if let Some(rate) = identity.rate() {
            let now_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.consume(rate, now_us)?;
        }
        Ok(permit)
    }

    /// Takes a slot, whatever the rate.
    fn take(self: &Arc<Self>, identity: &Identity, kind: PermitKind) -> Result<Permit, AdmissionError> {
        let (slots, max, refusal) = match kind {
            PermitKind::Call => {
                (&self.in_flight, self.in_flight_max(identity), AdmissionError::TooManyInFlight)
            }
            PermitKind::EventStream => {
                let max = self.bounds.event_streams_max.load(Ordering::Relaxed);
                (&self.event_streams, max, AdmissionError::TooManyEventStreams)
            }
            PermitKind::Message => return self.take_for_message(identity),
        };
        // Made first, so that a refusal releases the slot too.
        let permit = Permit { usage: Arc::clone(self), kind };
        if slots.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(permit);
        }
        if refusal == AdmissionError::TooManyEventStreams {
            self.warn_of_streams(identity);
        }
        Err(refusal)
    }

    /// Takes a slot of a call, or one of a message if there is none.
    fn take_for_message(self: &Arc<Self>, identity: &Identity) -> Result<Permit, AdmissionError> {
        self.take(identity, PermitKind::Call).or_else(|refusal| {
            let permit = Permit { usage: Arc::clone(self), kind: PermitKind::Message };
            if self.messages.fetch_add(1, Ordering::Relaxed) < MESSAGES_MAX {
                Ok(permit)
            } else {
                Err(refusal)
            }
        })
    }

    /// Warns once: a client may try again without end.
    #[cold]
    fn warn_of_streams(&self, identity: &Identity) {
        if !self.has_warned_of_streams.swap(true, Ordering::Relaxed) {
            let (key, open) = (identity.key_id(), self.bounds.event_streams_max.load(Ordering::Relaxed));
            tracing::warn!(%key, open, "a key has too many event streams open; consider a greater limits.key_event_streams_max");
        }
    }

    /// How many requests can be admitted at once, if none is in flight and none was sent for long.
    pub fn at_once_max(&self, identity: &Identity) -> usize {
        let burst = identity.rate().and_then(|rate| usize::try_from(rate.burst.max(1)).ok());
        self.in_flight_max(identity).min(burst.unwrap_or(usize::MAX))
    }

    fn in_flight_max(&self, identity: &Identity) -> usize {
        let key_max = identity.concurrency().and_then(|max| usize::try_from(max).ok());
        self.bounds.in_flight_max.load(Ordering::Relaxed).min(key_max.unwrap_or(usize::MAX))
    }

    /// The generic cell rate algorithm (ITU-T I.371). Each request delays the time at which the whole burst is
    /// available again by one interval. A request is refused if that time would lie further ahead than the burst.
    fn consume(&self, rate: Rate, now_us: u64) -> Result<(), AdmissionError> {
        let interval_us = SECOND_US / u64::from(rate.per_second.max(1));
        let burst_us = interval_us.saturating_mul(u64::from(rate.burst.max(1)));
        let next = |restored_us: u64| {
            let next_us = restored_us.max(now_us).saturating_add(interval_us);
            (next_us <= now_us.saturating_add(burst_us)).then_some(next_us)
        };
        match self.burst_restored_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(_) => Err(AdmissionError::RateExceeded),
        }
    }
}

const SECOND_US: u64 = 1_000_000;

impl Permit {
    /// Checks that a request may run with it: not if all slots of calls were taken.
    pub fn check_request(&self) -> Result<(), AdmissionError> {
        match self.kind {
            PermitKind::Message => Err(AdmissionError::TooManyInFlight),
            PermitKind::Call | PermitKind::EventStream => Ok(()),
        }
    }

    /// Exchanges the slot of a request for that of an event stream. The rate was charged with the request.
    /// # Errors
    /// Too many event streams are open.
    pub fn into_event_stream(self, identity: &Identity) -> Result<Self, AdmissionError> {
        self.usage.take(identity, PermitKind::EventStream)
    }
}

impl ReservedCall {
    /// Counts a call, unless a quota of its key is used up.
    pub fn reserve(usage: Arc<KeyUsage>, quotas: &Quotas, unix_s: u64) -> Result<Self, QuotaExceeded> {
        usage.quota.reserve(quotas, unix_s)?;
        Ok(Self { usage, unix_s })
    }

    /// Adds what usage is about to count. `is_in_usage` says whether it counts that under the key.
    pub fn add(&self, amount: UsedAmount, unix_s: u64, is_in_usage: bool) {
        self.usage.quota.add(self.unix_s, amount, unix_s, is_in_usage);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let slots = match self.kind {
            PermitKind::Call => &self.usage.in_flight,
            PermitKind::EventStream => &self.usage.event_streams,
            PermitKind::Message => &self.usage.messages,
        };
        slots.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends requests at the given times, in milliseconds, each with whether it is admitted.
    #[track_caller]
    fn check(per_second: u32, burst: u32, requests: &[(u64, bool)]) {
        let usage = KeyUsage::new(KeyBounds::new(&CONFIG));
        let is_admitted = |at_ms: u64| usage.consume(Rate { per_second, burst }, at_ms * 1000).is_ok();
        let outcome: Vec<_> = requests.iter().map(|(at_ms, _)| (*at_ms, is_admitted(*at_ms))).collect();
        assert_eq!(outcome, requests, "{per_second} per second, burst {burst}");
    }

    #[test]
    fn admits_a_burst_and_then_the_rate() {
        check(10, 1, &[(0, true), (0, false), (99, false), (100, true), (150, false), (1000, true)]);
        check(10, 3, &[(0, true), (0, true), (0, true), (0, false), (100, true), (100, false), (9000, true)]);
        // Unused time is worth no more than the burst.
        check(1, 2, &[(60_000, true), (60_000, true), (60_000, false), (61_000, true)]);
        check(0, 0, &[(0, true), (0, false), (1000, true)]);
    }

    const CONFIG: LimitsConfig =
        LimitsConfig { key_in_flight_max: 2, key_event_streams_max: 3, memory_max: 0 };

    /// Takes permits until one is refused. Returns how many were granted, and the refusal.
    fn fill(usage: &Arc<KeyUsage>, kind: PermitKind) -> (Vec<Permit>, AdmissionError) {
        let identity = Identity::sample("AAAAAAAAAAAA");
        let mut permits = Vec::new();
        loop {
            match usage.admit(&identity, kind) {
                Ok(permit) => permits.push(permit),
                Err(refusal) => return (permits, refusal),
            }
        }
    }

    #[test]
    fn dropping_a_permit_releases_its_slot() {
        let usage = Arc::new(KeyUsage::new(KeyBounds::new(&CONFIG)));
        for _ in 0..2 {
            let (streams, refusal) = fill(&usage, PermitKind::EventStream);
            assert_eq!((streams.len(), refusal), (3, AdmissionError::TooManyEventStreams));
            // No stream takes the slot of a call.
            let (calls, refusal) = fill(&usage, PermitKind::Call);
            assert_eq!((calls.len(), refusal), (2, AdmissionError::TooManyInFlight));
        }
    }

    #[test]
    fn messages_pass_when_all_slots_of_calls_are_taken() {
        let usage = Arc::new(KeyUsage::new(KeyBounds::new(&CONFIG)));
        for _ in 0..2 {
            let (mut calls, _) = fill(&usage, PermitKind::Call);
            let (messages, refusal) = fill(&usage, PermitKind::Message);
            assert_eq!((messages.len(), refusal), (MESSAGES_MAX, AdmissionError::TooManyInFlight));
            assert!(messages.iter().all(|message| message.check_request().is_err()));
            calls.pop();
            let (freed, _) = fill(&usage, PermitKind::Message);
            assert_eq!(freed.iter().map(Permit::check_request).collect::<Vec<_>>(), [Ok(())]);
        }
    }

    #[test]
    fn clients_are_told_of_no_setting() {
        use AdmissionError::{RateExceeded, TooManyEventStreams, TooManyInFlight};
        for refusal in [TooManyInFlight, TooManyEventStreams, RateExceeded] {
            let text = refusal.to_string();
            assert!(text.starts_with("this key") && !text.contains("limits."), "{text}");
        }
    }

    #[test]
    fn a_call_that_becomes_a_stream_releases_its_slot() {
        let identity = Identity::sample("AAAAAAAAAAAA");
        let usage = Arc::new(KeyUsage::new(KeyBounds::new(&CONFIG)));
        let call = || usage.admit(&identity, PermitKind::Call).expect("a call");
        let streams: Vec<_> =
            (0..3).map(|_| call().into_event_stream(&identity).expect("a stream")).collect();
        let refusal = call().into_event_stream(&identity).err();
        assert_eq!(refusal, Some(AdmissionError::TooManyEventStreams));
        assert_eq!(fill(&usage, PermitKind::Call).0.len(), 2, "no call is in flight");
        drop(streams);
        assert_eq!(fill(&usage, PermitKind::EventStream).0.len(), 3);
    }
}
