//! The account of the memory that message bytes take in this process, with one bound.
//!
//! Whatever holds the bytes of a message that somebody else makes large holds a [`MemoryCharge`] for them too: request
//! bodies, responses that are held whole, queues. A charge is returned when it is dropped, so no error path needs code for
//! it. [`MemoryCharge::attach`] puts it into the bytes themselves.
//!
//! Charges are counted in steps of [`STEP_BYTES`], rounded down: a small message, which fits a connection's buffer, charges
//! nothing and touches no shared counter. What is not counted is bounded by the number of connections and calls.
//!
//! Bytes that may be dropped when others need the memory belong to a [`ReclaimMemory`]. It is asked only when a charge would
//! be refused.
//!
//! Invariant: the charged bytes are at most the bound, and the sum of all live charges.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

use bytes::{Bytes, BytesMut};

/// The account of this process. Without a bound until [`MemoryAccount::set_bytes_max`].
pub static MEMORY: MemoryAccount = MemoryAccount::new();

/// Charged bytes are counted in multiples of this. Fewer bytes charge nothing.
pub const STEP_BYTES: usize = 16 << 10;

/// A larger charge is refused above the soft limit already, so that the rest of the memory is for small ones.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// The largest small charge of a small bound is this part of it.
const SMALL_PART: usize = 64;

/// The soft limit is the bound without this part.
const RESERVED_PART: usize = 8;

/// Bytes held for messages, with a bound.
///
/// Above the soft limit, which is 7/8 of the bound, no new work is to be begun ([`Self::is_short`]) and every charge of
/// more than 256 KiB (or 1/64 of the bound) is refused. At the bound every charge is refused. So large messages fail
/// first, and cannot displace small ones.
pub struct MemoryAccount {
    charged: SharedCounter,
    bytes_max: AtomicUsize,
    refusals: AtomicU64,
    /// Locked to clone the reference, and only when memory is short.
    reclaimer: Mutex<Option<Weak<dyn ReclaimMemory>>>,
}

/// Holds charged bytes that it can do without.
pub trait ReclaimMemory: Send + Sync {
    /// Returns charges until [`MemoryAccount::missing_bytes`] is 0, or there is nothing left to drop.
    ///
    /// Whoever asks for memory calls it, also while holding a lock of its own: it takes no lock under which memory is asked
    /// for, and charges with [`MemoryCharge::resize_own`] only.
    fn reclaim(&self, shortage: MemoryShortage);
}

/// What a refused charge needs: so many more bytes, below that many in all.
#[derive(Debug, Clone, Copy)]
pub struct MemoryShortage {
    more: usize,
    limit: usize,
}

/// A counter on cache lines of its own: all threads write it.
#[repr(align(128))]
struct SharedCounter(AtomicUsize);

/// Bytes charged to an account, until it is dropped.
pub struct MemoryCharge {
    account: &'static MemoryAccount,
    /// A multiple of [`STEP_BYTES`].
    charged: usize,
}

/// There is no memory for more bytes. The text is sent to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway holds as many bytes of messages as limits.memory_max allows; try again later")]
pub struct OutOfMemory;

impl MemoryAccount {
    /// Creates an account without a bound.
    pub const fn new() -> Self {
        Self {
            charged: SharedCounter(AtomicUsize::new(0)),
            bytes_max: AtomicUsize::new(usize::MAX),
            refusals: AtomicU64::new(0),
            reclaimer: Mutex::new(None),
        }
    }

    /// Sets the bound. Charges that are above it already stay.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Sets who is asked to return charges when there is no memory for others.
    pub fn set_reclaimer(&self, reclaimer: Weak<dyn ReclaimMemory>) {
        *self.reclaimer.lock().unwrap_or_else(PoisonError::into_inner) = Some(reclaimer);
    }

    /// The bound in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// The bytes of all charges, in steps of 16 KiB.
    pub fn charged_bytes(&self) -> usize {
        self.charged.0.load(Ordering::Relaxed)
    }

    /// How many charges, and how much new work, were refused.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// How many bytes must be returned before the charge fits.
    pub fn missing_bytes(&self, shortage: MemoryShortage) -> usize {
        self.charged_bytes().saturating_add(shortage.more).saturating_sub(shortage.limit)
    }

