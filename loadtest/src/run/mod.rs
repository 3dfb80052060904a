//! One run of a scenario: opens the idle connections, sends requests when they are due, counts, and returns the measurement.
//!
//! Workers share nothing but the number of the next request. Each has its own thread, connections, schedule and counters; the
//! counters are collected a few times per second. Does not know what a correct response is, or how results are presented.

mod idle;
mod measure;
mod monitor;
mod requests;
mod settings;
mod worker;

pub use idle::IdleCounts;
pub use measure::{IdleMeasurement, Measurement, measure};
pub use monitor::{Interval, RunPhase, RunProgress};
pub use settings::{Executor, RunSettings};
