//! An event stream within this process, between two tasks that may run on different threads.
//!
//! An empty stream holds no buffer: nearly all of them are empty at nearly all times.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::{FailureStage, UpstreamError};
use metamcp_core::base::{CHARGED_BYTES_MIN, MemoryCharge, OutOfMemory, charge_bytes};

/// The writing end. [`Self::try_send`] never waits: a server that is shared continues when one of its clients
/// does not read.
pub struct EventSink(Arc<Channel>);

/// The reading end of an event channel.
pub struct EventSource(Arc<Channel>);

struct Channel {
    /// Events queued at most, the final one included.
    events_max: usize,
    /// Guards the queue, for a few lines at a time.
    state: Mutex<ChannelState>,
    /// Notified when an event was read or the reader is gone. Created by the first writer that waits, which
    /// most streams never have.
    drained: OnceLock<Box<Notify>>,
}

#[derive(Default)]
struct ChannelState {
    queue: Option<Box<EventQueue>>,
    reader: Option<Waker>,
    /// The sink is gone: nothing more is written.
    is_ended: bool,
    /// The source was dropped: there is no reader.
    is_abandoned: bool,
}

/// Queued events. Never empty.
#[derive(Default)]
struct EventQueue {
    events: VecDeque<Result<Bytes, FailureStage>>,
    bytes: usize,
    /// The bytes of the events that are too small for a charge of their own, and the charge for all of them.
    small_bytes: usize,
    charge: MemoryCharge,
}

/// Events that wait for a slow client: as many as a busy tool sends in some seconds.
const QUEUED_MAX: usize = 256;

/// Bytes of these events together, without the response.
const QUEUED_BYTES_MAX: usize = 4 << 20;

pub fn event_channel() -> (EventSink, EventSource) {
    // One more for the response, which is never dropped.
    event_channel_with_capacity(QUEUED_MAX + 1)
}

/// Creates a stream that queues at most `events_max` events.
pub fn event_channel_with_capacity(events_max: usize) -> (EventSink, EventSource) {
    let channel = Arc::new(Channel { events_max, state: Mutex::default(), drained: OnceLock::new() });
    (EventSink(Arc::clone(&channel)), EventSource(channel))
}

impl EventSink {
    /// Queues an event. False when there is no room or memory for it, or no reader.
    pub fn try_send(&self, event: Bytes) -> bool {
        let state = self.0.lock();
        let (events, bytes) = state.size();
        let is_full = events + 1 >= self.0.events_max || bytes.saturating_add(event.len()) > QUEUED_BYTES_MAX;
        if state.is_abandoned || is_full {
            return false;
        }
        ChannelState::push(state, event).is_ok()
    }

    /// Queues an event once there is room for it; an event of any size fits into an empty queue. False when
    /// nobody reads, or when there is no memory for it: then the stream ends with an error. For a writer that
    /// delays nobody else. Cancel safe: the event is queued, or it is not.
    pub async fn send(&self, event: Bytes) -> bool {
        loop {
            let mut drained = pin!(self.0.drained().notified());
            // Registered from here on.
            drained.as_mut().enable();
            {
                let state = self.0.lock();
                if state.is_abandoned {
                    return false;
                }
                let (events, bytes) = state.size();
                let fits = bytes == 0 || bytes.saturating_add(event.len()) <= QUEUED_BYTES_MAX;
                if fits && events < self.0.events_max {
                    return self.push_or_end(state, event);
                }
            }
            drained.await;
        }
    }

    /// Waits until there is no reader. Cancel safe.
    pub async fn closed(&self) {
        loop {
            let mut drained = pin!(self.0.drained().notified());
            drained.as_mut().enable();
            if self.0.lock().is_abandoned {
                return;
            }
            drained.await;
        }
    }

    /// Whether the reading end was dropped.
    pub fn is_closed(&self) -> bool {
        self.0.lock().is_abandoned
    }

    /// Queues the final event, for which there is always room, or an error if there is no memory for it.
    pub fn finish(self, event: Bytes) {
        let state = self.0.lock();
        if !state.is_abandoned {
            self.push_or_end(state, event);
        }
    }

    /// Ends the stream with an error, after what was queued.
    pub fn fail(self, stage: FailureStage) {
        let state = self.0.lock();
        if !state.is_abandoned {
            ChannelState::push_error(state, stage);
        }
    }

    /// Queues an event, or the error that there is no memory for it. Returns whether it is the event.
    fn push_or_end(&self, state: MutexGuard<'_, ChannelState>, event: Bytes) -> bool {
        let pushed = ChannelState::push(state, event);
        if pushed.is_err() {
            ChannelState::push_error(self.0.lock(), FailureStage::OutOfMemory);
        }
        pushed.is_ok()
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_ended = true;
        ChannelState::wake_reader(state);
    }
}