    /// Refuses new work above the soft limit.
    ///
    /// # Errors
    /// [`OutOfMemory`], which is counted as a refusal.
    pub fn check_new_work(&self) -> Result<(), OutOfMemory> {
        if self.is_short() { self.reclaim_for_new_work() } else { Ok(()) }
    }

    /// Whether the charged bytes have reached the soft limit.
    pub fn is_short(&self) -> bool {
        self.charged_bytes() >= soft_limit(self.bytes_max())
    }

    /// The charged bytes up to which a charge of `bytes` in all may grow.
    fn limit(&self, bytes: usize) -> usize {
        let bytes_max = self.bytes_max();
        let is_small = bytes <= SMALL_BYTES_MAX.min(bytes_max / SMALL_PART);
        if is_small { bytes_max } else { soft_limit(bytes_max).min(bytes_max) }
    }

    /// Creates a charge of nothing.
    pub const fn charge(&'static self) -> MemoryCharge {
        MemoryCharge { account: self, charged: 0 }
    }

    #[cold]
    fn reclaim_for_new_work(&self) -> Result<(), OutOfMemory> {
        // New work begins below the soft limit, not at it.
        self.reclaim(MemoryShortage { more: 1, limit: soft_limit(self.bytes_max()) });
        if self.is_short() { Err(self.refuse()) } else { Ok(()) }
    }

    /// Asks the reclaimer for memory. What it returns may be taken by others before the caller asks again.
    #[cold]
    fn reclaim(&self, shortage: MemoryShortage) {
        // A charge that never fits displaces nothing.
        if shortage.more > shortage.limit {
            return;
        }
        let reclaimer = self.reclaimer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reclaimer) = reclaimer.and_then(|reclaimer| reclaimer.upgrade()) {
            reclaimer.reclaim(shortage);
        }
    }

    #[cold]
    fn refuse(&self) -> OutOfMemory {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        OutOfMemory
    }
}

impl Default for MemoryAccount {
    fn default() -> Self {
        Self::new()
    }
}

/// At least one step, so that an unused account is never short of memory.
fn soft_limit(bytes_max: usize) -> usize {
    (bytes_max - bytes_max / RESERVED_PART).max(STEP_BYTES)
}

impl MemoryCharge {
    /// A charge of nothing to the account of this process.
    pub const fn new() -> Self {
        MEMORY.charge()
    }

    /// Charges for `bytes` in all, no longer for what was charged before.
    ///
    /// # Errors
    /// [`OutOfMemory`] if that needs more than there is, which is counted as a refusal. The charge is as it was.
    pub fn resize(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        self.retry(bytes).map_err(|_| self.account.refuse())
    }

    /// As [`Self::resize`], for bytes that were refused before: one refusal is counted, however often whoever waits for
    /// the memory asks for it.
    ///
    /// # Errors
    /// [`OutOfMemory`], which is not counted. The charge is as it was.
    pub fn retry(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        let Err(shortage) = self.resize_own(bytes) else { return Ok(()) };
        self.account.reclaim(shortage);
        self.resize_own(bytes).map_err(|_| OutOfMemory)
    }

    /// As [`Self::retry`], for the charge of a [`ReclaimMemory`]: does not call it.
    ///
    /// # Errors
    /// What is missing, which is not counted as a refusal. The charge is as it was.
    pub fn resize_own(&mut self, bytes: usize) -> Result<(), MemoryShortage> {
        let wanted = bytes - bytes % STEP_BYTES;
        if wanted <= self.charged {
            self.shrink(wanted);
            return Ok(());
        }
        let (more, limit) = (wanted - self.charged, self.account.limit(wanted));
        let add = |charged: usize| charged.checked_add(more).filter(|sum| *sum <= limit);
        match self.account.charged.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => {
                self.charged = wanted;
                Ok(())
            }
            Err(_) => Err(MemoryShortage { more, limit }),
        }
    }

    /// Whether [`Self::resize`] would succeed now. For bytes that are announced and may never arrive: nothing is
    /// charged for them.
    ///
    /// # Errors
    /// [`OutOfMemory`], which is counted as a refusal.
    pub fn check(&self, bytes: usize) -> Result<(), OutOfMemory> {
        let wanted = bytes - bytes % STEP_BYTES;
        let more = wanted.saturating_sub(self.charged);
        let shortage = MemoryShortage { more, limit: self.account.limit(wanted) };
        if more == 0 || self.account.missing_bytes(shortage) == 0 {
            return Ok(());
        }
        self.account.reclaim(shortage);
        if self.account.missing_bytes(shortage) == 0 { Ok(()) } else { Err(self.account.refuse()) }
    }

    /// Returns bytes that hold the charge: it is returned with the last of their slices.
    pub fn attach(self, bytes: Bytes) -> Bytes {
        if self.charged == 0 { bytes } else { Bytes::from_owner(ChargedBytes { bytes, _charge: self }) }
    }

    fn shrink(&mut self, wanted: usize) {
        let less = self.charged - wanted;
        if less > 0 {
            self.charged = wanted;
            self.account.charged.0.fetch_sub(less, Ordering::Relaxed);
        }
    }
}

