//! Searches for the highest rate that a target sustains: doubles the rate until a bound breaks, then bisects between the last
//! rate that held and the first that broke.

use serde::{Deserialize, Serialize};

use crate::counters::LatencySummary;
use crate::report::{FORMAT, RunReport, align_columns, format_count, format_duration};
use crate::scenario::RATE_MAX;

/// The ratio of broken to held rate at which the search ends. Runs at one rate differ by as much.
const PRECISION: f64 = 1.05;

/// The lowest rate that is tried.
const RATE_MIN: f64 = 0.5;

/// The fraction of the target rate that must be answered within the time.
const ANSWERED_MIN: f64 = 0.97;

/// The results of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// The version of the JSON format, as in [`RunReport`].
    pub format: u32,
    pub scenario: String,
    pub url: String,
    pub p99_max_us: f64,
    /// In the order of execution.
    pub steps: Vec<SweepStep>,
    /// The highest rate that held.
    pub knee: Option<f64>,
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepStep {
    /// Requests a second that were aimed at.
    pub rate: f64,
    /// Correct responses per second.
    pub right_rate: f64,
    pub errors: u64,
    /// The latency of correct responses.
    pub latency_us: Option<LatencySummary>,
    /// Whether all bounds held.
    pub held: bool,
    /// Which bound broke; empty if none did.
    pub why: String,
}

impl SweepStep {
    /// Creates a step from a report with evaluated bounds.
    pub fn new(rate: f64, report: &RunReport) -> Self {
        let broken = report.bounds.iter().find(|bound| !bound.held);
        let behind = report.total.rate < rate * ANSWERED_MIN;
        let why = match broken {
            _ if report.wrong_answers > 0 => format!("{} wrong responses", report.wrong_answers),
            Some(bound) => format!("{}: {}{}", bound.stated, bound.found, lateness(report)),
            None if behind => format!("only {} correct responses/s", format_count(report.total.rate)),
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

/// Notes if the load generator itself was late.
fn lateness(report: &RunReport) -> String {
    let p99 = report.total.latency_us.map_or(0.0, |latency| latency.p99);
    match report.lateness_p99_us {
        Some(late) if late > p99 / 2.0 => {
            format!(", but the load generator was late by {}", format_duration(late))
        }
        _ => String::new(),
    }
}

/// A search for the highest rate that holds.
#[derive(Debug, Clone, Copy)]
pub struct RateSearch {
    from: f64,
    max: f64,
    holds: Option<f64>,
    breaks: Option<f64>,
}

impl RateSearch {
    /// Starts at `from`, and tries no rate above `max`.
    pub fn new(from: f64, max: f64) -> Self {
        let max = max.min(RATE_MAX);
        Self { from: from.min(max), max, holds: None, breaks: None }
    }

    /// Returns the next rate to try. `None` at the end of the search.
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

    /// Records whether a rate held.
    pub fn record(&mut self, rate: f64, held: bool) {
        if held { self.holds = Some(rate) } else { self.breaks = Some(rate) }
    }

    /// The highest rate that held.
    pub fn knee(&self) -> Option<f64> {
        self.holds
    }
}

impl Sweep {
    /// Creates a sweep without steps.
    pub fn new(scenario: &str, url: &str, p99_max_us: f64) -> Self {
        let (scenario, url) = (scenario.to_owned(), url.to_owned());
        Self { format: FORMAT, scenario, url, p99_max_us, steps: Vec::new(), knee: None }
    }

    /// Renders the sweep as text.
    pub fn render_text(&self) -> String {
        let head = ["target /s", "ok /s", "errors", "p50", "p99", "", ""].map(str::to_owned);
        let mut rows = vec![head];
        for step in &self.steps {
            let time = |value: fn(&LatencySummary) -> f64| {
                step.latency_us.map_or("-".to_owned(), |latency| format_duration(value(&latency)))
            };
            rows.push([
                format_count(step.rate),
                format_count(step.right_rate),
                step.errors.to_string(),
                time(|latency| latency.p50),
                time(|latency| latency.p99),
                if step.held { "held" } else { "BROKEN" }.to_owned(),
                step.why.clone(),
            ]);
        }
        let knee = match self.knee {
            Some(knee) => format!("sustains {} requests/s", format_count(knee)),
            None => "sustains no rate that was tried".to_owned(),
        };
        format!("\n{}\n{} at {}: {knee}\n", align_columns(&rows), self.scenario, self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the knee found for a target that sustains `capacity`, and the number of runs.
    #[track_caller]
    fn check(capacity: f64, from: f64, max: f64, found: std::ops::RangeInclusive<f64>, runs_max: usize) {
        let mut search = RateSearch::new(from, max);
        let mut runs = 0;
        while let Some(rate) = search.next() {
            assert!(rate <= max, "{rate} is above the maximum");
            search.record(rate, rate <= capacity);
            runs += 1;
            assert!(runs <= runs_max, "{runs} runs");
        }
        let knee = search.knee().unwrap_or(0.0);
        assert!(found.contains(&knee), "{knee} for {capacity}");
    }

    #[test]
    fn the_knee_is_found_within_five_percent() {
        check(1000.0, 100.0, 1e6, 950.0..=1000.0, 10);
        check(123_456.0, 100.0, 1e6, 117_000.0..=123_456.0, 18);
        check(70.0, 100.0, 1e6, 66.0..=70.0, 8);
        // It sustains every rate up to the maximum.
        check(1e9, 100.0, 1500.0, 1500.0..=1500.0, 6);
        check(1e9, 100.0, 50.0, 50.0..=50.0, 1);
        // It sustains no rate.
        check(0.0, 100.0, 1e6, 0.0..=0.0, 9);
    }
}
