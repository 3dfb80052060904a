//! Resumption of an upstream's event stream that broke before the answer (MCP 2025-11-25, transports,
//! resumability). The client notices only a pause.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, sleep, timeout_at};

use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::protocol::header;
use metamcp_http::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
};

/// Reconnects one response of an upstream.
pub struct UpstreamReconnect {
    pool: Rc<UpstreamPool>,
    /// The session at the server.
    session: Arc<UpstreamSession>,
    /// The server's own id of the last complete event.
    last_event_id: Option<HeaderValue>,
    /// The server's `retry`, within bounds: the least delay before reconnecting.
    retry: Duration,
    /// When the call began, or its last message arrived.
    last_progress: Instant,
    /// Of the attempts since the last message. They go on if a resumed stream breaks without one.
    schedule: Option<AttemptSchedule>,
    /// Whether the attempts have ended without a stream, and no message has arrived since.
    is_spent: bool,
    asking: Option<ReconnectAttempts>,
}

/// The body of the resumed stream, and the schedule of the attempts after it. `None` if it cannot be resumed.
type ResumedBody = Pin<Box<dyn Future<Output = Option<(UpstreamBody, AttemptSchedule)>>>>;

/// Attempts to resume a stream, until one succeeds.
struct ReconnectAttempts {
    /// Resolves to `None` if the server does not resume the stream.
    answer: ResumedBody,
    /// The error that broke the stream, reported if the server does not resume it.
    why: UpstreamError,
}

/// The outcome of one attempt.
enum AttemptOutcome<B> {
    Resumed(B),
    /// The server cannot be reached, or not now. It may be starting again.
    Unavailable,
    /// The server does not resume this stream.
    Refused,
}

/// When to attempt it again, and until when.
#[derive(Clone, Copy)]
struct AttemptSchedule {
    /// When the stream broke last.
    broke_at: Instant,
    /// The time without a stream before that.
    before: Duration,
    attempts: u32,
    /// Spreads the streams that broke at the same moment, because their server did. 255: each delay is a quarter longer.
    jitter: u8,
}

/// The delay if the server names none. It is not zero, because the server may be about to listen again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Bounds of the delay: they protect the server from constant requests, and the call from a long pause.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// After how long without a stream, since the last message of the call, an attempt may begin. A server restarts in less; after it, the call
/// fails.
const OUTAGE_MAX: Duration = Duration::from_mins(4);

/// The delay does not double more often. Even from the least delay, it has reached the greatest by then.
const DOUBLINGS_MAX: u32 = 10;

const _: () = assert!(RETRY_DELAY_MIN.as_millis() << DOUBLINGS_MAX >= RETRY_DELAY_MAX.as_millis());

impl AttemptSchedule {
    fn new(jitter: u8) -> Self {
        Self { broke_at: Instant::now(), before: Duration::ZERO, attempts: 0, jitter }
    }

    /// The delay before the next attempt, at least `retry` before the first. `None` if it would begin too late.
    fn next_delay(&mut self, retry: Duration) -> Option<Duration> {
        let delay = retry.saturating_mul(1 << self.attempts.min(DOUBLINGS_MAX)).min(RETRY_DELAY_MAX);
        let delay = delay + delay * u32::from(self.jitter) / 1020;
        self.attempts += 1;
        (self.before + self.broke_at.elapsed() + delay <= OUTAGE_MAX).then_some(delay)
    }

    /// The stream is there again: the time until it breaks does not count.
    fn pause(&mut self) {
        self.before += self.broke_at.elapsed();
    }

    /// The stream broke again, without an event.
    fn go_on(mut self) -> Self {
        self.broke_at = Instant::now();
        self
    }
}

/// Attempts it with `ask` until the server resumes the stream or refuses to, or until the schedule ends. Returns the stream,
/// and the schedule of the attempts after it.
async fn resume<B>(
    mut schedule: AttemptSchedule,
    retry: Duration,
    mut ask: impl AsyncFnMut() -> AttemptOutcome<B>,
) -> Option<(B, AttemptSchedule)> {
    loop {
        sleep(schedule.next_delay(retry)?).await;
        match ask().await {
            AttemptOutcome::Resumed(body) => {
                schedule.pause();
                return Some((body, schedule));
            }
            AttemptOutcome::Unavailable => {}
            AttemptOutcome::Refused => return None,
        }
    }
}

