//! The task that sends a queue of telemetry to a collector (OTLP over HTTP), in batches, with retries and a bounded
//! back-off.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metamcp_core::base::{OutageLine, OutageLog, ShutdownPhase};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::random::SplitMix64;

/// The queue of one signal between the workers and its exporter.
pub trait ExportQueue {
    /// What collectors take, for the log.
    const ITEMS: &'static str;
    /// The counter of the items, for the log.
    const COUNTER: &'static str;

    /// Takes the next items from the queue. `instance` is the `service.instance.id` of the process. `None` if the queue is
    /// empty.
    fn next_batch(&self, instance: &str) -> Option<ExportBatch>;

    /// The number of queued items.
    fn queued(&self) -> usize;

    /// How many items of a batch the collector rejected, according to its response.
    fn rejected(&self, body: &[u8]) -> u64;

    fn add_exported(&self, items: u64);

    fn add_dropped(&self, items: u64);
}

/// Items of a queue, encoded as one request to the collector.
pub struct ExportBatch {
    pub bytes: Bytes,
    pub items: u64,
}

/// The response of a collector, or of a webhook, to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostResponse {
    pub status: u16,
    /// The delay that the header `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// The body, or nothing when it could not be read.
    pub body: Bytes,
}

/// Why a message got no response; a text for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostError(pub String);

/// The interval at which the queue is checked.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Items per batch, as in OpenTelemetry's own exporters. An item has at most some three KiB, as all texts from clients are
/// truncated.
pub const BATCH_ITEMS_MAX: usize = 512;

/// Attempts per batch. A batch that fails them all is dropped.
const TRIES_MAX: u32 = 5;

/// The delay before the second attempt; it doubles with each further one.
const BACKOFF: Duration = Duration::from_secs(1);

/// The longest delay, whatever `Retry-After` asks for.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The time for sending what is left when the gateway shuts down.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Exports items until `phase` becomes [`ShutdownPhase::Abort`], then flushes the queue. `post` sends one batch, and has a timeout of
/// its own.
pub async fn export<Q: ExportQueue>(
    queue: Arc<Q>,
    post: impl AsyncFn(Bytes) -> Result<PostResponse, PostError>,
    mut phase: watch::Receiver<ShutdownPhase>,
) {
    let mut exporter =
        Exporter { queue, post, instance: instance_id(), batch: None, outage: OutageLog::default() };
    {
        let ended = pin!(phase.wait_for(|phase| *phase == ShutdownPhase::Abort));
        tokio::select! {
            () = exporter.run() => {}
            // An error means that the sender is gone, which ends the export, too.
            _ = ended => {}
        }
    }
    if timeout(FLUSH_TIMEOUT, exporter.flush()).await.is_err() {
        tracing::warn!("collector did not accept the last {} in time; they are dropped", Q::ITEMS);
    }
    exporter.drop_remaining();
}

/// A random UUID for this process, the same for all that it exports.
fn instance_id() -> String {
    static INSTANCE: LazyLock<String> = LazyLock::new(new_instance_id);
    INSTANCE.clone()
}

fn new_instance_id() -> String {
    let random = SplitMix64::from_system()
        .map_or(0, |random| u128::from(random.next()) << 64 | u128::from(random.next()));
    uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid().to_string()
}

struct Exporter<Q, P> {
    queue: Arc<Q>,
    post: P,
    instance: String,
    /// The batch that is being sent. Kept here, so that the flush repeats an attempt that the shutdown interrupted.
    batch: Option<Batch>,
    outage: OutageLog,
}

struct Batch {
    content: ExportBatch,
    tries: u32,
}

/// The result of one attempt.
enum ExportOutcome {
    Accepted,
    /// A later attempt may succeed; not before the given delay, if there is one.
    Retry(Option<Duration>),
    /// A later attempt would fail, too.
    Rejected,
}

impl<Q: ExportQueue, P: AsyncFn(Bytes) -> Result<PostResponse, PostError>> Exporter<Q, P> {
    /// Never returns. Cancel safe: a batch that is being sent stays in `batch`.
    async fn run(&mut self) {
        let jitter = SplitMix64::from_system();
        loop {
            sleep(EXPORT_INTERVAL).await;
            while self.fill_batch() {
                if let ExportOutcome::Retry(after) = self.try_once().await {
                    let tries = self.batch.as_ref().map_or(0, |batch| batch.tries);
                    let random = jitter.as_ref().map_or(0, SplitMix64::next);
                    sleep(backoff(tries, after, random)).await;
                }
            }
        }
    }

