//! One run: opens what is held, sends what is due, counts, and gives everything that was seen.
//!
//! Lanes share nothing but the number of the next request: each has its thread, connections, schedule and tally,
//! and the tallies are taken away a few times a second. Does not know what is right, nor how it is told.

mod lane;
mod shared;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Target;
use crate::herd::Herd;
pub use crate::herd::Seen;
use crate::process::{Taken, sample};
use crate::scenario::Scenario;
use crate::tally::Tally;

pub use shared::Shared;
pub use watch::{Phase, Point, Progress};

/// Where the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the runtime that asks, whose time may be paused.
    Here,
    /// In so many threads of its own.
    Threads(usize),
}

/// What to run.
pub struct Run {
    /// What was asked for, with the names that tools have at the target.
    pub scenario: Scenario,
    /// Whom to ask.
    pub target: Arc<Target>,
    /// With how much.
    pub place: Place,
    /// A process on this machine to watch.
    pub pid: Option<u32>,
    /// Set to end early.
    pub stop: Arc<AtomicBool>,
}

/// Everything that was seen.
pub struct Measured {
    /// From the measurement's beginning to the last answer.
    pub tally: Tally,
    /// In order.
    pub points: Vec<Point>,
    /// Over this time.
    pub length: Duration,
    /// It was ended early.
    pub is_stopped: bool,
    /// What was held.
    pub held: Option<Held>,
    /// Of the process that is watched: when the measurement began and ended.
    pub taken: Option<(Taken, Taken)>,
}

/// What was held.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// How much of it.
    pub seen: Seen,
    /// Of the process that is watched: before it was opened, and when the measurement ended.
    pub memory_bytes: Option<(u64, u64)>,
}

/// Runs it.
pub async fn measure(run: &Run, tell: &mut dyn FnMut(&Progress<'_>)) -> Result<Measured, String> {
    let shared = Arc::new(Shared::new(run));
    let load = &run.scenario.load;
    let own = Arc::new(Mutex::new(Tally::new(shared.operations())));
    let memory = || run.pid.and_then(sample).map(|taken| taken.memory_bytes);
    let before = memory();
    let herd = match &run.scenario.idle {
        Some(idle) => Some(Herd::open(&shared, &own, idle).await),
        None => None,
    };
    let start = Instant::now();
    let (measured_from, ends) = (start + load.warm_up, start + load.warm_up + load.measure);
    let (running, ended) = mpsc::channel(1);
    let mut tallies = vec![own];
    for lane in lane::lanes(run, &shared, start)? {
        tallies.push(Arc::clone(&lane.tally));
        lane::start(lane, run.place, running.clone())?;
    }
    drop(running);
    let mut watch = watch::Watch::new(run, shared.operations(), measured_from, ends, tallies);
    watch.until(ended, tell).await;
    // None where it ended before its time.
    let (length, last) = (watch.length(), watch.last.or_else(|| run.pid.and_then(sample)));
    // Not when the last one was opened: what it takes to open one is not what it takes to hold it.
    let held = before.zip(last.map(|taken| taken.memory_bytes));
    let seen = match herd {
        Some(herd) => Some(herd.end().await),
        None => None,
    };
    watch.gather();
    Ok(Measured {
        tally: watch.total,
        points: watch.points,
        length,
        is_stopped: run.stop.load(Ordering::Relaxed),
        held: seen.map(|seen| Held { seen, memory_bytes: held }),
        taken: watch.first.zip(last),
    })
}