/// Without random bytes all wait equally long, which does no harm.
fn random_byte() -> u8 {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

/// Whether the server, or what stands in front of it, may resume the stream later.
fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504)
}

impl UpstreamReconnect {
    /// For a call in a session, before any of its response has arrived.
    pub fn new(pool: Rc<UpstreamPool>, session: Arc<UpstreamSession>) -> Self {
        Self {
            pool,
            session,
            last_event_id: None,
            retry: RETRY_DELAY,
            last_progress: Instant::now(),
            schedule: None,
            is_spent: false,
            asking: None,
        }
    }

    /// Notes the id of a complete event. An empty id resets it (WHATWG HTML, 9.2.6).
    pub fn note_id(&mut self, id: &Bytes) {
        self.last_event_id = HeaderValue::from_bytes(id).ok().filter(|id| !id.is_empty());
    }

    /// Notes a message of the call. A new event id alone is no progress: a server may send one each time it breaks the stream.
    pub fn note_message(&mut self) {
        self.last_progress = Instant::now();
        (self.schedule, self.is_spent) = (None, false);
    }

    /// When the next message must be complete, over all streams of the call. `None` if that is beyond the clock's range.
    fn message_due(&self) -> Option<Instant> {
        self.last_progress.checked_add(self.pool.upstream().config.settings.call_timeout)
    }

    fn is_overdue(&self) -> bool {
        self.message_due().is_some_and(|due| Instant::now() >= due)
    }

