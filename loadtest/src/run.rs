//! One run: opens what is held, sends what is due, counts, and gives everything that was seen.
//!
//! Lanes share nothing but the number of the next request: each has its threads, connections, schedule and tally,
//! and the tallies are taken away a few times a second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::answer::{Expected, Kind, Wrong};
use crate::client::{Answered, Client, Target};
use crate::herd::Herd;
pub use crate::herd::Seen;
use crate::message::{self, Template};
use crate::process::{Taken, sample};
use crate::scenario::{Era, Eras, Ids, Operation, Scenario};
use crate::schedule::{Pacer, Plan, Schedule};
use crate::tally::{Counts, Extra, Summary, Tally};

/// Between two attempts to connect, doubled from the one to the other.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// More could not be told apart in a plot.
const POINTS_MAX: u32 = 200;

/// Shorter parts of a run say little.
const POINT_MIN: Duration = Duration::from_millis(250);

/// Progress is told as often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Ids below are of our own questions.
const FIRST_ID: u64 = 2;

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

/// What all connections of a run know.
pub struct Shared {
    /// Whom to ask.
    pub target: Arc<Target>,
    /// What connections speak.
    pub eras: Eras,
    operations: Vec<Operation>,
    /// By era and operation.
    templates: [Vec<Template>; 2],
    weight: u64,
    run: u64,
    next: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Shared {
    fn new(run: &Run) -> Self {
        let operations = run.scenario.operations.clone();
        let of = |era| operations.iter().map(|operation| Template::of(operation, era)).collect();
        Self {
            target: Arc::clone(&run.target),
            eras: run.scenario.era,
            templates: [of(Era::Modern), of(Era::Legacy)],
            weight: operations.iter().map(|operation| u64::from(operation.weight)).sum(),
            operations,
            run: random(),
            next: AtomicU64::new(0),
            stop: Arc::clone(&run.stop),
        }
    }

    /// How many there are.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Sends the operation of that number once.
    pub async fn call(&self, client: &mut Client, operation: usize) -> Result<Answered, Wrong> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(client, operation, number).await
    }

    async fn send(&self, client: &mut Client, operation: usize, number: u64) -> Result<Answered, Wrong> {
        let id = match self.target.ids {
            Ids::Unique => FIRST_ID + number,
            Ids::Fixed => 1,
        };
        let checks = self.operations[operation].checks;
        let expected = Expected { id, canary: message::canary(self.run, number), checks, era: client.era };
        let templates = &self.templates[usize::from(client.era == Era::Legacy)];
        client.call(&templates[operation], expected).await
    }

    /// Which operation a request is: by weight, spread evenly and the same in every run.
    fn operation(&self, number: u64) -> usize {
        let mut left = spread(number) % self.weight.max(1);
        for (at, operation) in self.operations.iter().enumerate() {
            match left.checked_sub(u64::from(operation.weight)) {
                Some(rest) => left = rest,
                None => return at,
            }
        }
        0
    }
}

