//! The one task that hands spans to the collector: in batches, again when it may help, and never for long.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::random::Random;
use super::{Traces, wire};
use crate::base::Phase;

/// What a collector answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// By HTTP.
    pub status: u16,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
    /// As far as it was read.
    pub body: Bytes,
}

/// Why nothing was answered; for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsent(pub String);

/// Between two looks for spans that ended.
const DELAY: Duration = Duration::from_secs(1);

/// Of one batch: what OpenTelemetry's own exporters send at once. A span has at most some three KiB, for all that a client
/// wrote in it is clipped.
const BATCH_SPANS_MAX: usize = 512;

/// One batch is posted so often; what was not taken then is dropped.
const TRIES_MAX: u32 = 5;

/// Before the second try; before each further one twice as long as before the last.
const BACKOFF: Duration = Duration::from_secs(1);

/// However long the collector wants to be left alone.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// When the gateway stops, for all that is left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Hands spans on until it is told that nothing more is traced, and then what is left. `post` sends one batch; it has a
/// timeout of its own.
pub async fn export(
    traces: Arc<Traces>,
    post: impl AsyncFn(Bytes) -> Result<Answer, Unsent>,
    mut end: watch::Receiver<Phase>,
) {
    let instance = instance();
    let mut exporter = Exporter { traces, post, instance, batch: None, is_failing: false };
    {
        let ended = pin!(end.wait_for(|phase| *phase == Phase::Cut));
        tokio::select! {
            () = exporter.run() => {}
            // An error means that nobody is left to say it.
            _ = ended => {}
        }
    }
    if timeout(FLUSH_TIMEOUT, exporter.flush()).await.is_err() {
        tracing::warn!("the collector of traces did not take the last spans in time; they are lost");
    }
    exporter.note_left();
}

/// Tells this process from others.
fn instance() -> String {
    let random = Random::new().map_or_else(Default::default, |random| random.trace().0);
    uuid::Builder::from_random_bytes(random).into_uuid().to_string()
}

struct Exporter<P> {
    traces: Arc<Traces>,
    post: P,
    instance: String,
    /// What is on its way. Kept here, so that a try that is given up at the end is made once more.
    batch: Option<Batch>,
    /// Whether that was told.
    is_failing: bool,
}

struct Batch {
    bytes: Bytes,
    spans: u64,
    tries: u32,
}

/// What became of one try.
enum Tried {
    Taken,
    /// It is to be tried again, not before that.
    Later(Option<Duration>),
    /// It is no use.
    Refused,
}

impl<P: AsyncFn(Bytes) -> Result<Answer, Unsent>> Exporter<P> {
    /// Never ends. Cancel safe: what is on its way stays in `batch`.
    async fn run(&mut self) {
        let jitter = Random::new();
        loop {
            sleep(DELAY).await;
            while self.fill() {
                if let Tried::Later(after) = self.try_once().await {
                    let tries = self.batch.as_ref().map_or(0, |batch| batch.tries);
                    let random = jitter.as_ref().map_or(0, Random::next);
                    sleep(pause(tries, after, random)).await;
                }
            }
        }
    }

    /// Each batch that is left has one more try, until one fails.
    async fn flush(&mut self) {
        while self.fill() {
            if let Tried::Later(_) | Tried::Refused = self.try_once().await {
                break;
            }
        }
    }

    /// Nobody is told any more of what is there now.
    fn note_left(&mut self) {
        let left = self.batch.take().map_or(0, |batch| batch.spans) + self.traces.queue.len() as u64;
        self.traces.note_dropped(left);
    }

    /// Whether there is a batch.
    fn fill(&mut self) -> bool {
        if self.batch.is_none() {
            let spans: Vec<_> = std::iter::from_fn(|| self.traces.take()).take(BATCH_SPANS_MAX).collect();
            if !spans.is_empty() {
                let bytes = wire::encode(&self.traces.config, &self.instance, &spans).into();
                self.batch = Some(Batch { bytes, spans: spans.len() as u64, tries: 0 });
            }
        }
        self.batch.is_some()
    }

    async fn try_once(&mut self) -> Tried {
        let Some(batch) = &self.batch else { return Tried::Taken };
        let answer = (self.post)(batch.bytes.clone()).await;
        let Some(mut batch) = self.batch.take() else { return Tried::Taken };
        batch.tries += 1;
        let tried = judge(answer.as_ref());
        if let (Tried::Taken, Ok(answer)) = (&tried, &answer) {
            let rejected = wire::rejected(&answer.body).min(batch.spans);
            self.traces.exported.fetch_add(batch.spans - rejected, Ordering::Relaxed);
            self.traces.note_dropped(rejected);
            if std::mem::take(&mut self.is_failing) {
                tracing::info!("the collector of traces takes them again");
            }
            return tried;
        }
        self.tell(answer);
        if matches!(tried, Tried::Later(_)) && batch.tries < TRIES_MAX {
            self.batch = Some(batch);
        } else {
            self.traces.note_dropped(batch.spans);
        }
        tried
    }

    /// Once, until it is over.
    fn tell(&mut self, answer: Result<Answer, Unsent>) {
        if std::mem::replace(&mut self.is_failing, true) {
            return;
        }
        let why = match answer {
            Ok(answer) => format!("it answered with HTTP {}", answer.status),
            Err(unsent) => unsent.to_string(),
        };
        tracing::warn!(
            why,
            "the collector of traces does not take them; what it misses is counted in metamcp_trace_spans"
        );
    }
}

//= https://opentelemetry.io/docs/specs/otlp/#failures-1
//# The requests that receive a response status code listed in following table SHOULD be retried.
fn judge(answer: Result<&Answer, &Unsent>) -> Tried {
    match answer {
        Err(_) => Tried::Later(None),
        Ok(answer) => match answer.status {
            200..=299 => Tried::Taken,
            429 | 502 | 503 | 504 => Tried::Later(answer.retry_after),
            // Redirects too: spans go where they were configured to go.
            _ => Tried::Refused,
        },
    }
}

/// Half to all of the time, by chance, so that replicas do not all come at once.
fn pause(tries: u32, wanted: Option<Duration>, random: u64) -> Duration {
    let doubled = BACKOFF * 2_u32.saturating_pow(tries.saturating_sub(1).min(TRIES_MAX));
    let whole = wanted.unwrap_or(doubled).clamp(BACKOFF, BACKOFF_MAX);
    let half = whole / 2;
    let chance = u32::try_from(random % 1024).unwrap_or_default();
    if wanted.is_some() { whole } else { half + half * chance / 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_bounded() {
        let check = |tries, wanted: Option<u64>, at_least: u64, at_most: u64| {
            for random in [0, 512, 1023, u64::MAX] {
                let found = pause(tries, wanted.map(Duration::from_secs), random);
                let bounds = Duration::from_millis(at_least)..=Duration::from_millis(at_most);
                assert!(bounds.contains(&found), "{tries} {wanted:?}: {found:?}");
            }
        };
        check(1, None, 500, 1000);
        check(2, None, 1000, 2000);
        check(4, None, 4000, 8000);
        check(u32::MAX, None, 15_000, 30_000);
        check(1, Some(0), 1000, 1000);
        check(1, Some(7), 7000, 7000);
        check(1, Some(86_400), 30_000, 30_000);
    }
}
