//! Observability: metrics (`metrics`) and traces (`traces`).
//!
//! Invariants: no secret and no argument of a call is ever logged, counted or traced. Label values come from the
//! configuration, never from a request, so a client cannot create a time series.
//!
//! Does not know: which events are logged, counted or traced, or where in the program.

pub mod metrics;
pub mod traces;
