//! Traces: what some messages of clients went through, told to a collector of OpenTelemetry (OTLP over HTTP, protobuf).
//!
//! Whether a message is traced is decided when it is here (head sampling) and by its worker alone: a [`Tracer`] has its own
//! random numbers and its own budget, and shares nothing with others. A span that ended goes into a queue without locks, from
//! which one task ([`export`]) takes it. The queue is bounded: what finds it full is dropped and counted, and nobody waits.
//!
//! Invariants: what a client says decides neither how many spans there are (a budget for each second) nor how big one is;
//! a span holds no argument, no answer, no key and no session id; a collector that is slow, away, or hostile costs memory
//! and time that are bounded here.
//!
//! Does not know: HTTP, or what a message means. Whoever sends a batch is passed in.

mod context;
mod exporter;
mod random;
mod span;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use http::{HeaderName, HeaderValue};
use url::Url;

use super::metrics::{Family, Row, Unit, Value};

pub use context::{Context, RANDOM, SAMPLED, SpanId, TRACEPARENT_BYTES, TraceId};
pub use exporter::{Answer, Unsent, export};
pub use span::{Open, Side, Span, Target, clip};

use random::{Budget, Random};

/// What is traced, and who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where batches are posted.
    pub endpoint: Url,
    /// Sent with each, as credentials are; marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// From the first SYN to the last byte of the collector's answer.
    pub timeout: Duration,
    /// Of the messages that come without a trace, as many are traced.
    pub share: Share,
    /// What becomes of the others.
    pub parents: Parents,
    /// Traces that are begun here in a second, over all workers; likewise those of others that are followed.
    pub traces_per_second_max: usize,
    /// `service.name`.
    pub service: String,
    /// What else is told of the process, `service.version` among it if it is to be another.
    pub attributes: Vec<(String, String)>,
}

/// Of a message that is part of a trace already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// It is traced when whoever sent it says that it was there, within the budget.
    Follow,
    /// It is as likely to be traced as any other. Then it is still part of the trace that it names.
    Ignore,
}

/// A part of a whole, from nothing to all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(Self::WHOLE);

    /// Nothing.
    pub const NONE: Self = Self(0);

    /// As many random numbers are told apart: those that a double holds exactly.
    const WHOLE: u64 = 1 << 53;

    /// `None`: it is not from 0 to 1.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "it is looked at, and a power of two is exact"
    )]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self((share * Self::WHOLE as f64) as u64))
    }

    /// Whether a random number is of that part.
    fn has(self, random: u64) -> bool {
        random % Self::WHOLE < self.0
    }
}

/// What all workers tell.
pub struct Traces {
    config: Config,
    /// Spans that ended.
    queue: ArrayQueue<Box<Span>>,
    /// Of all in it, as far as clients chose them.
    queued_bytes: AtomicUsize,
    workers: usize,
    /// What found the queue full, or was not taken by the collector.
    dropped: AtomicU64,
    exported: AtomicU64,
}

/// What one worker traces with. Stays on its thread.
pub struct Tracer {
    traces: Arc<Traces>,
    random: Random,
    begun: Budget,
    followed: Budget,
}

/// Spans that wait for the collector: so many seconds of two each for every trace there may be.
const QUEUE_SECONDS: usize = 10;

/// Whatever the budget, so many spans can wait; some 300 bytes each, beside what clients chose.
const QUEUE_SPANS_MAX: usize = 1 << 16;

/// What clients chose of all of them: names, ids and states of traces, of which usual ones have a hundred bytes and others
/// three thousand.
const QUEUE_BYTES_MAX: usize = 16 << 20;

impl Traces {
    /// For so many workers.
    pub fn new(config: Config, workers: usize) -> Arc<Self> {
        let spans = config.traces_per_second_max.saturating_mul(4 * QUEUE_SECONDS).clamp(64, QUEUE_SPANS_MAX);
        Arc::new(Self {
            config,
            queue: ArrayQueue::new(spans),
            queued_bytes: AtomicUsize::new(0),
            workers: workers.max(1),
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
        })
    }

    /// What it was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a worker traces with; `None`: the system has no random numbers.
    pub fn tracer(self: &Arc<Self>) -> Option<Tracer> {
        let each = self.config.traces_per_second_max.div_ceil(self.workers);
        let random = Random::new()?;
        Some(Tracer {
            traces: Arc::clone(self),
            random,
            begun: Budget::new(each),
            followed: Budget::new(each),
        })
    }

    /// A span has ended. Never waits.
    fn hand_on(&self, span: Box<Span>) {
        let bytes = span.bytes();
        // Workers that do so at once may go over it by a span each.
        let has_room = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) < QUEUE_BYTES_MAX;
        if !has_room || self.queue.push(span).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.note_dropped(1);
        }
    }

    /// The one that has waited for longest.
    fn take(&self) -> Option<Box<Span>> {
        let span = self.queue.pop()?;
        self.queued_bytes.fetch_sub(span.bytes(), Ordering::Relaxed);
        Some(span)
    }

    fn note_dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    /// What became of the spans.
    pub fn family(&self) -> Family {
        let counts = [("exported", &self.exported), ("dropped", &self.dropped)];
        let row = |(outcome, count): (&'static str, &AtomicU64)| {
            Row::new([("outcome", outcome)], Value::Count(count.load(Ordering::Relaxed)))
        };
        let help =
            "Spans of traces: those that the collector took, and those that it did not or that had no room";
        Family::counter("metamcp_trace_spans", help, Unit::None, counts.map(row).into())
    }
}

impl Tracer {
    /// Where a message that came with this is from now on, if it is traced. `now_s`: tells the seconds apart.
    pub fn sample(&self, parent: Option<Context>, now_s: u64) -> Option<Context> {
        let Config { share, parents, .. } = self.traces.config;
        let follows = parent.is_some() && parents == Parents::Follow;
        let (is_wanted, budget) = match parent.filter(|_| follows) {
            Some(parent) => (parent.is_sampled(), &self.followed),
            None => (share.has(self.random.next()), &self.begun),
        };
        if !is_wanted || !budget.take(now_s) {
            return None;
        }
        let (trace, flags) = match parent {
            Some(parent) => (parent.trace, parent.flags & RANDOM),
            None => (self.random.trace(), RANDOM),
        };
        Some(Context { trace, span: self.random.span(), flags: flags | SAMPLED })
    }

    /// A span below that one.
    pub fn below(&self, context: Context) -> Context {
        Context { span: self.random.span(), ..context }
    }

    /// Begins a span; its times are seen to here.
    pub fn open(&self, span: Span) -> Open {
        Open::new(Span { began_ns: span::now_ns(), ..span }, Arc::clone(&self.traces))
    }
}

#[cfg(test)]
mod tests;
