//! An event stream within this process: written by one, read by another, perhaps on another thread.
//!
//! Holds no room while nothing waits in it, as in nearly all of them at nearly all times.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use super::super::{FailureStage, UpstreamError};

/// The end that is written to. [`Self::put`] never waits: a server that is shared goes on when one of its clients does not
/// read.
pub struct EventSink(Arc<Stream>);

/// The end that is read.
pub struct EventSource(Arc<Stream>);

struct Stream {
    /// So many wait at most, the last of them the answer.
    events_max: usize,
    /// Guards what waits; a few lines at a time.
    state: Mutex<State>,
    /// Told when some of it was read, or nobody reads any more. Made when the one who writes first waits for either, which in
    /// most nobody ever does.
    moved: OnceLock<Box<Notify>>,
}

#[derive(Default)]
struct State {
    queued: Option<Box<Queued>>,
    /// Of the one who reads.
    waker: Option<Waker>,
    /// Nothing more is written.
    is_ended: bool,
    /// Nobody reads any more.
    is_left: bool,
}

/// What waits: something, always.
#[derive(Default)]
struct Queued {
    events: VecDeque<Result<Bytes, FailureStage>>,
    /// Of all of them.
    bytes: usize,
}

/// Events that wait for a slow client: as many as a busy tool sends in some seconds.
const QUEUED_MAX: usize = 256;

/// Bytes of them. The answer itself comes on top.
const QUEUED_BYTES_MAX: usize = 4 << 20;

/// The two ends of a stream.
pub fn event_channel() -> (EventSink, EventSource) {
    // One more, for the answer, which is never left out.
    event_channel_with_capacity(QUEUED_MAX + 1)
}

/// Likewise, with room for so many events.
pub fn event_channel_with_capacity(events_max: usize) -> (EventSink, EventSource) {
    let stream = Arc::new(Stream { events_max, state: Mutex::default(), moved: OnceLock::new() });
    (EventSink(Arc::clone(&stream)), EventSource(stream))
}

impl EventSink {
    /// Puts an event behind the others; false when there is no room for it, or nobody reads.
    pub fn try_send(&self, event: Bytes) -> bool {
        let state = self.0.lock();
        let (events, bytes) = state.size();
        let is_full = events + 1 >= self.0.events_max || bytes.saturating_add(event.len()) > QUEUED_BYTES_MAX;
        if state.is_left || is_full {
            return false;
        }
        State::push(state, Ok(event));
        true
    }

    /// Puts an event behind the others, when there is room for it, one of any size behind none; false when
    /// nobody reads. For a writer that holds up nobody else. Cancel safe: the event is put, or it is not.
    pub async fn send(&self, event: Bytes) -> bool {
        loop {
            let mut read = pin!(self.0.moved().notified());
            // Told from here on.
            read.as_mut().enable();
            {
                let state = self.0.lock();
                if state.is_left {
                    return false;
                }
                let (events, bytes) = state.size();
                let fits = bytes == 0 || bytes.saturating_add(event.len()) <= QUEUED_BYTES_MAX;
                if fits && events < self.0.events_max {
                    State::push(state, Ok(event));
                    return true;
                }
            }
            read.await;
        }
    }

    /// Waits until nobody reads any more. Cancel safe.
    pub async fn closed(&self) {
        loop {
            let mut left = pin!(self.0.moved().notified());
            left.as_mut().enable();
            if self.0.lock().is_left {
                return;
            }
            left.await;
        }
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.0.lock().is_left
    }

    /// Puts the last event, for which there is always room.
    pub fn finish(self, event: Bytes) {
        self.last(Ok(event));
    }

    /// Breaks off, behind what was put.
    pub fn fail(self, stage: FailureStage) {
        self.last(Err(stage));
    }

    fn last(self, said: Result<Bytes, FailureStage>) {
        let state = self.0.lock();
        // Nobody may be reading any more.
        if !state.is_left {
            State::push(state, said);
        }
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_ended = true;
        State::wake(state);
    }
}

impl EventSource {
    /// The next event; `None` at the regular end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let mut state = self.0.lock();
        let Some(next) = state.pop() else {
            if state.is_ended {
                return Poll::Ready(None);
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        drop(state);
        self.0.note_move();
        Poll::Ready(Some(next.map_err(UpstreamError::from_stage)))
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_left = true;
        let (queued, waker) = (state.queued.take(), state.waker.take());
        drop(state);
        drop((queued, waker));
        self.0.note_move();
    }
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is done under it leaves a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked for before it is looked whether there is anything to wait for.
    fn moved(&self) -> &Notify {
        self.moved.get_or_init(Box::default)
    }

    /// To be called behind the lock: whoever found there that it has to wait is seen here.
    fn note_move(&self) {
        self.moved.get().into_iter().for_each(|moved| moved.notify_waiters());
    }
}

impl State {
    fn push(mut state: MutexGuard<'_, Self>, said: Result<Bytes, FailureStage>) {
        let queued = state.queued.get_or_insert_default();
        queued.bytes += said.as_ref().map_or(0, Bytes::len);
        queued.events.push_back(said);
        Self::wake(state);
    }

