//! Connections and event streams that are only held, while others work.
//!
//! A connection is used once, left alone, and used once more at the end, to see that it still is what it was: a
//! server may close one that is silent (that is counted and no error), but must answer on the next. An event
//! stream has to stay open until we close it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::answer::{Kind, Wrong};
use crate::client::Client;
use crate::run::Shared;
use crate::scenario::Idle;
use crate::tally::{Extra, Tally};

/// Woken at once: this is about whether they live, not about a stampede.
const WOKEN_AT_ONCE: usize = 32;

/// All that is held.
pub struct Herd {
    members: JoinSet<()>,
    over: watch::Sender<bool>,
    common: Arc<Common>,
}

struct Common {
    shared: Arc<Shared>,
    tally: Arc<Mutex<Tally>>,
    over: watch::Receiver<bool>,
    waking: Semaphore,
    connections: AtomicU64,
    streams: AtomicU64,
    closed: AtomicU64,
}

/// What was seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Connections that were opened.
    pub connections: u64,
    /// Event streams that were opened.
    pub streams: u64,
    /// Connections that the other side had closed by the end.
    pub closed: u64,
}

impl Herd {
    /// Comes back when each is open, or has failed to be.
    pub async fn open(shared: &Arc<Shared>, tally: &Arc<Mutex<Tally>>, idle: &Idle) -> Self {
        let (over, is_over) = watch::channel(false);
        let common = Arc::new(Common {
            shared: Arc::clone(shared),
            tally: Arc::clone(tally),
            over: is_over,
            waking: Semaphore::new(WOKEN_AT_ONCE),
            connections: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        });
        let mut members = JoinSet::new();
        let start = Instant::now();
        // Each holds one until it is open; when all are dropped, nothing is received.
        let (opening, mut opened) = mpsc::channel::<()>(1);
        for number in 0..idle.connections + idle.streams {
            let common = Arc::clone(&common);
            let opening = opening.clone();
            // Fewer than 2^53 of them.
            #[allow(clippy::cast_precision_loss)]
            let at = start + Duration::from_secs_f64(number as f64 / idle.open_per_second);
            let is_stream = number >= idle.connections;
            members.spawn(async move {
                sleep_until(at).await;
                let client = Client::new(Arc::clone(&common.shared.target), common.shared.eras.of(number));
                if is_stream {
                    common.stream(client, opening).await;
                } else {
                    common.connection(client, opening).await;
                }
            });
        }
        drop(opening);
        opened.recv().await;
        Self { members, over, common }
    }

    /// Uses every connection once more, closes all.
    pub async fn end(mut self) -> Seen {
        self.over.send_replace(true);
        while self.members.join_next().await.is_some() {}
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen {
            connections: count(&self.common.connections),
            streams: count(&self.common.streams),
            closed: count(&self.common.closed),
        }
    }
}

impl Common {
    fn record(&self, extra: Extra, began: Instant, outcome: Result<(), Wrong>) {
        let mut tally = self.tally.lock().expect("nothing panics while it counts");
        let place = extra.place(self.shared.operations());
        match outcome {
            Ok(()) => tally.right(place, began.elapsed(), 0),
            Err(wrong) => tally.wrong(place, wrong),
        }
    }

    async fn until_over(&self) {
        // An error means that the herd itself was dropped.
        drop(self.over.clone().wait_for(|over| *over).await);
    }

    async fn connection(&self, mut client: Client, opening: mpsc::Sender<()>) {
        let began = Instant::now();
        let first = self.shared.call(&mut client, 0).await.map(drop);
        let failed = first.is_err();
        self.record(Extra::Open, began, first);
        drop(opening);
        if failed {
            return;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.until_over().await;
        if !client.is_open() {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
        let _permit = self.waking.acquire().await;
        let began = Instant::now();
        let woken = self.shared.call(&mut client, 0).await.map(drop);
        self.record(Extra::Wake, began, woken);
        drop(client.close().await);
    }

    async fn stream(&self, mut client: Client, opening: mpsc::Sender<()>) {
        let began = Instant::now();
        let mut body = match client.listen().await {
            Ok(body) => body,
            Err(wrong) => return self.record(Extra::Stream, began, Err(wrong)),
        };
        self.record(Extra::Stream, began, Ok(()));
        drop(opening);
        self.streams.fetch_add(1, Ordering::Relaxed);
        let ended = async {
            // What comes is of no interest; that it can come is.
            while let Some(Ok(_)) = body.frame().await {}
        };
        tokio::select! {
            () = ended => {
                let wrong = Wrong::new(Kind::Dropped, "an event stream ended that nobody had closed");
                self.record(Extra::Stream, began, Err(wrong));
            }
            () = self.until_over() => {}
        }
        let _permit = self.waking.acquire().await;
        drop(body);
        drop(client.close().await);
    }
}
