//! The ledger: for each call what was done to it, how often a server executed it, and how it ended for its client.
//!
//! Eight bytes a call, so that ten million calls fit into 80 MB. Canaries are computed, not stored.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::fault::Fault;
use crate::kind::Kind;
use crate::schedule::Call;
use crate::tag::{Canary, Tag};

/// One call. Each field is a number of a closed set, or a count that stops at 255.
#[derive(Default)]
struct Row {
    kind: AtomicU8,
    fault: AtomicU8,
    server: AtomicU8,
    executions: AtomicU8,
    outcome: AtomicU8,
    /// How many times an outcome was recorded.
    outcomes: AtomicU8,
    is_aggregate: AtomicU8,
    is_begun: AtomicU8,
}

/// How a call ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// None was recorded.
    Missing,
    /// The server's own answer: its id, tag, canary and digest are right.
    Success,
    /// An error which says that the call did not run.
    NotRun,
    /// An error which says that the call may have run.
    MayHaveRun,
    /// The refusal of an HTTP status that means that nothing was done (401, 403, 404, 429).
    Refused,
    /// Any other error.
    Error,
    /// The connection, or the response, broke off before an answer.
    Broken,
    /// The client cancelled the call or left, and received no answer.
    Cancelled,
    /// What the server sent in place of a message, which the gateway passes on
    /// (docs/OPERATIONS.md, "When a server fails": "Text that is not a valid message reaches the client unchanged").
    Garbage,
    /// The call was not sent: its session could not be opened.
    Unsent,
}

impl Outcome {
    pub const ALL: [Self; 10] = [
        Self::Missing,
        Self::Success,
        Self::NotRun,
        Self::MayHaveRun,
        Self::Refused,
        Self::Error,
        Self::Broken,
        Self::Cancelled,
        Self::Garbage,
        Self::Unsent,
    ];
}

/// A copy of one call's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub tag: Tag,
    pub kind: Kind,
    pub fault: Fault,
    pub server: u8,
    pub is_aggregate: bool,
    pub executions: u8,
    pub outcome: Outcome,
    pub outcomes: u8,
}

/// All calls of a run.
pub struct Ledger {
    pub seed: u64,
    clients: Vec<Box<[Row]>>,
    begun: AtomicU64,
    /// Found while the run goes on; at most [`VIOLATIONS_MAX`].
    violations: Mutex<Vec<Violation>>,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The call, if it is known.
    pub tag: Option<Tag>,
    pub what: String,
}

/// What is kept of violations: the first ones tell the cause.
const VIOLATIONS_MAX: usize = 50;

impl Ledger {
    pub fn new(seed: u64, clients: u32, calls_each: u32) -> Self {
        let rows = || (0..calls_each).map(|_| Row::default()).collect();
        let clients = (0..clients).map(|_| rows()).collect();
        Self { seed, clients, begun: AtomicU64::new(0), violations: Mutex::default() }
    }

    fn row(&self, tag: Tag) -> Option<&Row> {
        self.clients.get(tag.client as usize)?.get(tag.sequence as usize)
    }

    /// A client is about to send the call.
    pub fn begin(&self, call: &Call, server: u8) {
        let Some(row) = self.row(call.tag) else { return };
        row.kind.store(call.kind as u8, Ordering::Relaxed);
        row.fault.store(call.fault as u8, Ordering::Relaxed);
        row.server.store(server, Ordering::Relaxed);
        row.is_aggregate.store(call.is_aggregate.into(), Ordering::Relaxed);
        row.is_begun.store(1, Ordering::Release);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls have begun.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// A server executes the call.
    pub fn execute(&self, tag: Tag, canary: Canary) {
        let row = self.row(tag).filter(|row| row.is_begun.load(Ordering::Acquire) == 1);
        match row {
            Some(row) if canary == tag.canary(self.seed) => add(&row.executions),
            _ => self.report(Some(tag), format!("a server received a call that nobody sent: {tag} {canary}")),
        }
    }

    /// The call has ended for its client.
    pub fn finish(&self, tag: Tag, outcome: Outcome) {
        let Some(row) = self.row(tag) else { return };
        row.outcome.store(outcome as u8, Ordering::Relaxed);
        add(&row.outcomes);
    }

    /// Records what must not be.
    pub fn report(&self, tag: Option<Tag>, what: String) {
        let mut violations = self.violations.lock().unwrap();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(Violation { tag, what });
        }
    }

    /// Checks that all canaries in these bytes are of this call.
    pub fn check_canaries(&self, tag: Tag, bytes: &[u8]) {
        let own = [tag, Tag::of_client(tag.client)].map(|tag| tag.canary(self.seed));
        if let Some(foreign) = Canary::find_all(bytes).find(|canary| !own.contains(canary)) {
            let text = String::from_utf8_lossy(bytes);
            self.report(Some(tag), format!("the client received the foreign {foreign}: {text}"));
        }
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().unwrap().clone()
    }

    /// All calls that have begun.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let rows = self.clients.iter().enumerate().flat_map(|(client, rows)| {
            rows.iter().enumerate().map(move |(sequence, row)| (client, sequence, row))
        });
        rows.filter(|(_, _, row)| row.is_begun.load(Ordering::Acquire) == 1).map(|(client, sequence, row)| {
            let tag = Tag { client: to_u32(client), sequence: to_u32(sequence) };
            row.entry(tag)
        })
    }

    /// What is recorded of that call.
    pub fn entry(&self, tag: Tag) -> Option<Entry> {
        self.row(tag).map(|row| row.entry(tag))
    }
}

impl Row {
    fn entry(&self, tag: Tag) -> Entry {
        let get = |field: &AtomicU8| field.load(Ordering::Relaxed);
        Entry {
            tag,
            kind: Kind::ALL[usize::from(get(&self.kind))],
            fault: Fault::ALL[usize::from(get(&self.fault))],
            server: get(&self.server),
            is_aggregate: get(&self.is_aggregate) == 1,
            executions: get(&self.executions),
            outcome: Outcome::ALL[usize::from(get(&self.outcome))],
            outcomes: get(&self.outcomes),
        }
    }
}

fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("made from a u32")
}

/// Adds one, and stays at the largest number.
fn add(count: &AtomicU8) {
    let next = |count: u8| Some(count.saturating_add(1));
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
}
