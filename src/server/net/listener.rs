//! Worker threads, each with a listening socket and a runtime of its own.

use std::future::{Future, pending};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io};

use crossbeam::utils::CachePadded;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::accept::{Acceptor, ListeningSocket};
use super::connection::{serve, serve_again};
use crate::runtime::await_socket_polls;
use crate::server::http1::activity::ConnectionOrder;
use crate::server::http1::connection_slots::ConnectionSlots;
use crate::server::worker::{SharedState, Worker};
use metamcp_config::sections::HttpConfig;
use metamcp_core::base::ShutdownPhase;

/// Connections that the kernel may queue per worker, for a burst of reconnecting clients. Linux' default
/// limit since 5.4.
const BACKLOG: i32 = 4096;

/// The file with the kernel's limit.
const BACKLOG_MAX: &str = "/proc/sys/net/core/somaxconn";

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

/// Why the workers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: {source}; is another program there, or the address not of this machine? Choose another by --host and --port"
    )]
    Bind { address: SocketAddr, source: io::Error },
    #[error(
        "cannot listen on the private socket {path}: {source}; is there room in the directory for temporary files (TMPDIR)?"
    )]
    Private { path: PathBuf, source: io::Error },
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}

/// Starts the workers. They run until `shared.phase` is `Drain` and all requests have completed, or until it
/// is `Abort`.
pub fn start(shared: &Arc<SharedState>, door: &ListenTarget) -> Result<Workers, ListenError> {
    let config = shared.config.clone();
    let (url, listeners) = match door {
        ListenTarget::Public => open(&config)?,
        ListenTarget::Private(path) => open_private(path, config.workers)
            .map_err(|source| ListenError::Private { path: path.clone(), source })?,
    };
    let connections = Arc::new(CachePadded::new(AtomicUsize::new(0)));
    let mut threads = Vec::with_capacity(listeners.len());
    let (started, outcomes) = mpsc::channel();
    let (failing, has_failed) = watch::channel(false);
    for (number, listener) in listeners.into_iter().enumerate() {
        let seed = WorkerSeed {
            shared: Arc::clone(shared),
            listener,
            connections: Arc::clone(&connections),
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
    Ok(Workers { url, threads, has_failed })
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

/// Opens the workers' sockets at the configured address. Also returns the URL.
fn open(config: &HttpConfig) -> Result<(String, Vec<ListeningSocket>), ListenError> {
    refuse_taken(config.listen)?;
    let first = bind(config.listen)?;
    let address =
        first.local_addr().map_err(|source| ListenError::Bind { address: config.listen, source })?;
    let mut listeners = vec![ListeningSocket::Public(first)];
    while listeners.len() < config.workers {
        listeners.push(ListeningSocket::Public(bind(address)?));
    }
    let allowed = fs::read_to_string(BACKLOG_MAX).ok().and_then(|text| text.trim().parse().ok());
    if let Some(allowed) = allowed.filter(|allowed: &i32| *allowed < BACKLOG) {
        tracing::info!(
            "the kernel holds {allowed} new connections, not {BACKLOG}: raise net.core.somaxconn for bursts"
        );
    }
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    Ok((format!("{scheme}://{address}"), listeners))
}

/// Opens the private socket. All workers accept from one queue.
fn open_private(path: &Path, workers: usize) -> io::Result<(String, Vec<ListeningSocket>)> {
    let first = UnixListener::bind(path)?;
    first.set_nonblocking(true)?;
    let others = (1..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    let listeners = others.into_iter().chain([first]).map(ListeningSocket::Private).collect();
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
    listener: ListeningSocket,
    connections: Arc<CachePadded<AtomicUsize>>,
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

    async fn accept(self, started: mpsc::Sender<io::Result<()>>) -> WorkerEnd {
        let mut intake = match Acceptor::new(self.listener) {
            Ok(intake) => intake,
            Err(error) => return fail_to_start(&started, error),
        };
        let worker = match Worker::new(Arc::clone(&self.shared), self.number) {
            Ok(worker) => worker,
            Err(error) => return fail_to_start(&started, error),
        };
        drop(started.send(Ok(())));
        let mut housekeeping = spawn_local(Rc::clone(&worker).housekeep());
        let mut phase = self.shared.phase.clone();
        let places = ConnectionSlots::new(self.connections, self.shared.config.connections_max);
        let mut woken = Vec::new();
        loop {
            tokio::select! {
                socket = intake.next() => {
                    // Over the limit, new connections are closed at once, so that open ones are not affected.
                    if let Some(place) = places.acquire() {
                        spawn_local(serve(Rc::clone(&worker), socket, place));
                    }
                }
                Ok(()) = worker.parking.wake(&mut woken) => {
                    for one in woken.drain(..) {
                        spawn_local(serve_again(Rc::clone(&worker), one));
                    }
                }
                _ = phase.wait_for(|phase| *phase >= ShutdownPhase::Drain) => break,
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

fn fail_to_start(started: &mpsc::Sender<io::Result<()>>, error: io::Error) -> WorkerEnd {
    drop(started.send(Err(error)));
    WorkerEnd::Ordered
}

/// With `SO_REUSEPORT` a second gateway would silently share the port. Binding without it detects that.
fn refuse_taken(address: SocketAddr) -> Result<(), ListenError> {
    let probe = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    probe().map_err(|source| ListenError::Bind { address, source })
}

fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // The kernel distributes connections over the workers' sockets.
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| ListenError::Bind { address, source })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[track_caller]
    fn check(work: impl FnOnce() -> WorkerEnd, expected: bool) {
        let (failing, has_failed) = watch::channel(false);
        let workers = Workers { url: String::new(), threads: Vec::new(), has_failed };
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
