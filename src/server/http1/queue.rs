//! Events on their way from those who make them to the one stream that passes them on, on one worker.
//!
//! Holds no room while it is empty, as nearly all of them are nearly always.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

/// Events made and not yet read by the client. Whoever makes more waits.
const EVENTS_MAX: usize = 64;

/// Where events are put.
#[derive(Clone)]
pub struct Sender(Rc<Queue>);

/// Where they are taken.
pub struct Receiver(Rc<Queue>);

#[derive(Default)]
struct Queue {
    state: RefCell<State>,
    /// Told when there is room, or nobody takes any more.
    room: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Bytes>,
    waker: Option<Waker>,
    is_left: bool,
}

/// Nobody takes what is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Left;

/// An empty one.
pub fn queue() -> (Sender, Receiver) {
    let queue = Rc::<Queue>::default();
    (Sender(Rc::clone(&queue)), Receiver(queue))
}

impl Sender {
    /// Puts an event behind the others, as soon as there is room. Cancel safe: it is in the queue as a whole or not.
    pub async fn send(&self, event: Bytes) -> Result<(), Left> {
        loop {
            {
                let mut state = self.0.state.borrow_mut();
                if state.is_left {
                    return Err(Left);
                }
                if state.events.len() < EVENTS_MAX {
                    state.events.push_back(event);
                    if let Some(waker) = state.waker.take() {
                        waker.wake();
                    }
                    return Ok(());
                }
            }
            // Nobody else runs until this waits.
            self.0.room.notified().await;
        }
    }
}

impl Receiver {
    /// Another hand that puts in.
    pub fn sender(&self) -> Sender {
        Sender(Rc::clone(&self.0))
    }

    /// The next event.
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

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.is_left = true;
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
    fn check(receiver: &mut Receiver, expected: Option<u8>) {
        let cx = Context::from_waker(Waker::noop());
        let got = match receiver.poll(&cx) {
            Poll::Ready(event) => event.first().copied(),
            Poll::Pending => None,
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn whoever_makes_too_many_waits() {
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
    fn who_waits_learns_that_nobody_takes_any_more() {
        let (sender, receiver) = queue();
        for _ in 0..64 {
            assert_eq!(sender.send(Bytes::new()).now_or_never(), Some(Ok(())));
        }
        let mut late = Box::pin(sender.send(Bytes::new()));
        assert_eq!(late.as_mut().now_or_never(), None);
        drop(receiver);
        assert_eq!(late.now_or_never(), Some(Err(Left)));
    }
}
