//! The HTML page of a sweep.

use super::format::{format_count, format_duration};
use super::page::{escape, render_page, render_section, render_table, render_tile};
use super::plot::{Axis, Line, Plot, Scale, render_svg};
use crate::counters::LatencySummary;
use crate::sweep::{Sweep, SweepStep};

pub fn render_sweep(sweep: &Sweep) -> String {
    let mut steps: Vec<_> = sweep.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let knee = sweep.knee.map_or("–".to_owned(), format_count);
    let mut body = format!(
        "<header>\n<h1>{}: highest sustained rate</h1>\n<p><code>{}</code></p>\n</header>\n<div class=\"tiles\">\n",
        escape(&sweep.scenario),
        escape(&sweep.url)
    );
    body += &render_tile(
        &knee,
        "highest rate that held, requests/s",
        &format!("p99 at most {}", format_duration(sweep.p99_max_us)),
    );
    // A rate that held in any attempt counts as held.
    let held = |rate: f64| steps.iter().any(|step| step.held && step.rate.total_cmp(&rate).is_eq());
    let broke = steps.iter().find(|step| !held(step.rate));
    let broken = broke.map_or("–".to_owned(), |step| format_count(step.rate));
    body += &render_tile(
        &broken,
        "lowest rate that broke, requests/s",
        broke.map_or("", |step| step.why.as_str()),
    );
    body += "</div>\n";
    let about =
        "Each point is one run in the open loop. Requests begin to queue at the rate at which p99 rises.";
    body += &render_section("Latency by rate", about, &latency_plot(&steps));
    body += &render_section("Steps", "By rate.", &step_table(&steps));
    render_page(&format!("{} at {}", sweep.scenario, sweep.url), &body)
}

fn latency_plot(steps: &[&SweepStep]) -> String {
    let line = |name, class, value: fn(&LatencySummary) -> f64| {
        let points = steps.iter().map(|step| (step.rate, step.latency_us.as_ref().map(value))).collect();
        Line { name, class, points, is_area: false }
    };
    let lines = vec![
        line("p50", "one", |latency| latency.p50),
        line("p99", "two", |latency| latency.p99),
        line("longest", "three", |latency| latency.max),
    ];
    let x = Axis { label: "target rate, requests/s (logarithmic)", scale: Scale::Log, format: format_count };
    let y = Axis { label: "latency (logarithmic)", scale: Scale::Log, format: format_duration };
    render_svg(&Plot { title: "latency by rate", x, y, lines })
}

fn step_table(steps: &[&SweepStep]) -> String {
    let rows: Vec<_> = steps
        .iter()
        .map(|step| {
            let time = |value: fn(&LatencySummary) -> f64| {
                step.latency_us.map_or("–".to_owned(), |latency| format_duration(value(&latency)))
            };
            vec![
                format_count(step.rate),
                format_count(step.right_rate),
                step.errors.to_string(),
                time(|latency| latency.p50),
                time(|latency| latency.p99),
                if step.held { "held".to_owned() } else { step.why.clone() },
            ]
        })
        .collect();
    render_table(&["target rate /s", "correct responses /s", "errors", "p50", "p99", ""], &rows)
}
