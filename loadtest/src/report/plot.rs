//! Line plots in inline SVG: axes with round ticks and units, a legend, and values under the pointer, without a script.

use std::fmt::Write;

use super::page::escape;

// The dimensions, in SVG units. The page scales the drawing.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;

/// Ticks per axis. More labels would overlap.
const TICKS_MAX: f64 = 7.0;

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Logarithmic: all decades have the same width.
    Log,
    /// 0, 0.9, 0.99, 0.999 and so on have the same distance.
    Nines,
}

/// One axis of a plot.
pub struct Axis {
    pub label: &'static str,
    pub scale: Scale,
    /// Formats values at ticks and under the pointer.
    pub format: fn(f64) -> String,
}

/// A line through some points.
pub struct Line {
    /// The name in the legend.
    pub name: &'static str,
    /// The CSS class, for the colour.
    pub class: &'static str,
    /// The x and y values. Without a y value, the line has a gap.
    pub points: Vec<(f64, Option<f64>)>,
    /// Fills the area below the line.
    pub is_area: bool,
}

/// A plot. All lines have points at the same x values.
pub struct Plot<'a> {
    /// The label for screen readers.
    pub title: &'a str,
    pub x: Axis,
    pub y: Axis,
    /// At least one line.
    pub lines: Vec<Line>,
}

/// Maps values to coordinates.
struct AxisMapping {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl AxisMapping {
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

    fn coordinate(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10().max(self.low),
            Scale::Nines => nines(value).min(self.high),
        };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => linear_ticks(self.high),
            Scale::Log => log_ticks(self.low, self.high),
            Scale::Nines => {
                let all = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
                all.into_iter().filter(|share| nines(*share) <= self.high).collect()
            }
        }
    }
}

/// Returns the number of nines of a fraction.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-7).log10()
}

/// Ticks at multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(high: f64) -> Vec<f64> {
    let rough = high / TICKS_MAX;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough).max(f64::MIN_POSITIVE);
    (0..=100).map(|n| f64::from(n) * step).take_while(|tick| *tick <= high).collect()
}

/// Ticks at 1, 2 and 5 of each decade where there are few decades, else at each decade.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = if high - low < 3.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    // Nanoseconds to hours are 13 decades.
    for decade in -9..=12 {
        let power = 10f64.powi(decade);
        ticks.extend(factors.iter().map(|factor| factor * power));
    }
    ticks.retain(|tick| (low..=high).contains(&tick.log10()));
    ticks
}

/// Renders a plot as an SVG element.
pub fn render_svg(plot: &Plot<'_>) -> String {
    let xs = plot.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let ys = plot.lines.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
    let x = AxisMapping::new(plot.x.scale, xs, LEFT, WIDTH - RIGHT);
    let y = AxisMapping::new(plot.y.scale, ys, HEIGHT - BOTTOM, TOP);
    // Writing to a String never fails.
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(plot.title)
    );
    draw_axes(plot, &x, &y, &mut out);
    // The first line is drawn last, above the others.
    for line in plot.lines.iter().rev() {
        draw_line(line, &x, &y, &mut out);
    }
    draw_legend(plot, &mut out);
    draw_tooltips(plot, &x, &mut out);
    out.push_str("</svg>\n");
    out
}

fn draw_axes(plot: &Plot<'_>, x: &AxisMapping, y: &AxisMapping, out: &mut String) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for tick in y.ticks() {
        let (at, label) = (y.coordinate(tick), escape(&(plot.y.format)(tick)));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tick in x.ticks() {
        let (at, label) = (x.coordinate(tick), escape(&(plot.x.format)(tick)));
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

fn draw_line(line: &Line, x: &AxisMapping, y: &AxisMapping, out: &mut String) {
    let (mut path, mut is_pen_down) = (String::new(), false);
    let mut ends = None;
    for (at, value) in &line.points {
        let Some(value) = value else {
            is_pen_down = false;
            continue;
        };
        let (across, up) = (x.coordinate(*at), y.coordinate(*value));
        let _ = write!(path, "{}{across:.1} {up:.1} ", if is_pen_down { "L" } else { "M" });
        ends = Some((ends.map_or(across, |(first, _)| first), across));
        is_pen_down = true;
    }
    let Some((first, last)) = ends else { return };
    let has_no_gap = line.points.iter().all(|(_, value)| value.is_some());
    if line.is_area && has_no_gap {
        let floor = HEIGHT - BOTTOM;
        let _ = writeln!(
            out,
            "<path class=\"area {}\" d=\"{path}L{last:.1} {floor} L{first:.1} {floor} Z\"/>",
            line.class
        );
    }
    let _ = writeln!(out, "<path class=\"line {}\" d=\"{}\"/>", line.class, path.trim_end());
    // A line with a single point would be invisible.
    if line.points.len() == 1 {
        let up = line.points[0].1.map_or(0.0, |value| y.coordinate(value));
        let _ =
            writeln!(out, "<circle class=\"dot {}\" cx=\"{first:.1}\" cy=\"{up:.1}\" r=\"3\"/>", line.class);
    }
}

/// The legend is above the plot, right-aligned.
fn draw_legend(plot: &Plot<'_>, out: &mut String) {
    /// The approximate width of a letter.
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

/// Covers each x value with a strip whose title has the values of all lines there.
fn draw_tooltips(plot: &Plot<'_>, x: &AxisMapping, out: &mut String) {
    let Some(first) = plot.lines.first() else { return };
    let coordinates: Vec<_> = first.points.iter().map(|(at, _)| x.coordinate(*at)).collect();
    for (index, (at, _)) in first.points.iter().enumerate() {
        let before = index
            .checked_sub(1)
            .map_or(LEFT, |before| f64::midpoint(coordinates[before], coordinates[index]));
        let after = coordinates
            .get(index + 1)
            .map_or(WIDTH - RIGHT, |after| f64::midpoint(coordinates[index], *after));
        let mut values = (plot.x.format)(*at);
        for line in &plot.lines {
            if let Some((_, Some(value))) = line.points.get(index) {
                let _ = write!(values, "\n{}: {}", line.name, (plot.y.format)(*value));
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
        let mapping = AxisMapping::new(scale, values.iter().copied(), 0.0, 100.0);
        let ticks = mapping.ticks();
        assert_eq!(ticks.len(), expected.len(), "{ticks:?}");
        for (found, expected) in ticks.iter().zip(expected) {
            assert!((found - expected).abs() < expected.abs() * 1e-9 + 1e-12, "{ticks:?}");
        }
        for value in values.iter().chain(&ticks) {
            assert!((-0.001..=100.001).contains(&mapping.coordinate(*value)), "{value} is outside the plot");
        }
    }

    #[test]
    fn ticks_are_round_and_values_stay_within_the_plot() {
        check(Scale::Linear, &[0.0, 10.0], &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        check(Scale::Linear, &[0.0], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::Linear, &[], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        check(Scale::Log, &[1.0, 100.0], &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        check(Scale::Log, &[1.0, 10_000.0], &[1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        check(Scale::Nines, &[0.0, 0.999, 1.0], &[0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999]);
    }
}