    /// Sends each remaining batch once, until one fails.
    async fn flush(&mut self) {
        while self.fill_batch() {
            if let ExportOutcome::Retry(_) | ExportOutcome::Rejected = self.try_once().await {
                break;
            }
        }
    }

    /// Counts everything that was not exported as dropped.
    fn drop_remaining(&mut self) {
        let remaining = self.batch.take().map_or(0, |batch| batch.content.items) + self.queue.queued() as u64;
        self.queue.add_dropped(remaining);
    }

    /// Takes the next batch from the queue unless there is one. `false` when the queue is empty.
    fn fill_batch(&mut self) -> bool {
        if self.batch.is_none() {
            self.batch = self.queue.next_batch(&self.instance).map(|content| Batch { content, tries: 0 });
        }
        self.batch.is_some()
    }

    async fn try_once(&mut self) -> ExportOutcome {
        let Some(batch) = &self.batch else { return ExportOutcome::Accepted };
        let response = (self.post)(batch.content.bytes.clone()).await;
        let Some(mut batch) = self.batch.take() else { return ExportOutcome::Accepted };
        batch.tries += 1;
        let outcome = classify(response.as_ref());
        if let (ExportOutcome::Accepted, Ok(response)) = (&outcome, &response) {
            let items = batch.content.items;
            let rejected = self.queue.rejected(&response.body).min(items);
            self.queue.add_exported(items - rejected);
            self.queue.add_dropped(rejected);
            if self.outage.succeed(Instant::now()).is_some() {
                tracing::info!("collector accepts {} again", Q::ITEMS);
            }
            return outcome;
        }
        self.log_failure(response);
        if matches!(outcome, ExportOutcome::Retry(_)) && batch.tries < TRIES_MAX {
            self.batch = Some(batch);
        } else {
            self.queue.add_dropped(batch.content.items);
        }
        outcome
    }

    fn log_failure(&mut self, response: Result<PostResponse, PostError>) {
        let Some(line) = self.outage.fail(Instant::now()) else { return };
        let why = match response {
            Ok(response) => format!("it responded with HTTP {}", response.status),
            Err(error) => error.to_string(),
        };
        let still = if line == OutageLine::Begin { "" } else { "still " };
        tracing::warn!(
            why,
            "collector {still}does not accept {}; dropped ones are counted in {}",
            Q::ITEMS,
            Q::COUNTER
        );
    }
}

//= https://opentelemetry.io/docs/specs/otlp/#failures-1
//# The requests that receive a response status code listed in following table SHOULD be retried.
fn classify(response: Result<&PostResponse, &PostError>) -> ExportOutcome {
    match response {
        Err(_) => ExportOutcome::Retry(None),
        Ok(response) => match response.status {
            200..=299 => ExportOutcome::Accepted,
            429 | 502 | 503 | 504 => ExportOutcome::Retry(response.retry_after),
            // Includes redirects: telemetry goes only to the configured collector.
            _ => ExportOutcome::Rejected,
        },
    }
}

/// The delay before the next attempt. Without `Retry-After` it is randomized to between half and all of its length, so that
/// replicas do not retry together.
fn backoff(tries: u32, retry_after: Option<Duration>, random: u64) -> Duration {
    let doubled = BACKOFF * 2_u32.saturating_pow(tries.saturating_sub(1).min(TRIES_MAX));
    let whole = retry_after.unwrap_or(doubled).clamp(BACKOFF, BACKOFF_MAX);
    let half = whole / 2;
    let jitter = u32::try_from(random % 1024).unwrap_or_default();
    if retry_after.is_some() { whole } else { half + half * jitter / 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_is_bounded() {
        let check = |tries, retry_after: Option<u64>, at_least: u64, at_most: u64| {
            for random in [0, 512, 1023, u64::MAX] {
                let found = backoff(tries, retry_after.map(Duration::from_secs), random);
                let bounds = Duration::from_millis(at_least)..=Duration::from_millis(at_most);
                assert!(bounds.contains(&found), "{tries} {retry_after:?}: {found:?}");
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
