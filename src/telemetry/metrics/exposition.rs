//! The text formats of metrics: `OpenMetrics` 1.0, and the Prometheus format that preceded it (0.0.4).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

use super::cells::{BOUNDS_NS, HistogramSnapshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// Content type `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
    /// Content type `text/plain; version=0.0.4`.
    Plain,
}

/// All samples of one metric name.
#[derive(Debug)]
pub struct MetricFamily {
    /// Without the suffixes for the unit and `_total`.
    name: &'static str,
    /// One line, without backslashes.
    help: &'static str,
    kind: FamilyKind,
    unit: MetricUnit,
    samples: Vec<MetricSample>,
}

/// The unit of a family's values; it becomes a suffix of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricUnit {
    None,
    Seconds,
    Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
}

/// One set of labels with its value.
#[derive(Debug)]
pub struct MetricSample {
    labels: Vec<(&'static str, String)>,
    value: SampleValue,
}

/// The value of a sample.
#[derive(Debug)]
pub enum SampleValue {
    /// The value of a counter.
    Count(u64),
    /// Of a counter or a gauge.
    Number(f64),
    /// The value of a gauge.
    Level(i64),
    Histogram(Box<HistogramSnapshot>),
}

impl MetricSample {
    /// Creates a sample with the given label names and values.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'static str, &'a str)>, value: SampleValue) -> Self {
        Self { labels: labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect(), value }
    }
}

impl MetricFamily {
    /// A family of counters, whose values never decrease.
    pub fn counter(
        name: &'static str,
        help: &'static str,
        unit: MetricUnit,
        samples: Vec<MetricSample>,
    ) -> Self {
        Self { name, help, kind: FamilyKind::Counter, unit, samples }
    }

    /// A family of gauges without a unit.
    pub fn gauge(name: &'static str, help: &'static str, samples: Vec<MetricSample>) -> Self {
        Self { name, help, kind: FamilyKind::Gauge, unit: MetricUnit::None, samples }
    }

    #[must_use]
    pub fn in_unit(self, unit: MetricUnit) -> Self {
        Self { unit, ..self }
    }

    /// A family of duration histograms, in seconds.
    pub(super) fn histogram(name: &'static str, help: &'static str, samples: Vec<MetricSample>) -> Self {
        Self { name, help, kind: FamilyKind::Histogram, unit: MetricUnit::Seconds, samples }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            FamilyKind::Counter => MetricType::Counter,
            FamilyKind::Gauge => MetricType::Gauge,
            FamilyKind::Histogram => MetricType::Histogram,
        };
        let unit = match self.unit {
            MetricUnit::None => None,
            MetricUnit::Seconds => Some(registry::Unit::Seconds),
            MetricUnit::Bytes => Some(registry::Unit::Bytes),
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), kind)?;
        for sample in &self.samples {
            let labels: Vec<(&str, &str)> =
                sample.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            if labels.is_empty() {
                self.encode_value(&sample.value, &mut metric)?;
            } else {
                self.encode_value(&sample.value, &mut metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_value(&self, value: &SampleValue, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        let is_counter = self.kind == FamilyKind::Counter;
        match value {
            SampleValue::Count(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
            SampleValue::Number(number) if is_counter => {
                metric.encode_counter::<NoLabelSet, _, u64>(number, None)
            }
            SampleValue::Number(number) => metric.encode_gauge(number),
            SampleValue::Level(level) => metric.encode_gauge(level),
            SampleValue::Histogram(histogram) => {
                let count = histogram.buckets.iter().sum();
                let bounds = BOUNDS_NS.iter().map(|ns| seconds(*ns)).chain([f64::INFINITY]);
                let buckets: Vec<_> = bounds.zip(histogram.buckets).collect();
                metric.encode_histogram::<NoLabelSet>(seconds(histogram.sum_ns), count, &buckets, None)
            }
        }
    }

    /// The name with its unit, as the text has it.
    fn full_name(&self) -> String {
        match self.unit {
            MetricUnit::None => self.name.to_owned(),
            MetricUnit::Seconds => format!("{}_seconds", self.name),
            MetricUnit::Bytes => format!("{}_bytes", self.name),
        }
    }
}

/// The families of one scrape, as the encoder collects them.
#[derive(Debug)]
struct FamilyCollector(Vec<MetricFamily>);

impl Collector for FamilyCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0
            .iter()
            .filter(|family| !family.samples.is_empty())
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

/// Renders families as text. A family without samples is left out.
pub fn render(families: Vec<MetricFamily>, format: ExpositionFormat) -> Result<String, fmt::Error> {
    let is_counter = |family: &&MetricFamily| family.kind == FamilyKind::Counter;
    let counters: Vec<String> = families.iter().filter(is_counter).map(MetricFamily::full_name).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(FamilyCollector(families)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match format {
        ExpositionFormat::OpenMetrics => text,
        ExpositionFormat::Plain => convert_to_plain(&text, &counters),
    })
}

/// Converts from `OpenMetrics` to the older format. The samples are the same; of the comments, the older format gives a
/// counter its name with `_total`, and has neither `UNIT` nor `EOF`.
fn convert_to_plain(text: &str, counters: &[String]) -> String {
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            plain.push_str(line);
            plain.push('\n');
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(keyword @ ("HELP" | "TYPE")), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let total = if counters.iter().any(|counter| counter == name) { "_total" } else { "" };
        for part in ["# ", keyword, " ", name, total, " ", rest, "\n"] {
            plain.push_str(part);
        }
    }
    plain
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a double holds 104 days to the nanosecond, and longer times precisely enough"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