impl EventSource {
    /// Returns the next event; `None` at the regular end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let mut state = self.0.lock();
        let Some(next) = state.pop() else {
            if state.is_ended {
                return Poll::Ready(None);
            }
            if !state.reader.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        drop(state);
        self.0.wake_writers();
        Poll::Ready(Some(next.map_err(UpstreamError::from_stage)))
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        let (queue, reader) = (state.queue.take(), state.reader.take());
        drop(state);
        drop((queue, reader));
        self.0.wake_writers();
    }
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, ChannelState> {
        // No panic can leave a partial change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Must be called before the state is checked for a reason to wait.
    fn drained(&self) -> &Notify {
        self.drained.get_or_init(Box::default)
    }

    /// Must be called after the lock is released: a writer that decided to wait has registered by then.
    fn wake_writers(&self) {
        self.drained.get().into_iter().for_each(|drained| drained.notify_waiters());
    }
}

impl ChannelState {
    /// Queues an event. A large one keeps its charge until its bytes are written to the client.
    fn push(mut state: MutexGuard<'_, Self>, event: Bytes) -> Result<(), OutOfMemory> {
        let bytes = event.len();
        let event = charge_bytes(event)?;
        let small_bytes = if bytes < CHARGED_BYTES_MIN { bytes } else { 0 };
        let mut queue = state.queue.take().unwrap_or_default();
        let charged = queue.charge.resize(queue.small_bytes + small_bytes);
        if charged.is_ok() {
            queue.bytes += bytes;
            queue.small_bytes += small_bytes;
            queue.events.push_back(Ok(event));
        }
        state.queue = Some(queue).filter(|queue| !queue.events.is_empty());
        Self::wake_reader(state);
        charged
    }

    fn push_error(mut state: MutexGuard<'_, Self>, stage: FailureStage) {
        state.queue.get_or_insert_default().events.push_back(Err(stage));
        Self::wake_reader(state);
    }

    fn pop(&mut self) -> Option<Result<Bytes, FailureStage>> {
        let queue = self.queue.as_mut()?;
        let next = queue.events.pop_front()?;
        let bytes = next.as_ref().map_or(0, Bytes::len);
        queue.bytes -= bytes;
        if bytes < CHARGED_BYTES_MIN {
            queue.small_bytes -= bytes;
            // Less than before, which is never refused.
            let _ = queue.charge.resize(queue.small_bytes);
        }
        self.queue.take_if(|queue| queue.events.is_empty());
        Some(next)
    }

    /// Returns the number of queued events and their bytes.
    fn size(&self) -> (usize, usize) {
        self.queue.as_ref().map_or((0, 0), |queue| (queue.events.len(), queue.bytes))
    }

    fn wake_reader(mut state: MutexGuard<'_, Self>) {
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
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
    fn the_final_event_always_has_room() {
        let check = |events: usize, bytes: usize, expected: usize| {
            let (sink, mut reader) = event_channel();
            let event = Bytes::from(vec![b'x'; bytes]);
            let taken = (0..events).filter(|_| sink.try_send(event.clone())).count();
            assert_eq!(taken, expected, "{events} of {bytes}");
            sink.finish(Bytes::from_static(b"the answer"));
            let read = drain(&mut reader);
            assert_eq!((read.len(), read.last()), (expected + 1, Some(&Ok(10))));
        };
        check(1, 1, 1);
        check(QUEUED_MAX, 1, QUEUED_MAX);
        check(10 * QUEUED_MAX, 1, QUEUED_MAX);
        check(10, 1 << 20, 4);
        check(1, QUEUED_BYTES_MAX + 1, 0);
        let (sink, mut reader) = event_channel();
        assert!((0..10_000).all(|_| sink.try_send(vec![0; 1 << 10].into()) && drain(&mut reader).len() == 1));
        sink.fail(FailureStage::BodyIncomplete);
        assert_eq!(drain(&mut reader), [Err(FailureStage::BodyIncomplete)]);
    }

    #[test]
    fn an_empty_stream_holds_no_buffer_and_an_abandoned_one_takes_nothing() {
        let (sink, mut reader) = event_channel();
        assert!(sink.try_send("x".into()));
        assert_eq!(drain(&mut reader), [Ok(1)]);
        assert!(sink.0.lock().queue.is_none());
        assert!(sink.try_send("x".into()));
        drop(reader);
        assert!(!sink.try_send("y".into()));
        assert_eq!(sink.0.lock().size(), (0, 0));
    }

    #[tokio::test]
    async fn a_waiting_writer_queues_no_more_than_one_that_never_waits() {
        let (sink, mut reader) = event_channel_with_capacity(8);
        let event = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        // One event of any size fits, because it cannot be made smaller.
        assert!(sink.send(event(2 * QUEUED_BYTES_MAX)).await);
        let waiting = async { (sink.send(event(1)).await, sink.send(event(QUEUED_BYTES_MAX)).await) };
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
        assert!(sink.send(event(QUEUED_BYTES_MAX)).await);
        let leaving = async {
            tokio::task::yield_now().await;
            drop(reader);
        };
        let (sent, (), ()) = tokio::join!(sink.send(event(1)), sink.closed(), leaving);
        assert!(!sent, "nobody reads");
    }

    #[tokio::test]
    async fn events_come_in_order_from_another_thread() {
        let (sink, mut reader) = event_channel_with_capacity(4);
        let writing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                for number in 0..1000_u32 {
                    assert!(sink.send(number.to_be_bytes().to_vec().into()).await);
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
