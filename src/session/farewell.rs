//! Servers are told of sessions that are over.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::iter::from_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use super::state::DetachedUpstreamSession;
use super::upstream_session::UpstreamSession;
use crate::topology::UpstreamPools;
use crate::upstream::{UpstreamId, UpstreamPool};

/// Of the calls that a server takes at once, one in so many is a farewell when thousands of sessions are over together, and at
/// least one of each thread: the rest is for clients, who would else be refused.
const SHARE: usize = 4;

/// Of a server that takes many calls at once: each may be a connection.
const AT_ONCE_MAX: usize = 64;

/// Sessions of which one thread is still to tell one server: 10 MiB. Of more, a server that is so slow is not told.
const DUE_MAX: usize = 65_536;

/// A server that leaves so many without an answer, one after the other, is told no more of what is due: it is away, or hangs, and
/// ends its sessions by itself.
const UNHEARD_MAX: usize = 16;

/// Between two looks whether calls have ended at a server that is gone; nobody waits for it.
const QUIET_POLL: Duration = Duration::from_secs(1);

/// What servers are told by one thread: each by itself, and of some sessions at a time.
pub struct SessionTerminator {
    /// Of the process.
    threads: usize,
    /// By server; an entry for as long as there is a task that tells it.
    due: RefCell<HashMap<UpstreamId, VecDeque<Arc<UpstreamSession>>>>,
}

impl SessionTerminator {
    /// Nothing to tell yet, on one of so many threads that tell the same servers.
    pub fn new(threads: usize) -> Rc<Self> {
        Rc::new(Self { threads, due: RefCell::default() })
    }

    /// Has servers told, in tasks of the `LocalSet`.
    pub fn add(
        self: &Rc<Self>,
        left: impl IntoIterator<Item = DetachedUpstreamSession>,
        pools: &UpstreamPools,
    ) {
        for (pool, ready) in left.into_iter().filter_map(|left| open(&left, pools)) {
            self.add_one(&pool, ready);
        }
    }

    fn add_one(self: &Rc<Self>, pool: &Rc<UpstreamPool>, ready: Arc<UpstreamSession>) {
        let mut due = self.due.borrow_mut();
        let of_server = due.entry(pool.upstream().id).or_insert_with(|| {
            spawn_local(Rc::clone(self).tell(Rc::clone(pool)));
            VecDeque::new()
        });
        if of_server.len() < DUE_MAX {
            of_server.push_back(ready);
        } else {
            tracing::debug!(server = %pool.upstream().config.name, "too slow to be told of all sessions that are over");
        }
    }

    /// The same for servers that are behind their clients' sessions no more, each when no call is under way in its session.
    /// Ends when all are being told.
    pub async fn enqueue_when_idle(
        self: Rc<Self>,
        mut left: Vec<DetachedUpstreamSession>,
        pools: Rc<UpstreamPools>,
    ) {
        // Its own hold on the connections: they may be gone from the pools before a long call ends.
        let ids: HashSet<u32> = left.iter().map(|left| left.upstream).collect();
        let _held: Vec<_> = ids.into_iter().filter_map(|id| pools.find(UpstreamId(id))).collect();
        let mut look = interval(QUIET_POLL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !left.is_empty() {
            look.tick().await;
            self.add(left.extract_if(.., |left| left.is_idle()), &pools);
        }
    }

    /// How many sessions servers are still to be told of.
    pub fn due(&self) -> usize {
        self.due.borrow().values().map(VecDeque::len).sum()
    }

    async fn tell(self: Rc<Self>, pool: Rc<UpstreamPool>) {
        let id = pool.upstream().id;
        let at_once = (pool.upstream().config.in_flight_max / SHARE / self.threads).clamp(1, AT_ONCE_MAX);
        let unheard = Cell::new(0);
        let next = || {
            let mut due = self.due.borrow_mut();
            let due = due.get_mut(&id)?;
            if unheard.get() >= UNHEARD_MAX {
                tracing::debug!(server = %pool.upstream().config.name, left = due.len(), "does not hear of sessions that are over");
                due.clear();
            }
            due.pop_front()
        };
        let tell = async |ready: Arc<UpstreamSession>| {
            let is_heard = ready.part(&pool).await;
            unheard.set(if is_heard { 0 } else { unheard.get() + 1 });
        };
        // Some may have come while the last of those before were told.
        while let Some(first) = next() {
            let all = stream::iter(std::iter::once(first).chain(from_fn(next)));
            all.for_each_concurrent(at_once, tell).await;
        }
        self.due.borrow_mut().remove(&id);
    }
}

/// What is open there, and the way to tell of it.
fn open(
    left: &DetachedUpstreamSession,
    pools: &UpstreamPools,
) -> Option<(Rc<UpstreamPool>, Arc<UpstreamSession>)> {
    let ready = left.upstream_session.ready().filter(|ready| ready.session_id.is_some())?;
    Some((pools.find(UpstreamId(left.upstream))?, ready))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::LocalSet;
    use tokio::time::{sleep, timeout};

    use super::super::feed::tests::{PATIENCE, Socket, pool};
    use super::super::upstream_session::ServerFeatures;
    use super::*;
    use metamcp_core::protocol::Revision;

    type Told = Rc<RefCell<Vec<String>>>;

    fn open_at_server(id: usize) -> Arc<UpstreamSession> {
        let id = HeaderValue::from_str(&format!("<{id}>")).unwrap();
        Arc::new(UpstreamSession::new(Some(id), Revision::LEGACY_LATEST, Arc::new(ServerFeatures::default())))
    }

    /// A server that takes so long for each, and is told on many connections.
    async fn serve(listener: UnixListener, told: Told, takes: Duration) {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(hear(stream, Rc::clone(&told), takes));
        }
    }

