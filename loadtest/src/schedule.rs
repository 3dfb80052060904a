//! When each request is due.
//!
//! In the open loop, due times are fixed in advance: request `n` is due at `start + n / rate`, and its latency counts from
//! then, even if no connection was free. Otherwise a server that stalls would receive no requests during the stall, and the
//! stall would appear in one latency instead of those of all requests that were due (coordinated omission: G. Tene, "How NOT
//! to Measure Latency"). Due requests are not queued: a free connection takes the next due time, so nothing grows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::counters::RunCounters;

/// The granularity of due times. They are rounded down, so that a high rate does not wake a thread for each request.
pub const TICK: Duration = Duration::from_micros(250);

/// Requests that were due before the end are sent for this long after it, since waking up takes time.
const GRACE: Duration = Duration::from_millis(250);

/// The longest time until a stop is noticed.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The requests of a run that one worker sends.
#[derive(Debug, Clone, Copy)]
pub struct SchedulePlan {
    /// When the first request is due.
    pub start: Instant,
    /// No request is due from here on.
    pub end: Instant,
    /// Requests per second over all workers; `None` in the closed loop.
    pub rate: Option<f64>,
    /// The number of this worker.
    pub worker: u64,
    /// The number of workers.
    pub workers: u64,
    /// Requests of this worker.
    pub requests_max: Option<u64>,
}

impl SchedulePlan {
    /// Returns when a request of this worker is due.
    fn due(&self, number: u64, rate: f64) -> Instant {
        // Exact for all requests that a run can have.
        #[allow(clippy::cast_precision_loss)]
        let after = Duration::from_secs_f64((number * self.workers + self.worker) as f64 / rate);
        let tick = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
        let into_tick = u64::try_from(after.as_nanos() % u128::from(tick)).unwrap_or(0);
        self.start + after.saturating_sub(Duration::from_nanos(into_tick))
    }

    /// Counts the requests that are due before the end, in the open loop.
    fn due_by(&self, end: Instant, rate: f64) -> u64 {
        let (mut low, mut high) = (0, u64::MAX >> 16);
        let seconds = end.saturating_duration_since(self.start).as_secs_f64();
        // An upper bound for the binary search.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let guess = (seconds * rate) as u64 + 2;
        high = high.min(guess);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.due(middle, rate) < end { low = middle + 1 } else { high = middle }
        }
        self.requests_max.map_or(low, |max| low.min(max))
    }
}

/// Hands out due times to the connections of one worker, in order.
pub struct Schedule {
    plan: SchedulePlan,
    state: Mutex<ScheduleState>,
    stop: Arc<AtomicBool>,
    counters: Arc<StdMutex<RunCounters>>,
}

struct ScheduleState {
    /// Due times that were handed out.
    taken: u64,
    pacer: Pacer,
}

impl Schedule {
    /// Creates a schedule. Setting `stop` ends it early.
    pub fn new(
        plan: SchedulePlan,
        pacer: Pacer,
        stop: Arc<AtomicBool>,
        counters: Arc<StdMutex<RunCounters>>,
    ) -> Self {
        Self { plan, state: Mutex::new(ScheduleState { taken: 0, pacer }), stop, counters }
    }

    /// Waits until the next request is due, and returns its due time. `None` at the end.
    pub async fn next(&self) -> Option<Instant> {
        let plan = &self.plan;
        let mut state = self.state.lock().await;
        if plan.requests_max.is_some_and(|max| state.taken >= max) || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let due = match plan.rate {
            None => now.max(plan.start),
            Some(rate) => plan.due(state.taken, rate),
        };
        if due >= plan.end || now >= plan.end + GRACE {
            // A run lasts its time, even if the last response came earlier.
            self.wait(&state.pacer, plan.end).await;
            return None;
        }
        if due > now {
            self.wait(&state.pacer, due).await;
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let late = Instant::now().saturating_duration_since(due);
            self.counters.lock().expect("no holder of the lock panics").record_lateness(late);
        }
        state.taken += 1;
        Some(due)
    }

    /// Waits until a time, or until a stop.
    async fn wait(&self, pacer: &Pacer, until: Instant) {
        let mut now = Instant::now();
        while now < until && !self.stop.load(Ordering::Relaxed) {
            pacer.wait_until(until.min(now + STOP_POLL_INTERVAL)).await;
            now = Instant::now();
        }
    }

    /// Counts the requests that were due but not sent. Call it at the end.
    pub async fn unsent(&self) -> u64 {
        let taken = self.state.lock().await.taken;
        match self.plan.rate {
            Some(rate) if !self.stop.load(Ordering::Relaxed) => {
                self.plan.due_by(self.plan.end, rate).saturating_sub(taken)
            }
            _ => 0,
        }
    }
}

/// A timer for due times.
pub enum Pacer {
    /// The timer of tokio. It has a resolution of one millisecond, and can be paused in tests.
    Timer,
    /// A thread that sleeps. It is late by some 0.1 ms.
    Thread {
        /// Sends the thread the next time to wait for.
        until: mpsc::Sender<Instant>,
        /// Notified when that time has come.
        woken: Arc<Notify>,
    },
}

