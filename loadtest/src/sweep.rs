//! Looks for the rate at which a target bends: doubled until a bound breaks, then halved steps between the last
//! rate that held and the first that did not.

use serde::{Deserialize, Serialize};

use crate::report::{FORMAT, Report, Summary, duration, number, table_of};
use crate::scenario::RATE_MAX;

/// So near to each other the rates that hold and do not need not be told apart: runs differ by as much.
const PRECISION: f64 = 1.05;

/// Slower than this, it does not bear anything.
const RATE_MIN: f64 = 0.5;

/// Of what was asked for, so much has to be answered within the time.
const ANSWERED_MIN: f64 = 0.97;

/// All of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// As of [`Report`].
    pub format: u32,
    /// Its name.
    pub scenario: String,
    /// Whom.
    pub url: String,
    /// What p99 may be.
    pub p99_max_us: f64,
    /// In the order they were run.
    pub steps: Vec<Step>,
    /// The highest rate that held.
    pub knee: Option<f64>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Asked for.
    pub rate: f64,
    /// Right answers a second.
    pub right_rate: f64,
    /// Of any kind.
    pub errors: u64,
    /// Of right answers.
    pub latency_us: Option<Summary>,
    /// Bounds held.
    pub held: bool,
    /// What did not.
    pub why: String,
}

impl Step {
    /// Of a report whose bounds were judged.
    pub fn of(rate: f64, report: &Report) -> Self {
        let broken = report.bounds.iter().find(|bound| !bound.held);
        let behind = report.total.rate < rate * ANSWERED_MIN;
        let why = match broken {
            _ if report.wrong_answers > 0 => format!("{} wrong answers", report.wrong_answers),
            Some(bound) => format!("{}: {}{}", bound.stated, bound.found, lateness(report)),
            None if behind => format!("only {} right answers/s", number(report.total.rate)),
            None => String::new(),
        };
        Self {
            rate,
            right_rate: report.total.rate,
            errors: report.errors.values().sum(),
            latency_us: report.total.latency_us,
            held: why.is_empty(),
            why,
        }
    }
}

/// Whether it was the load itself that came late.
fn lateness(report: &Report) -> String {
    let p99 = report.total.latency_us.map_or(0.0, |latency| latency.p99);
    match report.lateness_p99_us {
        Some(late) if late > p99 / 2.0 => format!(", but the load itself was late by {}", duration(late)),
        _ => String::new(),
    }
}

/// Which rate comes next.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    from: f64,
    max: f64,
    holds: Option<f64>,
    breaks: Option<f64>,
}

impl Search {
    /// Begins at a rate; goes no higher than `max`.
    pub fn new(from: f64, max: f64) -> Self {
        let max = max.min(RATE_MAX);
        Self { from: from.min(max), max, holds: None, breaks: None }
    }

    /// `None`: it is found, as far as it can be.
    pub fn next(&self) -> Option<f64> {
        match (self.holds, self.breaks) {
            (None, None) => Some(self.from),
            (Some(holds), None) if holds >= self.max => None,
            (Some(holds), None) => Some((holds * 2.0).min(self.max)),
            (None, Some(breaks)) => Some(breaks / 2.0).filter(|rate| *rate >= RATE_MIN),
            (Some(holds), Some(breaks)) if breaks / holds <= PRECISION => None,
            (Some(holds), Some(breaks)) => Some(f64::midpoint(holds, breaks)),
        }
    }

    /// What came of a rate.
    pub fn seen(&mut self, rate: f64, held: bool) {
        if held { self.holds = Some(rate) } else { self.breaks = Some(rate) }
    }

    /// The highest rate that held.
    pub fn knee(&self) -> Option<f64> {
        self.holds
    }
}

impl Sweep {
    /// Without any step.
    pub fn new(scenario: &str, url: &str, p99_max_us: f64) -> Self {
        let (scenario, url) = (scenario.to_owned(), url.to_owned());
        Self { format: FORMAT, scenario, url, p99_max_us, steps: Vec::new(), knee: None }
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let head = ["asked /s", "right /s", "errors", "p50", "p99", "", ""].map(str::to_owned);
        let mut rows = vec![head];
        for step in &self.steps {
            let time = |of: fn(&Summary) -> f64| {
                step.latency_us.map_or("-".to_owned(), |found| duration(of(&found)))
            };
            rows.push([
                number(step.rate),
                number(step.right_rate),
                step.errors.to_string(),
                time(|latency| latency.p50),
                time(|latency| latency.p99),
                if step.held { "held" } else { "BROKEN" }.to_owned(),
                step.why.clone(),
            ]);
        }
        let knee = match self.knee {
            Some(knee) => format!("bears {} requests/s", number(knee)),
            None => "bears no rate that was tried".to_owned(),
        };
        format!("\n{}\n{} at {}: {knee}\n", table_of(&rows), self.scenario, self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that bears so much: what is found, and with how many runs at most.
    #[track_caller]
    fn check(bears: f64, from: f64, max: f64, found: std::ops::RangeInclusive<f64>, runs_max: usize) {
        let mut search = Search::new(from, max);
        let mut runs = 0;
        while let Some(rate) = search.next() {
            assert!(rate <= max, "{rate} is more than was allowed");
            search.seen(rate, rate <= bears);
            runs += 1;
            assert!(runs <= runs_max, "{runs} runs");
        }
        let knee = search.knee().unwrap_or(0.0);
        assert!(found.contains(&knee), "{knee} for {bears}");
    }

    #[test]
    fn the_knee_is_found_within_a_twentieth() {
        check(1000.0, 100.0, 1e6, 950.0..=1000.0, 10);
        check(123_456.0, 100.0, 1e6, 117_000.0..=123_456.0, 18);
        check(70.0, 100.0, 1e6, 66.0..=70.0, 8);
        // It bears everything that may be asked.
        check(1e9, 100.0, 1500.0, 1500.0..=1500.0, 6);
        check(1e9, 100.0, 50.0, 50.0..=50.0, 1);
        // It bears nothing.
        check(0.0, 100.0, 1e6, 0.0..=0.0, 9);
    }
}
