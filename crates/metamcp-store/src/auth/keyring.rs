//! The keyring: all API keys at one moment, indexed by key id. Immutable; a change publishes a new one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::store::{KeyRow, KeyStatus, Keys, RowSealer, SealedRow};

use super::error::AuthError;
use super::identity::Identity;
use super::mac::MacTag;
use super::seal::Sealer;
use super::secret_verifier::SecretVerifier;
use super::unseal_failure::UnsealFailure;
use metamcp_core::base::KeyId;

/// The snapshot of API keys that requests read.
///
/// A key that was disabled or deleted stays so for the life of this process, even when the database falls back to an
/// older copy in which the key was active.
pub struct Keyring {
    /// The epoch of the store when the keys were read. It may be lower than the epoch of the keyring before.
    epoch: u64,
    entries: HashMap<KeyId, Arc<KeyringEntry>>,
    /// Keys that existed earlier and were deleted.
    removed: Arc<HashSet<KeyId>>,
    /// Rows that do not open. Their contents are not trusted, a status of inactive included.
    failures: Vec<UnsealFailure>,
}

/// An API key in the keyring.
pub struct KeyringEntry {
    row: KeyRow,
    identity: Identity,
    verifier: SecretVerifier,
    /// The secret that argon2 last verified, by its tag.
    verified: ArcSwapOption<VerifiedSecret>,
}

/// What tells whether a key has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyState {
    /// Increases with each change.
    pub epoch: u64,
    pub is_active: bool,
}

struct VerifiedSecret {
    tag: MacTag,
    renew_from: Instant,
    expires_at: Instant,
    /// Set by the first request at or after `renew_from`.
    renewing: AtomicBool,
}

/// What is known about a secret without running argon2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachedVerdict {
    /// argon2 verified it a short time ago.
    Valid,
    /// argon2 verified it, and the verdict expires soon. The caller that sees this starts the renewal.
    RenewalDue,
    /// No verdict, or one for another secret.
    Absent,
}

impl Keyring {
    /// The keyring before the store was first read.
    pub fn empty() -> Self {
        Self { epoch: 0, entries: HashMap::new(), removed: Arc::default(), failures: Vec::new() }
    }

    /// Builds a keyring from stored rows. Entries of `previous` whose rows did not change are shared, together with
    /// their verified secrets.
    pub fn build(keys: Keys, sealer: &Sealer, previous: &Self) -> Self {
        let mut entries = HashMap::with_capacity(keys.rows.len());
        let mut failures = Vec::new();
        let mut present = HashSet::with_capacity(keys.rows.len());
        for row in keys.rows {
            let Some(key_id) = KeyId::parse(&row.key_id) else {
                failures.push(UnsealFailure::new(&row.key_id, row.key_version, sealer));
                continue;
            };
            present.insert(key_id);
            let Some(row) = previous.reconcile_row(key_id, row) else { continue };
            let unchanged = previous.entries.get(&key_id).filter(|entry| entry.row == row);
            let opened = || {
                KeyringEntry::open(key_id, &row, sealer)
                    .or_else(|| previous.carry_over_rekeyed(key_id, &row, sealer))
            };
            if let Some(entry) = unchanged.cloned().or_else(|| opened().map(Arc::new)) {
                entries.insert(key_id, entry);
                continue;
            }
            entries.extend(previous.disable_unsealable(key_id, &row).map(|entry| (key_id, Arc::new(entry))));
            if row.status == KeyStatus::Active {
                failures.push(UnsealFailure::new(&row.key_id, row.key_version, sealer));
            }
        }
        let mut removed = Arc::clone(&previous.removed);
        // A row that exists and does not open is not removed: it may be repaired.
        let is_gone = |key_id: &&KeyId| !entries.contains_key(key_id) && !present.contains(key_id);
        for key_id in previous.entries.keys().filter(is_gone) {
            if removed.len() < REMOVED_MAX {
                Arc::make_mut(&mut removed).insert(*key_id);
            }
        }
        Self { epoch: keys.epoch, entries, removed, failures }
    }

