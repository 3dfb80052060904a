//! A timeout for waiting on responses, cheap enough to be used for each of them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// A timer that consecutive waits share. It ticks several times within the timeout, a wait counts the ticks,
/// and a response that arrives leaves the timer running. Arming and cancelling a timer for each response
/// costs several times as much, and reads the clock as well.
pub struct ResponseTimer {
    tick: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Ticks within one timeout. A wait lasts at least the timeout, and at most one tick longer, plus the
/// milliseconds by which the runtime's clock is coarse.
const TICKS: u32 = 8;

impl ResponseTimer {
    /// Creates a timer whose waits last at least `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { tick: timeout / TICKS, timer: None }
    }

    /// Runs the future; `None` when it takes too long. Cancel safe when the future is.
    pub async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut ticks = 0;
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_elapsed(cx, &mut ticks).map(|()| None),
        })
        .await
    }

    fn poll_elapsed(&mut self, cx: &mut Context<'_>, ticks: &mut u32) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.tick)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // The first tick started before the wait, or with it, so it does not count.
            if *ticks == TICKS {
                return Poll::Ready(());
            }
            *ticks += 1;
            timer.set(sleep(self.tick));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a wait for something that takes `takes` lasts, and whether it completed.
    async fn wait(timer: &mut ResponseTimer, takes: Option<Duration>) -> (Duration, bool) {
        let began = Instant::now();
        let future = async {
            match takes {
                Some(takes) => sleep(takes).await,
                None => pending().await,
            }
        };
        let is_done = timer.wait(future).await.is_some();
        (began.elapsed(), is_done)
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_bound() {
        for bound in [SECOND / 5, SECOND, 60 * SECOND] {
            let mut timer = ResponseTimer::new(bound);
            for takes in
                [None, Some(bound / 2), Some(bound * 2), Some(Duration::ZERO), None, Some(bound / 20 * 19)]
            {
                let (elapsed, is_done) = wait(&mut timer, takes).await;
                let expected = takes.filter(|takes| *takes < bound);
                assert_eq!(is_done, expected.is_some(), "{takes:?} of {bound:?}");
                let longest = expected.unwrap_or(bound + bound / TICKS) + SECOND / 50;
                let shortest = expected.unwrap_or(bound);
                assert!((shortest..=longest).contains(&elapsed), "{takes:?} of {bound:?}: {elapsed:?}");
                // Idle, for less than a tick and for more.
                for idle in [bound / 100, bound] {
                    sleep(idle).await;
                }
            }
        }
    }
}