impl Default for MemoryCharge {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryCharge").field(&self.charged).finish()
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Charges for bytes that are held whole.
///
/// # Errors
/// [`OutOfMemory`]; the bytes are dropped.
pub fn charge_bytes(bytes: Bytes) -> Result<Bytes, OutOfMemory> {
    let mut charge = MemoryCharge::new();
    charge.resize(bytes.len())?;
    Ok(charge.attach(bytes))
}

struct ChargedBytes {
    bytes: Bytes,
    _charge: MemoryCharge,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A buffer that collects the parts of a message, and is charged for.
///
/// It doubles when it is full, and all of its capacity counts.
#[derive(Debug, Default)]
pub struct ChargedBuffer {
    bytes: BytesMut,
    charge: MemoryCharge,
}

impl ChargedBuffer {
    /// An empty buffer with a charge of nothing.
    pub fn with_charge(charge: MemoryCharge) -> Self {
        Self { bytes: BytesMut::new(), charge }
    }

    /// A buffer that begins with these bytes.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn begin(first: Bytes) -> Result<Self, OutOfMemory> {
        let mut charge = MemoryCharge::new();
        charge.resize(first.len())?;
        Ok(Self { bytes: BytesMut::from(first), charge })
    }

    /// An empty buffer of the same account.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self::with_charge(self.charge.account.charge())
    }

    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Charges for the buffer and `more` bytes, which are appended next.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the charge is as it was.
    pub fn charge_for(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.charge.resize(self.bytes_with(more))
    }

    /// As [`Self::charge_for`], after a refusal, which is not counted again.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the charge is as it was.
    pub fn retry_charge_for(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.charge.retry(self.bytes_with(more))
    }

    /// Returns the charge of an empty buffer. Its capacity counts again with the next bytes.
    pub fn release_charge(&mut self) {
        debug_assert!(self.bytes.is_empty());
        self.charge.shrink(0);
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing is appended.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        self.charge_for(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The bytes, to be changed in place. What is appended was charged for with [`Self::charge_for`].
    pub fn bytes_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Removes all bytes, and keeps the buffer for the next ones.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes the bytes with their charge, and the buffer with them.
    pub fn take(&mut self) -> Bytes {
        let empty = self.sibling();
        std::mem::replace(self, empty).freeze()
    }

    /// The bytes, with their charge.
    pub fn freeze(self) -> Bytes {
        self.charge.attach(self.bytes.freeze())
    }

    fn bytes_with(&self, more: usize) -> usize {
        self.bytes.capacity().max(self.bytes.len() + more)
    }
}

impl Deref for ChargedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn account(bytes_max: usize) -> &'static MemoryAccount {
        let account = Box::leak(Box::new(MemoryAccount::new()));
        account.set_bytes_max(bytes_max);
        account
    }

    const MIB: usize = 1 << 20;

    /// Charges one after the other, each held. Returns the charged bytes after each, `None` for a refusal.
    #[track_caller]
    fn check(bytes_max: usize, charges: &[(usize, Option<usize>)]) {
        let account = account(bytes_max);
        let mut held = Vec::new();
        let mut refused = 0;
        for (number, (bytes, expected)) in charges.iter().enumerate() {
            let mut charge = account.charge();
            let outcome = charge.resize(*bytes).map(|()| account.charged_bytes());
            assert_eq!(outcome.ok(), *expected, "{number}: {bytes}");
            refused += u64::from(outcome.is_err());
            held.push(charge);
        }
        assert_eq!(account.refusals(), refused);
        drop(held);
        assert_eq!((account.charged_bytes(), account.is_short()), (0, false));
    }

