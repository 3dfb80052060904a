//! Large request bodies in anonymous memory maps, so that a few of them do not grow the heap permanently.
//!
//! Creating a map costs more than filling it: the kernel clears and maps each page on the first access. Each
//! worker therefore keeps the last map for the next body, until a second passes in which none arrives.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use memmap2::MmapMut;

/// Larger maps are not kept. Four times the default bound of a body, per worker.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Map sizes are rounded up to this, so that a slightly longer body still fits. Untouched pages cost nothing.
const STEP_BYTES: usize = 1 << 20;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { map: None, is_fresh: false, is_worker: false }) };
}

struct Spare {
    map: Option<MmapMut>,
    /// Whether the map was kept since the last sweep.
    is_fresh: bool,
    /// Whether this thread calls [`sweep`]. Other threads keep no map.
    is_worker: bool,
}

/// A body that is being filled.
pub struct MappedBuffer {
    /// `Some` until it is dropped.
    map: Option<MmapMut>,
    room: usize,
    filled: usize,
}

impl MappedBuffer {
    /// Provides `bytes` bytes of capacity.
    pub fn with_room(bytes: usize) -> io::Result<Self> {
        let spare = SPARE.with_borrow_mut(|spare| spare.map.take_if(|map| map.len() >= bytes));
        let map = match spare {
            Some(map) => map,
            None => MmapMut::map_anon(bytes.checked_next_multiple_of(STEP_BYTES).unwrap_or(bytes))?,
        };
        Ok(Self { map: Some(map), room: bytes, filled: 0 })
    }

    /// Appends bytes. Returns false if they exceed the capacity.
    #[must_use]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let end = self.filled.saturating_add(bytes.len());
        let Some(room) = self.map.as_mut().filter(|_| end <= self.room) else { return false };
        room[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
        true
    }

    /// Returns the appended bytes only: the map may contain an earlier body after them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for MappedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..self.filled])
    }
}

impl Drop for MappedBuffer {
    fn drop(&mut self) {
        let map = self.map.take().filter(|map| map.len() <= KEPT_BYTES_MAX);
        // Fails while the thread exits, when there is nothing to keep the map for.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            let kept_bytes = spare.map.as_ref().map_or(0, |map| map.len());
            if let Some(map) = map.filter(|map| spare.is_worker && map.len() > kept_bytes) {
                (spare.map, spare.is_fresh) = (Some(map), true);
            }
        });
    }
}

/// Frees a map that was not used since the last sweep. Each worker calls this once per second; a thread that
/// does not call it keeps no map.
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
        let mut mapped = MappedBuffer::with_room(bytes).expect("there is memory");
        assert!(mapped.put(&vec![with; bytes]));
        assert!(!mapped.put(b"x"), "there is no room for more than was said");
        mapped.freeze()
    }

    #[test]
    fn a_body_is_read_back_as_written() {
        for bytes in [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1] {
            assert!(body(bytes, b'a') == vec![b'a'; bytes], "{bytes}");
        }
        let mut begun = MappedBuffer::with_room(8).expect("there is memory");
        assert!(begun.put(b"ab") && begun.put(b"cd") && !begun.put(b"efghi"));
        assert_eq!(begun.freeze(), "abcd");
    }

    #[test]
    fn a_reused_map_shows_nothing_of_the_earlier_body() {
        sweep();
        drop(body(STEP_BYTES, b'a'));
        assert_eq!(kept_bytes(), STEP_BYTES);
        let mut second = MappedBuffer::with_room(8).expect("there is memory");
        assert_eq!(kept_bytes(), 0, "it was taken");
        assert!(second.put(b"b"));
        assert_eq!(second.freeze(), "b");
    }

    #[test]
    fn one_map_is_kept_for_reuse_until_two_sweeps() {
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
