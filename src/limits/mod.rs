//! Who may have how much at once.
//!
//! Invariant: what is held is given back when the guard is dropped, which is with the last byte of the
//! response body. Does not know: what a request asks for, or of which upstream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::utils::CachePadded;

use crate::auth::{Identity, KeyId, Rate};

/// Limits per key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Requests under way at once for one key, event streams included.
    pub key_in_flight_max: usize,
}

/// The counts of all keys.
pub struct Limits {
    config: Config,
    /// Guards the map, not the counts: a worker asks once for each key it meets.
    gauges: Mutex<HashMap<KeyId, Arc<Gauge>>>,
}

/// How much one key has under way, and how much it asked for of late. Padded: workers count on it at the same time.
pub struct Gauge {
    in_flight: CachePadded<AtomicUsize>,
    max: usize,
    /// When a key with a rate has none of its burst taken, in microseconds since the start.
    even_at: CachePadded<AtomicU64>,
    start: Instant,
}

/// Why there is no place. The text is for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many at once.
    #[error("this key has too many requests under way; wait for some to end")]
    Busy,
    /// Too many of late.
    #[error("this key asks more often than it may; ask again later")]
    Fast,
}

/// A place among a key's requests under way, given back when dropped.
pub struct Permit(Arc<Gauge>);

/// Keys with a count of their own at once; when there are more, those with nothing under way are forgotten.
const GAUGES_MAX: usize = 65_536;

impl Limits {
    /// With nothing under way.
    pub fn new(config: Config) -> Self {
        Self { config, gauges: Mutex::default() }
    }

    /// The count of a key. For a worker to keep at hand: it takes a lock.
    pub fn gauge(&self, identity: &Identity) -> Arc<Gauge> {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if gauges.len() >= GAUGES_MAX {
            gauges.retain(|_, gauge| Arc::strong_count(gauge) > 1);
        }
        Arc::clone(gauges.entry(identity.key_id()).or_insert_with(|| {
            Arc::new(Gauge {
                in_flight: CachePadded::new(AtomicUsize::new(0)),
                max: self.config.key_in_flight_max,
                even_at: CachePadded::new(AtomicU64::new(0)),
                start: Instant::now(),
            })
        }))
    }
}

impl Gauge {
    /// A place, when the key may have one more.
    pub fn admit(self: &Arc<Self>, identity: &Identity) -> Result<Permit, Refused> {
        let own_max = identity.concurrency().and_then(|max| usize::try_from(max).ok());
        let permit = Permit(Arc::clone(self));
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.max.min(own_max.unwrap_or(usize::MAX)) {
            return Err(Refused::Busy);
        }
        if let Some(rate) = identity.rate() {
            let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.take(rate, now)?;
        }
        Ok(permit)
    }

    /// The generic cell rate algorithm (ITU-T I.371): a request moves the time at which all is even again by the
    /// time that one request has, and is refused where that would be further ahead than the burst.
    fn take(&self, rate: Rate, now: u64) -> Result<(), Refused> {
        let each = SECOND_US / u64::from(rate.per_second.max(1));
        let ahead_max = each.saturating_mul(u64::from(rate.burst.max(1)));
        let next = |even_at: u64| {
            let next = even_at.max(now).saturating_add(each);
            (next <= now.saturating_add(ahead_max)).then_some(next)
        };
        match self.even_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refused::Fast),
        }
    }
}

const SECOND_US: u64 = 1_000_000;

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge() -> Gauge {
        Gauge {
            in_flight: CachePadded::new(AtomicUsize::new(0)),
            max: 2,
            even_at: CachePadded::new(AtomicU64::new(0)),
            start: Instant::now(),
        }
    }

    /// Times in milliseconds, each with whether a request is let in then.
    #[track_caller]
    fn check(per_second: u32, burst: u32, asked: &[(u64, bool)]) {
        let gauge = gauge();
        let let_in = |at: u64| gauge.take(Rate { per_second, burst }, at * 1000).is_ok();
        let outcome: Vec<_> = asked.iter().map(|(at, _)| (*at, let_in(*at))).collect();
        assert_eq!(outcome, asked, "{per_second} a second, {burst} at once");
    }

    #[test]
    fn a_burst_and_then_its_rate() {
        check(10, 1, &[(0, true), (0, false), (99, false), (100, true), (150, false), (1000, true)]);
        check(10, 3, &[(0, true), (0, true), (0, true), (0, false), (100, true), (100, false), (9000, true)]);
        // Time that was not used is worth no more than the burst.
        check(1, 2, &[(60_000, true), (60_000, true), (60_000, false), (61_000, true)]);
        check(0, 0, &[(0, true), (0, false), (1000, true)]);
    }

    #[test]
    fn a_place_is_given_back() {
        let gauge = Arc::new(gauge());
        let identity = Identity::sample("AAAAAAAAAAAA");
        let held = [gauge.admit(&identity).expect("one of two"), gauge.admit(&identity).expect("two of two")];
        assert_eq!(gauge.admit(&identity).err(), Some(Refused::Busy));
        drop(held);
        assert!(gauge.admit(&identity).is_ok());
    }
}
