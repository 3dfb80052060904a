//! The HTML page of one run.

use std::fmt::Write;

use super::format::{format_bytes, format_count, format_duration};
use super::model::{IntervalReport, RunReport, to_float};
use super::page::{escape, render_page, render_section, render_table, render_tile};
use super::plot::{Axis, Line, Plot, Scale, render_svg};
use crate::counters::LatencySummary;

/// The ratio of the longest to the shortest latency up to which a linear axis is readable.
const LINEAR_RATIO_MAX: f64 = 20.0;

/// The unit of the memory axis; ticks are round in it.
const MIB: f64 = 1024.0 * 1024.0;

pub fn render_run(report: &RunReport) -> String {
    let mut body = head(report);
    body += &tiles(report);
    if !report.bounds.is_empty() {
        let rows: Vec<_> = report
            .bounds
            .iter()
            .map(|bound| {
                let held = if bound.held { "held" } else { "broken" };
                vec![bound.stated.clone(), bound.found.clone(), held.to_owned()]
            })
            .collect();
        body += &render_section("Bounds", "", &render_table(&["bound", "found", ""], &rows));
    }
    body += &render_section(
        "Latency over time",
        "Of correct responses, from the due time of a request to the last byte of its response. Point at the plot for values.",
        &latency_plot(&report.points),
    );
    body += &render_section(
        "Throughput over time",
        "Correct responses and errors per second.",
        &throughput_plot(&report.points),
    );
    body += &render_section(
        "Latency distribution",
        "The share of correct responses up to a latency. Each step to the right is ten times rarer.",
        &distribution_plot(report),
    );
    if report.process.is_some() {
        body += &render_section(
            "Process",
            "Resident memory. Growth for as long as the load lasts indicates a leak.",
            &memory_plot(&report.points),
        );
    }
    body += &render_section("Operations", "", &operation_table(report));
    body += &error_section(report);
    body += &footer(report);
    render_page(&format!("{} at {}", report.scenario.name, report.url), &body)
}

fn head(report: &RunReport) -> String {
    let scenario = &report.scenario;
    let rate = scenario.rate.map_or("as fast as responses arrive (closed loop)".to_owned(), |rate| {
        format!("{} requests/s (open loop)", format_count(rate))
    });
    let (class, verdict) = match (report.wrong_answers, report.is_good()) {
        (0, true) if report.errors.is_empty() => ("good", "every response was correct".to_owned()),
        (0, true) => ("good", "no response was wrong; some requests failed".to_owned()),
        (0, false) => ("bad", "a bound is broken".to_owned()),
        (wrong, _) => ("bad", format!("{wrong} wrong responses")),
    };
    format!(
        "<header>\n<h1>{}</h1>\n<p>{}</p>\n<p><code>{}</code> · {} connections · {} · {} · {:.1} s{}</p>\n\
         <span class=\"verdict {class}\">{}</span>\n</header>\n",
        escape(&scenario.name),
        escape(&scenario.about),
        escape(&report.url),
        scenario.connections,
        escape(&rate),
        escape(&scenario.eras()),
        report.seconds,
        if report.stopped { ", ended early" } else { "" },
        escape(&verdict)
    )
}

fn tiles(report: &RunReport) -> String {
    let time = |value: fn(&LatencySummary) -> f64| {
        report.total.latency_us.map_or("–".to_owned(), |latency| format_duration(value(&latency)))
    };
    let errors: u64 = report.errors.values().sum();
    let mut out = String::from("<div class=\"tiles\">\n");
    out += &render_tile(
        &format_count(report.total.rate),
        "correct responses /s",
        &format!("{} in all", report.total.right),
    );
    out += &render_tile(&time(|latency| latency.p50), "p50", "median");
    out += &render_tile(
        &time(|latency| latency.p99),
        "p99",
        &format!("p99.9: {}", time(|latency| latency.p999)),
    );
    out += &render_tile(
        &time(|latency| latency.max),
        "longest",
        &format!("mean: {}", time(|latency| latency.mean)),
    );
    out += &render_tile(
        &errors.to_string(),
        "errors",
        &format!("{:.3} % of requests", report.error_share() * 100.0),
    );
    if let Some(process) = &report.process {
        let each = process.cpu_us_each.map_or("–".to_owned(), format_duration);
        out += &render_tile(&each, "CPU per response", &format!("{:.2} cores busy", process.cores));
        out += &render_tile(
            &format_bytes(to_float(process.memory_last_bytes)),
            "memory at the end",
            &format!("{} at the beginning", format_bytes(to_float(process.memory_first_bytes))),
        );
    }
    if let Some(idle) = &report.held {
        let each = idle.bytes_each.map_or(String::new(), |bytes| format!("{} each", format_bytes(bytes)));
        out += &render_tile(
            &(idle.connections + idle.streams).to_string(),
            "idle meanwhile",
            &format!("{} streams; {each}", idle.streams),
        );
    }
    out + "</div>\n"
}

fn format_seconds(at: f64) -> String {
    match at {
        at if at < 120.0 && at.fract().abs() > 0.001 => format!("{at:.1} s"),
        at if at < 120.0 => format!("{at:.0} s"),
        at if at < 7200.0 => format!("{:.1} min", at / 60.0),
        at => format!("{:.1} h", at / 3600.0),
    }
}