    /// Merges a stored row with what this process knows. A row older than the known one may only disable the key; a key
    /// that was removed stays removed.
    fn reconcile_row(&self, key_id: KeyId, row: KeyRow) -> Option<KeyRow> {
        if self.removed.contains(&key_id) {
            return None;
        }
        match self.entries.get(&key_id) {
            Some(known) if known.row.epoch > row.epoch => {
                let status =
                    if row.status == KeyStatus::Inactive { KeyStatus::Inactive } else { known.row.status };
                Some(KeyRow { status, ..known.row.clone() })
            }
            _ => Some(row),
        }
    }

    /// The entry of a key that was only re-sealed, under a version of `ENCRYPTION_KEY` that this process gets with its
    /// next start. Everything else in the row is unchanged, so the known verifier is still the right one.
    fn carry_over_rekeyed(&self, key_id: KeyId, row: &KeyRow, sealer: &Sealer) -> Option<KeyringEntry> {
        let known = self.entries.get(&key_id)?;
        let unchanged = KeyRow {
            sealed_hash: known.row.sealed_hash.clone(),
            key_version: known.row.key_version,
            ..row.clone()
        } == known.row;
        (unchanged && !sealer.has_key_version(row.key_version)).then(|| KeyringEntry {
            row: row.clone(),
            identity: known.identity.clone(),
            verifier: known.verifier.clone(),
            verified: ArcSwapOption::new(known.verified.load_full()),
        })
    }

    /// The entry of a known key whose row no longer opens: disabled. A disabled entry is kept so that a later row of the
    /// same or an older epoch cannot enable the key.
    fn disable_unsealable(&self, key_id: KeyId, row: &KeyRow) -> Option<KeyringEntry> {
        let known = self.entries.get(&key_id)?;
        // An epoch in an unsealable row counts only if the row takes access away. One that claims to be active is not
        // believed.
        let epoch = if row.status == KeyStatus::Inactive { row.epoch } else { 0 };
        let epoch = epoch.max(known.row.epoch);
        Some(KeyringEntry {
            row: KeyRow { status: KeyStatus::Inactive, epoch, ..known.row.clone() },
            identity: known.identity.clone(),
            verifier: known.verifier.clone(),
            verified: ArcSwapOption::empty(),
        })
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn entry(&self, key_id: KeyId) -> Option<&Arc<KeyringEntry>> {
        self.entries.get(&key_id)
    }

    /// Whether a key is known and active. Its expiry is not looked at.
    pub fn is_active(&self, key_id: KeyId) -> bool {
        self.entries.get(&key_id).is_some_and(|entry| entry.row.status == KeyStatus::Active)
    }

    /// The state of each key, disabled ones included.
    pub fn key_states(&self) -> HashMap<KeyId, KeyState> {
        let state = |row: &KeyRow| KeyState { epoch: row.epoch, is_active: row.status == KeyStatus::Active };
        self.entries.iter().map(|(key_id, entry)| (*key_id, state(&entry.row))).collect()
    }

    /// The keys that have a quota.
    pub fn keys_with_quotas(&self) -> Vec<KeyId> {
        let with_quota = self.entries.iter().filter(|(_, entry)| entry.identity.quotas().is_some());
        with_quota.map(|(key_id, _)| *key_id).collect()
    }

    /// Fails when active rows do not open.
    pub fn check(&self) -> Result<(), AuthError> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let unsealable = self.failures.len();
        let examples = UnsealFailure::summarize(&self.failures);
        Err(AuthError::UnsealableKeys { unsealable, active: self.active_count() + unsealable, examples })
    }

    /// Like [`Keyring::check`], for a start: fails only when no active key opens. The version that sealed a row is
    /// named by the row itself, so a stricter check would let one altered row keep every gateway from starting.
    pub fn check_startup(&self) -> Result<(), AuthError> {
        if self.active_count() == 0 { self.check() } else { Ok(()) }
    }

    /// Whether no key opens, active or not.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn active_count(&self) -> usize {
        self.entries.values().filter(|entry| entry.row.status == KeyStatus::Active).count()
    }
}