    async fn hear(mut stream: UnixStream, told: Told, takes: Duration) {
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.unwrap() > 0 {
            let Some(head) = head.ends_with(b"\r\n\r\n").then(|| std::mem::take(&mut head)) else { continue };
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("DELETE "), "{head}");
            let (_, id) = head.split_once('<').unwrap();
            told.borrow_mut().push(id.split_once('>').unwrap().0.to_owned());
            sleep(takes).await;
            // Who has waited for too long has gone.
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_is_told_of_all() {
        const SESSIONS: usize = 100;
        let all = async {
            let (socket, told) = (Socket::new("farewell"), Told::default());
            let listener = UnixListener::bind(&socket.0).unwrap();
            spawn_local(serve(listener, Rc::clone(&told), Duration::from_secs(1)));
            let (pool, farewells) = (pool(&socket), SessionTerminator::new(1));
            let first = SESSIONS / 2 - 1;
            (0..first).for_each(|id| farewells.add_one(&pool, open_at_server(id)));
            while told.borrow().len() < first {
                sleep(QUIET_POLL / 10).await;
            }
            assert!(
                !farewells.due.borrow().is_empty() && farewells.due() == 0,
                "the last of them take their time"
            );
            (first..SESSIONS).for_each(|id| farewells.add_one(&pool, open_at_server(id)));
            let ends = async {
                while !farewells.due.borrow().is_empty() {
                    sleep(QUIET_POLL).await;
                }
            };
            timeout(PATIENCE, ends).await.expect("all are told of");
            let ids: HashSet<_> = told.borrow().iter().cloned().collect();
            assert_eq!((ids.len(), told.borrow().len()), (SESSIONS, SESSIONS), "once each");
            assert_eq!(Rc::strong_count(&farewells), 1, "nobody waits for more");
        };
        LocalSet::new().run_until(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_hear_is_given_up() {
        let all = async {
            let (socket, told) = (Socket::new("unheard"), Told::default());
            let listener = UnixListener::bind(&socket.0).unwrap();
            spawn_local(serve(listener, Rc::clone(&told), 2 * PATIENCE));
            // Half of a share of two: one at once.
            let (pool, farewells) = (pool(&socket), SessionTerminator::new(2));
            for id in 0..10 * UNHEARD_MAX {
                farewells.add_one(&pool, open_at_server(id));
            }
            let ends = async {
                while !farewells.due.borrow().is_empty() {
                    sleep(QUIET_POLL).await;
                }
            };
            timeout(3 * PATIENCE, ends).await.expect("it is given up");
            assert!(told.borrow().len() <= UNHEARD_MAX, "{:?}", told.borrow());
        };
        LocalSet::new().run_until(all).await;
    }
}
