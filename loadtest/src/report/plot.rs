//! Lines in inline SVG: axes with ticks at round values and units, a legend, and values under the pointer, all
//! without a script.

use std::fmt::Write;

use super::page::escape;

/// In the units of the drawing; the page scales it.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;

/// More labels on an axis run into each other.
const TICKS_MAX: f64 = 7.0;

/// How values are spread over an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0, evenly.
    Linear,
    /// Each decade as wide as the next.
    Log,
    /// 0, 0.9, 0.99, 0.999, … as wide as each other.
    Nines,
}

/// One axis.
pub struct Axis {
    /// What it is of, with the unit.
    pub label: &'static str,
    /// How values are spread.
    pub scale: Scale,
    /// A value at a tick and under the pointer.
    pub show: fn(f64) -> String,
}

/// Values at some places.
pub struct Line {
    /// In the legend.
    pub name: &'static str,
    /// Of the style sheet, for the colour.
    pub class: &'static str,
    /// Its place and value; without a value the line is broken there.
    pub points: Vec<(f64, Option<f64>)>,
    /// With the space below it filled.
    pub is_area: bool,
}

/// A whole plot; lines have their points at the same places.
pub struct Plot<'a> {
    /// What it says to somebody who cannot see it.
    pub title: &'a str,
    /// To the right.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// At least one.
    pub lines: Vec<Line>,
}

/// From values to places on the drawing.
struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Span {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let max = finite.clone().fold(0.0, f64::max);
        let (low, high) = match scale {
            Scale::Linear => (0.0, if max > 0.0 { max * 1.05 } else { 1.0 }),
            Scale::Log => {
                let min = finite.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                let min = if min.is_finite() { min } else { 0.1 };
                (min.log10() - 0.05, max.max(min * 10.0).log10() + 0.05)
            }
            Scale::Nines => (0.0, nines(max).max(1.0)),
        };
        Self { scale, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10().max(self.low),
            Scale::Nines => nines(value).min(self.high),
        };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => even(self.high),
            Scale::Log => decades(self.low, self.high),
            Scale::Nines => {
                let all = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
                all.into_iter().filter(|share| nines(*share) <= self.high).collect()
            }
        }
    }
}

/// How many nines a share has.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-7).log10()
}

/// Multiples of 1, 2 or 5 and a power of ten.
fn even(high: f64) -> Vec<f64> {
    let rough = high / TICKS_MAX;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough).max(f64::MIN_POSITIVE);
    (0..=100).map(|n| f64::from(n) * step).take_while(|tick| *tick <= high).collect()
}

/// 1, 2 and 5 of each decade where there are few decades, else only the decades.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let parts: &[f64] = if high - low < 3.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    // Nanoseconds to hours are 13 decades.
    for decade in -9..=12 {
        let power = 10f64.powi(decade);
        ticks.extend(parts.iter().map(|part| part * power));
    }
    ticks.retain(|tick| (low..=high).contains(&tick.log10()));
    ticks
}

/// The plot as an element.
pub fn svg(plot: &Plot<'_>) -> String {
    let xs = plot.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let ys = plot.lines.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
    let x = Span::new(plot.x.scale, xs, LEFT, WIDTH - RIGHT);
    let y = Span::new(plot.y.scale, ys, HEIGHT - BOTTOM, TOP);
    // Writing to a String never fails.
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(plot.title)
    );
    axes(plot, &x, &y, &mut out);
    // The first one above the others, where they lie on each other.
    for line in plot.lines.iter().rev() {
        draw(line, &x, &y, &mut out);
    }
    legend(plot, &mut out);
    pointed_at(plot, &x, &mut out);
    out.push_str("</svg>\n");
    out
}

fn axes(plot: &Plot<'_>, x: &Span, y: &Span, out: &mut String) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for tick in y.ticks() {
        let (at, label) = (y.place(tick), escape(&(plot.y.show)(tick)));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tick in x.ticks() {
        let (at, label) = (x.place(tick), escape(&(plot.x.show)(tick)));
        let _ = writeln!(
            out,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 5.0,
            bottom + 19.0
        );
    }
    let _ = writeln!(
        out,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
         <text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text class=\"label\" x=\"8\" y=\"18\">{}</text>",
        f64::midpoint(LEFT, right),
        HEIGHT - 8.0,
        escape(plot.x.label),
        escape(plot.y.label)
    );
}

