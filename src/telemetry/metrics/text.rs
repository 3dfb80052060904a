//! Rows as text: that of `OpenMetrics` 1.0, and the one that Prometheus had before it (0.0.4).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

use super::cells::{BOUNDS_NS, Summed};

/// The form of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
    /// `text/plain; version=0.0.4`.
    Plain,
}

/// Rows of one name.
#[derive(Debug)]
pub struct Family {
    /// Without its unit, and without `_total`.
    name: &'static str,
    /// One line, without backslashes.
    help: &'static str,
    kind: Kind,
    unit: Unit,
    rows: Vec<Row>,
}

/// What is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One set of labels with its value.
#[derive(Debug)]
pub struct Row {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

/// What a row tells.
#[derive(Debug)]
pub enum Value {
    /// Of a counter.
    Count(u64),
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a gauge.
    Level(i64),
    /// Of a histogram.
    Durations(Box<Summed>),
}

impl Row {
    /// A value, and what it is of.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'static str, &'a str)>, value: Value) -> Self {
        Self { labels: labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect(), value }
    }
}

impl Family {
    /// What only rises.
    pub fn counter(name: &'static str, help: &'static str, unit: Unit, rows: Vec<Row>) -> Self {
        Self { name, help, kind: Kind::Counter, unit, rows }
    }

    /// What goes up and down.
    pub fn gauge(name: &'static str, help: &'static str, rows: Vec<Row>) -> Self {
        Self { name, help, kind: Kind::Gauge, unit: Unit::None, rows }
    }

    /// In that unit.
    #[must_use]
    pub fn in_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    pub(super) fn histogram(name: &'static str, help: &'static str, rows: Vec<Row>) -> Self {
        Self { name, help, kind: Kind::Histogram, unit: Unit::Seconds, rows }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let unit = match self.unit {
            Unit::None => None,
            Unit::Seconds => Some(registry::Unit::Seconds),
            Unit::Bytes => Some(registry::Unit::Bytes),
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), kind)?;
        for row in &self.rows {
            let labels: Vec<(&str, &str)> =
                row.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            if labels.is_empty() {
                self.encode_value(&row.value, &mut metric)?;
            } else {
                self.encode_value(&row.value, &mut metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_value(&self, value: &Value, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        let is_counter = self.kind == Kind::Counter;
        match value {
            Value::Count(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
            Value::Number(number) if is_counter => metric.encode_counter::<NoLabelSet, _, u64>(number, None),
            Value::Number(number) => metric.encode_gauge(number),
            Value::Level(level) => metric.encode_gauge(level),
            Value::Durations(summed) => {
                let count = summed.buckets.iter().sum();
                let bounds = BOUNDS_NS.iter().map(|ns| seconds(*ns)).chain([f64::INFINITY]);
                let buckets: Vec<_> = bounds.zip(summed.buckets).collect();
                metric.encode_histogram::<NoLabelSet>(seconds(summed.sum_ns), count, &buckets, None)
            }
        }
    }

    /// As it is called in the text.
    fn full_name(&self) -> String {
        match self.unit {
            Unit::None => self.name.to_owned(),
            Unit::Seconds => format!("{}_seconds", self.name),
            Unit::Bytes => format!("{}_bytes", self.name),
        }
    }
}

/// All rows of a look.
#[derive(Debug)]
struct Look(Vec<Family>);

impl Collector for Look {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0
            .iter()
            .filter(|family| !family.rows.is_empty())
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

/// The text of all of them; of those without a row nothing is said.
pub fn render(families: Vec<Family>, format: Format) -> Result<String, fmt::Error> {
    let is_counter = |family: &&Family| family.kind == Kind::Counter;
    let counters: Vec<String> = families.iter().filter(is_counter).map(Family::full_name).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Look(families)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Plain => plain(&text, &counters),
    })
}

/// The samples of both forms are the same. What is said about them is not: in the older one a counter is called by its
/// whole name, and there is neither a unit nor an end.
fn plain(text: &str, counters: &[String]) -> String {
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let Some(said) = line.strip_prefix("# ") else {
            plain.push_str(line);
            plain.push('\n');
            continue;
        };
        let mut words = said.splitn(3, ' ');
        let (Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let total = if counters.iter().any(|counter| counter == name) { "_total" } else { "" };
        for part in ["# ", what, " ", name, total, " ", rest, "\n"] {
            plain.push_str(part);
        }
    }
    plain
}

/// No sum is so long that the last digit counts.
#[allow(
    clippy::cast_precision_loss,
    reason = "a double tells 104 days to the nanosecond, and longer ones well enough"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
