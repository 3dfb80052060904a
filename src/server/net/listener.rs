//! Worker threads, each with a listening socket and a runtime of its own.

use std::future::{Future, pending};
use std::io;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::sleep;

pub use super::listen_error::ListenError;

use super::accept::{Acceptor, ListeningSocket};
use super::connection::{serve, serve_again};
use super::listening_sockets::ListeningSockets;
use crate::runtime::await_socket_polls;
use crate::server::http1::activity::ConnectionOrder;
use crate::server::http1::connection_slots::ConnectionSlots;
use crate::server::http1::socket::Socket;
use crate::server::worker::{SharedState, Worker};
use metamcp_config::sections::HttpConfig;
use metamcp_core::base::ShutdownPhase;

/// How long the last events of streams may take to be written when streams are aborted.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Blocking threads of one worker.
const BLOCKING_THREADS_MAX: usize = 8;

/// Where the workers listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenTarget {
    /// The address that clients connect to.
    Public,
    /// A Unix socket at this path for this process only. Connections of other processes are closed at once.
    /// The caller owns the directory, and restricts access to it.
    Private(PathBuf),
}

/// The running worker threads.
pub struct Workers {
    /// The listening URL: `http://host:port` or `https://host:port`, with the actual port if 0 was
    /// configured; or `unix:/path`.
    pub url: String,
    /// The public listening sockets, until the gateway no longer accepts: the kernel refuses connections once every
    /// descriptor of a socket is closed.
    pub sockets: Option<ListeningSockets>,
    threads: Vec<JoinHandle<()>>,
    /// Whether a worker has ended although nobody asked it to.
    has_failed: watch::Receiver<bool>,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WorkerEnd {
    /// It could not start, or the gateway shuts down.
    Ordered,
    /// Its housekeeping has ended, without which nothing times out and nothing is revoked.
    Broken,
}

/// Starts the workers. They run until `shared.phase` is `Drain` and all requests have completed, or until it
/// is `Abort`. `inherited`: the sockets to use in place of new ones.
pub fn start(
    shared: &Arc<SharedState>,
    door: &ListenTarget,
    inherited: Option<ListeningSockets>,
) -> Result<Workers, ListenError> {
    let config = shared.settings.borrow().config.clone();
    let (url, listeners, sockets) = match door {
        ListenTarget::Public => open(&config, inherited)?,
        ListenTarget::Private(path) => {
            let (url, listeners) = open_private(path, config.workers)
                .map_err(|source| ListenError::Private { path: path.clone(), source })?;
            (url, listeners, None)
        }
    };
    let connections = Arc::new(CachePadded::new(AtomicUsize::new(0)));
    let mut threads = Vec::with_capacity(listeners.len());
    let (started, outcomes) = mpsc::channel();
    let (failing, has_failed) = watch::channel(false);
    // No worker accepts before all have started: if one cannot, the connections of the others would be lost.
    let (accepting, may_accept) = watch::channel(false);
    for (number, listeners) in listeners.into_iter().enumerate() {
        let seed = WorkerSeed {
            shared: Arc::clone(shared),
            listeners,
            connections: Arc::clone(&connections),
            may_accept: may_accept.clone(),
            number,
        };
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        let (started, failing) = (started.clone(), failing.clone());
        let work = move || watch_end(number, &failing, || seed.run(started));
        threads.push(thread.spawn(work).map_err(ListenError::Thread)?);
    }
    for _ in &threads {
        // A worker that ended without a result has panicked.
        let gone = || Err(io::Error::other("a worker ended while it started"));
        outcomes.recv().unwrap_or_else(|_| gone()).map_err(ListenError::Thread)?;
    }
    accepting.send_replace(true);
    Ok(Workers { url, sockets, threads, has_failed })
}

/// Runs a worker, and reports an end that nobody ordered.
fn watch_end(number: usize, failing: &watch::Sender<bool>, work: impl FnOnce() -> WorkerEnd) {
    // The state of the worker is not used again.
    let end = catch_unwind(AssertUnwindSafe(work)).unwrap_or(WorkerEnd::Broken);
    if end == WorkerEnd::Broken {
        tracing::error!(worker = number, "a worker has ended unexpectedly; the gateway stops");
        failing.send_replace(true);
    }
}

/// The URL, the sockets of each worker, and the public ones.
type OpenSockets = (String, Vec<Vec<ListeningSocket>>, Option<ListeningSockets>);

/// Opens the workers' sockets at the configured address, unless some were passed.
fn open(config: &HttpConfig, inherited: Option<ListeningSockets>) -> Result<OpenSockets, ListenError> {
    let sockets = match inherited {
        Some(sockets) => sockets,
        None => ListeningSockets::bind(config.listen, config.workers)?,
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let listeners = sockets.for_workers(config.workers);
    let listeners = listeners.map_err(|source| ListenError::Bind { address: sockets.address, source })?;
    Ok((format!("{scheme}://{}", sockets.address), listeners, Some(sockets)))
}

/// Opens the private socket. All workers accept from one queue.
fn open_private(path: &Path, workers: usize) -> io::Result<(String, Vec<Vec<ListeningSocket>>)> {
    let first = UnixListener::bind(path)?;
    first.set_nonblocking(true)?;
    let others = (1..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    let listeners =
        others.into_iter().chain([first]).map(|one| vec![ListeningSocket::Private(one)]).collect();
    Ok((format!("unix:{}", path.display()), listeners))
}

impl Workers {
    /// Completes when a worker has ended although nobody asked it to.
    pub fn failed(&self) -> impl Future<Output = ()> + use<> {
        let mut has_failed = self.has_failed.clone();
        async move {
            if has_failed.wait_for(|has_failed| *has_failed).await.is_err() {
                // All have ended as they should.
                pending::<()>().await;
            }
        }
    }

    /// Waits until all workers have ended.
    pub async fn join(self) {
        let (sender, receiver) = oneshot::channel();
        thread::spawn(move || {
            for thread in self.threads {
                // A worker that panicked has ended too.
                let _ = thread.join();
            }
            let _ = sender.send(());
        });
        let _ = receiver.await;
    }
}

struct WorkerSeed {
    shared: Arc<SharedState>,
    listeners: Vec<ListeningSocket>,
    connections: Arc<CachePadded<AtomicUsize>>,
    /// Set when all workers have started. Closed before that if one could not.
    may_accept: watch::Receiver<bool>,
    number: usize,
}

impl WorkerSeed {
    fn run(self, started: mpsc::Sender<io::Result<()>>) -> WorkerEnd {
        // Blocking threads only resolve names. More of them would wait for the same resolver.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return fail_to_start(&started, error),
        };
        let end = runtime.block_on(self.accept(started));
        runtime.shutdown_timeout(LAST_WORDS);
        end
    }

    async fn accept(mut self, started: mpsc::Sender<io::Result<()>>) -> WorkerEnd {
        let mut intake = match Acceptor::new(self.listeners) {
            Ok(intake) => Some(intake),
            Err(error) => return fail_to_start(&started, error),
        };
        let worker = match Worker::new(Arc::clone(&self.shared), self.number) {
            Ok(worker) => worker,
            Err(error) => return fail_to_start(&started, error),
        };
        drop(started.send(Ok(())));
        if self.may_accept.wait_for(|may_accept| *may_accept).await.is_err() {
            return WorkerEnd::Ordered;
        }
        let mut housekeeping = spawn_local(Rc::clone(&worker).housekeep());
        let (mut phase, mut handed_over) = (self.shared.phase.clone(), self.shared.phase.clone());
        let places = ConnectionSlots::new(self.connections);
        let mut woken = Vec::new();
        loop {
            tokio::select! {
                socket = accept_from(&mut intake) => {
                    // Over the limit, new connections are closed at once, so that open ones are not affected.
                    if let Some(place) = places.acquire(worker.settings().config.connections_max) {
                        spawn_local(serve(Rc::clone(&worker), socket, place));
                    }
                }
                Ok(()) = worker.parking.wake(&mut woken) => {
                    for one in woken.drain(..) {
                        spawn_local(serve_again(Rc::clone(&worker), one));
                    }
                }
                _ = phase.wait_for(|phase| *phase >= ShutdownPhase::Drain) => break,
                _ = handed_over.wait_for(|phase| *phase == ShutdownPhase::HandOver), if intake.is_some() => intake = None,
                _ = &mut housekeeping => return WorkerEnd::Broken,
            }
        }
        drop(intake);
        // Until the runtime has polled the sockets, connections with received requests would be taken for
        // idle.
        await_socket_polls(worker.connections.open()).await;
        // Order the connections with a task first, so that none of them is parked after the others were
        // closed.
        worker.connections.order_all(ConnectionOrder::Drain);
        worker.parking.close(&mut woken);
        for one in woken {
            spawn_local(serve_again(Rc::clone(&worker), one));
        }
        let cut = async {
            let _ = phase.wait_for(|phase| *phase == ShutdownPhase::Abort).await;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = places.emptied() => {}
            () = cut => tracing::warn!("closed connections that did not end in time"),
        }
        WorkerEnd::Ordered
    }
}

/// The next connection; never one without sockets. Cancel safe.
async fn accept_from(intake: &mut Option<Acceptor>) -> Socket {
    match intake {
        Some(intake) => intake.next().await,
        None => pending().await,
    }
}

fn fail_to_start(started: &mpsc::Sender<io::Result<()>>, error: io::Error) -> WorkerEnd {
    drop(started.send(Err(error)));
    WorkerEnd::Ordered
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[track_caller]
    fn check(work: impl FnOnce() -> WorkerEnd, expected: bool) {
        let (failing, has_failed) = watch::channel(false);
        let workers = Workers { url: String::new(), sockets: None, threads: Vec::new(), has_failed };
        watch_end(0, &failing, work);
        assert_eq!(workers.failed().now_or_never().is_some(), expected);
        drop(failing);
        assert_eq!(workers.failed().now_or_never().is_some(), expected);
    }

    #[test]
    fn only_a_worker_that_nobody_ended_has_failed() {
        check(|| WorkerEnd::Ordered, false);
        check(|| WorkerEnd::Broken, true);
        check(|| std::panic::resume_unwind(Box::new("in the loop that accepts")), true);
    }
}
