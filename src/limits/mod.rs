//! Who may have how much at once.
//!
//! Invariant: what is held is given back when the guard is dropped, which is with the last byte of the
//! response body. Does not know: what a request asks for, or of which backend.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::utils::CachePadded;

use crate::auth::{Identity, KeyId};

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

/// How much one key has under way. Padded: workers count on it at the same time.
pub struct Gauge {
    in_flight: CachePadded<AtomicUsize>,
    max: usize,
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
            })
        }))
    }
}

impl Gauge {
    /// A place, when there is one.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let permit = Permit(Arc::clone(self));
        (self.in_flight.fetch_add(1, Ordering::Relaxed) < self.max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
