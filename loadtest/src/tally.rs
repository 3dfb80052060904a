//! What came of the requests: latencies and errors, by operation. Bounded: a histogram has a fixed size however
//! many latencies are in it.
//!
//! Invariant: adding two tallies gives what one tally would have that had seen everything.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::answer::{Kind, Wrong};

/// Two runs cannot be told apart by less than a thousandth.
const DIGITS: u8 = 3;

/// Latencies above are recorded as this; the longest time-out is as long.
const LATENCY_MAX: Duration = Duration::from_hours(1);

/// Kinds of errors that are told apart in one operation; a server could invent any number of codes.
const KINDS_MAX: usize = 64;

/// Of each kind, so many are kept word for word.
const EXAMPLES_MAX: usize = 3;

/// Of all kinds together.
const ALL_EXAMPLES_MAX: usize = 60;

/// Latencies in nanoseconds.
pub type Latencies = Histogram<u64>;

/// Without any latency.
pub fn latencies() -> Latencies {
    Histogram::new(DIGITS).expect("three digits are allowed")
}

/// Latencies in a few numbers, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what it is called")]
pub struct Summary {
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

impl Summary {
    /// Of latencies in nanoseconds; nothing of none.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        let at = |quantile| us(latencies.value_at_quantile(quantile));
        (!latencies.is_empty()).then(|| Self {
            min: us(latencies.min()),
            mean: latencies.mean() / 1000.0,
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(latencies.max()),
        })
    }
}

/// Microseconds of nanoseconds, which are below an hour.
#[allow(clippy::cast_precision_loss)]
pub fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// Of one operation.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Of right answers, from when they were due.
    pub latencies: Latencies,
    /// Bytes of the bodies of right answers.
    pub bytes: u64,
    /// Everything else.
    pub errors: BTreeMap<Kind, u64>,
}

impl Counts {
    fn new() -> Self {
        Self { latencies: latencies(), bytes: 0, errors: BTreeMap::new() }
    }

    /// Answers that were right.
    pub fn right(&self) -> u64 {
        self.latencies.len()
    }

    /// What was not.
    pub fn wrong(&self) -> u64 {
        self.errors.values().sum()
    }

    /// As if everything had been recorded here.
    pub fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("a histogram that grows takes every other");
        self.bytes += other.bytes;
        for (kind, count) in &other.errors {
            self.add_errors(*kind, *count);
        }
    }

    fn add_errors(&mut self, kind: Kind, count: u64) {
        let is_new = !self.errors.contains_key(&kind);
        let kind = if is_new && self.errors.len() >= KINDS_MAX { Kind::Other } else { kind };
        *self.errors.entry(kind).or_default() += count;
    }

    /// Back to nothing, keeping its memory.
    pub fn clear(&mut self) {
        self.latencies.reset();
        self.bytes = 0;
        self.errors.clear();
    }
}

/// Of everything.
#[derive(Debug, Clone)]
pub struct Tally {
    /// By operation, in the order of the scenario; behind them [`Extra`].
    pub operations: Vec<Counts>,
    /// How late requests of the open loop were taken up, though a connection was free.
    pub lateness: Latencies,
    /// What was said with errors.
    pub examples: Vec<Wrong>,
}

/// What a run does beside the operations of its scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Connecting, and `initialize`.
    Open,
    /// DELETE of a session.
    Close,
    /// A connection that was idle, used again.
    Wake,
    /// An event stream.
    Stream,
    /// A request that was due and could not be sent.
    Unsent,
}

impl Extra {
    /// All, in their order.
    pub const ALL: [Self; 5] = [Self::Open, Self::Close, Self::Wake, Self::Stream, Self::Unsent];

    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "(open)",
            Self::Close => "(close)",
            Self::Wake => "(wake)",
            Self::Stream => "(stream)",
            Self::Unsent => "(not sent)",
        }
    }

    /// Its place behind so many operations.
    pub fn place(self, operations: usize) -> usize {
        operations + Self::ALL.iter().position(|extra| *extra == self).unwrap_or(0)
    }
}

impl Tally {
    /// For so many operations of a scenario.
    pub fn new(operations: usize) -> Self {
        let places = operations + Extra::ALL.len();
        let operations = (0..places).map(|_| Counts::new()).collect();
        Self { operations, lateness: latencies(), examples: Vec::new() }
    }

