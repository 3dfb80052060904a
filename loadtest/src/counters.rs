//! Latencies and errors of a run, by operation. Bounded: the size of a histogram does not depend on the number of latencies.
//!
//! Invariant: the sum of two counters equals one counter that recorded everything.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, RequestError};

/// Significant digits of a latency: runs cannot be told apart by less than a thousandth.
const DIGITS: u8 = 3;

/// Longer latencies are recorded as this. The longest timeout has the same length.
const LATENCY_MAX: Duration = Duration::from_hours(1);

/// Error kinds counted separately per operation. A server could use any number of codes.
const KINDS_MAX: usize = 64;

/// Examples kept of each error kind.
const EXAMPLES_MAX: usize = 3;

/// Examples kept of all kinds together.
const ALL_EXAMPLES_MAX: usize = 60;

/// A histogram of latencies in nanoseconds.
pub type LatencyHistogram = Histogram<u64>;

/// Creates an empty histogram.
pub fn new_histogram() -> LatencyHistogram {
    Histogram::new(DIGITS).expect("three digits are allowed")
}

/// Quantiles of a latency histogram, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

impl LatencySummary {
    /// Summarizes a histogram. `None` if it is empty.
    pub fn from_histogram(latencies: &LatencyHistogram) -> Option<Self> {
        let value_at = |quantile| to_microseconds(latencies.value_at_quantile(quantile));
        (!latencies.is_empty()).then(|| Self {
            min: to_microseconds(latencies.min()),
            mean: latencies.mean() / 1000.0,
            p50: value_at(0.5),
            p75: value_at(0.75),
            p90: value_at(0.9),
            p95: value_at(0.95),
            p99: value_at(0.99),
            p999: value_at(0.999),
            p9999: value_at(0.9999),
            max: to_microseconds(latencies.max()),
        })
    }
}

/// Converts nanoseconds to microseconds. Exact enough below an hour.
#[allow(clippy::cast_precision_loss)]
pub fn to_microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// The counters of one operation.
#[derive(Debug, Clone)]
pub struct OperationCounters {
    /// Latencies of correct responses, from their due time.
    pub latencies: LatencyHistogram,
    /// Bytes of the bodies of correct responses.
    pub bytes: u64,
    pub errors: BTreeMap<ErrorKind, u64>,
}

impl OperationCounters {
    fn new() -> Self {
        Self { latencies: new_histogram(), bytes: 0, errors: BTreeMap::new() }
    }

    /// The number of correct responses.
    pub fn correct(&self) -> u64 {
        self.latencies.len()
    }

    /// The number of failed requests.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds other counters to these.
    pub fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("an auto-resizing histogram accepts every other");
        self.bytes += other.bytes;
        for (kind, count) in &other.errors {
            self.add_errors(*kind, *count);
        }
    }

    fn add_errors(&mut self, kind: ErrorKind, count: u64) {
        let is_new = !self.errors.contains_key(&kind);
        let kind = if is_new && self.errors.len() >= KINDS_MAX { ErrorKind::Other } else { kind };
        *self.errors.entry(kind).or_default() += count;
    }

    /// Resets all counters and keeps their memory.
    pub fn clear(&mut self) {
        self.latencies.reset();
        self.bytes = 0;
        self.errors.clear();
    }
}

/// The counters of a run or of a worker.
#[derive(Debug, Clone)]
pub struct RunCounters {
    /// By operation: those of the scenario in its order, then [`AuxiliaryOperation::ALL`].
    pub operations: Vec<OperationCounters>,
    /// How late the schedule woke up for requests of the open loop.
    pub lateness: LatencyHistogram,
    /// Some errors in full.
    pub examples: Vec<RequestError>,
}

/// What a run does beside the operations of its scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuxiliaryOperation {
    /// Connecting, and the call of `initialize`.
    Open,
    /// Closing a session by DELETE.
    Close,
    /// A request on a connection that was idle.
    Wake,
    /// Opening and holding an event stream.
    Stream,
    /// A request that was due and could not be sent.
    Unsent,
}

impl AuxiliaryOperation {
    /// All, in the order of [`RunCounters::operations`].
    pub const ALL: [Self; 5] = [Self::Open, Self::Close, Self::Wake, Self::Stream, Self::Unsent];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "(open)",
            Self::Close => "(close)",
            Self::Wake => "(wake)",
            Self::Stream => "(stream)",
            Self::Unsent => "(not sent)",
        }
    }

    /// The index in [`RunCounters::operations`], behind those of the scenario.
    pub fn index(self, operations: usize) -> usize {
        operations + Self::ALL.iter().position(|operation| *operation == self).unwrap_or(0)
    }
}

impl RunCounters {
    /// Creates empty counters for a scenario with this many operations.
    pub fn new(operations: usize) -> Self {
        let count = operations + AuxiliaryOperation::ALL.len();
        let operations = (0..count).map(|_| OperationCounters::new()).collect();
        Self { operations, lateness: new_histogram(), examples: Vec::new() }
    }