impl KeyringEntry {
    fn open(key_id: KeyId, row: &KeyRow, sealer: &Sealer) -> Option<Self> {
        let plain = sealer.open_row(SealedRow::Key(row))?;
        Some(Self {
            identity: Identity::new(key_id, row.name.clone(), row.epoch, &row.grants),
            verifier: SecretVerifier::from_bytes(plain.expose())?,
            verified: ArcSwapOption::empty(),
            row: row.clone(),
        })
    }

    /// Whether the key is active and has not expired.
    pub fn is_usable(&self, unix_s: u64) -> bool {
        self.row.status == KeyStatus::Active && self.expires_at().is_none_or(|end| unix_s < end)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the key ends by itself: at its expiry, or at the end of the grace period after its rotation.
    pub fn expires_at(&self) -> Option<u64> {
        self.row.ends_at()
    }

    pub fn verifier(&self) -> &SecretVerifier {
        &self.verifier
    }

    /// Whether argon2 verified this secret a short time ago.
    pub fn is_recently_verified(&self, tag: &MacTag, now: Instant) -> bool {
        self.verified.load().as_ref().is_some_and(|verified| verified.covers(tag, now))
    }

    /// The verdict for a request. In the last quarter of its lifetime the first caller is told to renew it.
    pub fn cached_verdict(&self, tag: &MacTag, now: Instant) -> CachedVerdict {
        match &*self.verified.load() {
            Some(verified) if verified.covers(tag, now) => {
                let due = now >= verified.renew_from && !verified.renewing.swap(true, Ordering::Relaxed);
                if due { CachedVerdict::RenewalDue } else { CachedVerdict::Valid }
            }
            _ => CachedVerdict::Absent,
        }
    }

    /// Reports that a due renewal could not be started: the next caller is told to renew.
    pub fn postpone_renewal(&self) {
        if let Some(verified) = &*self.verified.load() {
            verified.renewing.store(false, Ordering::Relaxed);
        }
    }

    /// Records that argon2 found this secret right.
    pub fn record_verified(&self, tag: MacTag, now: Instant, verified_for: Duration) {
        self.verified.store(Some(Arc::new(VerifiedSecret {
            tag,
            renew_from: now + verified_for / 4 * 3,
            expires_at: now + verified_for,
            renewing: AtomicBool::new(false),
        })));
    }
}

impl VerifiedSecret {
    fn covers(&self, tag: &MacTag, now: Instant) -> bool {
        self.tag == *tag && now < self.expires_at
    }
}

/// Deletions remembered by one process: a megabyte or two. Past it, only a database that goes back could bring a deleted
/// key back.
const REMOVED_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::config::EncryptionKey;
    use super::super::mac::MacKey;
    use super::super::secret_verifier::tests::sample_bytes;
    use super::*;
    use crate::store::{Grants, Plaintext, Quotas, Rate, Role, Uuid};

    fn sealer(version: u8) -> Sealer {
        Sealer::new(&[EncryptionKey { version, key: Zeroizing::new([version; 32]) }]).unwrap()
    }

    fn row(key_id: &str, epoch: u64) -> KeyRow {
        let row = KeyRow {
            id: Uuid::from_u128(key_id.bytes().fold(0, |id, byte| id << 8 | u128::from(byte))),
            key_id: key_id.into(),
            name: "n".into(),
            description: String::new(),
            grants: Grants::everything(),
            status: KeyStatus::Active,
            sealed_hash: Vec::new(),
            key_version: 1,
            expires_at: None,
            successor: None,
            grace_until: None,
            created_at: 0,
            changed_at: 0,
            epoch,
        };
        sealed_by(1, row)
    }

    fn sealed_by(version: u8, row: KeyRow) -> KeyRow {
        let sealed = sealer(version).seal_row(SealedRow::Key(&row), &Plaintext::new(sample_bytes()));
        KeyRow { sealed_hash: sealed.bytes, key_version: version, ..row }
    }

