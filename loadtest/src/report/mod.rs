//! Reports: the JSON of `--json`, and the tables and pages made of it.
//!
//! Invariant: a report has no credential. Times are in microseconds, memory in bytes. Does not measure anything.

mod format;
mod html;
mod model;
mod page;
mod plot;
mod sweep_html;
mod text;

pub use crate::counters::LatencySummary;
pub use format::{align_columns, format_bytes, format_count, format_duration};
pub use html::render_run;
pub use model::{
    BoundResult, FORMAT, IntervalReport, Machine, OperationReport, ProcessReport, RunReport, ScenarioSummary,
    to_float,
};
pub use sweep_html::render_sweep;
pub use text::render_text;
