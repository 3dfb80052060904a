use std::future::poll_fn;
use std::task::Poll;

use tokio::task::yield_now;

/// Lets every task that is ready go first, once.
///
/// Awaited between reading and writing: all that has come is read before anything is written. The peers of a
/// busy worker then find several messages at a time, and are not woken for each; waking a sleeping peer is
/// the dearest part of a small write. Without other tasks it costs one more poll. Cancel safe.
pub async fn let_others_go_first() {
    let mut waited = false;
    poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// How much the runtime looks at before its tasks have their turn (`max_io_events_per_tick` of tokio's `Builder`, as it is by
/// itself).
const EVENTS_AT_ONCE: usize = 1024;

/// Waits until the runtime has looked at what had come on so many sockets, so that a read finds it. Cancel safe.
pub async fn runtime_looked(sockets: usize) {
    for _ in 0..=sockets / EVENTS_AT_ONCE {
        // It looks before a task that gave way so has its next turn.
        yield_now().await;
    }
}
