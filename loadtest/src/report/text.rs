//! A report for a terminal.

use std::fmt::Write;

use super::format::{align_columns, format_bytes, format_count, format_duration};
use super::model::{OperationReport, RunReport, to_float};
use crate::counters::LatencySummary;

/// Renders a report as text.
pub fn render_text(report: &RunReport) -> String {
    let mut text = String::new();
    let scenario = &report.scenario;
    let rate = scenario
        .rate
        .map_or("as fast as responses arrive".to_owned(), |rate| format!("{} /s", format_count(rate)));
    let ended = if report.stopped { ", ended early" } else { "" };
    // Writing to a String never fails.
    let _ = writeln!(
        text,
        "\n{} at {}\n{} connections, {rate}, {}, measured for {:.1} s{ended}\n",
        scenario.name,
        report.url,
        scenario.connections,
        scenario.eras(),
        report.seconds
    );
    let _ = write!(text, "{}", operation_rows(report));
    write_errors(report, &mut text);
    if let Some(idle) = &report.held {
        let each = idle.bytes_each.map_or(String::new(), |bytes| format!(", {} each", format_bytes(bytes)));
        let _ = writeln!(
            text,
            "\nidle: {} connections ({} closed by the server), {} event streams{each}",
            idle.connections, idle.closed, idle.streams
        );
    }
    if let Some(process) = &report.process {
        let each = process
            .cpu_us_each
            .map_or(String::new(), |us| format!(", {} CPU per response", format_duration(us)));
        let _ = writeln!(
            text,
            "\nprocess: {:.2} cores{each}, memory {} -> {}",
            process.cores,
            format_bytes(to_float(process.memory_first_bytes)),
            format_bytes(to_float(process.memory_last_bytes))
        );
    }
    if let Some(late) = report.lateness_p99_us {
        let _ = writeln!(text, "\nsent late by (p99): {}{}", format_duration(late), late_note(report, late));
    }
    if !report.bounds.is_empty() {
        text.push('\n');
    }
    for bound in &report.bounds {
        let held = if bound.held { "held  " } else { "BROKEN" };
        let _ = writeln!(text, "{held}  {}: {}", bound.stated, bound.found);
    }
    if report.wrong_answers > 0 {
        let _ = writeln!(text, "\nWRONG RESPONSES: {}", report.wrong_answers);
    }
    text
}

/// A load generator that is late by more than the median latency measures itself.
fn late_note(report: &RunReport, late: f64) -> &'static str {
    let p50 = report.total.latency_us.map_or(f64::INFINITY, |latency| latency.p50);
    if late > p50 { " (more than the median latency: this machine is too busy to measure)" } else { "" }
}

const HEAD: [&str; 11] = ["", "ok", "failed", "/s", "MiB/s", "p50", "p90", "p99", "p99.9", "max", "mean"];

fn operation_rows(report: &RunReport) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    // Auxiliary operations have names in parentheses.
    let is_single =
        report.operations.iter().filter(|operation| !operation.name.starts_with('(')).count() == 1;
    rows.extend(report.operations.iter().map(|operation| operation_row(operation, report.seconds)));
    if !is_single {
        rows.push(operation_row(&report.total, report.seconds));
    }
    align_columns(&rows)
}

fn operation_row(operation: &OperationReport, seconds: f64) -> [String; 11] {
    let latency = operation.latency_us;
    let time = |of: fn(&LatencySummary) -> f64| {
        latency.map_or("-".to_owned(), |latency| format_duration(of(&latency)))
    };
    let mebibytes = to_float(operation.bytes) / 1024.0 / 1024.0 / seconds.max(f64::MIN_POSITIVE);
    [
        operation.name.clone(),
        operation.right.to_string(),
        operation.wrong.to_string(),
        format_count(operation.rate),
        format!("{mebibytes:.1}"),
        time(|latency| latency.p50),
        time(|latency| latency.p90),
        time(|latency| latency.p99),
        time(|latency| latency.p999),
        time(|latency| latency.max),
        time(|latency| latency.mean),
    ]
}

fn write_errors(report: &RunReport, text: &mut String) {
    if report.errors.is_empty() {
        return;
    }
    text.push_str("\nerrors\n");
    for (kind, count) in &report.errors {
        let _ = writeln!(text, "  {count:>8}  {kind}");
        for example in report.examples.iter().filter(|example| example.kind == *kind).take(1) {
            let _ = writeln!(text, "            {}", example.said.replace('\n', " "));
        }
    }
}