fn draw(line: &Line, x: &Span, y: &Span, out: &mut String) {
    let (mut path, mut is_down) = (String::new(), false);
    let mut ends = None;
    for (at, value) in &line.points {
        let Some(value) = value else {
            is_down = false;
            continue;
        };
        let (across, up) = (x.place(*at), y.place(*value));
        let _ = write!(path, "{}{across:.1} {up:.1} ", if is_down { "L" } else { "M" });
        ends = Some((ends.map_or(across, |(first, _)| first), across));
        is_down = true;
    }
    let Some((first, last)) = ends else { return };
    let unbroken = line.points.iter().all(|(_, value)| value.is_some());
    if line.is_area && unbroken {
        let floor = HEIGHT - BOTTOM;
        let _ = writeln!(
            out,
            "<path class=\"area {}\" d=\"{path}L{last:.1} {floor} L{first:.1} {floor} Z\"/>",
            line.class
        );
    }
    let _ = writeln!(out, "<path class=\"line {}\" d=\"{}\"/>", line.class, path.trim_end());
    // One point alone is no line that could be seen.
    if line.points.len() == 1 {
        let up = line.points[0].1.map_or(0.0, |value| y.place(value));
        let _ =
            writeln!(out, "<circle class=\"dot {}\" cx=\"{first:.1}\" cy=\"{up:.1}\" r=\"3\"/>", line.class);
    }
}

/// To the right above the plot, the first line first.
fn legend(plot: &Plot<'_>, out: &mut String) {
    /// Of a letter, about.
    const LETTER: f64 = 7.4;
    let letters = |name: &str| name.chars().map(|_| LETTER).sum::<f64>();
    let widths: Vec<_> = plot.lines.iter().map(|line| 34.0 + letters(line.name)).collect();
    let mut at = WIDTH - RIGHT - widths.iter().sum::<f64>();
    for (line, width) in plot.lines.iter().zip(widths) {
        let _ = writeln!(
            out,
            "<line class=\"line {}\" x1=\"{at:.1}\" x2=\"{:.1}\" y1=\"14\" y2=\"14\"/>\
             <text class=\"name\" x=\"{:.1}\" y=\"18\">{}</text>",
            line.class,
            at + 16.0,
            at + 22.0,
            escape(line.name)
        );
        at += width;
    }
}

/// A strip around each place; its title has the values of all lines there.
fn pointed_at(plot: &Plot<'_>, x: &Span, out: &mut String) {
    let Some(first) = plot.lines.first() else { return };
    let places: Vec<_> = first.points.iter().map(|(at, _)| x.place(*at)).collect();
    for (index, (at, _)) in first.points.iter().enumerate() {
        let before = index.checked_sub(1).map_or(LEFT, |before| f64::midpoint(places[before], places[index]));
        let after = places.get(index + 1).map_or(WIDTH - RIGHT, |after| f64::midpoint(places[index], *after));
        let mut values = (plot.x.show)(*at);
        for line in &plot.lines {
            if let Some((_, Some(value))) = line.points.get(index) {
                let _ = write!(values, "\n{}: {}", line.name, (plot.y.show)(*value));
            }
        }
        let _ = writeln!(
            out,
            "<rect class=\"hit\" x=\"{before:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            (after - before).max(0.0),
            HEIGHT - TOP - BOTTOM,
            escape(&values)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scale: Scale, values: &[f64], expected: &[f64]) {
        let span = Span::new(scale, values.iter().copied(), 0.0, 100.0);
        let ticks = span.ticks();
        assert_eq!(ticks.len(), expected.len(), "{ticks:?}");
        for (found, expected) in ticks.iter().zip(expected) {
            assert!((found - expected).abs() < expected.abs() * 1e-9 + 1e-12, "{ticks:?}");
        }
        for value in values.iter().chain(&ticks) {
            assert!((-0.001..=100.001).contains(&span.place(*value)), "{value} is off the plot");
        }
    }

    #[test]
    fn ticks_are_round_and_values_stay_on_the_plot() {
        check(Scale::Linear, &[0.0, 10.0], &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        check(Scale::Linear, &[0.0], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::Linear, &[], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::Log, &[1.0, 100.0], &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        check(Scale::Log, &[1.0, 10_000.0], &[1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        check(Scale::Nines, &[0.0, 0.999, 1.0], &[0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999]);
    }
}
