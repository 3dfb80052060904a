//! Bounds that a run must hold, for the exit status.

use std::time::Duration;

use crate::report::{BoundResult, RunReport, format_duration, to_float};

/// The bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The p99 latency of all correct responses.
    pub p99_max: Option<Duration>,
    /// The number of failed requests.
    pub errors_max: ErrorLimit,
    /// The growth of the sampled process's memory from a quarter of the time to the end, as a fraction.
    pub growth_max: Option<f64>,
}

/// A limit of failed requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ErrorLimit {
    Count(u64),
    /// A fraction of all requests, from 0 to 1.
    Share(f64),
}

impl Bounds {
    /// Evaluates each bound that was set.
    pub fn evaluate(&self, report: &RunReport) -> Vec<BoundResult> {
        let mut bounds = Vec::new();
        if let Some(max) = self.p99_max {
            let max_us = max.as_secs_f64() * 1e6;
            let p99 = report.total.latency_us.map(|latency| latency.p99);
            bounds.push(BoundResult {
                stated: format!("p99 at most {}", format_duration(max_us)),
                found: p99.map_or("no correct response".to_owned(), format_duration),
                held: p99.is_some_and(|p99| p99 <= max_us),
            });
        }
        bounds.extend(self.growth_max.map(|max| memory_growth(report, max)));
        let errors: u64 = report.errors.values().sum();
        let share = report.error_share();
        let found = format!("{errors}, {:.3} % of requests", share * 100.0);
        bounds.push(match self.errors_max {
            ErrorLimit::Count(max) => BoundResult {
                stated: format!("errors at most {max}"),
                found,
                held: errors <= max && report.total.right + errors > 0,
            },
            ErrorLimit::Share(max) => BoundResult {
                stated: format!("errors at most {} % of requests", max * 100.0),
                found,
                held: share <= max,
            },
        });
        bounds
    }
}

/// Excludes the first quarter, in which caches and pools fill.
fn memory_growth(report: &RunReport, max: f64) -> BoundResult {
    let stated = format!("memory grows by at most {} %", max * 100.0);
    let quarter = report.points.iter().find(|interval| interval.at_s >= report.seconds / 4.0);
    let quarter = quarter.and_then(|interval| interval.memory_bytes).map(to_float);
    let last = report.process.map(|process| to_float(process.memory_last_bytes));
    match quarter.zip(last) {
        Some((quarter, last)) if quarter > 0.0 => {
            let grown = last / quarter - 1.0;
            BoundResult { stated, found: format!("{:+.1} %", grown * 100.0), held: grown <= max }
        }
        _ => BoundResult { stated, found: "no process was sampled".to_owned(), held: false },
    }
}

/// Parses a duration such as `250us`, `5ms` or `1.5s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * seconds)
    });
    // An hour is longer than any timeout.
    let seconds = seconds.filter(|seconds| (0.0..=3600.0).contains(seconds));
    let usage = || "write a time with its unit, as in 250us, 5ms or 1.5s".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(usage)
}

/// Parses a count such as `12`, or a fraction such as `0.5%`.
pub fn parse_error_limit(text: &str) -> Result<ErrorLimit, String> {
    let found = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.trim_end().parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            percent.map(|percent: f64| ErrorLimit::Share(percent / 100.0))
        }
        None => text.parse().ok().map(ErrorLimit::Count),
    };
    found.ok_or_else(|| "write a count, as in 0, or a share of requests, as in 0.5%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, time_us: Option<u128>, errors: Option<ErrorLimit>) {
        assert_eq!(parse_duration(text).ok().map(|time| time.as_micros()), time_us, "{text}");
        assert_eq!(parse_error_limit(text).ok(), errors, "{text}");
    }

    #[test]
    fn bounds_have_units() {
        check("250us", Some(250), None);
        check("5ms", Some(5000), None);
        check("1.5 s", Some(1_500_000), None);
        check("-1s", None, None);
        check("9999999s", None, None);
        check("nans", None, None);
        check("12", None, Some(ErrorLimit::Count(12)));
        check("0.5%", None, Some(ErrorLimit::Share(0.005)));
        check("101%", None, None);
        check("-1", None, None);
        check("", None, None);
    }

    #[test]
    fn memory_growth_excludes_the_first_quarter() {
        let mut report = crate::compare::tests::report(1000.0, 1000.0, false);
        let bounds = Bounds { p99_max: None, errors_max: ErrorLimit::Count(0), growth_max: Some(0.1) };
        let held = |report: &RunReport| bounds.evaluate(report)[0].held;
        assert!(!held(&report), "nothing was sampled");
        for (index, interval) in report.points.iter_mut().enumerate() {
            interval.memory_bytes = Some(if index == 0 { 500 } else { 1000 });
        }
        for (last, expected) in [(900, true), (1000, true), (1099, true), (1200, false)] {
            report.process = Some(crate::report::ProcessReport {
                cpu_us_each: None,
                cores: 1.0,
                memory_first_bytes: 500,
                memory_last_bytes: last,
            });
            assert_eq!(held(&report), expected, "{last}");
        }
    }
}
