//! Traces: spans of sampled messages, exported to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! Sampling is decided when a message arrives (head sampling), by its worker alone: a [`Tracer`] has its own random numbers
//! and its own budget, and shares nothing with other workers. An ended span goes into a lock-free queue, from which one task
//! ([`export`](super::exporter::export)) takes it. The queue is bounded: a span that does not fit is dropped and counted, and nothing waits.
//!
//! Invariants: a client decides neither how many spans there are (they have a budget per second) nor how large one is; a span
//! has no argument, no result, no key and no session id; a collector that is slow, unreachable or hostile costs a bounded
//! amount of memory and time.
//!
//! Does not know: HTTP, or what a message means. The caller passes in how a batch is sent.

mod active_span;
mod context;
mod otlp;
mod queue;
mod sampling;
mod span;
mod tracer;

pub use active_span::ActiveSpan;
pub use context::{RANDOM, SAMPLED, SpanId, TRACEPARENT_BYTES, TraceContext, TraceId};
pub use queue::Traces;
pub use span::{Span, SpanKind, SpanTarget, truncate_text};
pub use tracer::Tracer;

#[cfg(test)]
mod tests;
