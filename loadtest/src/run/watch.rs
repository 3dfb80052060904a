//! Looks at a run while it is under way: takes the tallies away, and makes points and progress of them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Run;
use super::lane::BACKOFF_MAX;
use crate::process::{Taken, sample};
use crate::tally::{Counts, Summary, Tally};

/// More could not be told apart in a plot.
const POINTS_MAX: u32 = 200;

/// Shorter parts of a run say little.
const POINT_MIN: Duration = Duration::from_millis(250);

/// Progress is told as often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A part of the time that was measured.
#[derive(Debug, Clone)]
pub struct Point {
    /// Its end, since the measurement began.
    pub at: Duration,
    /// How long it was.
    pub length: Duration,
    /// Right answers of all operations.
    pub right: u64,
    /// Anything else.
    pub wrong: u64,
    /// Of right answers; the latencies themselves would take some 100 KiB for each point.
    pub latency: Option<Summary>,
    /// Of the process that is watched.
    pub taken: Option<Taken>,
}

/// What to tell people while it runs.
pub struct Progress<'a> {
    /// What is being done.
    pub phase: Phase,
    /// Since that began.
    pub at: Duration,
    /// Of the whole.
    pub of: Duration,
    /// In the time since it was last told.
    pub counts: &'a Counts,
    /// How long that is.
    pub length: Duration,
    /// Errors since the measurement began.
    pub errors: u64,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is counted.
    WarmUp,
    /// Everything is.
    Measure,
}

/// Takes the tallies away, and makes points and progress of them.
pub struct Watch<'a> {
    run: &'a Run,
    tallies: Vec<Arc<Mutex<Tally>>>,
    from: Instant,
    ends: Instant,
    /// Everything since the measurement began.
    pub total: Tally,
    taken: Tally,
    point: Counts,
    window: Counts,
    pointed: Instant,
    told: Instant,
    /// In order.
    pub points: Vec<Point>,
    /// Of the process, when the measurement began.
    pub first: Option<Taken>,
    /// Likewise when it ended: what connections and sessions that are closed at once take comes behind that.
    pub last: Option<Taken>,
}

impl<'a> Watch<'a> {
    /// `from`, `ends`: what is measured.
    pub fn new(
        run: &'a Run,
        operations: usize,
        from: Instant,
        ends: Instant,
        tallies: Vec<Arc<Mutex<Tally>>>,
    ) -> Self {
        let empty = Tally::new(operations);
        let none = empty.all();
        Self {
            run,
            tallies,
            from,
            ends,
            total: empty.clone(),
            taken: empty,
            point: none.clone(),
            window: none,
            pointed: from,
            told: Instant::now(),
            points: Vec::new(),
            first: None,
            last: None,
        }
    }

    /// Until every lane has dropped its `running`, or has had time enough to after a stop.
    pub async fn until(&mut self, mut ended: mpsc::Receiver<()>, tell: &mut dyn FnMut(&Progress<'_>)) {
        let point = (self.run.scenario.load.measure / POINTS_MAX).max(POINT_MIN);
        let every = point.min(PROGRESS_EVERY);
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let patience = self.run.target.timeout + BACKOFF_MAX;
        let mut stopped = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = ended.recv() => break,
            }
            let now = Instant::now();
            self.gather();
            if now >= self.from && self.first.is_none() {
                self.first = self.run.pid.and_then(sample);
            }
            if now >= self.ends && self.last.is_none() {
                self.last = self.run.pid.and_then(sample);
            }
            // A tick that comes a little early still ends the point.
            if now + every / 2 >= self.pointed + point && now > self.from {
                self.end_point(now);
            }
            if now >= self.from && self.told < self.from {
                // The first time that is told of is a whole one.
                self.told = self.from;
            } else if now >= self.told + PROGRESS_EVERY {
                self.tell(now, tell);
            }
            if self.run.stop.load(Ordering::Relaxed) && now > *stopped.get_or_insert(now) + patience {
                break;
            }
        }
        self.gather();
        self.end_point(Instant::now());
    }

    /// Takes what was counted since the last time.
    pub fn gather(&mut self) {
        self.taken.clear();
        for tally in &self.tallies {
            let mut tally = tally.lock().expect("nothing panics while it counts");
            self.taken.add(&tally);
            tally.clear();
        }
        self.total.add(&self.taken);
        let all = self.taken.all();
        self.point.add(&all);
        self.window.add(&all);
    }

    fn end_point(&mut self, now: Instant) {
        let length = now.saturating_duration_since(self.pointed);
        // The rest behind the end is no part of its own.
        let is_rest = now > self.ends && length < POINT_MIN / 2;
        if length.is_zero() || is_rest {
            return;
        }
        let at = now.saturating_duration_since(self.from);
        self.points.push(Point {
            at,
            length,
            right: self.point.right(),
            wrong: self.point.wrong(),
            latency: Summary::of(&self.point.latencies),
            taken: self.run.pid.and_then(sample),
        });
        self.point.clear();
        self.pointed = now;
    }

    fn tell(&mut self, now: Instant, tell: &mut dyn FnMut(&Progress<'_>)) {
        let load = &self.run.scenario.load;
        let (phase, at, of) = match now.checked_duration_since(self.from) {
            Some(at) => (Phase::Measure, at, load.measure),
            None => (Phase::WarmUp, load.warm_up.saturating_sub(self.from - now), load.warm_up),
        };
        tell(&Progress {
            phase,
            at,
            of,
            counts: &self.window,
            length: now.saturating_duration_since(self.told.max(self.from)),
            errors: self.total.errors().values().sum(),
        });
        self.window.clear();
        self.told = now;
    }

    /// From the beginning of what is measured to its end, or to now if it ended early. What was sent before the
    /// end and answered after it, at most one a connection, counts without making the time longer.
    pub fn length(&self) -> Duration {
        Instant::now().min(self.ends).saturating_duration_since(self.from)
    }
}