    fn pop(&mut self) -> Option<Result<Bytes, FailureStage>> {
        let queued = self.queued.as_mut()?;
        let next = queued.events.pop_front()?;
        queued.bytes -= next.as_ref().map_or(0, Bytes::len);
        self.queued.take_if(|queued| queued.events.is_empty());
        Some(next)
    }

    /// How many wait, and their bytes.
    fn size(&self) -> (usize, usize) {
        self.queued.as_ref().map_or((0, 0), |queued| (queued.events.len(), queued.bytes))
    }

    fn wake(mut state: MutexGuard<'_, Self>) {
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(events: &mut EventSource) -> Vec<Result<usize, FailureStage>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        while let Poll::Ready(Some(next)) = events.poll_next(&mut cx) {
            read.push(next.map(|event| event.len()).map_err(|error| error.stage));
        }
        read
    }

    #[test]
    fn the_answer_always_has_room() {
        let check = |events: usize, bytes: usize, expected: usize| {
            let (outlet, mut reader) = event_channel();
            let event = Bytes::from(vec![b'x'; bytes]);
            let taken = (0..events).filter(|_| outlet.try_send(event.clone())).count();
            assert_eq!(taken, expected, "{events} of {bytes}");
            outlet.finish(Bytes::from_static(b"the answer"));
            let read = drain(&mut reader);
            assert_eq!((read.len(), read.last()), (expected + 1, Some(&Ok(10))));
        };
        check(1, 1, 1);
        check(QUEUED_MAX, 1, QUEUED_MAX);
        check(10 * QUEUED_MAX, 1, QUEUED_MAX);
        check(10, 1 << 20, 4);
        check(1, QUEUED_BYTES_MAX + 1, 0);
        let (outlet, mut reader) = event_channel();
        assert!(
            (0..10_000).all(|_| outlet.try_send(vec![0; 1 << 10].into()) && drain(&mut reader).len() == 1)
        );
        outlet.fail(FailureStage::BodyIncomplete);
        assert_eq!(drain(&mut reader), [Err(FailureStage::BodyIncomplete)]);
    }

    #[test]
    fn what_is_read_holds_no_room_and_what_nobody_reads_is_not_taken() {
        let (outlet, mut reader) = event_channel();
        assert!(outlet.try_send("x".into()));
        assert_eq!(drain(&mut reader), [Ok(1)]);
        assert!(outlet.0.lock().queued.is_none());
        assert!(outlet.try_send("x".into()));
        drop(reader);
        assert!(!outlet.try_send("y".into()));
        assert_eq!(outlet.0.lock().size(), (0, 0));
    }

    #[tokio::test]
    async fn a_writer_that_waits_holds_no_more_than_one_that_does_not() {
        let (outlet, mut reader) = event_channel_with_capacity(8);
        let event = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        // One of any size, for it cannot be made smaller.
        assert!(outlet.send(event(2 * QUEUED_BYTES_MAX)).await);
        let waiting = async { (outlet.send(event(1)).await, outlet.send(event(QUEUED_BYTES_MAX)).await) };
        let reading = async {
            tokio::task::yield_now().await;
            let mut read = drain(&mut reader);
            assert_eq!(read, [Ok(2 * QUEUED_BYTES_MAX)], "nothing was put behind it");
            while read.len() < 3 {
                tokio::task::yield_now().await;
                read.extend(drain(&mut reader));
            }
            assert_eq!(read[1..], [Ok(1), Ok(QUEUED_BYTES_MAX)]);
        };
        assert_eq!(tokio::join!(waiting, reading).0, (true, true));
        assert!(outlet.send(event(QUEUED_BYTES_MAX)).await);
        let leaving = async {
            tokio::task::yield_now().await;
            drop(reader);
        };
        let (sent, (), ()) = tokio::join!(outlet.send(event(1)), outlet.closed(), leaving);
        assert!(!sent, "nobody reads");
    }

    #[tokio::test]
    async fn events_come_in_order_from_another_thread() {
        let (outlet, mut reader) = event_channel_with_capacity(4);
        let writing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                for number in 0..1000_u32 {
                    assert!(outlet.send(number.to_be_bytes().to_vec().into()).await);
                }
            });
        });
        for expected in 0..1000_u32 {
            let next = std::future::poll_fn(|cx| reader.poll_next(cx)).await;
            let event = next.expect("it has not ended").map_err(|error| error.stage);
            assert_eq!(event, Ok(Bytes::copy_from_slice(&expected.to_be_bytes())));
        }
        assert!(std::future::poll_fn(|cx| reader.poll_next(cx)).await.is_none());
        writing.join().expect("it wrote all");
    }
}