fn time_axis() -> Axis {
    Axis { label: "time since the start of the measurement", scale: Scale::Linear, format: format_seconds }
}

/// A linear axis where it is readable, else a logarithmic one.
fn latency_axis(values: impl Iterator<Item = f64> + Clone) -> Axis {
    let (least, most) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
    if most > least * LINEAR_RATIO_MAX {
        Axis { label: "latency (logarithmic)", scale: Scale::Log, format: format_duration }
    } else {
        Axis { label: "latency", scale: Scale::Linear, format: format_duration }
    }
}

fn latency_plot(points: &[IntervalReport]) -> String {
    let line = |name, class, value: fn(&LatencySummary) -> f64| {
        let point = |interval: &IntervalReport| (interval.at_s, interval.latency_us.as_ref().map(value));
        Line { name, class, points: points.iter().map(point).collect(), is_area: false }
    };
    let lines = vec![
        line("p50", "one", |latency| latency.p50),
        line("p99", "two", |latency| latency.p99),
        line("longest", "three", |latency| latency.max),
    ];
    let all: Vec<_> = points.iter().filter_map(|point| point.latency_us).collect();
    let y = latency_axis(all.iter().flat_map(|latency| [latency.p50, latency.max]));
    render_svg(&Plot { title: "latency over time", x: time_axis(), y, lines })
}

fn throughput_plot(points: &[IntervalReport]) -> String {
    let line = |name, class, is_area, count: fn(&IntervalReport) -> u64| {
        let value = |point: &IntervalReport| {
            (point.at_s, Some(to_float(count(point)) / point.length_s.max(f64::MIN_POSITIVE)))
        };
        Line { name, class, points: points.iter().map(value).collect(), is_area }
    };
    let lines = vec![
        line("correct responses", "one", true, |point| point.right),
        line("errors", "bad", false, |point| point.wrong),
    ];
    let y = Axis { label: "per second", scale: Scale::Linear, format: format_count };
    render_svg(&Plot { title: "throughput over time", x: time_axis(), y, lines })
}

fn distribution_plot(report: &RunReport) -> String {
    let points: Vec<_> = report.distribution.iter().map(|point| (point.share, Some(point.us))).collect();
    let y = latency_axis(report.distribution.iter().map(|point| point.us));
    let lines = vec![Line { name: "latency", class: "one", points, is_area: false }];
    let x = Axis { label: "share of correct responses", scale: Scale::Nines, format: format_share };
    render_svg(&Plot { title: "distribution of latency", x, y, lines })
}

/// Formats a fraction in percent, with as many digits as it has nines.
fn format_share(value: f64) -> String {
    let percent = format!("{:.5}", value * 100.0);
    format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
}

fn memory_plot(points: &[IntervalReport]) -> String {
    let value = |point: &IntervalReport| (point.at_s, point.memory_bytes.map(|bytes| to_float(bytes) / MIB));
    let points = points.iter().map(value).collect();
    let lines = vec![Line { name: "resident memory", class: "one", points, is_area: true }];
    let y =
        Axis { label: "memory", scale: Scale::Linear, format: |mib| format!("{} MiB", format_count(mib)) };
    render_svg(&Plot { title: "memory over time", x: time_axis(), y, lines })
}

fn operation_table(report: &RunReport) -> String {
    let rows: Vec<_> = report
        .operations
        .iter()
        .map(|operation| {
            let mut row = vec![
                operation.name.clone(),
                operation.right.to_string(),
                operation.wrong.to_string(),
                format_count(operation.rate),
                format_bytes(to_float(operation.bytes)),
            ];
            let columns: [fn(&LatencySummary) -> f64; 6] = [
                |latency| latency.p50,
                |latency| latency.p90,
                |latency| latency.p99,
                |latency| latency.p999,
                |latency| latency.max,
                |latency| latency.mean,
            ];
            row.extend(columns.map(|value| {
                operation.latency_us.map_or("–".to_owned(), |latency| format_duration(value(&latency)))
            }));
            row
        })
        .collect();
    let head = ["operation", "ok", "failed", "/s", "bytes", "p50", "p90", "p99", "p99.9", "longest", "mean"];
    render_table(&head, &rows)
}

fn error_section(report: &RunReport) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let rows: Vec<_> =
        report.errors.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]).collect();
    let mut content = render_table(&["kind", "count"], &rows);
    for example in &report.examples {
        // Writing to a String never fails.
        let _ = writeln!(content, "<pre>{}: {}</pre>", escape(&example.kind), escape(&example.said));
    }
    render_section("Errors", "Up to three of each kind in full.", &content)
}

fn footer(report: &RunReport) -> String {
    let machine = &report.machine;
    let late = report.lateness_p99_us.map_or(String::new(), |late| {
        format!(" Requests were sent up to {} late (p99).", format_duration(late))
    });
    format!(
        "<footer>mcpload {} · load from {} threads on {} cores, {} · {} s of warm-up, timeout of {} s.{}</footer>\n",
        escape(&report.version),
        machine.threads,
        machine.cores,
        escape(&machine.system),
        report.scenario.warm_up_s,
        report.scenario.timeout_s,
        escape(&late)
    )
}
