//! What one call used: counted in mapped memory before its last byte is handed out, so that what a client has
//! seen is counted even when the process is killed in the next instant.

use std::borrow::Cow;
use std::time::Instant;

use super::call::Call;
use super::worker::Worker;
use crate::base::ServerName;
use crate::catalog::View;
use crate::journal::usage::{Count, OTHER, Slot, told};
use crate::protocol::Method;
use crate::route::Shape;

/// One call of a server's, until it is counted. Dropped before its answer has passed, it counts as failed.
pub struct Meter {
    slot: Slot,
    began: Instant,
    /// What is still to be added.
    count: Count,
    ended: bool,
    /// Whether some of an answer has passed that nobody here reads: whoever leaves then may have all it wanted.
    may_be_answered: bool,
}

impl Meter {
    /// Of a message that goes to a server, under its own name for what is asked for where that is another; `None`
    /// where nothing is counted.
    pub fn begin(
        worker: &Worker,
        call: &Call,
        server: &ServerName,
        own_name: Option<&str>,
        view: View,
    ) -> Option<Self> {
        if !call.is_request() {
            return None;
        }
        let counters = worker.counters.as_ref()?;
        let slot = counters.slot(
            call.identity.key_id().as_str(),
            server.as_str(),
            &tool(worker, call, own_name, view),
        );
        let count = Count { calls: 1, bytes_in: call.body.len() as u64, ..Count::default() };
        Some(Self { slot, began: Instant::now(), count, ended: false, may_be_answered: false })
    }

    /// The server that was asked does not have it, and this one is asked now: a call is counted once, where it ended.
    pub fn pass_on_to(&mut self, worker: &Worker, call: &Call, server: &ServerName) {
        if let Some(counters) = worker.counters.as_ref() {
            // What goes to one server after the other is no call of a tool.
            self.slot = counters.slot(call.identity.key_id().as_str(), server.as_str(), "");
        }
    }

    /// The first of several pieces of the answer is about to pass.
    pub fn start(&mut self) {
        self.slot.add(std::mem::take(&mut self.count));
    }

    /// So many bytes of the answer are about to pass.
    pub fn pass(&mut self, bytes: usize) {
        self.count.bytes_out += bytes as u64;
    }

    /// Some of an answer is about to pass that is not read here.
    pub fn pass_unread(&mut self) {
        self.may_be_answered = true;
    }

    /// The last of the answer is about to pass, or none will.
    pub fn end(&mut self, failed: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let mut count = std::mem::take(&mut self.count);
        count.errors = u64::from(failed);
        count.millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.slot.add(count);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end(!self.may_be_answered);
    }
}

/// The server's own name for the tool that is called; empty for what is no call of a tool. A name that nobody
/// listed is the client's own invention: such names are counted as one, or there would be no end of them.
fn tool<'a>(worker: &Worker, call: &'a Call, own_name: Option<&'a str>, view: View) -> Cow<'a, str> {
    if call.method != Some(Method::ToolsCall) {
        return Cow::Borrowed("");
    }
    let name = match own_name {
        None => call.text(call.envelope.params.name).unwrap_or_default(),
        Some(own_name) => Cow::Borrowed(own_name),
    };
    let is_listed =
        call.endpoint.shape != Shape::Single || worker.shared.catalog.lists_tool(&call.endpoint, view, &name);
    if is_listed && told(&name) == name { name } else { Cow::Borrowed(OTHER) }
}
