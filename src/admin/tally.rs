//! What one call over REST used, counted where a call over MCP is: before the last byte of its answer is handed out.

use std::time::Instant;

use bytes::Bytes;

use super::problem::Problem;
use crate::auth::Identity;
use crate::base::ServerName;
use crate::journal::usage::{Count, Counters, Slot, told};

/// One call of a tool, until it is counted. Dropped before that, it counts as failed.
pub struct Tally {
    /// `None` where nothing is counted.
    slot: Option<Slot>,
    began: Instant,
    /// What is still to be added.
    count: Count,
    ended: bool,
}

impl Tally {
    /// Of a call that is about to go to the server, under the server's own name for the tool.
    pub fn begin(
        counters: Option<&Counters>,
        identity: &Identity,
        server: &ServerName,
        tool: &str,
        bytes_in: usize,
    ) -> Self {
        let slot =
            counters.map(|counters| counters.slot(identity.key_id().as_str(), server.as_str(), told(tool)));
        let count = Count { calls: 1, bytes_in: bytes_in as u64, ..Count::default() };
        Self { slot, began: Instant::now(), count, ended: false }
    }

    /// The first of several pieces of the answer is about to pass.
    pub fn start(&mut self) {
        self.add();
    }

    /// So many bytes of the answer are about to pass.
    pub fn pass(&mut self, bytes: usize) {
        self.count.bytes_out += bytes as u64;
    }

    /// The last of the answer is about to pass, or none will.
    pub fn end(&mut self, failed: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.count.errors = u64::from(failed);
        self.count.millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.add();
    }

    /// An answer that is here, as the event or document it is told in.
    pub fn count(mut self, answer: Result<Bytes, Problem>, failed: bool) -> Result<Bytes, Problem> {
        let bytes = match &answer {
            Ok(bytes) => bytes.len(),
            Err(problem) => problem.respond().body().len(),
        };
        self.pass(bytes);
        self.end(failed);
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
        self.end(true);
    }
}
