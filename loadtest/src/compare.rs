//! Runs beside each other. A difference counts as clear only when most parts of the one run lie outside of most
//! parts of the other: a number alone says nothing on a machine where other things run.

use clap::ValueEnum;

use crate::report::{PointFound, Report, duration, number, size, table_of};

/// What runs are put in order by, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Right answers a second.
    Rate,
    /// Half of the answers took at most this.
    P50,
    /// All but a hundredth took at most this.
    P99,
    /// CPU time of the watched process for each answer.
    Cpu,
    /// Memory of the watched process in the end.
    Memory,
}

/// One number of a run.
struct Measure {
    name: &'static str,
    by: Option<By>,
    of: fn(&Report) -> Option<f64>,
    /// In one part of it, where that can be told.
    of_point: fn(&PointFound) -> Option<f64>,
    show: fn(f64) -> String,
    more_is_better: bool,
}

const fn none(_: &PointFound) -> Option<f64> {
    None
}

const MEASURES: [Measure; 6] = [
    Measure {
        name: "right /s",
        by: Some(By::Rate),
        of: |report| Some(report.total.rate),
        of_point: |point| Some(crate::report::float(point.right) / point.length_s.max(f64::MIN_POSITIVE)),
        show: number,
        more_is_better: true,
    },
    Measure {
        name: "p50",
        by: Some(By::P50),
        of: |report| report.total.latency_us.map(|latency| latency.p50),
        of_point: |point| point.latency_us.map(|latency| latency.p50),
        show: duration,
        more_is_better: false,
    },
    Measure {
        name: "p99",
        by: Some(By::P99),
        of: |report| report.total.latency_us.map(|latency| latency.p99),
        of_point: |point| point.latency_us.map(|latency| latency.p99),
        show: duration,
        more_is_better: false,
    },
    Measure {
        name: "errors",
        by: None,
        of: |report| Some(crate::report::float(report.errors.values().sum())),
        of_point: none,
        show: number,
        more_is_better: false,
    },
    Measure {
        name: "CPU an answer",
        by: Some(By::Cpu),
        of: |report| report.process.and_then(|process| process.cpu_us_each),
        of_point: none,
        show: duration,
        more_is_better: false,
    },
    Measure {
        name: "memory",
        by: Some(By::Memory),
        of: |report| report.process.map(|process| crate::report::float(process.memory_last_bytes)),
        of_point: none,
        show: size,
        more_is_better: false,
    },
];

/// What came of a comparison.
pub struct Compared {
    /// For people.
    pub text: String,
    /// One of the others is clearly worse than the first, by more than was allowed.
    pub is_worse: bool,
}

/// Beside the first one; each with the name it is shown under. `worse_max`: by which share rate or p99 may be
/// worse.
pub fn compare(reports: &[(String, Report)], by: Option<By>, worse_max: Option<f64>) -> Compared {
    let Some(((_, first), others)) = reports.split_first() else {
        return Compared { text: String::new(), is_worse: false };
    };
    let mut order: Vec<usize> = (0..reports.len()).collect();
    if let Some(measure) = by.and_then(|by| MEASURES.iter().find(|measure| measure.by == Some(by))) {
        let worst = f64::INFINITY;
        let rank = |at: &usize| {
            let value = (measure.of)(&reports[*at].1);
            value.map_or(worst, |value| if measure.more_is_better { -value } else { value })
        };
        // A run with errors is not good, however fast they came.
        let errors = |at: &usize| reports[*at].1.error_share();
        order.sort_by(|a, b| errors(a).total_cmp(&errors(b)).then(rank(a).total_cmp(&rank(b))));
    }
    let mut rows = vec![row("", MEASURES.iter().map(|measure| measure.name.to_owned()))];
    for at in order {
        let (name, report) = &reports[at];
        let cells = MEASURES.iter().map(|measure| cell(measure, first, report, at == 0));
        rows.push(row(name, cells));
    }
    let mut text = table_of(&rows);
    text.push_str("\n% is against the first file; ~ is within what both runs vary by.\n");
    text.extend(others.iter().filter_map(|(name, report)| unlike(name, first, report)));
    let is_worse = worse_max.is_some_and(|max| others.iter().any(|(_, report)| worse(first, report, max)));
    Compared { text, is_worse }
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> [String; 7] {
    let mut row: [String; 7] = Default::default();
    name.clone_into(&mut row[0]);
    row.iter_mut().skip(1).zip(cells).for_each(|(place, cell)| *place = cell);
    row
}

fn cell(measure: &Measure, first: &Report, report: &Report, is_first: bool) -> String {
    let Some(value) = (measure.of)(report) else { return "-".to_owned() };
    let shown = (measure.show)(value);
    match (measure.of)(first) {
        Some(base) if !is_first && base > 0.0 => {
            let change = (value / base - 1.0) * 100.0;
            let vague = if is_clear(measure, first, report) == Some(false) { "~" } else { "" };
            format!("{shown} ({vague}{change:+.1} %)")
        }
        _ => shown,
    }
}

/// The middle halves of the parts of both runs do not touch. Nothing where parts cannot tell.
fn is_clear(measure: &Measure, a: &Report, b: &Report) -> Option<bool> {
    let quartiles = |report: &Report| {
        let mut values: Vec<_> = report.points.iter().filter_map(measure.of_point).collect();
        values.sort_by(f64::total_cmp);
        (values.len() >= 4).then(|| (values[values.len() / 4], values[values.len() * 3 / 4]))
    };
    let (a, b) = (quartiles(a)?, quartiles(b)?);
    Some(a.1 < b.0 || b.1 < a.0)
}

fn worse(first: &Report, report: &Report, max: f64) -> bool {
    let is_worse = |measure: &Measure| {
        let (Some(base), Some(value)) = ((measure.of)(first), (measure.of)(report)) else { return true };
        let by = if measure.more_is_better { base / value - 1.0 } else { value / base - 1.0 };
        by > max && is_clear(measure, first, report) != Some(false)
    };
    let more_errors = report.error_share() > first.error_share();
    more_errors || MEASURES.iter().filter(|one| matches!(one.by, Some(By::Rate | By::P99))).any(is_worse)
}

/// Runs that asked for different things are not comparable.
fn unlike(name: &str, first: &Report, report: &Report) -> Option<String> {
    let (a, b) = (&first.scenario, &report.scenario);
    let mut differ = Vec::new();
    let mut look = |what: &'static str, same: bool| differ.extend((!same).then_some(what));
    look("scenario", a.name == b.name);
    look("era", a.era == b.era);
    look("connections", a.connections == b.connections);
    look("rate", a.rate == b.rate);
    look("machine", first.machine == report.machine);
    (!differ.is_empty()).then(|| format!("{name} differs from the first in: {}\n", differ.join(", ")))
}

#[cfg(test)]
pub mod tests;
