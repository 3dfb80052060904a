//! What a run found, as it is written and read again: the JSON of `--json`, and what tables and pages are made of.
//!
//! Invariant: a report holds no credential. Times are in microseconds, memory in bytes. Does not measure anything.

mod html;
mod page;
mod plot;
mod sweeps;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::run::{Measured, Point, Run};
use crate::scenario::Scenario;
use crate::tally::{Counts, Extra, Latencies, us};

pub use crate::tally::Summary;

pub use html::html;
pub use sweeps::html as sweep_html;
pub use table::{aligned as table_of, duration, number, size, table};

/// Of the JSON; another one is not read.
pub const FORMAT: u32 = 1;

/// A report of a run over a month is some hundred KiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Points of the distribution that are kept, evenly over its logarithm, as HDR plots draw it.
const QUANTILE_POINTS_PER_HALF: u32 = 5;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Of mcpload.
    pub version: String,
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// What was asked for.
    pub scenario: Asked,
    /// Whom.
    pub url: String,
    /// The machine that made the load.
    pub machine: Machine,
    /// What was measured over, in seconds.
    pub seconds: f64,
    /// It was ended early.
    pub stopped: bool,
    /// All operations of the scenario together.
    pub total: Found,
    /// Each of them, and behind them what a run does beside.
    pub operations: Vec<Found>,
    /// Errors of everything, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Errors that are never right, however busy a server is.
    pub wrong_answers: u64,
    /// What was said with errors.
    pub examples: Vec<Example>,
    /// Over time.
    pub points: Vec<PointFound>,
    /// Latency of right answers: share of them that was at most as long.
    pub distribution: Vec<Quantile>,
    /// How late requests of the open loop were taken up although a connection was free.
    pub lateness_p99_us: Option<f64>,
    /// What was held meanwhile.
    pub held: Option<HeldFound>,
    /// The process that was watched.
    pub process: Option<ProcessFound>,
    /// What was stated beforehand.
    pub bounds: Vec<Bound>,
}

/// What was asked for, as far as it makes runs comparable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name.
    pub name: String,
    /// Its sentence.
    pub about: String,
    /// modern, legacy or both.
    pub era: String,
    /// At once.
    pub connections: usize,
    /// A second; nothing: closed loop.
    pub rate: Option<f64>,
    /// Not counted.
    pub warm_up_s: f64,
    /// Counted.
    pub seconds: f64,
    /// For one answer.
    pub timeout_s: f64,
}

/// The machine that made the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that can be used.
    pub cores: usize,
    /// Operating system and processor family.
    pub system: String,
    /// Threads that made the load.
    pub threads: usize,
}

/// What came of some requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Of the operation.
    pub name: String,
    /// Right answers.
    pub right: u64,
    /// Anything else.
    pub wrong: u64,
    /// Right answers a second.
    pub rate: f64,
    /// In their bodies.
    pub bytes: u64,
    /// Of right answers; nothing without one.
    pub latency_us: Option<Summary>,
    /// By kind.
    pub errors: BTreeMap<String, u64>,
}

/// A part of the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointFound {
    /// Its end, since the measurement began.
    pub at_s: f64,
    /// How long it was.
    pub length_s: f64,
    /// Right answers.
    pub right: u64,
    /// Anything else.
    pub wrong: u64,
    /// Of right answers.
    pub latency_us: Option<Summary>,
    /// Of the process that was watched.
    pub memory_bytes: Option<u64>,
    /// Of the process that was watched, since it started.
    pub cpu_s: Option<f64>,
}

/// A point of the distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    /// From 0 to 1.
    pub share: f64,
    /// So long at most.
    pub us: f64,
}

/// What was said with an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Its kind.
    pub kind: String,
    /// In words.
    pub said: String,
}

/// What was held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldFound {
    /// Idle connections that were opened.
    pub connections: u64,
    /// Event streams that were opened.
    pub streams: u64,
    /// Idle connections that the other side had closed in the end.
    pub closed: u64,
    /// Memory of the process that was watched, for each.
    pub bytes_each: Option<f64>,
}

/// The process that was watched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProcessFound {
    /// CPU time for each right answer.
    pub cpu_us_each: Option<f64>,
    /// Processors that it kept busy.
    pub cores: f64,
    /// Resident in the beginning.
    pub memory_first_bytes: u64,
    /// And in the end.
    pub memory_last_bytes: u64,
}

/// What was stated beforehand, and came true or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// In words.
    pub stated: String,
    /// In words.
    pub found: String,
    /// Whether it held.
    pub held: bool,
}

/// A count, for calculating. Counts are far below what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
pub fn float(count: u64) -> f64 {
    count as f64
}

