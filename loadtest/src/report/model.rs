//! The data of a report, and its JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::counters::{
    AuxiliaryOperation, LatencyHistogram, LatencySummary, OperationCounters, to_microseconds,
};
use crate::run::{Interval, Measurement, RunSettings};
use crate::scenario::Scenario;

/// The version of the JSON format. Other versions are rejected.
pub const FORMAT: u32 = 1;

/// The report of a run over a month has some hundred KiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Points of the latency distribution per halving of the distance to 100 %, as in HDR plots.
const QUANTILE_POINTS_PER_HALF: u32 = 5;

/// The report of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    pub format: u32,
    /// The version of mcpload.
    pub version: String,
    /// The end of the run, in seconds since 1970.
    pub at: u64,
    pub scenario: ScenarioSummary,
    pub url: String,
    pub machine: Machine,
    /// The time of the measurement.
    pub seconds: f64,
    /// Whether the run was ended early.
    pub stopped: bool,
    /// All operations of the scenario together.
    pub total: OperationReport,
    /// Each operation of the scenario, then the auxiliary operations of the run.
    pub operations: Vec<OperationReport>,
    /// The errors of all operations, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Errors that are a bug of the target under any load.
    pub wrong_answers: u64,
    /// Some errors in full.
    pub examples: Vec<ErrorExample>,
    /// The measurement over time.
    pub points: Vec<IntervalReport>,
    /// The distribution of the latency of correct responses.
    pub distribution: Vec<QuantilePoint>,
    /// How late the schedule woke up for requests of the open loop.
    pub lateness_p99_us: Option<f64>,
    /// The idle connections and streams.
    pub held: Option<IdleReport>,
    /// The process that was sampled, if any.
    pub process: Option<ProcessReport>,
    pub bounds: Vec<BoundResult>,
}

/// The settings that must be equal for runs to be comparable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioSummary {
    pub name: String,
    pub about: String,
    /// `modern`, `legacy` or `both`.
    pub era: String,
    pub connections: usize,
    /// Requests per second; `None` in the closed loop.
    pub rate: Option<f64>,
    pub warm_up_s: f64,
    /// The time of the measurement.
    pub seconds: f64,
    /// The time for one response.
    pub timeout_s: f64,
}

/// The machine that ran the load generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors available to the load generator.
    pub cores: usize,
    /// Operating system and processor family.
    pub system: String,
    /// Threads of the load generator.
    pub threads: usize,
}

/// The results of one operation, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationReport {
    pub name: String,
    pub right: u64,
    pub wrong: u64,
    /// Correct responses per second.
    pub rate: f64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Of correct responses; `None` without any.
    pub latency_us: Option<LatencySummary>,
    /// Failed requests by kind.
    pub errors: BTreeMap<String, u64>,
}

/// One interval of the measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntervalReport {
    /// Its end, since the start of the measurement.
    pub at_s: f64,
    pub length_s: f64,
    pub right: u64,
    pub wrong: u64,
    /// Only of correct responses.
    pub latency_us: Option<LatencySummary>,
    /// Memory of the sampled process at its end.
    pub memory_bytes: Option<u64>,
    /// CPU time of the sampled process since that process started.
    pub cpu_s: Option<f64>,
}

/// A point of the latency distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuantilePoint {
    /// The fraction of responses, from 0 to 1.
    pub share: f64,
    /// The longest latency among them.
    pub us: f64,
}

/// One error in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorExample {
    pub kind: String,
    /// The detail of the error, without credentials.
    pub said: String,
}

/// The idle connections and streams of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    /// Idle connections that were opened.
    pub connections: u64,
    /// Event streams that were opened.
    pub streams: u64,
    /// Idle connections that the server had closed by the end.
    pub closed: u64,
    /// Memory of the sampled process per connection or stream.
    pub bytes_each: Option<f64>,
}

/// The process that was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// CPU time per correct response.
    pub cpu_us_each: Option<f64>,
    /// CPU time per wall-clock time.
    pub cores: f64,
    /// Resident memory at the start of the measurement.
    pub memory_first_bytes: u64,
    /// Resident memory at the end of the measurement.
    pub memory_last_bytes: u64,
}

/// A bound that was stated before the run, and whether it held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundResult {
    /// The bound in words.
    pub stated: String,
    /// The measured value in words.
    pub found: String,
    pub held: bool,
}

/// Converts a count. Counts are far below the limit of what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
pub fn to_float(count: u64) -> f64 {
    count as f64
}

