//! Some connections with their share of the load, on a thread of their own.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Place, Run, Shared};
use crate::answer::{Kind, Wrong};
use crate::client::{Answered, Client};
use crate::scenario::Era;
use crate::schedule::{Pacer, Plan, Schedule};
use crate::tally::{Extra, Tally};

/// Between two attempts to connect, doubled from the one to the other.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// See [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Some connections with their share of the load.
pub struct Lane {
    shared: Arc<Shared>,
    schedule: Schedule,
    /// Taken away while it runs.
    pub tally: Arc<Mutex<Tally>>,
    /// What was due before is not counted.
    measured_from: Instant,
    ends: Instant,
    connections: Vec<usize>,
    calls_per_session: Option<u64>,
}

/// All lanes of a run.
pub fn lanes(run: &Run, shared: &Arc<Shared>, start: Instant) -> Result<Vec<Lane>, String> {
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

/// Starts one. `running` is dropped when it has ended.
pub fn start(lane: Lane, place: Place, running: mpsc::Sender<()>) -> Result<(), String> {
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
            let number = self.shared.number();
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
