//! Terminates upstream sessions whose client session has ended.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::iter::from_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::state::DetachedUpstreamSession;
use super::upstream_session::{TerminationOutcome, UpstreamSession};
use crate::topology::UpstreamPools;
use crate::upstream::{MESSAGES_IN_FLIGHT_MAX, UpstreamId, UpstreamPool};

/// The share that DELETEs may take when thousands of sessions end at once, of the messages in flight to a server and of the
/// requests that it accepts: one in four over all threads, at least one per thread. The rest is left to the notifications
/// and responses of clients.
const IN_FLIGHT_SHARE: usize = 4;

/// Sessions queued per thread and server: 10 MiB. Beyond that, a server that is so slow is not sent any DELETE.
const QUEUE_MAX: usize = 65_536;

/// After so many DELETEs in a row without a response the queue is dropped. The server is away or hangs, and
/// expires its sessions by itself.
const UNANSWERED_MAX: usize = 16;

/// How long a DELETE waits that was not sent because the server has too many requests in flight.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often to check whether the calls to a removed server have completed. It is not awaited.
const IDLE_POLL: Duration = Duration::from_secs(1);

/// Sends DELETE for ended sessions on one thread: to each server independently, and several at a time.
pub struct SessionTerminator {
    /// The number of threads that send to the same servers.
    threads: usize,
    /// One entry for each server whose task is running.
    queues: RefCell<HashMap<UpstreamId, VecDeque<Arc<UpstreamSession>>>>,
}

impl SessionTerminator {
    /// One of `threads` terminators that send to the same servers.
    pub fn new(threads: usize) -> Rc<Self> {
        Rc::new(Self { threads, queues: RefCell::default() })
    }

    /// Queues sessions for termination. Must be called within a `LocalSet`.
    pub fn enqueue(
        self: &Rc<Self>,
        detached: impl IntoIterator<Item = DetachedUpstreamSession>,
        pools: &UpstreamPools,
    ) {
        for (pool, session) in detached.into_iter().filter_map(|detached| find_open(&detached, pools)) {
            self.enqueue_one(&pool, session);
        }
    }

    fn enqueue_one(self: &Rc<Self>, pool: &Rc<UpstreamPool>, session: Arc<UpstreamSession>) {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(pool.upstream().id).or_insert_with(|| {
            spawn_local(Rc::clone(self).run(Rc::clone(pool)));
            VecDeque::new()
        });
        if queue.len() < QUEUE_MAX {
            queue.push_back(session);
        } else {
            tracing::debug!(server = %pool.upstream().config.name, "session not terminated: queue is full");
        }
    }

    /// Queues sessions of removed servers, each when it has no call in flight. Completes when all are queued.
    pub async fn enqueue_when_idle(
        self: Rc<Self>,
        mut detached: Vec<DetachedUpstreamSession>,
        pools: Rc<UpstreamPools>,
    ) {
        // Keep the connection pools, which could otherwise be dropped before a long call completes.
        let ids: HashSet<u32> = detached.iter().map(|detached| detached.upstream).collect();
        let _pools: Vec<_> = ids.into_iter().filter_map(|id| pools.find(UpstreamId(id))).collect();
        let mut ticks = interval(IDLE_POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !detached.is_empty() {
            ticks.tick().await;
            self.enqueue(detached.extract_if(.., |detached| detached.is_idle()), &pools);
        }
    }

    /// The number of sessions still queued.
    pub fn pending(&self) -> usize {
        self.queues.borrow().values().map(VecDeque::len).sum()
    }

    /// Terminates the sessions in one server's queue until it is empty.
    async fn run(self: Rc<Self>, pool: Rc<UpstreamPool>) {
        let id = pool.upstream().id;
        let in_flight_max = pool.upstream().config.settings.in_flight_max.min(MESSAGES_IN_FLIGHT_MAX);
        let in_flight_max = (in_flight_max / IN_FLIGHT_SHARE / self.threads).max(1);
        let unanswered = Cell::new(0);
        let next = || {
            let mut queues = self.queues.borrow_mut();
            let queue = queues.get_mut(&id)?;
            if unanswered.get() >= UNANSWERED_MAX {
                let (server, dropped) = (&pool.upstream().config.name, queue.len());
                tracing::debug!(%server, dropped, "sessions not terminated: server does not respond");
                queue.clear();
            }
            queue.pop_front()
        };
        let terminate = async |session: Arc<UpstreamSession>| match session.terminate(&pool).await {
            TerminationOutcome::Answered => unanswered.set(0),
            TerminationOutcome::Unanswered => unanswered.set(unanswered.get() + 1),
            TerminationOutcome::NotSent => {
                sleep(RETRY_PAUSE).await;
                self.enqueue_one(&pool, session);
            }
        };
        // More may be queued while the last ones of a batch are in flight.
        while let Some(first) = next() {
            let batch = stream::iter(std::iter::once(first).chain(from_fn(next)));
            batch.for_each_concurrent(in_flight_max, terminate).await;
        }
        self.queues.borrow_mut().remove(&id);
    }
}

/// The open session of a slot and its pool. `None` if there is nothing to terminate.
fn find_open(
    detached: &DetachedUpstreamSession,
    pools: &UpstreamPools,
) -> Option<(Rc<UpstreamPool>, Arc<UpstreamSession>)> {
    let session = detached.slot.current().filter(|session| session.session_id.is_some())?;
    Some((pools.find(UpstreamId(detached.upstream))?, session))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::LocalSet;
    use tokio::time::{sleep, timeout};

    use super::super::features::ServerFeatures;
    use super::super::upstream_stream::tests::{Socket, TIMEOUT, pool};
    use super::*;
    use metamcp_core::protocol::Revision;

    /// The session ids of the DELETEs that the server received.
    type Terminated = Rc<RefCell<Vec<String>>>;

    fn open_session(id: usize) -> Arc<UpstreamSession> {
        let id = HeaderValue::from_str(&format!("<{id}>")).unwrap();
        Arc::new(UpstreamSession::new(Some(id), Revision::LEGACY_LATEST, Arc::new(ServerFeatures::default())))
    }

    /// A server that answers each request after `delay`, on any number of connections.
    async fn serve(listener: UnixListener, terminated: Terminated, delay: Duration) {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(serve_connection(stream, Rc::clone(&terminated), delay));
        }
    }

