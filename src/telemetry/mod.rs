//! Observability: metrics (`metrics`), traces (`traces`), records of calls (`records`), and events (`events`).
//!
//! Invariants: no secret and no argument of a call is ever logged, counted, traced or recorded. Label values of metrics come
//! from the configuration, never from a request, so a client cannot create a time series.
//!
//! Does not know: which events are logged, counted, traced or recorded, or where in the program.

pub mod events;
pub mod exporter;
pub mod metrics;
mod otlp;
mod random;
pub mod records;
pub mod traces;
