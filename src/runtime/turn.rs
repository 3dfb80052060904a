use std::future::poll_fn;
use std::task::Poll;

use tokio::task::yield_now;

/// Yields once to all tasks that are ready.
///
/// Awaited between reading and writing, so that everything that has arrived is read before anything is written. The peers of a
/// busy worker then receive several messages at a time, and are not woken for each; waking a sleeping peer is the most
/// expensive part of a small write. Without other ready tasks it costs one more poll. Cancel safe.
pub async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// I/O events that the runtime processes before it runs tasks: the default of `max_io_events_per_tick` in tokio's `Builder`.
const EVENTS_PER_TICK: usize = 1024;

/// Waits until the runtime has processed the pending I/O events of this many sockets, so that a read finds what has arrived.
/// Cancel safe.
pub async fn await_socket_polls(sockets: usize) {
    for _ in 0..=sockets / EVENTS_PER_TICK {
        // The runtime polls for I/O before it resumes a task that yielded this way.
        yield_now().await;
    }
}