    /// Records a correct response.
    pub fn record_success(&mut self, index: usize, latency: Duration, bytes: u64) {
        let counts = &mut self.operations[index];
        record(&mut counts.latencies, latency);
        counts.bytes += bytes;
    }

    /// Records a failed request.
    pub fn record_error(&mut self, index: usize, error: RequestError) {
        self.operations[index].add_errors(error.kind, 1);
        self.add_example(error);
    }

    /// Records several failures with the same error.
    pub fn record_errors(&mut self, index: usize, error: RequestError, count: u64) {
        if count > 0 {
            self.operations[index].add_errors(error.kind, count);
            self.add_example(error);
        }
    }

    /// Records how late the schedule woke up for a request.
    pub fn record_lateness(&mut self, late: Duration) {
        record(&mut self.lateness, late);
    }

    /// Adds other counters to these.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.operations.iter_mut().zip(&other.operations) {
            mine.add(theirs);
        }
        self.lateness.add(&other.lateness).expect("an auto-resizing histogram accepts every other");
        other.examples.iter().for_each(|example| self.add_example(example.clone()));
    }

    /// Resets all counters and keeps their memory.
    pub fn clear(&mut self) {
        self.operations.iter_mut().for_each(OperationCounters::clear);
        self.lateness.reset();
        self.examples.clear();
    }

    /// The sum over the operations of the scenario.
    pub fn sum(&self) -> OperationCounters {
        let mut sum = OperationCounters::new();
        let count = self.operations.len() - AuxiliaryOperation::ALL.len();
        self.operations[..count].iter().for_each(|counts| sum.add(counts));
        sum
    }

    /// The errors of all operations, auxiliary ones included.
    pub fn errors(&self) -> BTreeMap<ErrorKind, u64> {
        let mut all = OperationCounters::new();
        for counts in &self.operations {
            counts.errors.iter().for_each(|(kind, count)| all.add_errors(*kind, *count));
        }
        all.errors
    }

    fn add_example(&mut self, error: RequestError) {
        let same = self.examples.iter().filter(|example| example.kind == error.kind).count();
        if same < EXAMPLES_MAX && self.examples.len() < ALL_EXAMPLES_MAX {
            self.examples.push(error);
        }
    }
}

fn record(latencies: &mut LatencyHistogram, time: Duration) {
    let nanoseconds = u64::try_from(time.min(LATENCY_MAX).as_nanos()).unwrap_or(u64::MAX);
    // Not `saturating_record`, which does not grow the histogram.
    latencies.record(nanoseconds).expect("an auto-resizing histogram accepts every latency");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that several counters, filled in turn and added up, equal a single one.
    #[track_caller]
    fn check(latencies_ms: &[u64], parts: usize) {
        let mut one = RunCounters::new(2);
        let mut many: Vec<_> = (0..parts).map(|_| RunCounters::new(2)).collect();
        for (index, ms) in latencies_ms.iter().enumerate() {
            for counters in [&mut one, &mut many[index % parts]] {
                match ms {
                    0 => counters.record_error(index % 2, RequestError::new(ErrorKind::Timeout, "late")),
                    ms => counters.record_success(index % 2, Duration::from_millis(*ms), 10),
                }
            }
        }
        let mut sum = RunCounters::new(2);
        for counters in &many {
            sum.add(counters);
        }
        let (one, sum) = (one.sum(), sum.sum());
        assert_eq!((sum.correct(), sum.failed(), sum.bytes), (one.correct(), one.failed(), one.bytes));
        assert_eq!(sum.errors, one.errors);
        let longest = latencies_ms.iter().max().map_or(0, |ms| ms.min(&3_600_000) * 1_000_000);
        assert!(one.latencies.equivalent(one.latencies.max(), longest), "{}", one.latencies.max());
        for quantile in [0.0, 0.5, 0.9, 0.99, 1.0] {
            let values =
                (sum.latencies.value_at_quantile(quantile), one.latencies.value_at_quantile(quantile));
            assert_eq!(values.0, values.1, "at {quantile}");
        }
    }

    #[test]
    fn counters_add_up() {
        check(&[], 3);
        check(&[1, 2, 3, 4_000_000, 0, 7], 1);
        check(&[1, 2, 3, 4_000_000, 0, 7, 0, 0, 900], 2);
        check(&(1..1000).collect::<Vec<_>>(), 7);
    }

    #[test]
    fn error_kinds_and_examples_are_bounded() {
        let mut counters = RunCounters::new(1);
        for code in 0..10_000 {
            counters.record_error(0, RequestError::new(ErrorKind::Rpc(code), "x"));
        }
        let all = counters.sum();
        assert_eq!(all.failed(), 10_000);
        assert!(all.errors.len() <= KINDS_MAX + 1);
        assert_eq!(counters.examples.len(), ALL_EXAMPLES_MAX);
    }
}
