//! The page of a sweep.

use super::page::{escape, page, part, table, tile};
use super::plot::{Axis, Line, Plot, Scale, svg};
use super::{Summary, duration, number};
use crate::sweep::{Step, Sweep};

/// The page.
pub fn html(sweep: &Sweep) -> String {
    let mut steps: Vec<_> = sweep.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let knee = sweep.knee.map_or("–".to_owned(), number);
    let mut body = format!(
        "<header>\n<h1>{}: where it bends</h1>\n<p><code>{}</code></p>\n</header>\n<div class=\"tiles\">\n",
        escape(&sweep.scenario),
        escape(&sweep.url)
    );
    body += &tile(&knee, "requests/s it bears", &format!("p99 at most {}", duration(sweep.p99_max_us)));
    // One that broke and then held has held.
    let held = |rate: f64| steps.iter().any(|step| step.held && step.rate.total_cmp(&rate).is_eq());
    let broke = steps.iter().find(|step| !held(step.rate));
    let broken = broke.map_or("–".to_owned(), |step| number(step.rate));
    body += &tile(&broken, "requests/s it does not", broke.map_or("", |step| step.why.as_str()));
    body += "</div>\n";
    let about =
        "Each point is one run at that rate, in the open loop. Where p99 turns up, requests begin to wait.";
    body += &part("Latency by rate", about, &plot(&steps));
    body += &part("Steps", "In the order of their rates.", &rows(&steps));
    page(&format!("{} at {}", sweep.scenario, sweep.url), &body)
}

fn plot(steps: &[&Step]) -> String {
    let line = |name, class, of: fn(&Summary) -> f64| {
        let points = steps.iter().map(|step| (step.rate, step.latency_us.as_ref().map(of))).collect();
        Line { name, class, points, is_area: false }
    };
    let lines = vec![
        line("p50", "one", |latency| latency.p50),
        line("p99", "two", |latency| latency.p99),
        line("longest", "three", |latency| latency.max),
    ];
    let x = Axis { label: "requests/s asked for (logarithmic)", scale: Scale::Log, show: number };
    let y = Axis { label: "latency (logarithmic)", scale: Scale::Log, show: duration };
    svg(&Plot { title: "latency by rate", x, y, lines })
}

fn rows(steps: &[&Step]) -> String {
    let rows: Vec<_> = steps
        .iter()
        .map(|step| {
            let time = |of: fn(&Summary) -> f64| {
                step.latency_us.map_or("–".to_owned(), |latency| duration(of(&latency)))
            };
            vec![
                number(step.rate),
                number(step.right_rate),
                step.errors.to_string(),
                time(|latency| latency.p50),
                time(|latency| latency.p99),
                if step.held { "held".to_owned() } else { step.why.clone() },
            ]
        })
        .collect();
    table(&["requests/s asked for", "right answers/s", "errors", "p50", "p99", ""], &rows)
}
