//! A cache of recently rejected credentials, so that repeating one costs nothing.
//!
//! A fixed table of atomics: no lock, no allocation. A flood of bad credentials can only overwrite its own entries.
//! A slot holds half of a tag and the second at which the entry expires. Together with the slot's index that is 44
//! bits of the tag: a good credential is mistaken for a rejected one once in 17 million million.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::mac::MacTag;

pub struct RejectionCache {
    slots: Box<[AtomicU64]>,
    created_at: Instant,
    ttl: Duration,
}

impl RejectionCache {
    pub fn new(ttl: Duration) -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { slots, created_at: Instant::now(), ttl }
    }

    pub fn insert(&self, tag: &MacTag, now: Instant) {
        let expires_at = self.second(now + self.ttl).saturating_add(1);
        let (slot, tag_bits) = self.slot(tag);
        slot.store(tag_bits | u64::from(expires_at), Ordering::Relaxed);
    }

    pub fn contains(&self, tag: &MacTag, now: Instant) -> bool {
        let (slot, tag_bits) = self.slot(tag);
        let entry = slot.load(Ordering::Relaxed);
        entry & TAG_BITS == tag_bits && entry & !TAG_BITS > u64::from(self.second(now))
    }

    fn slot(&self, tag: &MacTag) -> (&AtomicU64, u64) {
        let prefix = tag.prefix();
        let index = usize::try_from(prefix % SLOTS as u64).expect("smaller than the table");
        (&self.slots[index], prefix & TAG_BITS)
    }

    /// Seconds since the table was created. Overflows after 136 years.
    fn second(&self, at: Instant) -> u32 {
        u32::try_from(at.saturating_duration_since(self.created_at).as_secs()).unwrap_or(u32::MAX)
    }
}

/// 32 KiB. When more credentials are rejected within the TTL, some of them are verified again.
const SLOTS: usize = 4096;

/// The upper half of an entry is tag bits, the lower half the second at which it expires.
const TAG_BITS: u64 = 0xffff_ffff_0000_0000;

#[cfg(test)]
mod tests {
    use super::super::mac::MacKey;
    use super::*;

    #[test]
    fn a_rejected_credential_is_held_until_its_ttl_is_over() {
        let (key, cache, now) =
            (MacKey::random(), RejectionCache::new(Duration::from_secs(10)), Instant::now());
        let tag = key.tag(b"wrong");
        assert!(!cache.contains(&tag, now));
        cache.insert(&tag, now);
        assert!(cache.contains(&tag, now));
        assert!(cache.contains(&tag, now + Duration::from_secs(9)));
        assert!(!cache.contains(&tag, now + Duration::from_secs(12)));
        assert!(!(0..10_000u32).any(|other| cache.contains(&key.tag(&other.to_le_bytes()), now)));
    }
}
