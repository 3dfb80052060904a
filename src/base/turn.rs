use std::future::poll_fn;
use std::task::Poll;

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