    async fn serve_connection(mut stream: UnixStream, terminated: Terminated, delay: Duration) {
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.unwrap() > 0 {
            let Some(head) = head.ends_with(b"\r\n\r\n").then(|| std::mem::take(&mut head)) else { continue };
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("DELETE "), "{head}");
            let (_, id) = head.split_once('<').unwrap();
            terminated.borrow_mut().push(id.split_once('>').unwrap().0.to_owned());
            sleep(delay).await;
            // The client may have timed out.
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn terminates_all_sessions_at_a_slow_server() {
        const SESSIONS: usize = 100;
        let all = async {
            let (socket, terminated) = (Socket::new("slow"), Terminated::default());
            let listener = UnixListener::bind(&socket.0).unwrap();
            spawn_local(serve(listener, Rc::clone(&terminated), Duration::from_secs(1)));
            let (pool, terminator) = (pool(&socket), SessionTerminator::new(1));
            let first = SESSIONS / 2 - 1;
            (0..first).for_each(|id| terminator.enqueue_one(&pool, open_session(id)));
            while terminated.borrow().len() < first {
                sleep(IDLE_POLL / 10).await;
            }
            assert!(
                !terminator.queues.borrow().is_empty() && terminator.pending() == 0,
                "the last of them are in flight"
            );
            (first..SESSIONS).for_each(|id| terminator.enqueue_one(&pool, open_session(id)));
            let ends = async {
                while !terminator.queues.borrow().is_empty() {
                    sleep(IDLE_POLL).await;
                }
            };
            timeout(TIMEOUT, ends).await.expect("all are terminated");
            let ids: HashSet<_> = terminated.borrow().iter().cloned().collect();
            assert_eq!((ids.len(), terminated.borrow().len()), (SESSIONS, SESSIONS), "once each");
            assert_eq!(Rc::strong_count(&terminator), 1, "no task is left");
        };
        LocalSet::new().run_until(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_server_with_too_many_requests_in_flight() {
        // As many as the pool accepts: in flight, and more than it queues.
        const OTHERS: usize = MESSAGES_IN_FLIGHT_MAX + 1024;
        const SESSIONS: usize = 2 * UNANSWERED_MAX;
        let all = async {
            let (socket, terminated) = (Socket::new("busy"), Terminated::default());
            let listener = UnixListener::bind(&socket.0).unwrap();
            spawn_local(serve(listener, Rc::clone(&terminated), Duration::from_secs(4)));
            let (pool, terminator) = (pool(&socket), SessionTerminator::new(1));
            for id in 0..OTHERS {
                let (session, pool) = (open_session(id), Rc::clone(&pool));
                spawn_local(async move { session.terminate(&pool).await });
            }
            sleep(IDLE_POLL).await;
            let refused = open_session(OTHERS).terminate(&pool).await;
            assert_eq!(refused, TerminationOutcome::NotSent);
            (0..SESSIONS).for_each(|id| terminator.enqueue_one(&pool, open_session(OTHERS + id)));
            let ends = async {
                while !terminator.queues.borrow().is_empty() {
                    sleep(IDLE_POLL).await;
                }
            };
            timeout(3 * TIMEOUT, ends).await.expect("all are terminated");
            let terminated = terminated.borrow();
            let mut own: Vec<usize> = terminated.iter().filter_map(|id| id.parse().ok()).collect();
            own.retain(|id| *id >= OTHERS);
            own.sort_unstable();
            assert_eq!(own, (OTHERS..OTHERS + SESSIONS).collect::<Vec<_>>());
        };
        LocalSet::new().run_until(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_server_that_does_not_respond() {
        let all = async {
            let (socket, terminated) = (Socket::new("unresponsive"), Terminated::default());
            let listener = UnixListener::bind(&socket.0).unwrap();
            spawn_local(serve(listener, Rc::clone(&terminated), 2 * TIMEOUT));
            // Half of a share of two: one at a time.
            let (pool, terminator) = (pool(&socket), SessionTerminator::new(2));
            for id in 0..10 * UNANSWERED_MAX {
                terminator.enqueue_one(&pool, open_session(id));
            }
            let ends = async {
                while !terminator.queues.borrow().is_empty() {
                    sleep(IDLE_POLL).await;
                }
            };
            timeout(3 * TIMEOUT, ends).await.expect("it gives up");
            assert!(terminated.borrow().len() <= UNANSWERED_MAX, "{:?}", terminated.borrow());
        };
        LocalSet::new().run_until(all).await;
    }
}
