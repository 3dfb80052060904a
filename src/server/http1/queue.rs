//! A bounded queue of events from several producers to one stream, on one worker.
//!
//! An empty queue holds no memory, since nearly all queues are nearly always empty.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

/// Events that the client has not read. A producer that is further ahead waits.
const EVENTS_MAX: usize = 64;

/// The sending half of a queue.
#[derive(Clone)]
pub struct EventSender(Rc<EventQueue>);

/// The receiving half of a queue.
pub struct EventReceiver(Rc<EventQueue>);

#[derive(Default)]
struct EventQueue {
    state: RefCell<QueueState>,
    /// Notified when there is room, or the receiver is dropped.
    room: Notify,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<Bytes>,
    waker: Option<Waker>,
    is_receiver_dropped: bool,
}

/// The receiver was dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceiverDropped;

/// Creates an empty queue.
pub fn queue() -> (EventSender, EventReceiver) {
    let queue = Rc::<EventQueue>::default();
    (EventSender(Rc::clone(&queue)), EventReceiver(queue))
}

impl EventSender {
    /// Appends an event, and waits for room if necessary. Cancel safe: the event is in the queue completely
    /// or not at all.
    pub async fn send(&self, event: Bytes) -> Result<(), ReceiverDropped> {
        loop {
            {
                let mut state = self.0.state.borrow_mut();
                if state.is_receiver_dropped {
                    return Err(ReceiverDropped);
                }
                if state.events.len() < EVENTS_MAX {
                    state.events.push_back(event);
                    if let Some(waker) = state.waker.take() {
                        waker.wake();
                    }
                    return Ok(());
                }
            }
            // The worker is single-threaded, so no notification is missed between the check and the wait.
            self.0.room.notified().await;
        }
    }
}

impl EventReceiver {
    pub fn sender(&self) -> EventSender {
        EventSender(Rc::clone(&self.0))
    }

    /// Polls for the next event.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Bytes> {
        let mut state = self.0.state.borrow_mut();
        let Some(event) = state.events.pop_front() else {
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        if state.events.is_empty() {
            state.events = VecDeque::new();
        }
        drop(state);
        self.0.room.notify_waiters();
        Poll::Ready(event)
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.is_receiver_dropped = true;
        state.events = VecDeque::new();
        drop(state);
        self.0.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[track_caller]
    fn check(receiver: &mut EventReceiver, expected: Option<u8>) {
        let cx = Context::from_waker(Waker::noop());
        let got = match receiver.poll(&cx) {
            Poll::Ready(event) => event.first().copied(),
            Poll::Pending => None,
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn a_sender_waits_while_the_queue_is_full() {
        let (sender, mut receiver) = queue();
        check(&mut receiver, None);
        let event = |number| Bytes::from(vec![number]);
        for number in 0..64 {
            assert_eq!(sender.send(event(number)).now_or_never(), Some(Ok(())));
        }
        let mut late = Box::pin(sender.send(event(64)));
        assert_eq!(late.as_mut().now_or_never(), None);
        check(&mut receiver, Some(0));
        assert_eq!(late.now_or_never(), Some(Ok(())));
        (1..=64).for_each(|number| check(&mut receiver, Some(number)));
        check(&mut receiver, None);
        assert_eq!(receiver.0.state.borrow().events.capacity(), 0, "an empty one holds no room");
    }

    #[test]
    fn a_waiting_sender_fails_when_the_receiver_is_dropped() {
        let (sender, receiver) = queue();
        for _ in 0..64 {
            assert_eq!(sender.send(Bytes::new()).now_or_never(), Some(Ok(())));
        }
        let mut late = Box::pin(sender.send(Bytes::new()));
        assert_eq!(late.as_mut().now_or_never(), None);
        drop(receiver);
        assert_eq!(late.now_or_never(), Some(Err(ReceiverDropped)));
    }
}