    /// Builds from rows and compares the reported error.
    #[track_caller]
    fn check(rows: Vec<KeyRow>, sealer: &Sealer, expected: Result<(), &str>) {
        let ring = Keyring::build(Keys { epoch: 1, rows }, sealer, &Keyring::empty());
        match (ring.check().map_err(|error| error.to_string()), expected) {
            (Ok(()), Ok(())) => {}
            (Err(text), Err(expected)) if text.contains(expected) => {}
            (seen, expected) => panic!("{seen:?} is not {expected:?}"),
        }
    }

    #[test]
    fn rows_that_do_not_open_are_counted_and_named() {
        let (a, b) = (row("AAAAAAAAAAAA", 1), row("BBBBBBBBBBBB", 1));
        check(vec![a.clone(), b.clone()], &sealer(1), Ok(()));
        let expected = "2 of 2 active API keys cannot be opened with the given ENCRYPTION_KEY \
                        (AAAAAAAAAAAA sealed by version 1, which is not given, BBBBBBBBBBBB sealed by version 1, ";
        check(vec![a.clone(), b.clone()], &sealer(2), Err(expected));
        let swapped = KeyRow { sealed_hash: b.sealed_hash.clone(), ..a.clone() };
        check(vec![swapped, b.clone()], &sealer(1), Err("1 of 2"));
        let odd = KeyRow { key_id: "odd\n".into(), ..a.clone() };
        check(vec![odd, b.clone()], &sealer(1), Err("(\"odd\\n\" altered)"));
        let inactive = KeyRow { status: KeyStatus::Inactive, ..a };
        check(vec![inactive.clone()], &sealer(2), Ok(()));
        check(vec![inactive, b.clone()], &sealer(2), Err("1 of 1"));
        let plain = sealer(1).seal_row(SealedRow::Key(&b), &Plaintext::new(b"$argon2id$".to_vec())).bytes;
        check(vec![KeyRow { sealed_hash: plain, ..b }], &sealer(1), Err("1 of 1"));
    }

    /// Checks whether a gateway may start with these rows.
    #[track_caller]
    fn check_start(rows: Vec<KeyRow>, sealer: &Sealer, is_good: bool) {
        let ring = Keyring::build(Keys { epoch: 1, rows }, sealer, &Keyring::empty());
        assert_eq!(ring.check_startup().is_ok(), is_good, "{:?}", ring.check_startup());
    }

    #[test]
    fn a_start_does_without_keys_that_do_not_open_and_not_without_any() {
        let (a, b) = (row("AAAAAAAAAAAA", 1), row("BBBBBBBBBBBB", 1));
        let altered = KeyRow { name: "other".into(), ..a.clone() };
        check_start(vec![altered.clone(), b.clone()], &sealer(1), true);
        check_start(vec![altered], &sealer(1), false);
        check_start(vec![sealed_by(2, a.clone()), b], &sealer(1), true);
        check_start(vec![sealed_by(2, a)], &sealer(1), false);
        check_start(vec![], &sealer(1), true);
    }

    type Change = fn(&mut KeyRow);

    /// Changes of every column that decides what a key may do.
    const CHANGES: [Change; 17] = [
        |row| row.id = Uuid::nil(),
        |row| row.key_id = "CCCCCCCCCCCC".into(),
        |row| row.name.push(' '),
        |row| row.grants.role = Role::Admin,
        |row| row.grants.endpoints = Some(vec!["b".into(), "a".into()]),
        |row| row.grants.endpoints = None,
        |row| row.grants.tools = Some(vec!["ab".into()]),
        |row| row.grants.tools = None,
        |row| row.grants.rate = None,
        |row| row.grants.rate = Some(Rate { per_second: 2, burst: 1 }),
        |row| row.grants.concurrency = None,
        |row| row.grants.quotas = Quotas::NONE,
        |row| row.grants.quotas.calls_per_day = Some(2),
        |row| row.expires_at = None,
        |row| row.expires_at = Some(u64::MAX),
        |row| row.grace_until = None,
        |row| row.successor = None,
    ];