/// `SplitMix64` (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn spread(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Different in every run; that nobody can guess it does not matter.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Some connections with their share of the load.
struct Lane {
    shared: Arc<Shared>,
    schedule: Schedule,
    tally: Arc<Mutex<Tally>>,
    /// What was due before is not counted.
    measured_from: Instant,
    ends: Instant,
    connections: Vec<usize>,
    calls_per_session: Option<u64>,
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
    for lane in lanes(run, &shared, start)? {
        tallies.push(Arc::clone(&lane.tally));
        start_lane(lane, run.place, running.clone())?;
    }
    drop(running);
    let mut watch = Watch::new(run, shared.operations(), measured_from, ends, tallies);
    watch.until(ended, tell).await;
    let (length, last) = (watch.length(), run.pid.and_then(sample));
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

fn lanes(run: &Run, shared: &Arc<Shared>, start: Instant) -> Result<Vec<Lane>, String> {
    let load = &run.scenario.load;
    let threads = match run.place {
        Place::Here => 1,
        Place::Threads(threads) => threads.clamp(1, load.connections),
    };
    let lanes = threads as u64;
    let measured_from = start + load.warm_up;
    (0..threads)
        .map(|at| {
            let lane = at as u64;
            let share = |all: u64| all / lanes + u64::from(lane < all % lanes);
            let plan = Plan {
                start,
                end: measured_from + load.measure,
                rate: load.rate,
                lane,
                lanes,
                requests_max: load.requests.map(share),
            };
            let pacer = match (run.place, load.rate) {
                (Place::Threads(_), Some(_)) => {
                    Pacer::thread().map_err(|error| format!("no thread can be started: {error}"))?
                }
                _ => Pacer::Timer,
            };
            let tally = Arc::new(Mutex::new(Tally::new(shared.operations())));
            Ok(Lane {
                shared: Arc::clone(shared),
                schedule: Schedule::new(plan, pacer, Arc::clone(&run.stop), Arc::clone(&tally)),
                tally,
                measured_from,
                ends: plan.end,
                connections: (at..load.connections).step_by(threads).collect(),
                calls_per_session: load.calls_per_session,
            })
        })
        .collect()
}

/// `running` is dropped when it has ended.
fn start_lane(lane: Lane, place: Place, running: mpsc::Sender<()>) -> Result<(), String> {
    let lane = Arc::new(lane);
    let work = async move {
        lane.drive().await;
        drop(running);
    };
    if place == Place::Here {
        tokio::spawn(work);
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("no thread can be started: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("lane".to_owned());
    thread.spawn(move || runtime.block_on(work)).map_err(failed)?;
    Ok(())
}

impl Lane {
    async fn drive(self: &Arc<Self>) {
        let mut connections = JoinSet::new();
        for number in &self.connections {
            let (lane, era) = (Arc::clone(self), self.shared.eras.of(*number));
            connections.spawn(async move { lane.connection(era).await });
        }
        while connections.join_next().await.is_some() {}
        let unsent = self.schedule.unsent().await;
        let wrong = Wrong::new(Kind::Unsent, "all connections were waiting for answers");
        self.tally().wrongs(Extra::Unsent.place(self.shared.operations()), wrong, unsent);
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().expect("nothing panics while it counts")
    }

    async fn connection(&self, era: Era) {
        let mut client = Client::new(Arc::clone(&self.shared.target), era);
        let mut backoff = BACKOFF_MIN;
        let mut calls = 0;
        while !self.is_over() {
            if !client.is_open() {
                let began = Instant::now();
                let opened = client.open().await;
                let failed = opened.is_err();
                self.record(Extra::Open.place(self.shared.operations()), began, opened);
                if failed {
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
                backoff = BACKOFF_MIN;
            }
            let Some(due) = self.schedule.next().await else { break };
            let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
            let operation = self.shared.operation(number);
            let answered = self.shared.send(&mut client, operation, number).await;
            self.record(operation, due, answered);
            calls += 1;
            if self.calls_per_session.is_some_and(|max| calls >= max) {
                calls = 0;
                self.close(&mut client).await;
            }
        }
        self.close(&mut client).await;
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) || Instant::now() >= self.ends
    }

    async fn close(&self, client: &mut Client) {
        let began = Instant::now();
        if let Some(closed) = client.close().await.transpose() {
            self.record(Extra::Close.place(self.shared.operations()), began, closed);
        }
    }

    /// What is wrong counts from the first request on.
    fn record(&self, place: usize, since: Instant, outcome: Result<Answered, Wrong>) {
        let counts = since >= self.measured_from;
        match outcome {
            Ok(answered) if counts => {
                self.tally().right(place, answered.at.saturating_duration_since(since), answered.bytes);
            }
            Err(wrong) if counts || wrong.kind.is_wrong_answer() => self.tally().wrong(place, wrong),
            _ => {}
        }
    }
}

/// Takes the tallies away, and makes points and progress of them.
struct Watch<'a> {
    run: &'a Run,
    tallies: Vec<Arc<Mutex<Tally>>>,
    from: Instant,
    ends: Instant,
    total: Tally,
    taken: Tally,
    point: Counts,
    window: Counts,
    pointed: Instant,
    told: Instant,
    points: Vec<Point>,
    /// Of the process, when the measurement began.
    first: Option<Taken>,
}

impl<'a> Watch<'a> {
    fn new(
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
        }
    }

    async fn until(&mut self, mut ended: mpsc::Receiver<()>, tell: &mut dyn FnMut(&Progress<'_>)) {
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

    fn gather(&mut self) {
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
    fn length(&self) -> Duration {
        Instant::now().min(self.ends).saturating_duration_since(self.from)
    }
}
