//! argon2, on threads of its own: as many as there are permits, behind a short queue.
//!
//! Requests with the same credential share one run. A key id takes few places in the queue, so that guessing at
//! one key keeps nobody else from being verified.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::Config;
use super::identity::KeyId;
use super::key::Parsed;
use super::keyring::Entry;
use super::refusals::Refusals;
use super::tag::Tag;

pub struct Hasher {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Guards the runs that wait or go on, by credential: at most permits plus queue.
    flights: Mutex<HashMap<Tag, Flight>>,
    /// Credentials that argon2 found wrong. They stay wrong: a row's hash never changes.
    wrong: Refusals,
    runs: AtomicU64,
    believed_for: Duration,
}

struct Flight {
    key_id: KeyId,
    verdict: watch::Receiver<Option<Verdict>>,
}

struct Job {
    entry: Arc<Entry>,
    secret: Zeroizing<Vec<u8>>,
    tag: Tag,
    verdict: watch::Sender<Option<Verdict>>,
}

/// What argon2 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The secret belongs to the key.
    Match,
    /// It does not.
    Differ,
}

/// No place in the queue, or no answer.
#[derive(Debug)]
pub struct Busy;

impl Hasher {
    /// Starts as many threads as there are permits.
    pub fn new(config: &Config) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(config.hash_queue_max);
        let inbox = Arc::new(Mutex::new(inbox));
        let shared = Arc::new(Shared {
            flights: Mutex::new(HashMap::new()),
            wrong: Refusals::new(WRONG_FOR),
            runs: AtomicU64::new(0),
            believed_for: config.verified_for,
        });
        for number in 0..config.hash_permits.max(1) {
            let (inbox, shared, first) = (Arc::clone(&inbox), Arc::clone(&shared), config.hash_thread);
            std::thread::Builder::new().name(format!("argon2-{number}")).spawn(move || {
                first();
                work(&inbox, &shared);
            })?;
        }
        Ok(Self { jobs, shared })
    }

    /// Waits for a verdict. Cancel safe: a run once begun goes on, and what it finds is remembered.
    pub async fn verify(&self, entry: &Arc<Entry>, key: &Parsed<'_>, tag: Tag) -> Result<Verdict, Busy> {
        // Whoever asks may have been overtaken by the end of the very run it wanted to share.
        let known = |now| {
            let right = entry.believes(&tag, now).then_some(Verdict::Match);
            right.or_else(|| self.knows_wrong(&tag, now).then_some(Verdict::Differ))
        };
        let mut verdict = self.submit(entry, key, tag, PER_KEY_MAX, known)?;
        let found = verdict.wait_for(Option::is_some).await.map_err(|_| Busy)?;
        found.ok_or(Busy)
    }

    /// Has a secret verified again while it is still believed. Those who guess at the key take no place away from it:
    /// it has one of its own. Without one in the queue it is left to the next request.
    pub fn renew(&self, entry: &Arc<Entry>, key: &Parsed<'_>, tag: Tag) {
        if self.submit(entry, key, tag, PER_KEY_MAX + 1, |_| None).is_err() {
            entry.put_off();
        }
    }

    /// Whether argon2 found it wrong a short time ago.
    pub fn knows_wrong(&self, tag: &Tag, now: Instant) -> bool {
        self.shared.wrong.hold(tag, now)
    }

    /// Runs since the start.
    pub fn runs(&self) -> u64 {
        self.shared.runs.load(Ordering::Relaxed)
    }

    fn submit(
        &self,
        entry: &Arc<Entry>,
        key: &Parsed<'_>,
        tag: Tag,
        per_key_max: usize,
        known: impl FnOnce(Instant) -> Option<Verdict>,
    ) -> Result<watch::Receiver<Option<Verdict>>, Busy> {
        let mut flights = self.shared.flights();
        if let Some(flight) = flights.get(&tag) {
            return Ok(flight.verdict.clone());
        }
        if let Some(verdict) = known(Instant::now()) {
            return Ok(watch::channel(Some(verdict)).1);
        }
        let key_id = key.key_id();
        if flights.values().filter(|flight| flight.key_id == key_id).count() >= per_key_max {
            return Err(Busy);
        }
        let (sender, verdict) = watch::channel(None);
        let secret = Zeroizing::new(key.secret().to_vec());
        let job = Job { entry: Arc::clone(entry), secret, tag, verdict: sender };
        self.jobs.try_send(job).map_err(|_| Busy)?;
        flights.insert(tag, Flight { key_id, verdict: verdict.clone() });
        Ok(verdict)
    }
}

impl Shared {
    fn flights(&self) -> MutexGuard<'_, HashMap<Tag, Flight>> {
        // Each change is one insert or remove: there is no half of it to be found after a panic.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, job: &Job) -> Verdict {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if job.entry.imprint().is(&job.secret) {
            job.entry.verified(job.tag, now, self.believed_for);
            Verdict::Match
        } else {
            self.wrong.remember(&job.tag, now);
            Verdict::Differ
        }
    }
}

fn work(inbox: &Mutex<Receiver<Job>>, shared: &Shared) {
    loop {
        // The lock is the place in line: one thread waits for a job, the others for it.
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let verdict = shared.run(&job);
        // Remembered first, then taken out: whoever holds the lock and finds no run finds the result.
        shared.flights().remove(&job.tag);
        job.verdict.send_replace(Some(verdict));
    }
}

/// One right secret, and room for a few wrong ones.
const PER_KEY_MAX: usize = 4;

/// How long a wrong secret is refused without asking argon2 again.
const WRONG_FOR: Duration = Duration::from_mins(1);
