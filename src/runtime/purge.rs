//! Memory that is free after a peak goes back to the system.
//!
//! The allocator (mimalloc, version 2) gives back what has been free for a moment, but only where it comes by, each thread for
//! itself: one that has become idle comes by nowhere. Short of memory it looks through all that it has, so it is asked for what
//! cannot be had. Another allocator would do nothing by it.

use std::cell::Cell;
use std::hint::black_box;

/// How much of what takes memory there is, each of its own kind.
pub type Load = [usize; 3];

/// Whether there is less than there was.
#[derive(Default)]
pub struct Purge {
    peak: Cell<Load>,
    /// Looks that are still to be had.
    due: Cell<u8>,
}

/// So many fewer of one kind are worth a look: some hundred KiB.
const FEWER_MIN: usize = 64;

/// What was freed in one look can be given back in the next, and what other threads free meanwhile: the servers of thousands
/// of sessions are told first that these are over. A look takes 0.14 ms beside 20 MiB in use, and 1 ms for each MiB that it
/// gives back.
const LOOKS: u8 = 60;

impl Purge {
    /// To be told once a second or so.
    pub fn note(&self, load: Load) {
        let peak = self.peak.get();
        let is_fewer = peak.iter().zip(load).any(|(peak, now)| peak.saturating_sub(now) >= FEWER_MIN);
        if is_fewer {
            self.due.set(LOOKS);
        }
        let highest = |at: usize| if is_fewer { load[at] } else { peak[at].max(load[at]) };
        self.peak.set([highest(0), highest(1), highest(2)]);
        if let Some(left) = self.due.get().checked_sub(1) {
            self.due.set(left);
            give_back();
        }
    }
}

/// More than an address space has (256 TiB at most, less what is in it), and less than the allocator refuses unseen.
const TOO_MUCH: usize = (1 << 48) - (1 << 32);

fn give_back() {
    let mut nothing = Vec::<u8>::new();
    // That it cannot be had is what is wanted.
    let _ = nothing.try_reserve_exact(TOO_MUCH);
    black_box(nothing);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads one after the other, and how many looks are still to be had behind each.
    #[track_caller]
    fn check(rows: &[(Load, u8)]) {
        let purge = Purge::default();
        for (number, (load, expected)) in rows.iter().enumerate() {
            purge.note(*load);
            assert_eq!(purge.due.get(), *expected, "{number}: {load:?}");
        }
    }

    #[test]
    fn looks_when_there_is_less() {
        check(&[
            ([0; 3], 0),
            ([100, 0, 0], 0),
            ([37, 0, 0], 0),
            ([36, 0, 0], LOOKS - 1),
            ([36, 0, 0], LOOKS - 2),
            ([36; 3], LOOKS - 3),
        ]);
        let (first, second) = (LOOKS - 1, LOOKS - 2);
        check(&[([0, 64, 0], 0), ([64, 0, 0], first), ([0, 64, 0], first), ([0, 64, 0], second)]);
        check(&[
            ([0, 0, 1000], 0),
            ([0, 0, 900], first),
            ([0, 0, 800], first),
            ([0, 0, 790], second),
            ([0; 3], first),
        ]);
        let mut rows = vec![([0; 3], 0), ([64; 3], 0)];
        rows.extend((0..=LOOKS).rev().skip(1).map(|left| ([0; 3], left)));
        check(&rows);
    }
}
