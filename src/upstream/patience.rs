//! How long an answer is waited for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// A timer that one wait after the other uses: it beats several times within the bound, a wait counts the beats, and
/// an answer leaves it as it is. To set a timer and take it back for each answer costs several times as much, and a
/// look at the clock besides.
pub struct ResponseTimer {
    beat: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A wait lasts at least its bound; at most this part of it longer, and the milliseconds that the runtime's clock is
/// coarse by.
const BEATS: u32 = 8;

impl ResponseTimer {
    /// With waits of at least so long.
    pub fn new(bound: Duration) -> Self {
        Self { beat: bound / BEATS, timer: None }
    }

    /// What the future gives; `None` when it takes too long. Cancel safe when the future is.
    pub async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut beats = 0;
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll(cx, &mut beats).map(|()| None),
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, beats: &mut u32) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.beat)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // The first one began before the wait, or with it.
            if *beats == BEATS {
                return Poll::Ready(());
            }
            *beats += 1;
            timer.set(sleep(self.beat));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long it is waited for what takes so long, and whether that came.
    async fn wait(patience: &mut ResponseTimer, takes: Option<Duration>) -> (Duration, bool) {
        let began = Instant::now();
        let future = async {
            match takes {
                Some(takes) => sleep(takes).await,
                None => pending().await,
            }
        };
        let came = patience.wait(future).await.is_some();
        (began.elapsed(), came)
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_bound() {
        for bound in [SECOND / 5, SECOND, 60 * SECOND] {
            let mut patience = ResponseTimer::new(bound);
            for takes in
                [None, Some(bound / 2), Some(bound * 2), Some(Duration::ZERO), None, Some(bound / 20 * 19)]
            {
                let (elapsed, came) = wait(&mut patience, takes).await;
                let expected = takes.filter(|takes| *takes < bound);
                assert_eq!(came, expected.is_some(), "{takes:?} of {bound:?}");
                let longest = expected.unwrap_or(bound + bound / BEATS) + SECOND / 50;
                let shortest = expected.unwrap_or(bound);
                assert!((shortest..=longest).contains(&elapsed), "{takes:?} of {bound:?}: {elapsed:?}");
                // Idle, for less than a beat and for more.
                for idle in [bound / 100, bound] {
                    sleep(idle).await;
                }
            }
        }
    }
}
