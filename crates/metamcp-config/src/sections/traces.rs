//! The configuration of tracing.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

/// What is sampled, and where spans are exported to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceConfig {
    /// The URL that batches are posted to.
    pub endpoint: Url,
    /// Headers of each request to the collector. They may hold credentials and are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Time for one export request, from connecting to the last byte of the collector's response.
    pub timeout: Duration,
    /// The fraction of messages without a parent that starts a trace.
    pub sampling_ratio: SamplingRatio,
    /// How messages with a parent are sampled.
    pub parent_policy: ParentPolicy,
    /// Traces started per second, over all workers. The same number applies to parents that are followed.
    pub traces_per_second_max: usize,
    /// The resource attribute `service.name`.
    pub service: String,
    /// Further resource attributes. They may override `service.version` and `service.instance.id`.
    pub attributes: Vec<(String, String)>,
}

/// How a message is sampled that belongs to a trace already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentPolicy {
    /// Sampled if the parent is, within the budget.
    Follow,
    /// Sampled like a message without a parent. A sampled message still continues the trace of its parent.
    Ignore,
}

/// A fraction of all messages, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplingRatio(u64);

impl SamplingRatio {
    pub const ALL: Self = Self(Self::WHOLE);

    pub const NONE: Self = Self(0);

    /// The ratio 1. A double holds every integer up to this one exactly.
    const WHOLE: u64 = 1 << 53;

    /// Returns `None` for a ratio that is not between 0 and 1.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked, and a power of two is exact"
    )]
    pub fn new(ratio: f64) -> Option<Self> {
        (0.0..=1.0).contains(&ratio).then_some(Self((ratio * Self::WHOLE as f64) as u64))
    }

    /// Whether a uniformly distributed random number falls into the fraction.
    pub fn contains(self, random: u64) -> bool {
        random % Self::WHOLE < self.0
    }
}
