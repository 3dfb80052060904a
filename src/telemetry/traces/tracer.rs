//! Head sampling and the creation of spans, per worker.

use std::sync::Arc;

use super::active_span::ActiveSpan;
use super::context::{RANDOM, SAMPLED, TraceContext};
use super::queue::Traces;
use super::sampling::{IdGenerator, PerSecondBudget};
use super::span::{Span, unix_now_ns};
use metamcp_config::sections::{ParentPolicy, TraceConfig};

/// Samples messages and starts spans for one worker. Stays on its thread.
pub struct Tracer {
    traces: Arc<Traces>,
    ids: IdGenerator,
    /// For traces that start here.
    root_budget: PerSecondBudget,
    /// For traces whose parent is followed. Apart, so that clients that set the sampled flag cannot use up the other.
    follow_budget: PerSecondBudget,
}

impl Traces {
    /// Creates the tracer of a worker. `None` when the system has no random numbers.
    pub fn tracer(self: &Arc<Self>) -> Option<Tracer> {
        let per_worker = self.config().traces_per_second_max.div_ceil(self.workers());
        let ids = IdGenerator::from_system()?;
        Some(Tracer {
            traces: Arc::clone(self),
            ids,
            root_budget: PerSecondBudget::new(per_worker),
            follow_budget: PerSecondBudget::new(per_worker),
        })
    }
}

impl Tracer {
    /// Decides whether a message is traced, and returns the context of its span if it is. `parent` is the context that came
    /// with the message; `now_s` is the current second of any clock.
    pub fn sample(&self, parent: Option<TraceContext>, now_s: u64) -> Option<TraceContext> {
        let TraceConfig { sampling_ratio, parent_policy, .. } = self.traces.config();
        let follows = *parent_policy == ParentPolicy::Follow;
        let (is_sampled, budget) = match parent.filter(|_| follows) {
            Some(parent) => (parent.is_sampled(), &self.follow_budget),
            None => (sampling_ratio.contains(self.ids.next()), &self.root_budget),
        };
        if !is_sampled || !budget.take(now_s) {
            return None;
        }
        let (trace, flags) = match parent {
            Some(parent) => (parent.trace, parent.flags & RANDOM),
            None => (self.ids.trace_id(), RANDOM),
        };
        Some(TraceContext { trace, span: self.ids.span_id(), flags: flags | SAMPLED })
    }

    /// Returns the context of a new child span.
    pub fn child_context(&self, context: TraceContext) -> TraceContext {
        TraceContext { span: self.ids.span_id(), ..context }
    }

    /// Starts a span now. The times in `span` are ignored.
    pub fn start_span(&self, span: Span) -> ActiveSpan {
        ActiveSpan::new(Span { began_ns: unix_now_ns(), ..span }, Arc::clone(&self.traces))
    }
}
