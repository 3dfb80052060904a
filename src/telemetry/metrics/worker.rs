//! The cells that one worker writes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metamcp_core::base::FaultKind;

use super::cells::{DurationHistogram, SingleWriterCell};
use super::label::{LABELS_MAX, LabelId};
use super::outcome::{OUTCOMES, STREAM_KINDS};

/// Histograms over all workers; each is some 3 KiB of text. Enough for a thousand servers with three methods each.
pub const SERIES_MAX: usize = 4096;

/// The cells of one worker. The worker writes them; a scrape reads them.
pub struct WorkerMetrics {
    /// Indexed by the endpoint's label.
    endpoints: Box<[OnceLock<Box<EndpointCells>>]>,
    servers: Box<[OnceLock<Box<ServerCells>>]>,
    /// Faults of requests that named no endpoint, by kind.
    pub faults: [SingleWriterCell; FAULT_KINDS],
    /// Open event streams, by kind.
    pub streams: [SingleWriterCell; STREAM_KINDS],
    /// [`ConnectionCounts`], as last set: open, idle, requests in flight.
    pub connections: [SingleWriterCell; 3],
    series: Arc<SeriesRegistry>,
    /// The number of method names. The index behind the last one stands for all other methods.
    methods: usize,
}

/// The client connections of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionCounts {
    pub open: usize,
    /// Open connections without a request or an open stream.
    pub idle: usize,
    /// Requests whose response is not complete.
    pub requests_in_flight: usize,
}

/// The cells of one endpoint.
pub struct EndpointCells {
    pub operations: OperationHistograms,
    /// Indexed by the fault's kind.
    pub faults: [SingleWriterCell; FAULT_KINDS],
    pub request_bytes: SingleWriterCell,
    pub response_bytes: SingleWriterCell,
}

/// The cells of one server.
pub struct ServerCells {
    pub operations: OperationHistograms,
    /// Indexed by the fault's kind.
    pub faults: [SingleWriterCell; FAULT_KINDS],
    pub first_byte: OnceLock<Option<Box<DurationHistogram>>>,
    /// Pooled connections that carry no request, as last set.
    pub idle_connections: SingleWriterCell,
}

/// Histograms by method and outcome. A slot holds `None` when [`SERIES_MAX`] was reached before its first use.
pub struct OperationHistograms(Box<[OnceLock<Option<Box<DurationHistogram>>>]>);

/// The histograms that exist on any worker. All workers admit the same ones, and their number is bounded.
#[derive(Default)]
pub struct SeriesRegistry(Mutex<HashSet<SeriesKey>>);

/// Family, label, method, outcome.
type SeriesKey = (HistogramFamily, LabelId, usize, usize);

/// The metric that a histogram belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistogramFamily {
    Endpoint,
    Server,
    FirstByte,
}

pub(super) const FAULT_KINDS: usize = FaultKind::ALL.len();

impl WorkerMetrics {
    pub fn new(series: Arc<SeriesRegistry>, methods: usize) -> Self {
        Self {
            endpoints: (0..LABELS_MAX).map(|_| OnceLock::new()).collect(),
            servers: (0..LABELS_MAX).map(|_| OnceLock::new()).collect(),
            faults: Default::default(),
            streams: Default::default(),
            connections: Default::default(),
            series,
            methods,
        }
    }

    /// The cells of an endpoint, allocated on first use.
    #[inline]
    pub fn endpoint(&self, label: LabelId) -> &EndpointCells {
        self.endpoints[label.index()].get_or_init(|| {
            Box::new(EndpointCells {
                operations: OperationHistograms::new(self.methods),
                faults: Default::default(),
                request_bytes: SingleWriterCell::default(),
                response_bytes: SingleWriterCell::default(),
            })
        })
    }

    /// The cells of a server, allocated on first use.
    #[inline]
    pub fn server(&self, label: LabelId) -> &ServerCells {
        self.servers[label.index()].get_or_init(|| {
            Box::new(ServerCells {
                operations: OperationHistograms::new(self.methods),
                faults: Default::default(),
                first_byte: OnceLock::new(),
                idle_connections: SingleWriterCell::default(),
            })
        })
    }