    #[test]
    fn a_key_with_anything_altered_that_decides_is_refused_and_told() {
        let whole = KeyRow {
            grants: Grants {
                role: Role::Client,
                endpoints: Some(vec!["a".into(), "b".into()]),
                tools: Some(vec!["a".into(), "b".into()]),
                rate: Some(Rate { per_second: 1, burst: 2 }),
                concurrency: Some(1),
                quotas: Quotas { calls_per_day: Some(1), ..Quotas::NONE },
            },
            expires_at: Some(10),
            successor: Some(Uuid::nil()),
            grace_until: Some(10),
            ..row("AAAAAAAAAAAA", 1)
        };
        let whole = sealed_by(1, whole);
        check(vec![whole.clone()], &sealer(1), Ok(()));
        for (at, change) in CHANGES.iter().enumerate() {
            let mut altered = whole.clone();
            change(&mut altered);
            let known =
                Keyring::build(Keys { epoch: 1, rows: vec![whole.clone()] }, &sealer(1), &Keyring::empty());
            let ring = Keyring::build(Keys { epoch: 2, rows: vec![altered] }, &sealer(1), &known);
            assert!(ring.check().is_err(), "change {at}");
            assert!(ring.entries.values().all(|entry| !entry.is_usable(0)), "change {at}");
        }
        let mut on = KeyRow { status: KeyStatus::Inactive, ..whole };
        on = KeyRow { status: KeyStatus::Active, ..sealed_by(1, on) };
        check(vec![on], &sealer(1), Err("1 of 1"));
    }

    #[test]
    fn a_row_with_one_altered_byte_opens_nothing() {
        let row = row("AAAAAAAAAAAA", 1);
        for at in 0..row.sealed_hash.len() {
            let mut altered = row.clone();
            altered.sealed_hash[at] ^= 1 << (at % 8);
            check(vec![altered], &sealer(1), Err("1 of 1"));
        }
    }

    /// Builds from `before`, then from `after`, and checks which keys are enabled.
    #[track_caller]
    fn check_back(before: &[Vec<KeyRow>], after: Vec<KeyRow>, expected: &[&str]) {
        let sealer = sealer(1);
        let mut ring = Keyring::empty();
        for (epoch, rows) in (10..).zip(before.iter().cloned().chain([after])) {
            ring = Keyring::build(Keys { epoch, rows }, &sealer, &ring);
        }
        let mut on: Vec<_> =
            ring.entries.iter().filter(|(_, e)| e.is_usable(0)).map(|(id, _)| id.as_str()).collect();
        on.sort_unstable();
        assert_eq!(on, expected);
    }

    #[test]
    fn an_older_copy_of_the_database_gives_nothing_back() {
        let (a, b) = (row("AAAAAAAAAAAA", 5), row("BBBBBBBBBBBB", 6));
        let off =
            |row: &KeyRow, epoch| sealed_by(1, KeyRow { status: KeyStatus::Inactive, epoch, ..row.clone() });
        let both = || vec![a.clone(), b.clone()];
        check_back(&[both()], both(), &["AAAAAAAAAAAA", "BBBBBBBBBBBB"]);
        check_back(&[both(), vec![off(&a, 7), b.clone()]], both(), &["BBBBBBBBBBBB"]);
        check_back(&[both(), vec![b.clone()]], both(), &["BBBBBBBBBBBB"]);
        // A revocation counts, however old it is. A key that this process has not seen is accepted.
        check_back(&[both()], vec![off(&a, 4), b.clone()], &["BBBBBBBBBBBB"]);
        check_back(&[vec![b.clone()]], both(), &["AAAAAAAAAAAA", "BBBBBBBBBBBB"]);
        check_back(&[both()], vec![a.clone()], &["AAAAAAAAAAAA"]);
        // The revocation also holds after a forged row was written in between.
        let forged = |epoch| KeyRow { status: KeyStatus::Active, ..off(&a, epoch) };
        let beside_b = |row| vec![row, b.clone()];
        let off_then = |row| [both(), beside_b(off(&a, 7)), beside_b(row)];
        check_back(&off_then(forged(7)), both(), &["BBBBBBBBBBBB"]);
        let on = KeyRow { epoch: 8, ..a.clone() };
        check_back(&off_then(forged(99)), beside_b(on), &["AAAAAAAAAAAA", "BBBBBBBBBBBB"]);
        let unbound = KeyRow { status: KeyStatus::Inactive, epoch: 7, ..a.clone() };
        check_back(&off_then(unbound), both(), &["BBBBBBBBBBBB"]);
        // Enabling the key again works as usual.
        let on = KeyRow { epoch: 8, ..a.clone() };
        check_back(
            &[both(), vec![off(&a, 7), b.clone()]],
            vec![on, b.clone()],
            &["AAAAAAAAAAAA", "BBBBBBBBBBBB"],
        );
    }

