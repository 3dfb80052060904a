//! Response bodies that hyper sends, and their end from outside.
//!
//! hyper polls a body only while its client accepts bytes. A client of HTTP/2 that gives a stream no window would
//! therefore keep what the body holds: permits, and the connection to a server. So a worker sweeps the bodies of its
//! connections, and drops what is inside of those whose credential has ended, and of those that the transport has not
//! asked for anything for too long. On HTTP/2 it also ends hyper's task of the stream, since hyper asks a body for bytes only
//! once its client has given window; the stream is reset.
//!
//! Does not know: what a body holds, or why a credential ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::AbortHandle;
use http_body::{Body, Frame, SizeHint};

use super::body::{BodyError, ResponseBody};
use crate::server::http1::activity::ProgressCounter;
use metamcp_store::auth::Identity;

/// The bodies that hyper sends on the connections of one worker, as far as they can be ended.
#[derive(Default)]
pub struct TransportBodies {
    live: RefCell<HashMap<u64, Rc<BodySlot>, RandomState>>,
    next: Cell<u64>,
}

/// A response body as hyper gets it.
pub struct TransportBody(Kind);

enum Kind {
    /// It holds nothing that a server or another client could wait for.
    Unwatched(ResponseBody),
    Watched(WatchedBody),
}

/// A body that can be ended from outside.
struct WatchedBody {
    bodies: Rc<TransportBodies>,
    number: u64,
    slot: Rc<BodySlot>,
}

/// What hyper and the sweep share.
struct BodySlot {
    /// `None` after its end from outside.
    body: RefCell<Option<ResponseBody>>,
    /// Ends the task that sends it on a stream of HTTP/2. `None` on HTTP/1.
    stream_task: Option<AbortHandle>,
    /// Counts how often the transport asked for bytes.
    polls: ProgressCounter,
    /// The task of hyper that waits for the body. `None` if the body waits for the transport: it was never polled, or
    /// the last poll returned bytes.
    waiting: RefCell<Option<Waker>>,
    /// Since when the credential is known to have ended, or the client to have ended what the body belongs to.
    invalid_since: Cell<Option<Instant>>,
}

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

/// How long a body may take to end by itself, with an error that its client can read, after its credential has ended.
/// Shorter than the period of the sweep.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A body was ended from outside.
#[derive(Debug, thiserror::Error)]
#[error("the client accepted nothing for too long, or its credential or session has ended")]
struct EndedFromOutside;

impl TransportBody {
    /// A body that is not watched.
    pub fn unwatched(body: ResponseBody) -> Self {
        Self(Kind::Unwatched(body))
    }
}

impl TransportBodies {
    /// Watches a body until hyper drops it. `stream_task` is that of its stream of HTTP/2.
    pub fn watch(self: &Rc<Self>, body: ResponseBody, stream_task: Option<AbortHandle>) -> TransportBody {
        let number = self.next.get();
        self.next.set(number + 1);
        let slot = Rc::new(BodySlot {
            body: RefCell::new(Some(body)),
            stream_task,
            polls: ProgressCounter::default(),
            waiting: RefCell::default(),
            invalid_since: Cell::default(),
        });
        self.live.borrow_mut().insert(number, Rc::clone(&slot));
        TransportBody(Kind::Watched(WatchedBody { bodies: Rc::clone(self), number, slot }))
    }

    /// Ends the bodies whose owners are not valid any more, and those on HTTP/2 that the transport has not taken
    /// anything from for `stall_max`. On HTTP/1, the connection itself ends when its client takes nothing. Called once
    /// per tick, so that either happens up to a tick late.
    pub fn sweep(&self, stall_max: Duration, is_valid: impl Fn(&Identity) -> bool) {
        let now = Instant::now();
        let mut ended = Vec::new();
        for slot in self.live.borrow().values() {
            if slot.is_overdue(now, stall_max, &is_valid) {
                ended.push((slot.body.take(), slot.waiting.take(), slot.stream_task.clone()));
            }
        }
        // Dropping a body may begin or end others, so nothing is borrowed any more.
        for (body, waker, stream_task) in ended {
            drop(body);
            match stream_task {
                Some(task) => task.abort(),
                None => waker.into_iter().for_each(Waker::wake),
            }
        }
        let mut live = self.live.borrow_mut();
        if live.capacity() > ROOM_MIN && live.len() < live.capacity() / 4 {
            live.shrink_to_fit();
        }
    }
}

