//! What is stated before a run, so that a script can tell good from bad by the exit status.

use std::time::Duration;

use crate::report::{Bound, Report, duration};

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Of all right answers together.
    pub p99_max: Option<Duration>,
    /// Of everything that was not answered rightly.
    pub errors_max: ErrorsMax,
}

/// How many errors may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ErrorsMax {
    /// So many.
    Count(u64),
    /// Such a share of requests, from 0 to 1.
    Share(f64),
}

impl Bounds {
    /// Each that was stated, and whether it held.
    pub fn judge(&self, report: &Report) -> Vec<Bound> {
        let mut bounds = Vec::new();
        if let Some(max) = self.p99_max {
            let max_us = max.as_secs_f64() * 1e6;
            let p99 = report.total.latency_us.map(|latency| latency.p99);
            bounds.push(Bound {
                stated: format!("p99 at most {}", duration(max_us)),
                found: p99.map_or("no right answer".to_owned(), duration),
                held: p99.is_some_and(|p99| p99 <= max_us),
            });
        }
        let errors: u64 = report.errors.values().sum();
        let share = report.error_share();
        let found = format!("{errors}, {:.3} % of requests", share * 100.0);
        bounds.push(match self.errors_max {
            ErrorsMax::Count(max) => Bound {
                stated: format!("errors at most {max}"),
                found,
                held: errors <= max && report.total.right + errors > 0,
            },
            ErrorsMax::Share(max) => Bound {
                stated: format!("errors at most {} % of requests", max * 100.0),
                found,
                held: share <= max,
            },
        });
        bounds
    }
}

/// `250us`, `5ms`, `1.5s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * seconds)
    });
    // An hour is longer than any time-out.
    let seconds = seconds.filter(|seconds| (0.0..=3600.0).contains(seconds));
    let written = || "write a time with its unit, as in 250us, 5ms or 1.5s".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(written)
}

/// `0`, `12`, `0.5%`.
pub fn parse_errors_max(text: &str) -> Result<ErrorsMax, String> {
    let found = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.trim_end().parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            percent.map(|percent: f64| ErrorsMax::Share(percent / 100.0))
        }
        None => text.parse().ok().map(ErrorsMax::Count),
    };
    found.ok_or_else(|| "write a count, as in 0, or a share of requests, as in 0.5%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, time_us: Option<u128>, errors: Option<ErrorsMax>) {
        assert_eq!(parse_duration(text).ok().map(|time| time.as_micros()), time_us, "{text}");
        assert_eq!(parse_errors_max(text).ok(), errors, "{text}");
    }

    #[test]
    fn bounds_have_units() {
        check("250us", Some(250), None);
        check("5ms", Some(5000), None);
        check("1.5 s", Some(1_500_000), None);
        check("-1s", None, None);
        check("9999999s", None, None);
        check("nans", None, None);
        check("12", None, Some(ErrorsMax::Count(12)));
        check("0.5%", None, Some(ErrorsMax::Share(0.005)));
        check("101%", None, None);
        check("-1", None, None);
        check("", None, None);
    }
}