    /// A right answer.
    pub fn right(&mut self, place: usize, latency: Duration, bytes: u64) {
        let counts = &mut self.operations[place];
        record(&mut counts.latencies, latency);
        counts.bytes += bytes;
    }

    /// Anything else.
    pub fn wrong(&mut self, place: usize, wrong: Wrong) {
        self.operations[place].add_errors(wrong.kind, 1);
        self.example(wrong);
    }

    /// Many of one kind.
    pub fn wrongs(&mut self, place: usize, wrong: Wrong, count: u64) {
        if count > 0 {
            self.operations[place].add_errors(wrong.kind, count);
            self.example(wrong);
        }
    }

    /// A request of the open loop was taken up after it was due.
    pub fn woke_late(&mut self, late: Duration) {
        record(&mut self.lateness, late);
    }

    /// As if everything had been recorded here.
    pub fn add(&mut self, other: &Self) {
        for (own, other) in self.operations.iter_mut().zip(&other.operations) {
            own.add(other);
        }
        self.lateness.add(&other.lateness).expect("a histogram that grows takes every other");
        other.examples.iter().for_each(|example| self.example(example.clone()));
    }

    /// Back to nothing, keeping its memory.
    pub fn clear(&mut self) {
        self.operations.iter_mut().for_each(Counts::clear);
        self.lateness.reset();
        self.examples.clear();
    }

    /// The operations of the scenario, without the extras, together.
    pub fn all(&self) -> Counts {
        let mut all = Counts::new();
        let own = self.operations.len() - Extra::ALL.len();
        self.operations[..own].iter().for_each(|counts| all.add(counts));
        all
    }

    /// Errors of everything, extras included.
    pub fn errors(&self) -> BTreeMap<Kind, u64> {
        let mut all = Counts::new();
        for counts in &self.operations {
            counts.errors.iter().for_each(|(kind, count)| all.add_errors(*kind, *count));
        }
        all.errors
    }

    fn example(&mut self, wrong: Wrong) {
        let same = self.examples.iter().filter(|example| example.kind == wrong.kind).count();
        if same < EXAMPLES_MAX && self.examples.len() < ALL_EXAMPLES_MAX {
            self.examples.push(wrong);
        }
    }
}

fn record(latencies: &mut Latencies, time: Duration) {
    let nanoseconds = u64::try_from(time.min(LATENCY_MAX).as_nanos()).unwrap_or(u64::MAX);
    // Not `saturating_record`, which does not grow the histogram.
    latencies.record(nanoseconds).expect("a histogram that grows takes every latency");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded in so many tallies by turns and added, it is as recorded in one.
    #[track_caller]
    fn check(latencies_ms: &[u64], parts: usize) {
        let mut one = Tally::new(2);
        let mut many: Vec<_> = (0..parts).map(|_| Tally::new(2)).collect();
        for (at, ms) in latencies_ms.iter().enumerate() {
            for tally in [&mut one, &mut many[at % parts]] {
                match ms {
                    0 => tally.wrong(at % 2, Wrong::new(Kind::Timeout, "late")),
                    ms => tally.right(at % 2, Duration::from_millis(*ms), 10),
                }
            }
        }
        let mut sum = Tally::new(2);
        for tally in &many {
            sum.add(tally);
        }
        let (one, sum) = (one.all(), sum.all());
        assert_eq!((sum.right(), sum.wrong(), sum.bytes), (one.right(), one.wrong(), one.bytes));
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
    fn parts_add_up_to_the_whole() {
        check(&[], 3);
        check(&[1, 2, 3, 4_000_000, 0, 7], 1);
        check(&[1, 2, 3, 4_000_000, 0, 7, 0, 0, 900], 2);
        check(&(1..1000).collect::<Vec<_>>(), 7);
    }

    #[test]
    fn a_server_that_invents_codes_fills_no_memory() {
        let mut tally = Tally::new(1);
        for code in 0..10_000 {
            tally.wrong(0, Wrong::new(Kind::Rpc(code), "x"));
        }
        let all = tally.all();
        assert_eq!(all.wrong(), 10_000);
        assert!(all.errors.len() <= KINDS_MAX + 1);
        assert_eq!(tally.examples.len(), ALL_EXAMPLES_MAX);
    }
}
