//! What the threads of a load share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::message::response_id;

/// Send times that are kept. More than any window, so that a time is not overwritten before its response arrives.
const SEND_TIMES: usize = 1 << 14;

/// The options of the threads.
#[derive(Clone)]
pub struct LoadOptions {
    pub method: String,
    pub is_lines: bool,
    /// Most requests in flight.
    pub window: u64,
    /// Requests in one chunk.
    pub batch: u64,
}

/// The counters of a load, and its window.
pub struct LoadState {
    pub responses: AtomicU64,
    pub failed: AtomicU64,
    /// Nanoseconds since the start, by id.
    pub sent: Vec<AtomicU64>,
    pub is_over: AtomicBool,
    /// The number of requests in flight. Notified with each response.
    pub in_flight: (Mutex<u64>, Condvar),
    pub start: Instant,
}

impl LoadState {
    pub fn new() -> Self {
        Self {
            responses: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sent: (0..SEND_TIMES).map(|_| AtomicU64::new(0)).collect(),
            is_over: AtomicBool::new(false),
            in_flight: (Mutex::new(0), Condvar::new()),
            start: Instant::now(),
        }
    }

    /// Counts responses, and frees their places in the window.
    pub fn add_responses(&self, responses: u64) {
        self.responses.fetch_add(responses, Ordering::Relaxed);
        let mut in_flight = self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        *in_flight -= responses;
        self.in_flight.1.notify_one();
    }

    /// Records the latencies of responses. Returns how many messages are responses; others count as failed.
    pub fn record_responses(&self, messages: &mut Vec<Vec<u8>>, latencies: &mut Vec<u64>) -> u64 {
        let now = self.elapsed_ns();
        let mut responses = 0;
        for message in messages.drain(..) {
            let Some(id) = response_id(&message) else {
                self.failed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            responses += 1;
            latencies.push(now.saturating_sub(self.sent_at(id).load(Ordering::Relaxed)));
        }
        responses
    }

    /// Nanoseconds since the start.
    pub fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The send time of a request.
    pub fn sent_at(&self, id: u64) -> &AtomicU64 {
        &self.sent[usize::try_from(id).unwrap_or_default() % SEND_TIMES]
    }
}
