//! Counters, histograms and gauges, counted by the workers and summed up when somebody asks.
//!
//! Each worker has a `Desk` of its own, on cache lines of its own, and writes it by plain loads and stores: no lock,
//! no atomic operation that others wait for, no hash of a label. What there is to count by, an endpoint or a server, is a
//! [`Label`], a number that the routing table holds. Memory is taken when something is counted for the first time.
//!
//! Invariants: a cell has one writer; a counter only rises; how many rows there can be has a bound
//! ([`LABELS_MAX`], [`SERIES_MAX`]), and what is beyond it is counted together, under [`OTHER`].
//!
//! Does not know: the words of MCP (methods are numbers with the names it was given), or who may look.

mod cells;
mod desk;
mod label;
mod operation;
mod process;
mod sum;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::utils::CachePadded;

pub use cells::{BOUNDS_NS, Durations};
pub use desk::Connections;
pub use label::{LABELS_MAX, Label, Labels, OTHER};
pub use operation::{Exchange, Operation, Outcome, StreamKind, Streaming, Writer};
pub use process::process;
pub use text::{Family, Format, Row, Unit, Value, render};

use super::traces::Traces;
use desk::{Desk, Series};

/// Histograms in all; some 3 KiB of text each. A thousand servers with three methods each.
pub const SERIES_MAX: usize = 4096;

/// What all workers count.
pub struct Metrics {
    desks: Box<[Arc<CachePadded<Desk>>]>,
    /// By worker: whether it has its desk.
    taken: Box<[AtomicBool]>,
    methods: Vec<&'static str>,
    traces: Option<Arc<Traces>>,
}

impl Metrics {
    /// For so many workers, with the names of the methods that are told apart.
    pub fn new(workers: usize, methods: &[&'static str]) -> Self {
        let series = Arc::new(Series::default());
        let desk = || Arc::new(CachePadded::new(Desk::new(Arc::clone(&series), methods.len())));
        Self {
            desks: (0..workers).map(|_| desk()).collect(),
            taken: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            methods: methods.to_vec(),
            traces: None,
        }
    }

    /// Some of what is counted is traced too.
    #[must_use]
    pub fn with_traces(self, traces: Option<Arc<Traces>>) -> Self {
        Self { traces, ..self }
    }

    /// What is traced.
    pub fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// What a worker counts with, numbered from zero. None when there is no such worker, or it has it already: a cell has
    /// one writer.
    pub fn writer(&self, number: usize) -> Option<Writer> {
        let desk = self.desks.get(number)?;
        let is_taken = self.taken[number].swap(true, Ordering::Relaxed);
        (!is_taken).then(|| Writer::new(Arc::clone(desk)))
    }

    /// Connections to a server that nothing uses, over all workers, as of the last second.
    pub fn idle(&self, server: Label) -> u64 {
        self.desks.iter().map(|desk| desk.idle(server)).sum()
    }

    /// Everything that was counted, over all workers. `endpoints` and `servers`: what their labels stand for.
    pub fn families(&self, endpoints: &Labels, servers: &Labels) -> Vec<Family> {
        let mut families = sum::families(&self.desks, &self.methods, &endpoints.names(), &servers.names());
        families.extend(self.traces.as_ref().map(|traces| traces.family()));
        families
    }
}

#[cfg(test)]
mod tests;