impl Report {
    /// Of a run.
    pub fn new(run: &Run, url: &str, threads: usize, measured: &Measured) -> Self {
        let seconds = measured.length.as_secs_f64();
        let all = measured.tally.all();
        let errors = measured.tally.errors();
        let names = run.scenario.operations.iter().map(|operation| operation.name.as_str());
        let names = names.chain(Extra::ALL.iter().map(|extra| extra.name()));
        let places = names.zip(&measured.tally.operations);
        let used = places.enumerate().filter(|(at, (_, counts))| {
            *at < run.scenario.operations.len() || counts.right() + counts.wrong() > 0
        });
        let clean = |text: &str| run.target.without_key(text);
        let examples = measured.tally.examples.iter();
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            scenario: Asked::of(&run.scenario),
            url: clean(url),
            machine: Machine {
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                threads,
            },
            seconds,
            stopped: measured.is_stopped,
            total: Found::of("all", &all, seconds),
            operations: used.map(|(_, (name, counts))| Found::of(name, counts, seconds)).collect(),
            wrong_answers: errors
                .iter()
                .filter(|(kind, _)| kind.is_wrong_answer())
                .map(|(_, count)| count)
                .sum(),
            errors: errors.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            examples: examples
                .map(|wrong| Example { kind: wrong.kind.to_string(), said: clean(&wrong.detail) })
                .collect(),
            points: measured.points.iter().map(PointFound::of).collect(),
            distribution: distribution(&all.latencies),
            lateness_p99_us: Summary::of(&measured.tally.lateness).map(|lateness| lateness.p99),
            held: held(measured),
            process: process(measured, all.right()),
            bounds: Vec::new(),
        }
    }

    /// Reads what `--json` wrote.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let size = std::fs::metadata(path).map_err(|error| wrong(&error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(wrong(&format!("is larger than {FILE_BYTES_MAX} bytes, which no report is")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|error| wrong(&format!("is no report of mcpload run --json: {error}")))?;
        if report.format != FORMAT {
            return Err(wrong(&format!("is of format {}, this mcpload reads {FORMAT}", report.format)));
        }
        Ok(report)
    }

    /// Every bound held and no answer was wrong.
    pub fn is_good(&self) -> bool {
        self.wrong_answers == 0 && self.bounds.iter().all(|bound| bound.held)
    }

    /// The share of requests that were not answered rightly, from 0 to 1.
    pub fn error_share(&self) -> f64 {
        let errors = float(self.errors.values().sum());
        let all = float(self.total.right) + errors;
        if all > 0.0 { errors / all } else { 1.0 }
    }
}

impl Asked {
    /// In words.
    fn eras(&self) -> String {
        if self.era == "both" { "both eras".to_owned() } else { format!("{} era", self.era) }
    }

    fn of(scenario: &Scenario) -> Self {
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

impl Found {
    fn of(name: &str, counts: &Counts, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            right: counts.right(),
            wrong: counts.wrong(),
            rate: if seconds > 0.0 { float(counts.right()) / seconds } else { 0.0 },
            bytes: counts.bytes,
            latency_us: Summary::of(&counts.latencies),
            errors: counts.errors.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
        }
    }
}

impl PointFound {
    fn of(point: &Point) -> Self {
        Self {
            at_s: point.at.as_secs_f64(),
            length_s: point.length.as_secs_f64(),
            right: point.right,
            wrong: point.wrong,
            latency_us: point.latency,
            memory_bytes: point.taken.map(|taken| taken.memory_bytes),
            cpu_s: point.taken.map(|taken| taken.cpu_seconds),
        }
    }
}

fn distribution(latencies: &Latencies) -> Vec<Quantile> {
    let mut found: Vec<Quantile> = Vec::new();
    if latencies.is_empty() {
        return found;
    }
    // One answer is no smaller share than this; beyond, there is nothing to draw.
    let share_max = 1.0 - 0.5 / float(latencies.len());
    let max = us(latencies.max());
    for point in latencies.iter_quantiles(QUANTILE_POINTS_PER_HALF) {
        let us = us(point.value_iterated_to());
        found.push(Quantile { share: point.quantile_iterated_to().min(share_max), us });
        if us >= max {
            break;
        }
    }
    found
}

fn held(measured: &Measured) -> Option<HeldFound> {
    let held = measured.held?;
    let count = held.seen.connections + held.seen.streams;
    // Memory that shrank says nothing of what is held.
    let bytes_each = held.memory_bytes.filter(|(before, after)| count > 0 && after > before);
    Some(HeldFound {
        connections: held.seen.connections,
        streams: held.seen.streams,
        closed: held.seen.closed,
        bytes_each: bytes_each.map(|(before, after)| (float(after) - float(before)) / float(count)),
    })
}

fn process(measured: &Measured, right: u64) -> Option<ProcessFound> {
    let (first, last) = measured.taken?;
    let cpu = Duration::from_secs_f64((last.cpu_seconds - first.cpu_seconds).max(0.0)).as_secs_f64();
    Some(ProcessFound {
        cpu_us_each: (right > 0).then(|| cpu * 1e6 / float(right)),
        cores: cpu / measured.length.as_secs_f64().max(f64::MIN_POSITIVE),
        memory_first_bytes: first.memory_bytes,
        memory_last_bytes: last.memory_bytes,
    })
}
