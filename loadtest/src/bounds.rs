//! What is stated before a run, so that a script can tell good from bad by the exit status.

use std::time::Duration;

use crate::report::{Bound, Report, duration, float};

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Of all right answers together.
    pub p99_max: Option<Duration>,
    /// Of everything that was not answered rightly.
    pub errors_max: ErrorsMax,
    /// How much the memory of the watched process may grow, from a quarter of the time to the end, as a share.
    pub growth_max: Option<f64>,
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
        bounds.extend(self.growth_max.map(|max| growth(report, max)));
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

/// In the first quarter, caches and pools fill.
fn growth(report: &Report, max: f64) -> Bound {
    let stated = format!("memory grows by at most {} %", max * 100.0);
    let quarter = report.points.iter().find(|point| point.at_s >= report.seconds / 4.0);
    let quarter = quarter.and_then(|point| point.memory_bytes).map(float);
    let last = report.process.map(|process| float(process.memory_last_bytes));
    match quarter.zip(last) {
        Some((quarter, last)) if quarter > 0.0 => {
            let grown = last / quarter - 1.0;
            Bound { stated, found: format!("{:+.1} %", grown * 100.0), held: grown <= max }
        }
        _ => Bound { stated, found: "no process was watched".to_owned(), held: false },
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

    #[test]
    fn growth_counts_from_a_quarter_of_the_time() {
        let mut report = crate::compare::tests::report(1000.0, 1000.0, false);
        let bounds = Bounds { p99_max: None, errors_max: ErrorsMax::Count(0), growth_max: Some(0.1) };
        let held = |report: &Report| bounds.judge(report)[0].held;
        assert!(!held(&report), "nothing was watched");
        for (at, point) in report.points.iter_mut().enumerate() {
            point.memory_bytes = Some(if at == 0 { 500 } else { 1000 });
        }
        for (last, expected) in [(900, true), (1000, true), (1099, true), (1200, false)] {
            report.process = Some(crate::report::ProcessFound {
                cpu_us_each: None,
                cores: 1.0,
                memory_first_bytes: 500,
                memory_last_bytes: last,
            });
            assert_eq!(held(&report), expected, "{last}");
        }
    }
}
