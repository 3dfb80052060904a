//! A span that has not ended.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use metamcp_core::base::FaultKind;

use super::queue::Traces;
use super::span::{Span, nanoseconds};

/// A span that has not ended. [`end`](Self::end) queues it for export; dropping it before discards it.
pub struct ActiveSpan {
    span: Option<Box<Span>>,
    traces: Arc<Traces>,
}

/// The outcome of a failed operation.
const FAILED: &str = "error";

/// The `error.type` of an unspecified error (semantic conventions).
const OTHER_ERROR: &str = "_OTHER";

impl ActiveSpan {
    pub(super) fn new(span: Span, traces: Arc<Traces>) -> Self {
        Self { span: Some(Box::new(span)), traces }
    }

    /// Sets the error type to that of a fault.
    pub fn fail(&mut self, kind: FaultKind) {
        self.span.iter_mut().for_each(|span| span.error = Some(Cow::Borrowed(kind.label())));
    }

    /// Sets the error type, and the JSON-RPC error code of the response.
    pub fn fail_with_code(&mut self, kind: FaultKind, code: i32) {
        self.fail(kind);
        self.span.iter_mut().for_each(|span| span.code = Some(code));
    }

    /// Sets the error type to an HTTP status.
    pub fn fail_with_status(&mut self, status: u16) {
        self.span.iter_mut().for_each(|span| span.error = Some(Cow::Owned(status.to_string())));
    }

    /// Replaces the name of the server.
    pub fn set_server(&mut self, name: &str) {
        self.span.iter_mut().for_each(|span| span.endpoint_or_server = name.into());
    }

    /// Ends the span after `duration`, and queues it for export. Later calls have no effect.
    pub fn end(&mut self, outcome: &'static str, duration: Duration) {
        let Some(mut span) = self.span.take() else { return };
        span.outcome = outcome;
        if outcome == FAILED {
            span.error.get_or_insert(Cow::Borrowed(OTHER_ERROR));
        }
        span.ended_ns = span.began_ns.saturating_add(nanoseconds(duration));
        self.traces.enqueue(span);
    }
}
