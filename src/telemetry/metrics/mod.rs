//! Metrics: counters, gauges and duration histograms, kept per worker and summed when they are scraped.
//!
//! Each worker writes its own `WorkerMetrics`, on its own cache lines, with plain loads and stores: no lock, no contended
//! atomic operation, no hash of a label. Endpoints and servers are counted under a [`LabelId`], a number that the routing
//! table holds. A cell is allocated when it is first used.
//!
//! Invariants: a cell has one writer; a counter never decreases. The number of time series is bounded by [`LABELS_MAX`]
//! and [`SERIES_MAX`]; everything over a bound is counted together under [`OTHER`].
//!
//! Does not know: MCP (methods are indexes into a list of names that the caller passes), or who may read the metrics.

mod cells;
mod collect;
mod exposition;
mod label;
mod operation;
mod outcome;
mod process;
mod registry;
mod worker;

pub use cells::{BOUNDS_NS, DurationHistogram};
pub use exposition::{ExpositionFormat, MetricFamily, MetricSample, MetricUnit, SampleValue, render};
pub use label::{LABELS_MAX, LabelId, LabelInterner, OTHER};
pub use operation::{MetricsWriter, OpenStreamGuard, Operation, UpstreamOperation};
pub use outcome::{OperationOutcome, StreamKind};
pub use process::{ProcessUsage, collect_process_metrics};
pub use registry::Metrics;
pub use worker::{ConnectionCounts, SERIES_MAX};

#[cfg(test)]
mod tests;