impl BodySlot {
    fn is_overdue(&self, now: Instant, stall_max: Duration, is_valid: impl Fn(&Identity) -> bool) -> bool {
        let unchanged = self.polls.unchanged_for(now);
        let body = self.body.borrow();
        let Some(body) = body.as_ref() else { return false };
        // A body that has said why it ends has no owner any more.
        let is_invalid = body.is_unwanted() || body.owner().is_some_and(|owner| !is_valid(owner));
        let invalid_since = is_invalid.then(|| self.invalid_since.get().unwrap_or(now));
        self.invalid_since.set(invalid_since);
        let is_mute = |since| now.saturating_duration_since(since) >= LAST_WORDS;
        let is_stalled = self.stream_task.is_some() && self.waiting.borrow().is_none();
        (is_stalled && unchanged >= stall_max) || invalid_since.is_some_and(is_mute)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut body = self.body.borrow_mut();
        let Some(body) = body.as_mut() else { return Poll::Ready(Some(Err(EndedFromOutside.into()))) };
        let next = Pin::new(body).poll_frame(cx);
        self.polls.note();
        let mut waiting = self.waiting.borrow_mut();
        if next.is_ready() {
            *waiting = None;
        } else if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        next
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.bodies.live.borrow_mut().remove(&self.number);
    }
}

impl Body for TransportBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Unwatched(body) => Pin::new(body).poll_frame(cx),
            Kind::Watched(body) => body.slot.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Unwatched(body) => body.is_end_stream(),
            Kind::Watched(body) => body.slot.body.borrow().as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Unwatched(body) => body.size_hint(),
            Kind::Watched(body) => {
                body.slot.body.borrow().as_ref().map_or_else(SizeHint::default, Body::size_hint)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::limits::{KeyUsage, Limits, PermitKind};
    use metamcp_config::sections::LimitsConfig;

    /// A body with a permit, what sends its events, the usage of its key, and the task of its stream.
    struct Fixture {
        bodies: Rc<TransportBodies>,
        body: TransportBody,
        sender: mpsc::Sender<Bytes>,
        identity: Identity,
        usage: std::sync::Arc<KeyUsage>,
        stream_task: AbortHandle,
    }

    impl Fixture {
        fn new() -> Self {
            let identity = Identity::sample("AAAAAAAAAAAA");
            let usage =
                Limits::new(&LimitsConfig { key_in_flight_max: 1, key_event_streams_max: 1, memory_max: 0 })
                    .usage(&identity);
            let permit = usage.admit(&identity, PermitKind::Call).ok();
            let (sender, receiver) = mpsc::channel(1);
            let bodies = Rc::<TransportBodies>::default();
            let events = ResponseBody::events(receiver, permit, Some(identity.clone()));
            let (stream_task, _) = AbortHandle::new_pair();
            let body = bodies.watch(events, Some(stream_task.clone()));
            Self { bodies, body, sender, identity, usage, stream_task }
        }

        fn poll(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(Waker::noop()))
        }

        fn is_held(&self) -> bool {
            self.usage.admit(&self.identity, PermitKind::Call).is_err()
        }

        /// Sweeps twice, as the first sweep only looks.
        fn sweep(&self, stall_max: Duration, is_valid: bool) {
            for _ in 0..2 {
                self.bodies.sweep(stall_max, |_| is_valid);
            }
        }
    }

    const LONG: Duration = Duration::from_hours(1);

    #[test]
    fn a_body_that_the_transport_does_not_take_is_dropped() {
        let mut fixture = Fixture::new();
        fixture.sweep(LONG, true);
        assert!(fixture.is_held(), "not for so long");
        // The transport waits for the body.
        assert!(fixture.poll().is_pending());
        fixture.sweep(Duration::ZERO, true);
        assert!(fixture.is_held(), "a silent body is no stalled one");
        fixture.sender.try_send(Bytes::from_static(b"x")).expect("there is room");
        assert!(matches!(fixture.poll(), Poll::Ready(Some(Ok(_)))));
        fixture.sweep(Duration::ZERO, true);
        assert!(!fixture.is_held());
        assert!(fixture.stream_task.is_aborted(), "the stream is reset");
        assert!(matches!(fixture.poll(), Poll::Ready(Some(Err(_)))));
        drop(fixture.body);
        assert!(fixture.bodies.live.borrow().is_empty());
    }

    #[test]
    fn a_body_whose_owner_is_not_valid_is_dropped_after_its_last_words() {
        let mut fixture = Fixture::new();
        assert!(fixture.poll().is_pending());
        fixture.sweep(LONG, false);
        assert!(fixture.is_held() && !fixture.stream_task.is_aborted(), "it may still say why it ends");
        let slot = fixture.bodies.live.borrow().values().next().cloned().expect("one body");
        slot.invalid_since.set(Instant::now().checked_sub(LAST_WORDS));
        fixture.sweep(LONG, false);
        assert!(!fixture.is_held() && fixture.stream_task.is_aborted());
        assert!(matches!(fixture.poll(), Poll::Ready(Some(Err(_)))));
    }
}