    #[test]
    fn a_key_sealed_anew_by_a_version_to_come_stays_known() {
        let (id, a) = (KeyId::parse("AAAAAAAAAAAA").unwrap(), row("AAAAAAAAAAAA", 5));
        let sealed_by = |version: u8, row: &KeyRow| sealed_by(version, row.clone());
        let (old, tag, now) = (sealer(1), MacKey::random().tag(b"right"), Instant::now());
        let first = Keyring::build(Keys { epoch: 1, rows: vec![a.clone()] }, &old, &Keyring::empty());
        first.entry(id).unwrap().record_verified(tag, now, Duration::from_mins(1));
        let next = |row: KeyRow| Keyring::build(Keys { epoch: 2, rows: vec![row] }, &old, &first);
        let anew = next(sealed_by(2, &a));
        assert_eq!(anew.entry(id).map(|entry| entry.cached_verdict(&tag, now)), Some(CachedVerdict::Valid));
        assert!(anew.check().is_ok());
        // With any other change the row could be anything, and so could a row that a known version does not
        // open.
        let admits = |row| next(row).entry(id).is_some_and(|entry| entry.is_usable(0));
        assert!(admits(sealed_by(2, &a)));
        assert!(!admits(KeyRow { name: "other".into(), ..sealed_by(2, &a) }));
        assert!(!admits(KeyRow { epoch: 6, ..sealed_by(2, &a) }));
        assert!(!admits(KeyRow { key_version: 1, ..sealed_by(2, &a) }));
    }

    #[test]
    fn what_was_proven_lasts_until_the_row_changes() {
        let (sealer, now, minute) = (sealer(1), Instant::now(), Duration::from_mins(1));
        let (tag, other) = (MacKey::random().tag(b"right"), MacKey::random().tag(b"wrong"));
        let id = KeyId::parse("AAAAAAAAAAAA").unwrap();
        let a = row("AAAAAAAAAAAA", 1);
        let first = Keyring::build(Keys { epoch: 1, rows: vec![a.clone()] }, &sealer, &Keyring::empty());
        assert_eq!(first.entry(id).unwrap().cached_verdict(&tag, now), CachedVerdict::Absent);
        first.entry(id).unwrap().record_verified(tag, now, minute);

        let same = Keyring::build(Keys { epoch: 2, rows: vec![a.clone()] }, &sealer, &first);
        let entry = same.entry(id).unwrap();
        assert_eq!(entry.cached_verdict(&tag, now), CachedVerdict::Valid);
        assert_eq!(entry.cached_verdict(&other, now), CachedVerdict::Absent);
        assert_eq!(entry.cached_verdict(&tag, now + minute * 3 / 4), CachedVerdict::RenewalDue);
        assert_eq!(
            entry.cached_verdict(&tag, now + minute * 3 / 4),
            CachedVerdict::Valid,
            "one renews, the others go on"
        );
        assert_eq!(entry.cached_verdict(&tag, now + minute), CachedVerdict::Absent);

        let changed = KeyRow { epoch: 3, ..a };
        let moved = Keyring::build(Keys { epoch: 3, rows: vec![changed] }, &sealer, &same);
        assert_eq!(moved.entry(id).unwrap().cached_verdict(&tag, now), CachedVerdict::Absent);
    }
}
