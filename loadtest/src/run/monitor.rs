//! Observes a run: collects the counters of the workers, and derives intervals and progress from them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::settings::RunSettings;
use super::worker::BACKOFF_MAX;
use crate::counters::{LatencySummary, OperationCounters, RunCounters};
use crate::process::{ProcessUsage, sample_process};

/// Intervals per run. A plot cannot show more.
const INTERVALS_MAX: u32 = 200;

/// The shortest interval; shorter ones have too few requests.
const INTERVAL_MIN: Duration = Duration::from_millis(250);

/// The time between two progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// One interval of the measurement.
#[derive(Debug, Clone)]
pub struct Interval {
    /// Its end, since the start of the measurement.
    pub at: Duration,
    pub length: Duration,
    /// Correct responses of all operations.
    pub correct: u64,
    /// Failed requests of all operations.
    pub failed: u64,
    /// The latency of correct responses. A whole histogram per interval would take some 100 KiB.
    pub latency: Option<LatencySummary>,
    /// The sampled process at its end.
    pub process: Option<ProcessUsage>,
}

/// The state of a run, for people.
pub struct RunProgress<'a> {
    pub phase: RunPhase,
    /// Time since the phase began.
    pub at: Duration,
    /// The length of the phase.
    pub of: Duration,
    /// Requests since the last report.
    pub counters: &'a OperationCounters,
    /// Time since the last report.
    pub length: Duration,
    /// Errors since the start of the measurement.
    pub errors: u64,
}

/// The phases of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPhase {
    /// Requests are sent but not counted.
    WarmUp,
    /// Requests are sent and counted.
    Measure,
}

/// Collects the counters of the workers, and derives intervals and progress from them.
pub struct Monitor<'a> {
    run: &'a RunSettings,
    worker_counters: Vec<Arc<Mutex<RunCounters>>>,
    from: Instant,
    ends: Instant,
    /// Everything since the start of the measurement.
    pub total: RunCounters,
    /// A buffer for one collection.
    collected: RunCounters,
    /// Since the end of the last interval.
    interval: OperationCounters,
    /// Since the last progress report.
    window: OperationCounters,
    interval_began: Instant,
    reported: Instant,
    pub intervals: Vec<Interval>,
    /// The sampled process at the start of the measurement.
    pub first: Option<ProcessUsage>,
    /// The sampled process at the end of the measurement, before connections and sessions are closed.
    pub last: Option<ProcessUsage>,
}

impl<'a> Monitor<'a> {
    /// Creates a monitor for a measurement between `from` and `ends`.
    pub fn new(
        run: &'a RunSettings,
        operations: usize,
        from: Instant,
        ends: Instant,
        worker_counters: Vec<Arc<Mutex<RunCounters>>>,
    ) -> Self {
        let empty = RunCounters::new(operations);
        let none = empty.sum();
        Self {
            run,
            worker_counters,
            from,
            ends,
            total: empty.clone(),
            collected: empty,
            interval: none.clone(),
            window: none,
            interval_began: from,
            reported: Instant::now(),
            intervals: Vec::new(),
            first: None,
            last: None,
        }
    }

    /// Observes until every worker has dropped its sender, or until the longest request may have ended after a stop.
    pub async fn run(
        &mut self,
        mut ended: mpsc::Receiver<()>,
        on_progress: &mut dyn FnMut(&RunProgress<'_>),
    ) {
        let interval = (self.run.scenario.load.measure / INTERVALS_MAX).max(INTERVAL_MIN);
        let tick = interval.min(PROGRESS_INTERVAL);
        let mut ticks = interval_at(Instant::now() + tick, tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let stop_timeout = self.run.target.timeout + BACKOFF_MAX;
        let mut stopped = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = ended.recv() => break,
            }
            let now = Instant::now();
            self.collect();
            if now >= self.from && self.first.is_none() {
                self.first = self.run.pid.and_then(sample_process);
            }
            if now >= self.ends && self.last.is_none() {
                self.last = self.run.pid.and_then(sample_process);
            }
            // A tick that comes slightly early still ends the interval.
            if now + tick / 2 >= self.interval_began + interval && now > self.from {
                self.end_interval(now);
            }
            if now >= self.from && self.reported < self.from {
                // The first report of the measurement covers a whole window.
                self.reported = self.from;
            } else if now >= self.reported + PROGRESS_INTERVAL {
                self.report_progress(now, on_progress);
            }
            if self.run.stop.load(Ordering::Relaxed) && now > *stopped.get_or_insert(now) + stop_timeout {
                break;
            }
        }
        self.collect();
        self.end_interval(Instant::now());
    }

    /// Takes what the workers counted since the last call.
    pub fn collect(&mut self) {
        self.collected.clear();
        for counters in &self.worker_counters {
            let mut counters = counters.lock().expect("no holder of the lock panics");
            self.collected.add(&counters);
            counters.clear();
        }
        self.total.add(&self.collected);
        let sum = self.collected.sum();
        self.interval.add(&sum);
        self.window.add(&sum);
    }

    fn end_interval(&mut self, now: Instant) {
        let length = now.saturating_duration_since(self.interval_began);
        // The time after the end is too short for an interval of its own.
        let is_remainder = now > self.ends && length < INTERVAL_MIN / 2;
        if length.is_zero() || is_remainder {
            return;
        }
        let at = now.saturating_duration_since(self.from);
        self.intervals.push(Interval {
            at,
            length,
            correct: self.interval.correct(),
            failed: self.interval.failed(),
            latency: LatencySummary::from_histogram(&self.interval.latencies),
            process: self.run.pid.and_then(sample_process),
        });
        self.interval.clear();
        self.interval_began = now;
    }

    fn report_progress(&mut self, now: Instant, on_progress: &mut dyn FnMut(&RunProgress<'_>)) {
        let load = &self.run.scenario.load;
        let (phase, at, of) = match now.checked_duration_since(self.from) {
            Some(at) => (RunPhase::Measure, at, load.measure),
            None => (RunPhase::WarmUp, load.warm_up.saturating_sub(self.from - now), load.warm_up),
        };
        on_progress(&RunProgress {
            phase,
            at,
            of,
            counters: &self.window,
            length: now.saturating_duration_since(self.reported.max(self.from)),
            errors: self.total.errors().values().sum(),
        });
        self.window.clear();
        self.reported = now;
    }

    /// The time from the start of the measurement to its end, or to now if it was ended early. Requests that were sent before
    /// the end and answered after it, at most one per connection, count but do not extend the time.
    pub fn length(&self) -> Duration {
        Instant::now().min(self.ends).saturating_duration_since(self.from)
    }
}