impl RunReport {
    /// Creates the report of a run.
    pub fn new(run: &RunSettings, url: &str, threads: usize, measurement: &Measurement) -> Self {
        let seconds = measurement.length.as_secs_f64();
        let all = measurement.counters.sum();
        let errors = measurement.counters.errors();
        let names = run.scenario.operations.iter().map(|operation| operation.name.as_str());
        let names = names.chain(AuxiliaryOperation::ALL.iter().map(|operation| operation.name()));
        let named = names.zip(&measurement.counters.operations);
        let used = named.enumerate().filter(|(index, (_, counters))| {
            *index < run.scenario.operations.len() || counters.correct() + counters.failed() > 0
        });
        let redact = |text: &str| run.target.redact(text);
        let examples = measurement.counters.examples.iter();
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            scenario: ScenarioSummary::new(&run.scenario),
            url: redact(url),
            machine: Machine {
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                threads,
            },
            seconds,
            stopped: measurement.is_stopped,
            total: OperationReport::new("all", &all, seconds),
            operations: used
                .map(|(_, (name, counters))| OperationReport::new(name, counters, seconds))
                .collect(),
            wrong_answers: errors
                .iter()
                .filter(|(kind, _)| kind.is_wrong_response())
                .map(|(_, count)| count)
                .sum(),
            errors: errors.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            examples: examples
                .map(|error| ErrorExample { kind: error.kind.to_string(), said: redact(&error.detail) })
                .collect(),
            points: measurement.intervals.iter().map(IntervalReport::new).collect(),
            distribution: distribution(&all.latencies),
            lateness_p99_us: LatencySummary::from_histogram(&measurement.counters.lateness)
                .map(|lateness| lateness.p99),
            held: idle_report(measurement),
            process: process_report(measurement, all.correct()),
            bounds: Vec::new(),
        }
    }

    /// Reads a file that `--json` wrote.
    pub fn read(path: &Path) -> Result<Self, String> {
        let invalid = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let size = std::fs::metadata(path).map_err(|error| invalid(&error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(invalid(&format!("is larger than {FILE_BYTES_MAX} bytes, too large for a report")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| invalid(&error))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|error| invalid(&format!("is not a report of mcpload run --json: {error}")))?;
        if report.format != FORMAT {
            return Err(invalid(&format!(
                "has format {}, but this mcpload reads format {FORMAT}",
                report.format
            )));
        }
        Ok(report)
    }

    /// Whether all bounds held and no response was wrong.
    pub fn is_good(&self) -> bool {
        self.wrong_answers == 0 && self.bounds.iter().all(|bound| bound.held)
    }

    /// The fraction of failed requests, from 0 to 1.
    pub fn error_share(&self) -> f64 {
        let errors = to_float(self.errors.values().sum());
        let all = to_float(self.total.right) + errors;
        if all > 0.0 { errors / all } else { 1.0 }
    }
}

impl ScenarioSummary {
    /// The eras in words.
    pub(super) fn eras(&self) -> String {
        if self.era == "both" { "both eras".to_owned() } else { format!("{} era", self.era) }
    }

    fn new(scenario: &Scenario) -> Self {
        let load = &scenario.load;
        Self {
            name: scenario.name.clone(),
            about: scenario.about.clone(),
            era: scenario.era.name().to_owned(),
            connections: load.connections,
            rate: load.rate,
            warm_up_s: load.warm_up.as_secs_f64(),
            seconds: load.measure.as_secs_f64(),
            timeout_s: load.timeout.as_secs_f64(),
        }
    }
}

impl OperationReport {
    fn new(name: &str, counters: &OperationCounters, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            right: counters.correct(),
            wrong: counters.failed(),
            rate: if seconds > 0.0 { to_float(counters.correct()) / seconds } else { 0.0 },
            bytes: counters.bytes,
            latency_us: LatencySummary::from_histogram(&counters.latencies),
            errors: counters.errors.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
        }
    }
}

impl IntervalReport {
    fn new(interval: &Interval) -> Self {
        Self {
            at_s: interval.at.as_secs_f64(),
            length_s: interval.length.as_secs_f64(),
            right: interval.correct,
            wrong: interval.failed,
            latency_us: interval.latency,
            memory_bytes: interval.process.map(|usage| usage.memory_bytes),
            cpu_s: interval.process.map(|usage| usage.cpu_seconds),
        }
    }
}

fn distribution(latencies: &LatencyHistogram) -> Vec<QuantilePoint> {
    let mut points: Vec<QuantilePoint> = Vec::new();
    if latencies.is_empty() {
        return points;
    }
    // The fraction of half a response. There is nothing to draw beyond it.
    let share_max = 1.0 - 0.5 / to_float(latencies.len());
    let max = to_microseconds(latencies.max());
    for point in latencies.iter_quantiles(QUANTILE_POINTS_PER_HALF) {
        let us = to_microseconds(point.value_iterated_to());
        points.push(QuantilePoint { share: point.quantile_iterated_to().min(share_max), us });
        if us >= max {
            break;
        }
    }
    points
}

fn idle_report(measurement: &Measurement) -> Option<IdleReport> {
    let idle = measurement.idle?;
    let count = idle.counts.connections + idle.counts.streams;
    // If the memory shrank, it says nothing about the connections.
    let bytes_each = idle.memory_bytes.filter(|(before, after)| count > 0 && after > before);
    Some(IdleReport {
        connections: idle.counts.connections,
        streams: idle.counts.streams,
        closed: idle.counts.closed,
        bytes_each: bytes_each.map(|(before, after)| (to_float(after) - to_float(before)) / to_float(count)),
    })
}

fn process_report(measurement: &Measurement, right: u64) -> Option<ProcessReport> {
    let (first, last) = measurement.process?;
    let cpu = Duration::from_secs_f64((last.cpu_seconds - first.cpu_seconds).max(0.0)).as_secs_f64();
    Some(ProcessReport {
        cpu_us_each: (right > 0).then(|| cpu * 1e6 / to_float(right)),
        cores: cpu / measurement.length.as_secs_f64().max(f64::MIN_POSITIVE),
        memory_first_bytes: first.memory_bytes,
        memory_last_bytes: last.memory_bytes,
    })
}
