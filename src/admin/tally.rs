//! What one call over REST used, and how it went with its server, counted where a call over MCP is: before the last byte of
//! its answer is handed out.

use std::time::Instant;

use bytes::Bytes;

use super::Call;
use super::problem::Problem;
use crate::journal::usage::{Count, Counters, Slot, told};
use crate::protocol::Method;
use crate::route::Place;
use crate::telemetry::metrics::{Exchange, Outcome};

/// One call of a tool, until it is counted. Dropped before that, it counts as failed.
pub struct Tally {
    /// `None` where nothing is counted.
    slot: Option<Slot>,
    /// `None` where there are no metrics.
    exchange: Option<Exchange>,
    began: Instant,
    /// What is still to be added.
    count: Count,
    ended: bool,
}

impl Tally {
    /// Of a call that is about to go to the server, under the server's own name for the tool.
    pub(super) fn begin(call: &Call<'_>, server: &Place, tool: &str) -> Self {
        let key_id = call.identity().key_id();
        let slot = |counters: &Counters| counters.slot(key_id.as_str(), server.name.as_str(), told(tool));
        let method = Some(Method::ToolsCall.index());
        let count = Count { calls: 1, bytes_in: call.body().len() as u64, ..Count::default() };
        Self {
            slot: call.counters.map(slot),
            exchange: call.metrics.map(|metrics| Exchange::begin(metrics, server.label, method)),
            began: Instant::now(),
            count,
            ended: false,
        }
    }

    /// The first of several pieces of the answer is about to pass.
    pub fn start(&mut self) {
        self.add();
        let after = self.began.elapsed();
        self.exchange.iter_mut().for_each(|exchange| exchange.note_first_byte(after));
    }

    /// So many bytes of the answer are about to pass.
    pub fn pass(&mut self, bytes: usize) {
        self.count.bytes_out += bytes as u64;
    }

    /// The last of the answer is about to pass, or none will.
    pub fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let after = self.began.elapsed();
        self.count.errors = u64::from(outcome != Outcome::Answer);
        self.count.millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.add();
        self.exchange.iter_mut().for_each(|exchange| exchange.end(outcome, after));
    }

    /// An answer that is here, as the event or document it is told in.
    pub fn count(mut self, answer: Result<Bytes, Problem>, failed: bool) -> Result<Bytes, Problem> {
        let bytes = match &answer {
            Ok(bytes) => bytes.len(),
            Err(problem) => problem.respond().body().len(),
        };
        self.pass(bytes);
        self.end(if failed { Outcome::Error } else { Outcome::Answer });
        answer
    }

    fn add(&mut self) {
        let count = std::mem::take(&mut self.count);
        if let Some(slot) = &self.slot {
            slot.add(count);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.end(Outcome::Leave);
    }
}