    #[test]
    fn small_messages_charge_nothing() {
        check(MIB, &[(0, Some(0)), (STEP_BYTES - 1, Some(0)), (STEP_BYTES, Some(STEP_BYTES))]);
        check(0, &[(STEP_BYTES - 1, Some(0)), (STEP_BYTES, None)]);
        check(usize::MAX, &[(usize::MAX / 2, Some(usize::MAX / 2 / STEP_BYTES * STEP_BYTES))]);
    }

    #[test]
    fn large_charges_are_refused_first() {
        let small = 256 << 10;
        check(16 * MIB, &[(14 * MIB, Some(14 * MIB)), (MIB, None), (small, Some(14 * MIB + small))]);
        // The soft limit is 56 MiB.
        let mut rows = vec![(50 * MIB, Some(50 * MIB)), (6 * MIB, Some(56 * MIB)), (MIB, None)];
        rows.extend((1..=32).map(|count| (small, Some(56 * MIB + count * small))));
        rows.extend([(small, None), (STEP_BYTES, None), (0, Some(64 * MIB))]);
        check(64 * MIB, &rows);
        check(64 * MIB, &[(57 * MIB, None), (56 * MIB, Some(56 * MIB))]);
    }

    #[test]
    fn new_work_is_refused_above_the_soft_limit() {
        let account = account(64 * MIB);
        let mut charge = account.charge();
        for (bytes, is_short) in [(55 * MIB, false), (56 * MIB, true), (MIB, false)] {
            charge.resize(bytes).expect("within the limit");
            assert_eq!(
                (account.is_short(), account.check_new_work().is_err()),
                (is_short, is_short),
                "{bytes}"
            );
        }
        assert_eq!(account.refusals(), 1);
    }

    #[test]
    fn a_charge_that_is_refused_stays_as_it_was() {
        let account = account(16 * MIB);
        let mut charge = account.charge();
        for (bytes, charged) in
            [(MIB, MIB), (20 * MIB, MIB), (8 * MIB, 8 * MIB), (MIB + 1, MIB), (0, 0), (2 * MIB, 2 * MIB)]
        {
            let outcome = charge.resize(bytes);
            assert_eq!((outcome.is_ok(), account.charged_bytes()), (bytes < 16 * MIB, charged), "{bytes}");
        }
        drop(charge);
        assert_eq!(account.charged_bytes(), 0);
    }

    #[test]
    fn bytes_that_wait_for_memory_are_refused_once() {
        let account = account(16 * MIB);
        let (mut held, mut waiting) = (account.charge(), account.charge());
        held.resize(14 * MIB).expect("within the limit");
        assert_eq!(waiting.resize(MIB), Err(OutOfMemory));
        for _ in 0..100 {
            assert_eq!(waiting.retry(MIB), Err(OutOfMemory));
        }
        assert_eq!((account.refusals(), account.charged_bytes()), (1, 14 * MIB));
        drop(held);
        assert_eq!((waiting.retry(MIB), account.charged_bytes(), account.refusals()), (Ok(()), MIB, 1));
    }

    #[test]
    fn announced_bytes_are_checked_and_not_charged() {
        let account = account(16 * MIB);
        let mut charge = account.charge();
        charge.resize(10 * MIB).expect("within the limit");
        for (bytes, is_refused) in [(0, false), (10 * MIB, false), (14 * MIB, false), (15 * MIB, true)] {
            let refusals = account.refusals();
            assert_eq!(charge.check(bytes).is_err(), is_refused, "{bytes}");
            assert_eq!(account.refusals() - refusals, u64::from(is_refused), "{bytes}");
        }
        assert_eq!(account.charge().check(5 * MIB), Err(OutOfMemory));
        assert_eq!(account.charged_bytes(), 10 * MIB);
    }

