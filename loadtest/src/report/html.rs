//! The page of one run.

use std::fmt::Write;

use super::page::{escape, page, part, table, tile};
use super::plot::{Axis, Line, Plot, Scale, svg};
use super::{PointFound, Report, Summary, duration, float, number, size};

/// From the shortest to the longest latency of a plot; beyond, an even axis shows the longest alone.
const EVEN_RATIO_MAX: f64 = 20.0;

/// Round numbers of these make round ticks.
const MIB: f64 = 1024.0 * 1024.0;

/// The page.
pub fn html(report: &Report) -> String {
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
        body += &part("Stated beforehand", "", &table(&["bound", "found", ""], &rows));
    }
    body += &part(
        "Latency over time",
        "Of right answers, from when a request was due to the last byte of its answer. Point at the plot for values.",
        &latency(&report.points),
    );
    body += &part("Throughput over time", "Right answers and errors a second.", &throughput(&report.points));
    body += &part(
        "How latency is distributed",
        "The share of right answers that took at most as long; each step to the right is ten times rarer.",
        &distribution(report),
    );
    if report.process.is_some() {
        body += &part(
            "The process that was watched",
            "Resident memory. What grows for as long as the load lasts is a leak.",
            &memory(&report.points),
        );
    }
    body += &part("Operations", "", &operations(report));
    body += &errors(report);
    body += &footer(report);
    page(&format!("{} at {}", report.scenario.name, report.url), &body)
}

fn head(report: &Report) -> String {
    let asked = &report.scenario;
    let rate = asked.rate.map_or("as fast as answers come (closed loop)".to_owned(), |rate| {
        format!("{} requests/s (open loop)", number(rate))
    });
    let (class, verdict) = match (report.wrong_answers, report.is_good()) {
        (0, true) if report.errors.is_empty() => ("good", "every answer was right".to_owned()),
        (0, true) => ("good", "no answer was wrong; some requests failed".to_owned()),
        (0, false) => ("bad", "a stated bound is broken".to_owned()),
        (wrong, _) => ("bad", format!("{wrong} wrong answers")),
    };
    format!(
        "<header>\n<h1>{}</h1>\n<p>{}</p>\n<p><code>{}</code> · {} connections · {} · {} · {:.1} s{}</p>\n\
         <span class=\"verdict {class}\">{}</span>\n</header>\n",
        escape(&asked.name),
        escape(&asked.about),
        escape(&report.url),
        asked.connections,
        escape(&rate),
        escape(&asked.eras()),
        report.seconds,
        if report.stopped { ", ended early" } else { "" },
        escape(&verdict)
    )
}

fn tiles(report: &Report) -> String {
    let time = |of: fn(&Summary) -> f64| {
        report.total.latency_us.map_or("–".to_owned(), |latency| duration(of(&latency)))
    };
    let errors: u64 = report.errors.values().sum();
    let mut out = String::from("<div class=\"tiles\">\n");
    out += &tile(&number(report.total.rate), "right answers /s", &format!("{} in all", report.total.right));
    out += &tile(&time(|latency| latency.p50), "p50", "half took at most this");
    out += &tile(&time(|latency| latency.p99), "p99", &format!("p99.9: {}", time(|latency| latency.p999)));
    out += &tile(&time(|latency| latency.max), "longest", &format!("mean: {}", time(|latency| latency.mean)));
    out +=
        &tile(&errors.to_string(), "errors", &format!("{:.3} % of requests", report.error_share() * 100.0));
    if let Some(process) = &report.process {
        let each = process.cpu_us_each.map_or("–".to_owned(), duration);
        out += &tile(&each, "CPU an answer", &format!("{:.2} cores busy", process.cores));
        out += &tile(
            &size(float(process.memory_last_bytes)),
            "memory at the end",
            &format!("{} at the beginning", size(float(process.memory_first_bytes))),
        );
    }
    if let Some(held) = &report.held {
        let each = held.bytes_each.map_or(String::new(), |bytes| format!("{} each", size(bytes)));
        out += &tile(
            &(held.connections + held.streams).to_string(),
            "held meanwhile",
            &format!("{} streams; {each}", held.streams),
        );
    }
    out + "</div>\n"
}

fn seconds(at: f64) -> String {
    match at {
        at if at < 120.0 && at.fract().abs() > 0.001 => format!("{at:.1} s"),
        at if at < 120.0 => format!("{at:.0} s"),
        at if at < 7200.0 => format!("{:.1} min", at / 60.0),
        at => format!("{:.1} h", at / 3600.0),
    }
}

fn time_axis() -> Axis {
    Axis { label: "time since the measurement began", scale: Scale::Linear, show: seconds }
}

