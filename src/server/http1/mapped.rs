//! Large bodies of requests, in anonymous memory maps: a few of them do not swell the heap for good.
//!
//! A map costs more than what is put into it: the kernel clears and maps each page when it is first touched. So each worker
//! keeps the last one for the next body, until a second has passed in which none came.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use memmap2::MmapMut;

/// A map that is bigger is not kept: four times the usual bound on a body, in each worker.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Sizes of maps are multiples of it, so that the next body fits that is a little longer. What is not touched costs nothing.
const STEP_BYTES: usize = 1 << 20;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { map: None, is_fresh: false, is_worker: false }) };
}

struct Spare {
    map: Option<MmapMut>,
    /// Whether it came since the last sweep.
    is_fresh: bool,
    /// Whether somebody looks after it on this thread: on others nothing is kept.
    is_worker: bool,
}

/// A body as it is filled.
pub struct Mapped {
    /// Always there, until it is given back.
    map: Option<MmapMut>,
    room: usize,
    filled: usize,
}

impl Mapped {
    /// With room for so many bytes.
    pub fn with_room(bytes: usize) -> io::Result<Self> {
        let spare = SPARE.with_borrow_mut(|spare| spare.map.take_if(|map| map.len() >= bytes));
        let map = match spare {
            Some(map) => map,
            None => MmapMut::map_anon(bytes.checked_next_multiple_of(STEP_BYTES).unwrap_or(bytes))?,
        };
        Ok(Self { map: Some(map), room: bytes, filled: 0 })
    }

    /// Puts these behind what is there; says whether there was room for them.
    #[must_use]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let end = self.filled.saturating_add(bytes.len());
        let Some(room) = self.map.as_mut().filter(|_| end <= self.room) else { return false };
        room[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
        true
    }

    /// What was put there, which is all that anybody sees: behind it may be what was in an earlier body.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..self.filled])
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let map = self.map.take().filter(|map| map.len() <= KEPT_BYTES_MAX);
        // Where the thread ends, nobody is left to keep it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            let kept_bytes = spare.map.as_ref().map_or(0, |map| map.len());
            if let Some(map) = map.filter(|map| spare.is_worker && map.len() > kept_bytes) {
                (spare.map, spare.is_fresh) = (Some(map), true);
            }
        });
    }
}

/// Gives a map back that was kept through a whole turn. Called every second by each worker; who does not call it keeps none.
pub fn sweep() {
    SPARE.with_borrow_mut(|spare| {
        spare.is_worker = true;
        if !std::mem::take(&mut spare.is_fresh) {
            spare.map = None;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_bytes() -> usize {
        SPARE.with_borrow(|spare| spare.map.as_ref().map_or(0, |map| map.len()))
    }

    fn body(bytes: usize, with: u8) -> Bytes {
        let mut mapped = Mapped::with_room(bytes).expect("there is memory");
        assert!(mapped.put(&vec![with; bytes]));
        assert!(!mapped.put(b"x"), "there is no room for more than was said");
        mapped.freeze()
    }

    #[test]
    fn holds_what_was_put_there() {
        for bytes in [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1] {
            assert!(body(bytes, b'a') == vec![b'a'; bytes], "{bytes}");
        }
        let mut begun = Mapped::with_room(8).expect("there is memory");
        assert!(begun.put(b"ab") && begun.put(b"cd") && !begun.put(b"efghi"));
        assert_eq!(begun.freeze(), "abcd");
    }

    #[test]
    fn nothing_of_an_earlier_body_is_seen() {
        sweep();
        drop(body(STEP_BYTES, b'a'));
        assert_eq!(kept_bytes(), STEP_BYTES);
        let mut second = Mapped::with_room(8).expect("there is memory");
        assert_eq!(kept_bytes(), 0, "it was taken");
        assert!(second.put(b"b"));
        assert_eq!(second.freeze(), "b");
    }

    #[test]
    fn keeps_one_for_a_while() {
        drop(body(1, b'a'));
        assert_eq!(kept_bytes(), 0, "nobody would give it back");
        sweep();
        let (small, large) = (body(1, b'a'), body(STEP_BYTES + 1, b'a'));
        drop((small, large));
        assert_eq!(kept_bytes(), 2 * STEP_BYTES, "the larger one");
        sweep();
        assert_eq!(kept_bytes(), 2 * STEP_BYTES);
        sweep();
        assert_eq!(kept_bytes(), 0);
        drop(body(KEPT_BYTES_MAX + 1, b'a'));
        assert_eq!(kept_bytes(), 0, "too large");
    }
}
