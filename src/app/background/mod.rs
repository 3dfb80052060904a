//! Tasks that run independently of requests: retention, delivery of usage counts, tool pins, the export of
//! traces, and the delivery of call records.

mod call_records;
mod http_sender;
pub mod quotas;
pub mod retention;
pub mod telemetry;
pub mod tls_files;
pub mod tool_pins;
pub mod trace_export;
pub mod usage;
mod usage_journal;
pub mod webhooks;

pub use call_records::check_records;
pub use usage_journal::open_journal;