    /// Drops charges of 1 MiB, the last one first.
    struct Droppable(&'static MemoryAccount, Mutex<Vec<MemoryCharge>>);

    impl ReclaimMemory for Droppable {
        fn reclaim(&self, shortage: MemoryShortage) {
            let mut held = self.1.lock().expect("no panic");
            while self.0.missing_bytes(shortage) > 0 && held.pop().is_some() {}
        }
    }

    #[test]
    fn what_others_can_do_without_gives_way_to_what_is_needed() {
        // The soft limit is 14 MiB.
        let account = account(16 * MIB);
        let droppable = Arc::new(Droppable(account, Mutex::default()));
        let reclaimer = Arc::downgrade(&droppable);
        account.set_reclaimer(reclaimer);
        let held = || droppable.1.lock().expect("no panic").len();
        let fill = || {
            let mut charges = Vec::new();
            while account.charged_bytes() < 14 * MIB {
                let mut charge = account.charge();
                charge.resize_own(MIB).expect("within the limit");
                charges.push(charge);
            }
            droppable.1.lock().expect("no panic").extend(charges);
        };
        fill();
        assert_eq!((account.check_new_work(), held()), (Ok(()), 13));
        fill();
        let mut charge = account.charge();
        assert_eq!((charge.check(4 * MIB), held()), (Ok(()), 10));
        assert_eq!((charge.resize(5 * MIB), held()), (Ok(()), 9));
        assert_eq!((charge.retry(6 * MIB), held()), (Ok(()), 8));
        // What never fits displaces nothing; its own charges do not call it.
        assert_eq!((charge.resize(30 * MIB), held()), (Err(OutOfMemory), 8));
        assert_eq!((charge.resize_own(7 * MIB).is_err(), held()), (true, 8));
        assert_eq!((charge.resize(14 * MIB), held()), (Ok(()), 0));
        assert_eq!((account.check_new_work(), account.refusals()), (Err(OutOfMemory), 2));
        drop((charge, droppable));
        assert_eq!((account.check_new_work(), account.charged_bytes()), (Ok(()), 0));
    }

    #[test]
    fn bytes_return_their_charge_with_the_last_slice() {
        let account = account(MIB);
        let mut charge = account.charge();
        charge.resize(10 * STEP_BYTES).expect("there is memory");
        let bytes = charge.attach(Bytes::from(vec![b'x'; 10 * STEP_BYTES]));
        let slice = bytes.slice(5..6);
        drop(bytes);
        assert_eq!((&slice[..], account.charged_bytes()), (&b"x"[..], 10 * STEP_BYTES));
        drop(slice);
        assert_eq!(account.charged_bytes(), 0);
    }

    #[test]
    fn a_buffer_is_charged_for_until_its_bytes_are_dropped() {
        let account = account(MIB);
        let mut buffer = ChargedBuffer::with_charge(account.charge());
        let part = vec![b'x'; 3 * STEP_BYTES];
        let mut parts = 0;
        while buffer.extend(&part).is_ok() {
            parts += 1;
            assert!(account.charged_bytes() >= parts * part.len(), "{parts}");
        }
        assert_eq!((buffer.len(), account.refusals()), (parts * part.len(), 1));
        assert!(parts > 4 && account.charged_bytes() <= MIB, "{parts}");
        let bytes = buffer.freeze();
        assert!(account.charged_bytes() >= bytes.len());
        drop(bytes);
        assert_eq!(account.charged_bytes(), 0);
        // Dropped before it is complete.
        let mut buffer = ChargedBuffer::with_charge(account.charge());
        buffer.extend(&part).expect("there is memory");
        drop(buffer);
        assert_eq!(account.charged_bytes(), 0);
    }

    #[test]
    fn threads_never_exceed_the_bound_and_leave_nothing() {
        const THREADS: usize = 8;
        let account = account(MIB);
        thread::scope(|scope| {
            for seed in 0..THREADS {
                scope.spawn(move || {
                    let mut held: Vec<_> = (0..16).map(|_| account.charge()).collect();
                    let mut random = seed.wrapping_mul(0x9E37_79B9) | 1;
                    for _ in 0..20_000 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let (slot, bytes) = ((random >> 33) % 16, (random >> 40) % (MIB / 4));
                        // Refused or not, what counts is what is charged in the end.
                        let _ = held[slot].resize(bytes);
                        assert!(account.charged_bytes() <= MIB);
                    }
                });
            }
        });
        assert_eq!(account.charged_bytes(), 0);
        assert!(account.refusals() > 0, "the bound was reached");
    }
}