    /// Records the duration of a client's message. `key` is its method and outcome.
    #[inline]
    pub fn record_operation(&self, cells: &EndpointCells, label: LabelId, key: (usize, usize), ns: u64) {
        let family = HistogramFamily::Endpoint;
        match self.histogram(family, label, &cells.operations, key) {
            Some(histogram) => histogram.record(ns),
            None => self.record_other(family, &self.endpoint(LabelId::OTHER).operations, key.1, ns),
        }
    }

    /// Records the duration of a message that was sent to a server. `key` is its method and outcome.
    #[inline]
    pub fn record_upstream_operation(
        &self,
        cells: &ServerCells,
        label: LabelId,
        key: (usize, usize),
        ns: u64,
    ) {
        let family = HistogramFamily::Server;
        match self.histogram(family, label, &cells.operations, key) {
            Some(histogram) => histogram.record(ns),
            None => self.record_other(family, &self.server(LabelId::OTHER).operations, key.1, ns),
        }
    }

    /// Records the time until the first byte of a server's response.
    #[inline]
    pub fn record_first_byte(&self, cells: &ServerCells, label: LabelId, ns: u64) {
        let admit = |label| self.series.admit((HistogramFamily::FirstByte, label, 0, 0));
        if let Some(histogram) = cells.first_byte.get_or_init(|| admit(label)) {
            return histogram.record(ns);
        }
        let other = self.server(LabelId::OTHER).first_byte.get_or_init(|| admit(LabelId::OTHER));
        if let Some(histogram) = other {
            histogram.record(ns);
        }
    }

    #[inline]
    fn histogram<'a>(
        &self,
        family: HistogramFamily,
        label: LabelId,
        operations: &'a OperationHistograms,
        (method, outcome): (usize, usize),
    ) -> Option<&'a DurationHistogram> {
        let method = method.min(self.methods);
        let slot = &operations.0[method * OUTCOMES + outcome];
        slot.get_or_init(|| self.series.admit((family, label, method, outcome))).as_deref()
    }

    #[cold]
    fn record_other(
        &self,
        family: HistogramFamily,
        operations: &OperationHistograms,
        outcome: usize,
        ns: u64,
    ) {
        if let Some(histogram) = self.histogram(family, LabelId::OTHER, operations, (self.methods, outcome)) {
            histogram.record(ns);
        }
    }

    /// Idle connections to a server, as last set.
    pub fn idle_connections(&self, server: LabelId) -> u64 {
        self.servers[server.index()].get().map_or(0, |cells| cells.idle_connections.get())
    }

    /// The endpoints that have cells, with the indexes of their labels.
    pub fn endpoints(&self) -> impl Iterator<Item = (usize, &EndpointCells)> {
        self.endpoints.iter().enumerate().filter_map(|(index, cells)| Some((index, &**cells.get()?)))
    }

    /// The servers that have cells, with the indexes of their labels.
    pub fn servers(&self) -> impl Iterator<Item = (usize, &ServerCells)> {
        self.servers.iter().enumerate().filter_map(|(index, cells)| Some((index, &**cells.get()?)))
    }
}

impl OperationHistograms {
    fn new(methods: usize) -> Self {
        Self((0..=methods).flat_map(|_| (0..OUTCOMES).map(|_| OnceLock::new())).collect())
    }

    /// The histograms in use, each with its method and outcome.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, &DurationHistogram)> {
        self.0.iter().enumerate().filter_map(|(index, slot)| {
            let histogram = slot.get()?.as_deref()?;
            Some((index / OUTCOMES, index % OUTCOMES, histogram))
        })
    }
}

impl SeriesRegistry {
    /// Returns a new histogram, or `None` when [`SERIES_MAX`] is reached. The label [`LabelId::OTHER`] is always admitted.
    #[cold]
    fn admit(&self, key: SeriesKey) -> Option<Box<DurationHistogram>> {
        // A panic cannot leave the set half changed, so a poisoned lock is taken over.
        let mut admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = admitted.contains(&key);
        if !is_known && admitted.len() >= SERIES_MAX && key.1 != LabelId::OTHER {
            return None;
        }
        admitted.insert(key);
        Some(Box::default())
    }
}
