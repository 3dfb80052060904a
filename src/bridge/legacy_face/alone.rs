//! The client's event stream of a session that listens for itself. One that was in a hub comes out of it: it goes on being
//! told what the others are told until the server has said that it tells it alone, and for a moment more. A change of a list
//! that comes both ways is told twice, which costs its client one look; one that is not told is never seen.
//!
//! Does not know: how a server is listened to (`listen`).

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::session::{Own, Session};
use crate::upstream::shim::{Events, Outlet};

/// Who is told what one session alone listens for.
pub struct Alone {
    session: Arc<Session>,
    stream: u64,
    outlet: Outlet,
    /// What the hub tells, until somebody tells it on.
    hub: RefCell<Option<Events>>,
    leaving: Cell<Leaving>,
}

/// Whether the hub is left.
#[derive(Clone, Copy)]
enum Leaving {
    /// Not before the server has told for a while.
    NotYet,
    /// It tells; then, if it goes on.
    At(Instant),
    Left,
}

/// For what a server says on one stream to come on the other as well. The two are read by different threads, which may be
/// busy.
const LINGER: Duration = Duration::from_secs(1);

impl Alone {
    /// For the stream that the session's client has.
    pub fn new(session: Arc<Session>, own: Own) -> Self {
        let Own { stream, outlet, hub } = own;
        let leaving = if hub.is_some() { Leaving::NotYet } else { Leaving::Left };
        Self { session, stream, outlet, hub: RefCell::new(hub), leaving: Cell::new(leaving) }
    }

    /// Tells it on; false when nobody listens any more. Cancel safe, but for an event that waits for room.
    pub async fn tell(&self, event: Bytes) -> bool {
        self.outlet.send(event).await
    }

    /// Tells on what the hub tells, until it is left; never completes. Not cancel safe: the rest of that is lost.
    pub async fn tell_of_hub(&self) {
        let hub = self.hub.take();
        if let Some(events) = hub {
            // Boxed: most have none, and the others not for long.
            Box::pin(self.tell_all(events)).await;
        }
        pending::<()>().await;
    }

    /// The server tells. Leaves the hub when it has told for a while, which ends what the hub tells; never completes. Cancel
    /// safe: when the server is asked for more, the while goes on.
    pub async fn come_out(&self) {
        if let Leaving::NotYet = self.leaving.get() {
            self.leaving.set(Leaving::At(Instant::now() + LINGER));
        }
        if let Leaving::At(when) = self.leaving.get() {
            // Boxed: it is over in a moment, and a stream stays for days.
            Box::pin(sleep_until(when)).await;
            self.leaving.set(Leaving::Left);
            self.session.leave_hub(self.stream);
        }
        pending::<()>().await;
    }

    /// The server's stream broke: it was none to rely on.
    pub fn stay(&self) {
        if let Leaving::At(_) = self.leaving.get() {
            self.leaving.set(Leaving::NotYet);
        }
    }

    /// Completes when nobody listens any more. Cancel safe.
    pub async fn left(&self) {
        self.outlet.closed().await;
    }

    async fn tell_all(&self, mut events: Events) {
        while let Some(Ok(event)) = poll_fn(|cx| events.poll_next(cx)).await {
            if !self.tell(event).await {
                return;
            }
        }
    }
}
