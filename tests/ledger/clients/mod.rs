//! Clients: each sends its calls one after the other and records how each ended.

mod connector;
mod exchange;
mod flows;
mod framing;
mod groups;
mod judge;
mod tasks;
mod twins;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use tokio::time::{sleep, timeout};

use self::connector::Connector;
use crate::http::Wire;
use crate::kind::Kind;
use crate::ledger::{Ledger, Outcome};
use crate::schedule::{Call, Plan};
use crate::servers::Era;
use crate::support::PATIENCE;
use crate::tag::Tag;

/// What all clients share.
pub struct Shared {
    pub plan: Plan,
    pub ledger: Arc<Ledger>,
    /// Of servers; a call's server is an index of it.
    pub names: Vec<&'static str>,
    /// Of servers, likewise: whether they have the tasks of the Legacy era.
    pub have_legacy_tasks: Vec<bool>,
    pub keys: Vec<String>,
    /// Of the gateway, if it serves TLS.
    pub certificate: Option<CertificateDer<'static>>,
    /// Of the gateway; another one after it was started again.
    pub port: AtomicU16,
    /// Odd while the gateway is not there; another number after it was started again.
    pub epoch: AtomicU32,
    /// Processor time of the gateway's processes that have ended, in milliseconds.
    pub cpu_ms: AtomicU32,
    /// How often each text of an error came.
    pub errors: Mutex<BTreeMap<String, u64>>,
    /// Calls that took longer than [`SLOW`], with the outcome of the first.
    pub slow: Mutex<Vec<(Duration, Call, Outcome)>>,
}

/// Longer than any timeout that is set but those of waiting for input.
const SLOW: Duration = Duration::from_secs(4);

/// After a refusal, and after an error which says that the call did not run.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
const NOT_RUN_PAUSE: Duration = Duration::from_millis(5);

/// What is kept of slow calls.
const SLOW_MAX: usize = 20;

/// One client.
pub struct Client {
    shared: Arc<Shared>,
    number: u32,
    era: Era,
    key: String,
    connector: Connector,
    /// The idle connection.
    wire: Option<Wire>,
    /// The epoch that the current call began in.
    epoch: u32,
    /// The own port of the connection that was used last.
    from: u16,
    /// Why the last response broke off.
    broken: Option<io::Error>,
    /// Sessions that are not used any more, and are ended at last: path and id.
    abandoned: Vec<(String, String)>,
    /// Of a Legacy client, by path and revision.
    sessions: HashMap<(String, Revision), String>,
    pad: String,
}

/// The revision of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revision {
    /// With batches.
    March,
    /// The last one of the Legacy era.
    November,
}

impl Client {
    pub fn new(shared: &Arc<Shared>, number: u32) -> Self {
        let key = shared.keys[number as usize % shared.keys.len()].clone();
        let pad = "0123456789abcdefghijklmnopqrstuv".repeat(1 << 12);
        let connector = Connector::new(shared.plan.transport(number), shared.certificate.as_ref());
        let (shared, era) = (shared.clone(), Plan::era(number));
        Self {
            shared,
            number,
            era,
            key,
            connector,
            wire: None,
            epoch: 0,
            from: 0,
            broken: None,
            abandoned: Vec::new(),
            sessions: HashMap::new(),
            pad,
        }
    }

    /// Whether the gateway is the one that the current call was sent to, and is not being ended.
    fn is_same_gateway(&self) -> bool {
        self.epoch.is_multiple_of(2) && self.epoch == self.shared.epoch.load(Ordering::Relaxed)
    }

    /// Sends all calls of this client, and ends its sessions.
    pub async fn run(mut self) {
        let calls_each = self.shared.plan.calls_each;
        let mut sequence = 0;
        while sequence < calls_each {
            let first = self.shared.plan.call(Tag { client: self.number, sequence });
            let count = first.kind.group_max().min(calls_each - sequence);
            let calls: Vec<Call> = (sequence..sequence + count)
                .map(|sequence| self.shared.plan.call(Tag { client: self.number, sequence }).beside(&first))
                .collect();
            for call in &calls {
                self.shared.ledger.begin(call, self.server(call));
            }
            let begun = Instant::now();
            self.epoch = self.shared.epoch.load(Ordering::Relaxed);
            let outcomes = timeout(PATIENCE, self.perform(&calls)).await;
            let (epoch, is_same) = (self.epoch, self.is_same_gateway());
            let outcomes = outcomes.unwrap_or_else(|_| {
                self.wire = None;
                self.shared.ledger.report(Some(first.tag), format!("no outcome within {PATIENCE:?}"));
                vec![Outcome::Missing; calls.len()]
            });
            let outcome = outcomes[0];
            self.note_slow(begun.elapsed(), &first, outcome);
            for (call, outcome) in calls.iter().zip(outcomes) {
                if outcome == Outcome::Broken && is_same {
                    let text = format!(
                        "the gateway broke the connection: {:?} (from {}, epoch {epoch}, {:?}): {call:?}",
                        self.broken,
                        self.from,
                        begun.elapsed()
                    );
                    self.shared.ledger.report(Some(call.tag), text);
                }
                self.shared.ledger.finish(call.tag, outcome);
            }
            // Refusals are fast: a client that goes on at once would spend all its calls on them.
            match outcome {
                Outcome::Refused => sleep(REFUSED_PAUSE).await,
                Outcome::NotRun | Outcome::Unsent => sleep(NOT_RUN_PAUSE).await,
                _ => {}
            }
            sequence += count;
        }
        self.end_sessions().await;
    }

    fn note_slow(&self, time: Duration, call: &Call, outcome: Outcome) {
        let mut slow = self.shared.slow.lock().unwrap();
        if time > SLOW && slow.len() < SLOW_MAX {
            slow.push((time, *call, outcome));
        }
    }

    /// The number of a call's server.
    fn server(&self, call: &Call) -> u8 {
        u8::try_from(call.server as usize % self.shared.names.len()).unwrap_or_default()
    }

    fn has_legacy_tasks(&self, call: &Call) -> bool {
        self.shared.have_legacy_tasks[usize::from(self.server(call))]
    }

    async fn perform(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let call = &calls[0];
        let is_legacy = self.era == Era::Legacy;
        let outcome = match call.kind {
            Kind::Batch if is_legacy => return self.batch(calls).await,
            Kind::Frame => return self.frames(calls).await,
            Kind::Batch => return self.each(calls).await,
            Kind::Twin => return self.twins(calls).await,
            Kind::Execute => self.execute(call).await,
            Kind::Task if !is_legacy || self.has_legacy_tasks(call) => self.task(call).await,
            Kind::Leave => self.leave(call).await,
            Kind::Resume if is_legacy => self.resume(call).await,
            Kind::Listen if is_legacy => self.listen(call).await,
            Kind::Listen => Outcome::Unsent,
            _ => self.follow(call).await,
        };
        vec![outcome]
    }

    /// One after the other.
    async fn each(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(self.follow(call).await);
        }
        outcomes
    }

    /// Opens another session at that path for the next call.
    fn abandon(&mut self, path: &str) {
        let ended = self.sessions.extract_if(|(at, _), _| at == path);
        let ended: Vec<_> = ended.map(|((path, _), session)| (path, session)).collect();
        self.abandoned.extend(ended);
    }

    async fn end_sessions(&mut self) {
        let sessions =
            std::mem::take(&mut self.sessions).into_iter().map(|((path, _), session)| (path, session));
        for (path, session) in sessions.chain(std::mem::take(&mut self.abandoned)) {
            drop(timeout(PATIENCE, self.end_session(&path, &session)).await);
        }
    }
}
