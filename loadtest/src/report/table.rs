//! A report for a terminal.

use std::fmt::Write;

use super::{Found, Report, float};

/// As a person writes it, from microseconds.
pub fn duration(us: f64) -> String {
    match us {
        _ if us < 1_000.0 => format!("{us:.0} µs"),
        _ if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        _ if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A count or a rate, with few digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e7 => format!("{:.1} M", value / 1e6),
        size if size >= 1e5 => format!("{:.0} k", value / 1e3),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

/// Bytes.
pub fn size(bytes: f64) -> String {
    match bytes.abs() {
        n if n >= 1024.0 * 1024.0 * 1024.0 => format!("{:.2} GiB", bytes / 1024.0 / 1024.0 / 1024.0),
        n if n >= 1024.0 * 1024.0 => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
        n if n >= 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{bytes:.0} B"),
    }
}

/// All of it that fits into lines.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let asked = &report.scenario;
    let rate = asked.rate.map_or("as fast as answers come".to_owned(), |rate| format!("{} /s", number(rate)));
    let ended = if report.stopped { ", ended early" } else { "" };
    // Writing to a String never fails.
    let _ = writeln!(
        text,
        "\n{} at {}\n{} connections, {rate}, {}, measured for {:.1} s{ended}\n",
        asked.name,
        report.url,
        asked.connections,
        asked.eras(),
        report.seconds
    );
    let _ = write!(text, "{}", rows(report));
    errors(report, &mut text);
    if let Some(held) = &report.held {
        let each = held.bytes_each.map_or(String::new(), |bytes| format!(", {} each", size(bytes)));
        let _ = writeln!(
            text,
            "\nheld: {} connections ({} closed by the other side), {} event streams{each}",
            held.connections, held.closed, held.streams
        );
    }
    if let Some(process) = &report.process {
        let each =
            process.cpu_us_each.map_or(String::new(), |us| format!(", {} CPU an answer", duration(us)));
        let _ = writeln!(
            text,
            "\nprocess: {:.2} cores{each}, memory {} -> {}",
            process.cores,
            size(float(process.memory_first_bytes)),
            size(float(process.memory_last_bytes))
        );
    }
    if let Some(late) = report.lateness_p99_us {
        let _ = writeln!(text, "\nsent late by (p99): {}{}", duration(late), late_note(report, late));
    }
    if !report.bounds.is_empty() {
        text.push('\n');
    }
    for bound in &report.bounds {
        let held = if bound.held { "held  " } else { "BROKEN" };
        let _ = writeln!(text, "{held}  {}: {}", bound.stated, bound.found);
    }
    if report.wrong_answers > 0 {
        let _ = writeln!(text, "\nWRONG ANSWERS: {}", report.wrong_answers);
    }
    text
}

/// A load that cannot keep its own times measures itself.
fn late_note(report: &Report, late: f64) -> &'static str {
    let p50 = report.total.latency_us.map_or(f64::INFINITY, |latency| latency.p50);
    if late > p50 { " (more than half of the answers took: this machine is too busy to measure)" } else { "" }
}

const HEAD: [&str; 11] = ["", "right", "wrong", "/s", "MiB/s", "p50", "p90", "p99", "p99.9", "max", "mean"];

fn rows(report: &Report) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    // Beside the operations of the scenario stands what a run does for them, in brackets.
    let single = report.operations.iter().filter(|found| !found.name.starts_with('(')).count() == 1;
    rows.extend(report.operations.iter().map(|found| row(found, report.seconds)));
    if !single {
        rows.push(row(&report.total, report.seconds));
    }
    aligned(&rows)
}

fn row(found: &Found, seconds: f64) -> [String; 11] {
    let latency = found.latency_us;
    let time =
        |of: fn(&super::Summary) -> f64| latency.map_or("-".to_owned(), |latency| duration(of(&latency)));
    let megabytes = float(found.bytes) / 1024.0 / 1024.0 / seconds.max(f64::MIN_POSITIVE);
    [
        found.name.clone(),
        found.right.to_string(),
        found.wrong.to_string(),
        number(found.rate),
        format!("{megabytes:.1}"),
        time(|latency| latency.p50),
        time(|latency| latency.p90),
        time(|latency| latency.p99),
        time(|latency| latency.p999),
        time(|latency| latency.max),
        time(|latency| latency.mean),
    ]
}

/// The first column to the left, the others to the right.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[at] - cell.chars().count());
            let parts = if at == 0 { [cell.as_str(), &space, ""] } else { ["  ", &space, cell] };
            line.extend(parts);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn errors(report: &Report, text: &mut String) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shown: &str, expected: &str) {
        assert_eq!(shown, expected);
    }

    #[test]
    fn values_have_few_digits_and_a_unit() {
        check(&duration(12.3), "12 µs");
        check(&duration(1_234.0), "1.23 ms");
        check(&duration(12_345.0), "12.3 ms");
        check(&duration(123_456.0), "123 ms");
        check(&duration(1_234_567.0), "1.23 s");
        check(&number(5.0), "5");
        check(&number(5.25), "5.2");
        check(&number(1234.0), "1234");
        check(&number(12_345.0), "12.3 k");
        check(&number(12_345_678.0), "12.3 M");
        check(&size(945.0), "945 B");
        check(&size(-2048.0), "-2.0 KiB");
        check(&size(3.5 * 1024.0 * 1024.0), "3.5 MiB");
        let rows = [[String::new(), "a".to_owned()], ["µ".to_owned(), "bcd".to_owned()]];
        check(&aligned(&rows), "     a\nµ  bcd\n");
    }
}