/// Even where that shows everything, else logarithmic.
fn latency_axis(values: impl Iterator<Item = f64> + Clone) -> Axis {
    let (least, most) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
    if most > least * EVEN_RATIO_MAX {
        Axis { label: "latency (logarithmic)", scale: Scale::Log, show: duration }
    } else {
        Axis { label: "latency", scale: Scale::Linear, show: duration }
    }
}

fn latency(points: &[PointFound]) -> String {
    let line = |name, class, of: fn(&Summary) -> f64| {
        let value = |point: &PointFound| (point.at_s, point.latency_us.as_ref().map(of));
        Line { name, class, points: points.iter().map(value).collect(), is_area: false }
    };
    let lines = vec![
        line("p50", "one", |latency| latency.p50),
        line("p99", "two", |latency| latency.p99),
        line("longest", "three", |latency| latency.max),
    ];
    let all: Vec<_> = points.iter().filter_map(|point| point.latency_us).collect();
    let y = latency_axis(all.iter().flat_map(|latency| [latency.p50, latency.max]));
    svg(&Plot { title: "latency over time", x: time_axis(), y, lines })
}

fn throughput(points: &[PointFound]) -> String {
    let line = |name, class, is_area, of: fn(&PointFound) -> u64| {
        let value =
            |point: &PointFound| (point.at_s, Some(float(of(point)) / point.length_s.max(f64::MIN_POSITIVE)));
        Line { name, class, points: points.iter().map(value).collect(), is_area }
    };
    let lines = vec![
        line("right answers", "one", true, |point| point.right),
        line("errors", "bad", false, |point| point.wrong),
    ];
    let y = Axis { label: "per second", scale: Scale::Linear, show: number };
    svg(&Plot { title: "throughput over time", x: time_axis(), y, lines })
}

fn distribution(report: &Report) -> String {
    let points: Vec<_> = report.distribution.iter().map(|point| (point.share, Some(point.us))).collect();
    let y = latency_axis(report.distribution.iter().map(|point| point.us));
    let lines = vec![Line { name: "latency", class: "one", points, is_area: false }];
    let x = Axis { label: "share of right answers", scale: Scale::Nines, show: share };
    svg(&Plot { title: "distribution of latency", x, y, lines })
}

/// As many digits as there are nines.
fn share(value: f64) -> String {
    let percent = format!("{:.5}", value * 100.0);
    format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
}

fn memory(points: &[PointFound]) -> String {
    let value = |point: &PointFound| (point.at_s, point.memory_bytes.map(|bytes| float(bytes) / MIB));
    let points = points.iter().map(value).collect();
    let lines = vec![Line { name: "resident memory", class: "one", points, is_area: true }];
    let y = Axis { label: "memory", scale: Scale::Linear, show: |mib| format!("{} MiB", number(mib)) };
    svg(&Plot { title: "memory over time", x: time_axis(), y, lines })
}

fn operations(report: &Report) -> String {
    let rows: Vec<_> = report
        .operations
        .iter()
        .map(|found| {
            let mut row = vec![
                found.name.clone(),
                found.right.to_string(),
                found.wrong.to_string(),
                number(found.rate),
                size(float(found.bytes)),
            ];
            let columns: [fn(&Summary) -> f64; 6] = [
                |latency| latency.p50,
                |latency| latency.p90,
                |latency| latency.p99,
                |latency| latency.p999,
                |latency| latency.max,
                |latency| latency.mean,
            ];
            row.extend(
                columns.map(|of| found.latency_us.map_or("–".to_owned(), |latency| duration(of(&latency)))),
            );
            row
        })
        .collect();
    let head =
        ["operation", "right", "wrong", "/s", "bytes", "p50", "p90", "p99", "p99.9", "longest", "mean"];
    table(&head, &rows)
}

fn errors(report: &Report) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let rows: Vec<_> =
        report.errors.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]).collect();
    let mut content = table(&["kind", "count"], &rows);
    for example in &report.examples {
        // Writing to a String never fails.
        let _ = writeln!(content, "<pre>{}: {}</pre>", escape(&example.kind), escape(&example.said));
    }
    part("Errors", "Up to three of each kind, word for word.", &content)
}

fn footer(report: &Report) -> String {
    let machine = &report.machine;
    let late = report.lateness_p99_us.map_or(String::new(), |late| {
        format!(" Requests were sent late by at most {} (p99).", duration(late))
    });
    format!(
        "<footer>mcpload {} · load from {} threads on {} cores, {} · {} s of warm-up, {} s for an answer.{}</footer>\n",
        escape(&report.version),
        machine.threads,
        machine.cores,
        escape(&machine.system),
        report.scenario.warm_up_s,
        report.scenario.timeout_s,
        escape(&late)
    )
}
