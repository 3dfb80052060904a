//! Remembers credentials that were refused, so that repeating one costs nothing.
//!
//! A fixed table of atomics: no lock, no allocation, and a flood can do no more than overwrite what it put there
//! itself. A slot holds half of a tag and the second at which it is forgotten. With the slot's own number that is
//! 44 bits: a credential in good standing would be taken for a refused one once in 17 million million.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::tag::Tag;

pub struct Refusals {
    slots: Box<[AtomicU64]>,
    born: Instant,
    remembered_for: Duration,
}

impl Refusals {
    pub fn new(remembered_for: Duration) -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { slots, born: Instant::now(), remembered_for }
    }

    pub fn remember(&self, tag: &Tag, now: Instant) {
        let until = self.second(now + self.remembered_for).saturating_add(1);
        let (slot, mark) = self.place(tag);
        slot.store(mark | u64::from(until), Ordering::Relaxed);
    }

    pub fn hold(&self, tag: &Tag, now: Instant) -> bool {
        let (slot, mark) = self.place(tag);
        let held = slot.load(Ordering::Relaxed);
        held & MARK_BITS == mark && held & !MARK_BITS > u64::from(self.second(now))
    }

    fn place(&self, tag: &Tag) -> (&AtomicU64, u64) {
        let prefix = tag.prefix();
        let index = usize::try_from(prefix % SLOTS as u64).expect("smaller than the table");
        (&self.slots[index], prefix & MARK_BITS)
    }

    /// Since the table was made; it lasts 136 years.
    fn second(&self, at: Instant) -> u32 {
        u32::try_from(at.saturating_duration_since(self.born).as_secs()).unwrap_or(u32::MAX)
    }
}

/// 32 KiB. More different ones within the time remembered only means that some are verified again.
const SLOTS: usize = 4096;

/// The upper half is compared, the lower half is the time.
const MARK_BITS: u64 = 0xffff_ffff_0000_0000;

#[cfg(test)]
mod tests {
    use super::super::tag::Tagger;
    use super::*;

    #[test]
    fn what_was_refused_is_held_for_its_time_and_nothing_else_is() {
        let (tagger, refusals, now) = (Tagger::new(), Refusals::new(Duration::from_secs(10)), Instant::now());
        let tag = tagger.tag(b"wrong");
        assert!(!refusals.hold(&tag, now));
        refusals.remember(&tag, now);
        assert!(refusals.hold(&tag, now));
        assert!(refusals.hold(&tag, now + Duration::from_secs(9)));
        assert!(!refusals.hold(&tag, now + Duration::from_secs(12)));
        assert!(!(0..10_000u32).any(|other| refusals.hold(&tagger.tag(&other.to_le_bytes()), now)));
    }
}