    /// Notes the delay that the server asks for.
    pub fn note_retry(&mut self, retry_ms: u64) {
        self.retry = Duration::from_millis(retry_ms).clamp(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
    }

    /// Requests the rest of a broken stream. Returns the error if the stream cannot be resumed.
    pub fn begin(&mut self, why: UpstreamError) -> Result<(), UpstreamError> {
        let Some(id) = self.last_event_id.clone().filter(|_| !self.is_spent) else { return Err(why) };
        if self.is_overdue() {
            self.is_spent = true;
            return Err(UpstreamError::from_stage(FailureStage::MessageTimeout));
        }
        let mut request = UpstreamRequest::get();
        self.session.write_headers(&mut request);
        request.set_header(&header::LAST_EVENT_ID, &id);
        let pool = Rc::clone(&self.pool);
        let ask = async move || match pool.send(&request, RequestKind::Call).await {
            Err(_) => AttemptOutcome::Unavailable,
            Ok(response) => {
                let UpstreamResponse { head, body } = *response;
                match head.status {
                    status if status.is_success() && head.is_event_stream() => AttemptOutcome::Resumed(body),
                    status if is_transient(status) => AttemptOutcome::Unavailable,
                    _ => AttemptOutcome::Refused,
                }
            }
        };
        let schedule =
            self.schedule.map_or_else(|| AttemptSchedule::new(random_byte()), AttemptSchedule::go_on);
        let (due, retry) = (self.message_due(), self.retry);
        let answer = Box::pin(async move {
            let resuming = resume(schedule, retry, ask);
            match due {
                Some(due) => timeout_at(due, resuming).await.unwrap_or(None),
                None => resuming.await,
            }
        });
        self.asking = Some(ReconnectAttempts { answer, why });
        Ok(())
    }

    /// Whether the stream broke and its replacement has not arrived yet.
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Polls for the next bytes, of this response or of the one that replaces it.
    pub fn poll_chunk(
        &mut self,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        if let Some(mut asking) = self.asking.take() {
            match asking.answer.as_mut().poll(cx) {
                Poll::Pending => {
                    self.asking = Some(asking);
                    return Poll::Pending;
                }
                Poll::Ready(Some((mut next, schedule))) => {
                    next.limit_messages();
                    *answer = next;
                    self.schedule = Some(schedule);
                }
                Poll::Ready(None) => {
                    // The error that is returned is not resumed from again.
                    self.is_spent = true;
                    return Poll::Ready(Some(Err(asking.why)));
                }
            }
        }
        let next = answer.poll_chunk(cx);
        // The body's own timer began with the resumed stream.
        if self.schedule.is_some() && matches!(next, Poll::Ready(Some(Ok(_)))) && self.is_overdue() {
            self.is_spent = true;
            return Poll::Ready(Some(Err(UpstreamError::from_stage(FailureStage::MessageTimeout))));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AttemptOutcome::{Refused, Resumed, Unavailable};

    /// Checks when attempts begin, in milliseconds after the stream broke, if their outcomes are these, and whether
    /// the stream is resumed. The last outcome is repeated. Each attempt lasts a tenth of a second.
    async fn check(
        retry: Duration,
        outcomes: &[AttemptOutcome<()>],
        first_ms: &[u128],
        (attempts, last_ms): (usize, u128),
        is_resumed: bool,
    ) {
        let (began_at, mut begun) = (Instant::now(), Vec::new());
        let resumed = resume(AttemptSchedule::new(0), retry, async || {
            let next = begun.len().min(outcomes.len() - 1);
            begun.push(began_at.elapsed().as_millis());
            sleep(Duration::from_millis(100)).await;
            match &outcomes[next] {
                Resumed(()) => Resumed(()),
                Unavailable => Unavailable,
                Refused => Refused,
            }
        });
        assert_eq!(resumed.await.is_some(), is_resumed);
        assert!(begun.starts_with(first_ms), "{begun:?}");
        assert_eq!((begun.len(), begun.last()), (attempts, Some(&last_ms)), "{begun:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_server_is_asked_again() {
        let down = || [Unavailable, Unavailable, Unavailable, Resumed(())];
        check(RETRY_DELAY, &[Resumed(())], &[], (1, 100), true).await;
        check(RETRY_DELAY, &down(), &[100, 400, 900], (4, 1800), true).await;
        check(Duration::from_secs(2), &down(), &[2000, 6100, 14_200], (4, 30_300), true).await;
        check(RETRY_DELAY_MAX, &down(), &[30_000, 60_100], (4, 120_300), true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_break_without_an_event_share_one_schedule() {
        let (began_at, mut begun, mut schedule) = (Instant::now(), Vec::new(), AttemptSchedule::new(0));
        while let Some(((), next)) = resume(schedule, RETRY_DELAY, async || {
            begun.push(began_at.elapsed().as_millis());
            Resumed(())
        })
        .await
        {
            schedule = next.go_on();
        }
        assert!(begun.starts_with(&[100, 300, 700, 1500]), "{begun:?}");
        assert!(begun.len() == 15 && began_at.elapsed() < OUTAGE_MAX, "{begun:?}");
    }

    /// A stream that was resumed and stayed silent for longer than an outage may last is resumed again.
    #[tokio::test(start_paused = true)]
    async fn the_time_with_a_stream_does_not_count() {
        let mut schedule = AttemptSchedule::new(0);
        for _ in 0..10 {
            let resumed = resume(schedule, RETRY_DELAY, async || Resumed(())).await;
            let Some(((), next)) = resumed else { panic!("it gave up") };
            sleep(OUTAGE_MAX).await;
            schedule = next.go_on();
        }
    }

    #[test]
    fn streams_that_broke_at_once_come_back_apart() {
        let first = |jitter| AttemptSchedule::new(jitter).next_delay(Duration::from_secs(2));
        assert_eq!(first(0), Some(Duration::from_secs(2)), "not before the server wants it");
        assert_eq!(first(102), Some(Duration::from_millis(2200)));
        assert_eq!(first(255), Some(Duration::from_millis(2500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_the_attempts() {
        check(RETRY_DELAY, &[Refused], &[], (1, 100), false).await;
        check(RETRY_DELAY, &[Unavailable, Refused], &[100], (2, 400), false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_in_time() {
        check(RETRY_DELAY_MIN, &[Unavailable], &[50, 250, 550, 1050], (16, 232_650), false).await;
        check(RETRY_DELAY_MAX, &[Unavailable], &[30_000], (7, 210_600), false).await;
    }

    #[test]
    fn transient_statuses() {
        for (status, expected) in [
            (408, true),
            (429, true),
            (500, true),
            (503, true),
            (400, false),
            (404, false),
            (405, false),
            (501, false),
        ] {
            assert_eq!(StatusCode::from_u16(status).map(is_transient).ok(), Some(expected), "{status}");
        }
    }
}
