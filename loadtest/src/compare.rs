//! Comparison of runs. A difference is significant only if the middle halves of the intervals of both runs do not overlap: a
//! single number says little on a machine that runs other programs.

use clap::ValueEnum;

use crate::report::{
    IntervalReport, RunReport, align_columns, format_bytes, format_count, format_duration, to_float,
};

/// The order of the runs. The best comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortKey {
    /// Correct responses per second
    Rate,
    /// 50th percentile of the latency
    P50,
    /// 99th percentile of the latency
    P99,
    /// CPU time of the sampled process per response
    Cpu,
    /// Memory of the sampled process at the end
    Memory,
}

/// A number by which runs are compared.
struct ComparedMetric {
    name: &'static str,
    sort_key: Option<SortKey>,
    value: fn(&RunReport) -> Option<f64>,
    /// The value in one interval, where there is one.
    interval_value: fn(&IntervalReport) -> Option<f64>,
    format: fn(f64) -> String,
    more_is_better: bool,
}

const fn no_value(_: &IntervalReport) -> Option<f64> {
    None
}

const METRICS: [ComparedMetric; 6] = [
    ComparedMetric {
        name: "ok /s",
        sort_key: Some(SortKey::Rate),
        value: |report| Some(report.total.rate),
        interval_value: |interval| Some(to_float(interval.right) / interval.length_s.max(f64::MIN_POSITIVE)),
        format: format_count,
        more_is_better: true,
    },
    ComparedMetric {
        name: "p50",
        sort_key: Some(SortKey::P50),
        value: |report| report.total.latency_us.map(|latency| latency.p50),
        interval_value: |interval| interval.latency_us.map(|latency| latency.p50),
        format: format_duration,
        more_is_better: false,
    },
    ComparedMetric {
        name: "p99",
        sort_key: Some(SortKey::P99),
        value: |report| report.total.latency_us.map(|latency| latency.p99),
        interval_value: |interval| interval.latency_us.map(|latency| latency.p99),
        format: format_duration,
        more_is_better: false,
    },
    ComparedMetric {
        name: "errors",
        sort_key: None,
        value: |report| Some(to_float(report.errors.values().sum())),
        interval_value: no_value,
        format: format_count,
        more_is_better: false,
    },
    ComparedMetric {
        name: "CPU per response",
        sort_key: Some(SortKey::Cpu),
        value: |report| report.process.and_then(|process| process.cpu_us_each),
        interval_value: no_value,
        format: format_duration,
        more_is_better: false,
    },
    ComparedMetric {
        name: "memory",
        sort_key: Some(SortKey::Memory),
        value: |report| report.process.map(|process| to_float(process.memory_last_bytes)),
        interval_value: no_value,
        format: format_bytes,
        more_is_better: false,
    },
];

/// The result of a comparison.
pub struct Comparison {
    /// A table, for people.
    pub text: String,
    /// Whether one of the others is significantly worse than the first, by more than allowed.
    pub is_worse: bool,
}

/// Compares named reports with the first one. `worse_max` is the fraction by which rate or p99 may be worse.
pub fn compare(
    reports: &[(String, RunReport)],
    sort_key: Option<SortKey>,
    worse_max: Option<f64>,
) -> Comparison {
    let Some(((_, first), others)) = reports.split_first() else {
        return Comparison { text: String::new(), is_worse: false };
    };
    let mut order: Vec<usize> = (0..reports.len()).collect();
    if let Some(metric) = sort_key.and_then(|key| METRICS.iter().find(|metric| metric.sort_key == Some(key)))
    {
        let worst = f64::INFINITY;
        let rank = |index: &usize| {
            let value = (metric.value)(&reports[*index].1);
            value.map_or(worst, |value| if metric.more_is_better { -value } else { value })
        };
        // Fewer errors rank first: a fast error is not a good response.
        let errors = |index: &usize| reports[*index].1.error_share();
        order.sort_by(|a, b| errors(a).total_cmp(&errors(b)).then(rank(a).total_cmp(&rank(b))));
    }
    let mut rows = vec![row("", METRICS.iter().map(|metric| metric.name.to_owned()))];
    for index in order {
        let (name, report) = &reports[index];
        let cells = METRICS.iter().map(|metric| cell(metric, first, report, index == 0));
        rows.push(row(name, cells));
    }
    let mut text = align_columns(&rows);
    text.push_str(
        "\n% is relative to the first file; ~ marks a difference within the variation of both runs.\n",
    );
    text.extend(others.iter().filter_map(|(name, report)| list_differences(name, first, report)));
    let is_worse = worse_max.is_some_and(|max| others.iter().any(|(_, report)| is_worse(first, report, max)));
    Comparison { text, is_worse }
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> [String; 7] {
    let mut row: [String; 7] = Default::default();
    name.clone_into(&mut row[0]);
    row.iter_mut().skip(1).zip(cells).for_each(|(column, cell)| *column = cell);
    row
}

fn cell(metric: &ComparedMetric, first: &RunReport, report: &RunReport, is_first: bool) -> String {
    let Some(value) = (metric.value)(report) else { return "-".to_owned() };
    let shown = (metric.format)(value);
    match (metric.value)(first) {
        Some(base) if !is_first && base > 0.0 => {
            let change = (value / base - 1.0) * 100.0;
            let mark = if is_significant(metric, first, report) == Some(false) { "~" } else { "" };
            format!("{shown} ({mark}{change:+.1} %)")
        }
        _ => shown,
    }
}

/// Whether the middle halves of the intervals of both runs do not overlap. `None` with too few intervals.
fn is_significant(metric: &ComparedMetric, a: &RunReport, b: &RunReport) -> Option<bool> {
    let quartiles = |report: &RunReport| {
        let mut values: Vec<_> = report.points.iter().filter_map(metric.interval_value).collect();
        values.sort_by(f64::total_cmp);
        (values.len() >= 4).then(|| (values[values.len() / 4], values[values.len() * 3 / 4]))
    };
    let (a, b) = (quartiles(a)?, quartiles(b)?);
    Some(a.1 < b.0 || b.1 < a.0)
}

fn is_worse(first: &RunReport, report: &RunReport, max: f64) -> bool {
    let is_metric_worse = |metric: &ComparedMetric| {
        let (Some(base), Some(value)) = ((metric.value)(first), (metric.value)(report)) else { return true };
        let excess = if metric.more_is_better { base / value - 1.0 } else { value / base - 1.0 };
        excess > max && is_significant(metric, first, report) != Some(false)
    };
    let more_errors = report.error_share() > first.error_share();
    more_errors
        || METRICS
            .iter()
            .filter(|metric| matches!(metric.sort_key, Some(SortKey::Rate | SortKey::P99)))
            .any(is_metric_worse)
}

/// Lists the settings in which a run differs from the first. Such runs are not comparable.
fn list_differences(name: &str, first: &RunReport, report: &RunReport) -> Option<String> {
    let (a, b) = (&first.scenario, &report.scenario);
    let mut differ = Vec::new();
    let mut compare = |setting: &'static str, is_same: bool| differ.extend((!is_same).then_some(setting));
    compare("scenario", a.name == b.name);
    compare("era", a.era == b.era);
    compare("connections", a.connections == b.connections);
    compare("rate", a.rate == b.rate);
    compare("machine", first.machine == report.machine);
    (!differ.is_empty()).then(|| format!("{name} differs from the first in: {}\n", differ.join(", ")))
}

#[cfg(test)]
pub mod tests;
