//! Connections and event streams that stay idle during the load.
//!
//! A connection is used once, stays idle, and is used once more at the end. A server may close an idle connection, which is
//! counted but is no error; it must respond on a new one then. An event stream must stay open until the client closes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::requests::RequestSource;
use crate::client::Client;
use crate::counters::{AuxiliaryOperation, RunCounters};
use crate::error::{ErrorKind, RequestError};
use crate::scenario::IdleProfile;

/// Connections that wake up at the same time. The test is whether they are alive, not how the server bears a burst.
const CONCURRENT_WAKEUPS: usize = 32;

/// The open idle connections and streams.
pub struct IdleLoad {
    tasks: JoinSet<()>,
    close: watch::Sender<bool>,
    shared: Arc<IdleShared>,
}

/// What all idle connections and streams share.
struct IdleShared {
    requests: Arc<RequestSource>,
    counters: Arc<Mutex<RunCounters>>,
    is_closing: watch::Receiver<bool>,
    wakeups: Semaphore,
    connections: AtomicU64,
    streams: AtomicU64,
    closed: AtomicU64,
}

/// How many idle connections and streams there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleCounts {
    /// Connections that were opened.
    pub connections: u64,
    /// Event streams that were opened.
    pub streams: u64,
    /// Connections that the server had closed by the end.
    pub closed: u64,
}

impl IdleLoad {
    /// Opens all connections and streams. Returns when each is open or has failed.
    pub async fn open(
        requests: &Arc<RequestSource>,
        counters: &Arc<Mutex<RunCounters>>,
        profile: &IdleProfile,
    ) -> Self {
        let (close, is_closing) = watch::channel(false);
        let shared = Arc::new(IdleShared {
            requests: Arc::clone(requests),
            counters: Arc::clone(counters),
            is_closing,
            wakeups: Semaphore::new(CONCURRENT_WAKEUPS),
            connections: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        // Each task holds a sender until it is open. The receiver ends when all senders are dropped.
        let (opening, mut opened) = mpsc::channel::<()>(1);
        for number in 0..profile.connections + profile.streams {
            let shared = Arc::clone(&shared);
            let opening = opening.clone();
            // Fewer than 2^53 of them.
            #[allow(clippy::cast_precision_loss)]
            let at = start + Duration::from_secs_f64(number as f64 / profile.open_per_second);
            let is_stream = number >= profile.connections;
            tasks.spawn(async move {
                sleep_until(at).await;
                let era = shared.requests.eras.era_of(number);
                let client = Client::new(Arc::clone(&shared.requests.target), era);
                if is_stream {
                    shared.hold_stream(client, opening).await;
                } else {
                    shared.hold_connection(client, opening).await;
                }
            });
        }
        drop(opening);
        opened.recv().await;
        Self { tasks, close, shared }
    }

    /// Uses every connection once more, then closes all connections and streams.
    pub async fn close(mut self) -> IdleCounts {
        self.close.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IdleCounts {
            connections: count(&self.shared.connections),
            streams: count(&self.shared.streams),
            closed: count(&self.shared.closed),
        }
    }
}

impl IdleShared {
    fn record(&self, operation: AuxiliaryOperation, began: Instant, result: Result<(), RequestError>) {
        let mut counters = self.counters.lock().expect("no holder of the lock panics");
        let index = operation.index(self.requests.operations());
        match result {
            Ok(()) => counters.record_success(index, began.elapsed(), 0),
            Err(error) => counters.record_error(index, error),
        }
    }

    async fn wait_for_close(&self) {
        // An error means that the `IdleLoad` itself was dropped.
        drop(self.is_closing.clone().wait_for(|is_closing| *is_closing).await);
    }

    async fn hold_connection(&self, mut client: Client, opening: mpsc::Sender<()>) {
        let began = Instant::now();
        let first = self.requests.call(&mut client, 0).await.map(drop);
        let has_failed = first.is_err();
        self.record(AuxiliaryOperation::Open, began, first);
        drop(opening);
        if has_failed {
            return;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.wait_for_close().await;
        if !client.is_open() {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
        let _permit = self.wakeups.acquire().await;
        let began = Instant::now();
        let woken = self.requests.call(&mut client, 0).await.map(drop);
        self.record(AuxiliaryOperation::Wake, began, woken);
        drop(client.close().await);
    }

    async fn hold_stream(&self, mut client: Client, opening: mpsc::Sender<()>) {
        let began = Instant::now();
        let mut body = match client.open_event_stream().await {
            Ok(body) => body,
            Err(error) => return self.record(AuxiliaryOperation::Stream, began, Err(error)),
        };
        self.record(AuxiliaryOperation::Stream, began, Ok(()));
        drop(opening);
        self.streams.fetch_add(1, Ordering::Relaxed);
        let ended = async {
            // Events are read and ignored.
            while let Some(Ok(_)) = body.frame().await {}
        };
        tokio::select! {
            () = ended => {
                let error = RequestError::new(ErrorKind::IdleClosed, "the server ended an idle event stream");
                self.record(AuxiliaryOperation::Stream, began, Err(error));
            }
            () = self.wait_for_close() => {}
        }
        let _permit = self.wakeups.acquire().await;
        drop(body);
        drop(client.close().await);
    }
}
