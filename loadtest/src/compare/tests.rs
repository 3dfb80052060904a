//! Comparisons of made-up reports.

use super::*;
use crate::counters::LatencySummary;
use crate::report::{FORMAT, Machine, OperationReport, ScenarioSummary};

/// Creates a report with the given rate and p99 in all intervals, with variation if `rough`.
pub fn report(rate: f64, p99: f64, rough: bool) -> RunReport {
    let summary = |p99: f64| LatencySummary {
        min: p99 / 10.0,
        mean: p99 / 5.0,
        p50: p99 / 5.0,
        p75: p99 / 4.0,
        p90: p99 / 3.0,
        p95: p99 / 2.0,
        p99,
        p999: p99,
        p9999: p99,
        max: p99,
    };
    let points = (0..8).map(|at| {
        let factor = if rough { 0.7 + 0.1 * f64::from(at) } else { 1.0 };
        IntervalReport {
            at_s: f64::from(at + 1),
            length_s: 1.0,
            // A rate is positive and small.
            right: format!("{:.0}", rate * factor).parse().unwrap(),
            wrong: 0,
            latency_us: Some(summary(p99 * factor)),
            memory_bytes: None,
            cpu_s: None,
        }
    });
    let total = OperationReport {
        name: "all".into(),
        right: 8,
        wrong: 0,
        rate,
        bytes: 0,
        latency_us: Some(summary(p99)),
        errors: std::collections::BTreeMap::default(),
    };
    RunReport {
        format: FORMAT,
        version: "0".into(),
        at: 0,
        scenario: ScenarioSummary {
            name: "x".into(),
            about: String::new(),
            era: "modern".into(),
            connections: 1,
            rate: None,
            warm_up_s: 0.0,
            seconds: 8.0,
            timeout_s: 1.0,
        },
        url: "http://localhost/mcp".into(),
        machine: Machine { cores: 1, system: "x".into(), threads: 1 },
        seconds: 8.0,
        stopped: false,
        total,
        operations: Vec::new(),
        errors: std::collections::BTreeMap::default(),
        wrong_answers: 0,
        examples: Vec::new(),
        points: points.collect(),
        distribution: Vec::new(),
        lateness_p99_us: None,
        held: None,
        process: None,
        bounds: Vec::new(),
    }
}

/// Compares a second run with one of 1000 /s and 1 ms, with 10 % allowed.
#[track_caller]
fn check(second: &RunReport, rough: bool, cells: &[&str], is_worse: bool) {
    let reports = [("a".to_owned(), report(1000.0, 1000.0, rough)), ("b".to_owned(), second.clone())];
    let comparison = compare(&reports, None, Some(0.1));
    for cell in cells {
        assert!(comparison.text.contains(cell), "{cell} is not in\n{}", comparison.text);
    }
    assert_eq!(comparison.is_worse, is_worse, "{}", comparison.text);
}

#[test]
fn significant_differences_are_told_from_noise() {
    check(&report(1000.0, 1000.0, false), false, &["1.00 ms (~+0.0 %)"], false);
    check(&report(1000.0, 2000.0, false), false, &["2.00 ms (+100.0 %)", "1000 (~+0.0 %)"], true);
    check(&report(500.0, 1000.0, false), false, &["500 (-50.0 %)"], true);
    check(&report(2000.0, 500.0, false), false, &["2000 (+100.0 %)", "500 µs (-50.0 %)"], false);
    check(&report(1000.0, 1050.0, false), false, &["1.05 ms (+5.0 %)"], false);
    // The variation is larger than the difference.
    check(&report(850.0, 1200.0, true), true, &["850 (~-15.0 %)", "1.20 ms (~+20.0 %)"], false);
    let mut failing = report(1000.0, 1000.0, false);
    failing.errors.insert("timeout".into(), 3);
    check(&failing, false, &["3"], true);
    let mut other = report(1000.0, 1000.0, false);
    other.scenario.rate = Some(5.0);
    check(&other, false, &["b differs from the first in: rate"], false);
}

#[test]
fn the_best_comes_first() {
    let mut failing = report(9000.0, 100.0, false);
    failing.errors.insert("status 503".into(), 100);
    let reports = [
        ("slow".to_owned(), report(1000.0, 900.0, false)),
        ("fast".to_owned(), report(2000.0, 1000.0, false)),
        ("failing".to_owned(), failing),
    ];
    for (by, expected) in
        [(SortKey::Rate, ["fast", "slow", "failing"]), (SortKey::P99, ["slow", "fast", "failing"])]
    {
        let text = compare(&reports, Some(by), None).text;
        let names: Vec<_> =
            text.lines().skip(1).take(3).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, expected, "{text}");
    }
}
