//! argon2 on its own threads: one thread per permit, behind a short queue.
//!
//! Requests with the same credential share one run. The queue holds few runs per key id, so that guessing at one key
//! does not keep other keys from being verified.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::config::Config;
use super::key::ParsedApiKey;
use super::keyring::KeyringEntry;
use super::mac::MacTag;
use super::rejection_cache::RejectionCache;
use metamcp_core::base::KeyId;

pub struct SecretHasher {
    jobs: SyncSender<HashJob>,
    shared: Arc<HasherState>,
}

struct HasherState {
    /// Guards the runs that are queued or in progress, by credential. At most permits plus queue length.
    pending: Mutex<HashMap<MacTag, PendingRun>>,
    /// Secrets that argon2 found wrong. They stay wrong: the hash in a row never changes.
    wrong: RejectionCache,
    runs: AtomicU64,
    /// How long a verified key is accepted, in milliseconds.
    verified_for: AtomicU64,
}

struct PendingRun {
    key_id: KeyId,
    verdict: watch::Receiver<Option<SecretVerdict>>,
}

struct HashJob {
    entry: Arc<KeyringEntry>,
    secret: Zeroizing<Vec<u8>>,
    tag: MacTag,
    verdict: watch::Sender<Option<SecretVerdict>>,
}

/// The result of an argon2 run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretVerdict {
    /// The secret belongs to the key.
    Match,
    Differ,
}

/// The queue is full, or the key id has too many runs in it.
#[derive(Debug)]
pub struct HasherBusy;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl SecretHasher {
    /// Starts as many threads as there are permits.
    pub fn new(config: &Config) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(config.hash_queue_max);
        let inbox = Arc::new(Mutex::new(inbox));
        let shared = Arc::new(HasherState {
            pending: Mutex::new(HashMap::new()),
            wrong: RejectionCache::new(WRONG_TTL),
            runs: AtomicU64::new(0),
            verified_for: AtomicU64::new(milliseconds(config.verified_for)),
        });
        for number in 0..config.hash_permits.max(1) {
            let (inbox, shared, prepare) = (Arc::clone(&inbox), Arc::clone(&shared), config.hash_thread);
            std::thread::Builder::new().name(format!("argon2-{number}")).spawn(move || {
                prepare();
                run_worker(&inbox, &shared);
            })?;
        }
        Ok(Self { jobs, shared })
    }

    /// Sets how long keys are accepted that are verified from now on.
    pub fn set_verified_for(&self, verified_for: Duration) {
        self.shared.verified_for.store(milliseconds(verified_for), Ordering::Relaxed);
    }

    /// Waits for a verdict. Cancel safe: a run that has started continues, and its result is cached.
    pub async fn verify(
        &self,
        entry: &Arc<KeyringEntry>,
        key: &ParsedApiKey<'_>,
        tag: MacTag,
    ) -> Result<SecretVerdict, HasherBusy> {
        // The run that this caller wanted to share may have ended just now.
        let cached = |now| {
            let right = entry.is_recently_verified(&tag, now).then_some(SecretVerdict::Match);
            right.or_else(|| self.is_known_wrong(&tag, now).then_some(SecretVerdict::Differ))
        };
        let mut verdict = self.submit(entry, key, tag, PER_KEY_MAX, cached)?;
        let found = verdict.wait_for(Option::is_some).await.map_err(|_| HasherBusy)?;
        found.ok_or(HasherBusy)
    }

    /// Verifies a secret again while its last verdict is still valid. The renewal has a place of its own beside the
    /// [`PER_KEY_MAX`] runs of the key, so guesses at the key cannot crowd it out. When the queue is full, the next
    /// request tries again.
    pub fn reverify(&self, entry: &Arc<KeyringEntry>, key: &ParsedApiKey<'_>, tag: MacTag) {
        if self.submit(entry, key, tag, PER_KEY_MAX + 1, |_| None).is_err() {
            entry.postpone_renewal();
        }
    }

    /// Whether argon2 found the secret wrong a short time ago.
    pub fn is_known_wrong(&self, tag: &MacTag, now: Instant) -> bool {
        self.shared.wrong.contains(tag, now)
    }

    /// argon2 runs since the start.
    pub fn runs(&self) -> u64 {
        self.shared.runs.load(Ordering::Relaxed)
    }

    fn submit(
        &self,
        entry: &Arc<KeyringEntry>,
        key: &ParsedApiKey<'_>,
        tag: MacTag,
        per_key_max: usize,
        cached: impl FnOnce(Instant) -> Option<SecretVerdict>,
    ) -> Result<watch::Receiver<Option<SecretVerdict>>, HasherBusy> {
        let mut pending = self.shared.lock_pending();
        if let Some(run) = pending.get(&tag) {
            return Ok(run.verdict.clone());
        }
        if let Some(verdict) = cached(Instant::now()) {
            return Ok(watch::channel(Some(verdict)).1);
        }
        let key_id = key.key_id();
        if pending.values().filter(|run| run.key_id == key_id).count() >= per_key_max {
            return Err(HasherBusy);
        }
        let (sender, verdict) = watch::channel(None);
        let secret = Zeroizing::new(key.secret().to_vec());
        let job = HashJob { entry: Arc::clone(entry), secret, tag, verdict: sender };
        self.jobs.try_send(job).map_err(|_| HasherBusy)?;
        pending.insert(tag, PendingRun { key_id, verdict: verdict.clone() });
        Ok(verdict)
    }
}

impl HasherState {
    fn lock_pending(&self) -> MutexGuard<'_, HashMap<MacTag, PendingRun>> {
        // Each change is a single insert or remove, so a panic leaves nothing half done.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, job: &HashJob) -> SecretVerdict {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if job.entry.verifier().matches(&job.secret) {
            job.entry.record_verified(
                job.tag,
                now,
                Duration::from_millis(self.verified_for.load(Ordering::Relaxed)),
            );
            SecretVerdict::Match
        } else {
            self.wrong.insert(&job.tag, now);
            SecretVerdict::Differ
        }
    }
}

fn run_worker(inbox: &Mutex<Receiver<HashJob>>, shared: &HasherState) {
    loop {
        // The lock orders the threads: one waits for a job, the others wait for the lock.
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let verdict = shared.run(&job);
        // The result was cached before the run is removed: a caller that finds no run finds the result.
        shared.lock_pending().remove(&job.tag);
        job.verdict.send_replace(Some(verdict));
    }
}

/// Room for the right secret and a few wrong ones.
const PER_KEY_MAX: usize = 4;

/// How long a wrong secret is refused without another argon2 run.
const WRONG_TTL: Duration = Duration::from_mins(1);
