//! What to run, and where.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::client::Target;
use crate::scenario::Scenario;

/// Where the workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// In the runtime of the caller, whose time may be paused.
    CurrentRuntime,
    /// In this many threads of their own.
    Threads(usize),
}

/// The settings of one run.
pub struct RunSettings {
    /// The scenario, with the tool names of the target.
    pub scenario: Scenario,
    pub target: Arc<Target>,
    pub executor: Executor,
    /// A process on this machine whose CPU time and memory are sampled.
    pub pid: Option<u32>,
    /// Set to end the run early.
    pub stop: Arc<AtomicBool>,
}