impl Pacer {
    /// Starts a thread, which ends when the pacer is dropped.
    pub fn with_thread() -> std::io::Result<Self> {
        let (until, times) = mpsc::channel();
        let woken = Arc::new(Notify::new());
        let notify = Arc::clone(&woken);
        std::thread::Builder::new().name("pacer".to_owned()).spawn(move || run_pacer(&times, &notify))?;
        Ok(Self::Thread { until, woken })
    }

    async fn wait_until(&self, time: Instant) {
        match self {
            Self::Timer => tokio::time::sleep_until(time).await,
            Self::Thread { until, woken } => {
                while Instant::now() < time && until.send(time).is_ok() {
                    woken.notified().await;
                }
            }
        }
    }
}

fn run_pacer(times: &mpsc::Receiver<Instant>, woken: &Notify) {
    let mut next = times.recv().ok();
    while let Some(time) = next {
        match times.recv_timeout(time.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {
                woken.notify_one();
                next = times.recv().ok();
            }
            // The waiting task was dropped, and another one waits now.
            Ok(other) => next = Some(other),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the due times of all workers, in microseconds after the start, if each response comes at once.
    #[track_caller]
    fn check(rate: Option<f64>, workers: u64, seconds: f64, requests_max: Option<u64>, expected: &[u64]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let found = runtime.unwrap().block_on(async {
            let start = Instant::now();
            let end = start + Duration::from_secs_f64(seconds);
            let mut found = Vec::new();
            for worker in 0..workers {
                let plan = SchedulePlan { start, end, rate, worker, workers, requests_max };
                let counters = Arc::new(StdMutex::new(RunCounters::new(1)));
                let schedule = Schedule::new(plan, Pacer::Timer, Arc::default(), counters);
                while found.len() < 100
                    && let Some(due) = schedule.next().await
                {
                    found.push(u64::try_from((due - start).as_micros()).unwrap());
                }
                assert_eq!(schedule.unsent().await, 0);
            }
            found.sort_unstable();
            found
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn due_times_are_evenly_spaced() {
        check(Some(10.0), 1, 0.35, None, &[0, 100_000, 200_000, 300_000]);
        check(Some(10.0), 1, 0.3, None, &[0, 100_000, 200_000]);
        check(Some(10.0), 1, 10.0, Some(2), &[0, 100_000]);
        // At most one wake-up per tick.
        check(Some(8000.0), 1, 0.0006, None, &[0, 0, 250, 250, 500, 500]);
        check(None, 1, 1.0, Some(3), &[0, 0, 0]);
    }

    #[test]
    fn lanes_share_the_rate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let start = Instant::now();
            let end = start + Duration::from_secs(1);
            let plan = |worker| SchedulePlan {
                start,
                end,
                rate: Some(10.0),
                worker,
                workers: 3,
                requests_max: None,
            };
            let due = |worker, number| plan(worker).due(number, 10.0).duration_since(start).as_millis();
            assert_eq!([due(0, 0), due(1, 0), due(2, 0), due(0, 1)], [0, 100, 200, 300]);
            let counts = [0, 1, 2].map(|worker| plan(worker).due_by(end, 10.0));
            assert_eq!(counts, [4, 3, 3]);
        });
    }

    /// A stop is noticed long before the next request is due.
    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let start = Instant::now();
        let end = start + Duration::from_hours(1);
        let plan = SchedulePlan { start, end, rate: Some(0.01), worker: 0, workers: 1, requests_max: None };
        let (stop, counters) =
            (Arc::new(AtomicBool::new(false)), Arc::new(StdMutex::new(RunCounters::new(1))));
        let schedule = Schedule::new(plan, Pacer::Timer, Arc::clone(&stop), counters);
        assert!(schedule.next().await.is_some());
        let request_stop = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.store(true, Ordering::Relaxed);
        };
        let (next, ()) = tokio::join!(schedule.next(), request_stop);
        assert!(next.is_none());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(schedule.unsent().await, 0);
    }

    /// A slow connection still gets the due times that passed meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_stall_does_not_move_due_times() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let plan = SchedulePlan { start, end, rate: Some(100.0), worker: 0, workers: 1, requests_max: None };
        let counters = Arc::new(StdMutex::new(RunCounters::new(1)));
        let schedule = Schedule::new(plan, Pacer::Timer, Arc::default(), counters);
        let mut dues = Vec::new();
        while let Some(due) = schedule.next().await {
            if dues.is_empty() {
                tokio::time::advance(Duration::from_millis(500)).await;
            }
            dues.push((due - start).as_millis());
        }
        let even: Vec<_> = (0..100).map(|number| number * 10).collect();
        assert_eq!(dues, even);
        assert_eq!(schedule.unsent().await, 0);
        // If the only connection never returns, the rest stays unsent.
        let plan =
            SchedulePlan { start: Instant::now(), end: Instant::now() + Duration::from_secs(1), ..plan };
        let schedule =
            Schedule::new(plan, Pacer::Timer, Arc::default(), Arc::new(StdMutex::new(RunCounters::new(1))));
        assert!(schedule.next().await.is_some());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(schedule.next().await.is_none());
        assert_eq!(schedule.unsent().await, 99);
    }
}
