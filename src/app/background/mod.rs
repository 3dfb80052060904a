//! Tasks that run independently of requests: retention, delivery of usage counts, tool pins, and the export
//! of traces.

pub mod retention;
pub mod tool_pins;
pub mod trace_export;
pub mod usage;
