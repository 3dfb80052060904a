//! What one worker counts.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::SERIES_MAX;
use super::cells::{Cell, Durations};
use super::label::{LABELS_MAX, Label};
use super::operation::{OUTCOMES, STREAM_KINDS};
use crate::base::Kind;

/// The cells of one worker. Read by whoever sums them up.
pub struct Desk {
    /// By label.
    endpoints: Box<[OnceLock<Box<EndpointCells>>]>,
    servers: Box<[OnceLock<Box<ServerCells>>]>,
    /// Faults of requests that were for no endpoint, by kind.
    pub refused: [Cell; KINDS],
    /// Event streams that are open, by kind.
    pub streams: [Cell; STREAM_KINDS],
    /// Connections as of the last look: open, at rest, and requests under way on them.
    pub connections: [Cell; 3],
    series: Arc<Series>,
    /// How many methods are told apart. The number behind the last is that of all others.
    methods: usize,
}

/// How the connections of a worker are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Those that there are.
    pub open: usize,
    /// Of these, those on which nothing moves.
    pub at_rest: usize,
    /// Requests whose answers have not passed yet.
    pub under_way: usize,
}

/// Of one endpoint.
pub struct EndpointCells {
    pub operations: Operations,
    /// By kind.
    pub faults: [Cell; KINDS],
    pub request_bytes: Cell,
    pub response_bytes: Cell,
}

/// Of one server.
pub struct ServerCells {
    pub operations: Operations,
    /// By kind.
    pub faults: [Cell; KINDS],
    pub first_byte: OnceLock<Option<Box<Durations>>>,
    /// Connections that nothing uses, as of the last look.
    pub idle: Cell,
}

/// Histograms by method and outcome. One that there is no room for is none.
pub struct Operations(Box<[OnceLock<Option<Box<Durations>>>]>);

/// Which histograms there are, over all workers: so that each of them has the same, and there is an end to them.
#[derive(Default)]
pub struct Series(Mutex<HashSet<Key>>);

/// Family, label, method, outcome.
type Key = (Of, Label, usize, usize);

/// What a histogram is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of {
    Endpoint,
    Server,
    FirstByte,
}

pub(super) const KINDS: usize = Kind::ALL.len();

impl Desk {
    pub fn new(series: Arc<Series>, methods: usize) -> Self {
        Self {
            endpoints: (0..LABELS_MAX).map(|_| OnceLock::new()).collect(),
            servers: (0..LABELS_MAX).map(|_| OnceLock::new()).collect(),
            refused: Default::default(),
            streams: Default::default(),
            connections: Default::default(),
            series,
            methods,
        }
    }

    /// The cells of an endpoint, made when there are none.
    #[inline]
    pub fn endpoint(&self, label: Label) -> &EndpointCells {
        self.endpoints[label.index()].get_or_init(|| {
            Box::new(EndpointCells {
                operations: Operations::new(self.methods),
                faults: Default::default(),
                request_bytes: Cell::default(),
                response_bytes: Cell::default(),
            })
        })
    }

    /// Likewise of a server.
    #[inline]
    pub fn server(&self, label: Label) -> &ServerCells {
        self.servers[label.index()].get_or_init(|| {
            Box::new(ServerCells {
                operations: Operations::new(self.methods),
                faults: Default::default(),
                first_byte: OnceLock::new(),
                idle: Cell::default(),
            })
        })
    }

    /// Notes a message of a client for an endpoint.
    #[inline]
    pub fn note_operation(&self, cells: &EndpointCells, label: Label, at: (usize, usize), ns: u64) {
        let durations = self.durations(Of::Endpoint, label, &cells.operations, at);
        let other = || &self.endpoint(Label::OTHER).operations;
        match durations {
            Some(durations) => durations.note(ns),
            None => self.note_other(Of::Endpoint, other(), at.1, ns),
        }
    }

    /// Notes one that went to a server.
    #[inline]
    pub fn note_exchange(&self, cells: &ServerCells, label: Label, at: (usize, usize), ns: u64) {
        let durations = self.durations(Of::Server, label, &cells.operations, at);
        let other = || &self.server(Label::OTHER).operations;
        match durations {
            Some(durations) => durations.note(ns),
            None => self.note_other(Of::Server, other(), at.1, ns),
        }
    }

    /// Notes how long a server was silent first.
    #[inline]
    pub fn note_first_byte(&self, cells: &ServerCells, label: Label, ns: u64) {
        let made = |label| self.series.admit((Of::FirstByte, label, 0, 0));
        if let Some(durations) = cells.first_byte.get_or_init(|| made(label)) {
            return durations.note(ns);
        }
        let other = self.server(Label::OTHER).first_byte.get_or_init(|| made(Label::OTHER));
        if let Some(durations) = other {
            durations.note(ns);
        }
    }

    #[inline]
    fn durations<'a>(
        &self,
        of: Of,
        label: Label,
        operations: &'a Operations,
        (method, outcome): (usize, usize),
    ) -> Option<&'a Durations> {
        let method = method.min(self.methods);
        let cell = &operations.0[method * OUTCOMES + outcome];
        cell.get_or_init(|| self.series.admit((of, label, method, outcome))).as_deref()
    }

    #[cold]
    fn note_other(&self, of: Of, operations: &Operations, outcome: usize, ns: u64) {
        let durations = self.durations(of, Label::OTHER, operations, (self.methods, outcome));
        if let Some(durations) = durations {
            durations.note(ns);
        }
    }

    /// Connections to a server that nothing uses, as of the last look.
    pub fn idle(&self, server: Label) -> u64 {
        self.servers[server.index()].get().map_or(0, |cells| cells.idle.read())
    }

    /// The endpoints that were counted for, by the numbers of their labels.
    pub fn endpoints(&self) -> impl Iterator<Item = (usize, &EndpointCells)> {
        self.endpoints.iter().enumerate().filter_map(|(at, cells)| Some((at, &**cells.get()?)))
    }

    /// Likewise the servers.
    pub fn servers(&self) -> impl Iterator<Item = (usize, &ServerCells)> {
        self.servers.iter().enumerate().filter_map(|(at, cells)| Some((at, &**cells.get()?)))
    }
}

impl Operations {
    fn new(methods: usize) -> Self {
        Self((0..=methods).flat_map(|_| (0..OUTCOMES).map(|_| OnceLock::new())).collect())
    }

    /// Those that were counted, with method and outcome.
    pub fn counted(&self) -> impl Iterator<Item = (usize, usize, &Durations)> {
        self.0.iter().enumerate().filter_map(|(at, durations)| {
            let durations = durations.get()?.as_deref()?;
            Some((at / OUTCOMES, at % OUTCOMES, durations))
        })
    }
}

impl Series {
    /// A new histogram, if there may be one of that kind. There always may for all others together.
    #[cold]
    fn admit(&self, key: Key) -> Option<Box<Durations>> {
        // A set is whole between two operations.
        let mut admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = admitted.contains(&key);
        if !is_there && admitted.len() >= SERIES_MAX && key.1 != Label::OTHER {
            return None;
        }
        admitted.insert(key);
        Some(Box::default())
    }
}
