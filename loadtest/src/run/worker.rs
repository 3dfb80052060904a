//! A worker: some of the connections and their share of the load, on a thread of their own.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::requests::RequestSource;
use super::settings::{Executor, RunSettings};
use crate::client::{Client, Completion};
use crate::counters::{AuxiliaryOperation, RunCounters};
use crate::error::{ErrorKind, RequestError};
use crate::scenario::Era;
use crate::schedule::{Pacer, Schedule, SchedulePlan};

/// The delay after a failed connect. It doubles with each further failure.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The pause stops growing here; see [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Some of the connections, with their share of the load.
pub struct Worker {
    requests: Arc<RequestSource>,
    schedule: Schedule,
    /// Collected by the monitor during the run.
    pub counters: Arc<Mutex<RunCounters>>,
    /// Requests that were due before are not counted.
    measured_from: Instant,
    ends: Instant,
    connections: Vec<usize>,
    calls_per_session: Option<u64>,
}

/// Creates the workers of a run.
pub fn create_workers(
    run: &RunSettings,
    requests: &Arc<RequestSource>,
    start: Instant,
) -> Result<Vec<Worker>, String> {
    let load = &run.scenario.load;
    let threads = match run.executor {
        Executor::CurrentRuntime => 1,
        Executor::Threads(threads) => threads.clamp(1, load.connections),
    };
    let workers = threads as u64;
    let measured_from = start + load.warm_up;
    (0..threads)
        .map(|number| {
            let worker = number as u64;
            let share = |all: u64| all / workers + u64::from(worker < all % workers);
            let plan = SchedulePlan {
                start,
                end: measured_from + load.measure,
                rate: load.rate,
                worker,
                workers,
                requests_max: load.requests.map(share),
            };
            let pacer = match (run.executor, load.rate) {
                (Executor::Threads(_), Some(_)) => {
                    Pacer::with_thread().map_err(|error| format!("cannot start a thread: {error}"))?
                }
                _ => Pacer::Timer,
            };
            let counters = Arc::new(Mutex::new(RunCounters::new(requests.operations())));
            Ok(Worker {
                requests: Arc::clone(requests),
                schedule: Schedule::new(plan, pacer, Arc::clone(&run.stop), Arc::clone(&counters)),
                counters,
                measured_from,
                ends: plan.end,
                connections: (number..load.connections).step_by(threads).collect(),
                calls_per_session: load.calls_per_session,
            })
        })
        .collect()
}

/// Spawns a worker. It drops `running` when it ends.
pub fn spawn(worker: Worker, executor: Executor, running: mpsc::Sender<()>) -> Result<(), String> {
    let worker = Arc::new(worker);
    let work = async move {
        worker.run().await;
        drop(running);
    };
    if executor == Executor::CurrentRuntime {
        tokio::spawn(work);
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("cannot start a thread: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("worker".to_owned());
    thread.spawn(move || runtime.block_on(work)).map_err(failed)?;
    Ok(())
}

impl Worker {
    async fn run(self: &Arc<Self>) {
        let mut connections = JoinSet::new();
        for number in &self.connections {
            let (worker, era) = (Arc::clone(self), self.requests.eras.era_of(*number));
            connections.spawn(async move { worker.run_connection(era).await });
        }
        while connections.join_next().await.is_some() {}
        let unsent = self.schedule.unsent().await;
        let error = RequestError::new(ErrorKind::Unsent, "all connections were waiting for responses");
        let index = AuxiliaryOperation::Unsent.index(self.requests.operations());
        self.lock_counters().record_errors(index, error, unsent);
    }

    fn lock_counters(&self) -> std::sync::MutexGuard<'_, RunCounters> {
        self.counters.lock().expect("no holder of the lock panics")
    }

    async fn run_connection(&self, era: Era) {
        let mut client = Client::new(Arc::clone(&self.requests.target), era);
        let mut backoff = BACKOFF_MIN;
        let mut calls = 0;
        while !self.is_over() {
            if !client.is_open() {
                let began = Instant::now();
                let opened = client.open().await;
                let has_failed = opened.is_err();
                self.record(AuxiliaryOperation::Open.index(self.requests.operations()), began, opened);
                if has_failed {
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
                backoff = BACKOFF_MIN;
            }
            let Some(due) = self.schedule.next().await else { break };
            let number = self.requests.next_number();
            let operation = self.requests.operation_for(number);
            let result = self.requests.send(&mut client, operation, number).await;
            self.record(operation, due, result);
            calls += 1;
            if self.calls_per_session.is_some_and(|max| calls >= max) {
                calls = 0;
                self.close(&mut client).await;
            }
        }
        self.close(&mut client).await;
    }

    fn is_over(&self) -> bool {
        self.requests.stop.load(Ordering::Relaxed) || Instant::now() >= self.ends
    }

    async fn close(&self, client: &mut Client) {
        let began = Instant::now();
        if let Some(closed) = client.close().await.transpose() {
            self.record(AuxiliaryOperation::Close.index(self.requests.operations()), began, closed);
        }
    }

    /// Records a request. Wrong responses count during the warm-up, too.
    fn record(&self, index: usize, since: Instant, result: Result<Completion, RequestError>) {
        let is_measured = since >= self.measured_from;
        match result {
            Ok(completion) if is_measured => {
                let latency = completion.at.saturating_duration_since(since);
                self.lock_counters().record_success(index, latency, completion.bytes);
            }
            Err(error) if is_measured || error.kind.is_wrong_response() => {
                self.lock_counters().record_error(index, error);
            }
            _ => {}
        }
    }
}
