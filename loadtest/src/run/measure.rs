//! The course of a run.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::idle::{IdleCounts, IdleLoad};
use super::monitor::{Interval, Monitor, RunProgress};
use super::requests::RequestSource;
use super::settings::RunSettings;
use super::worker;
use crate::counters::RunCounters;
use crate::process::{ProcessUsage, sample_process};

/// The result of a run.
pub struct Measurement {
    /// From the start of the measurement to the last response.
    pub counters: RunCounters,
    pub intervals: Vec<Interval>,
    /// The time of the measurement.
    pub length: Duration,
    /// Whether the run was ended early.
    pub is_stopped: bool,
    /// The idle connections and streams, if the scenario has any.
    pub idle: Option<IdleMeasurement>,
    /// The sampled process at the start and at the end of the measurement.
    pub process: Option<(ProcessUsage, ProcessUsage)>,
}

/// The idle connections and streams of a run.
#[derive(Debug, Clone, Copy)]
pub struct IdleMeasurement {
    pub counts: IdleCounts,
    /// The memory of the sampled process before they were opened, and at the end of the measurement.
    pub memory_bytes: Option<(u64, u64)>,
}

/// Runs a scenario. Calls `on_progress` about once per second.
pub async fn measure(
    run: &RunSettings,
    on_progress: &mut dyn FnMut(&RunProgress<'_>),
) -> Result<Measurement, String> {
    let requests = Arc::new(RequestSource::new(run));
    let load = &run.scenario.load;
    let idle_counters = Arc::new(Mutex::new(RunCounters::new(requests.operations())));
    let memory_before = run.pid.and_then(sample_process).map(|usage| usage.memory_bytes);
    let idle = match &run.scenario.idle {
        Some(profile) => Some(IdleLoad::open(&requests, &idle_counters, profile).await),
        None => None,
    };
    let start = Instant::now();
    let (measured_from, ends) = (start + load.warm_up, start + load.warm_up + load.measure);
    let (running, ended) = mpsc::channel(1);
    let mut counters = vec![idle_counters];
    for worker in worker::create_workers(run, &requests, start)? {
        counters.push(Arc::clone(&worker.counters));
        worker::spawn(worker, run.executor, running.clone())?;
    }
    drop(running);
    let mut monitor = Monitor::new(run, requests.operations(), measured_from, ends, counters);
    monitor.run(ended, on_progress).await;
    // None if the run ended early.
    let (length, last) = (monitor.length(), monitor.last.or_else(|| run.pid.and_then(sample_process)));
    // Sampled now and not when the last one was opened: holding connections takes less than opening them.
    let memory_bytes = memory_before.zip(last.map(|usage| usage.memory_bytes));
    let idle_counts = match idle {
        Some(idle) => Some(idle.close().await),
        None => None,
    };
    monitor.collect();
    Ok(Measurement {
        counters: monitor.total,
        intervals: monitor.intervals,
        length,
        is_stopped: run.stop.load(Ordering::Relaxed),
        idle: idle_counts.map(|counts| IdleMeasurement { counts, memory_bytes }),
        process: monitor.first.zip(last),
    })
}
