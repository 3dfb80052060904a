//! Large request bodies in anonymous memory maps, so that a few of them do not grow the heap permanently.
//!
//! Creating a map costs more than filling it: the kernel clears and maps each page on the first access. Each
//! worker therefore keeps the last map for the next body, until a second passes in which none arrives.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use memmap2::MmapMut;

use metamcp_core::base::{MemoryCharge, OutOfMemory};

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

/// A body that is being filled, and is charged for as its bytes arrive: a client that announces a long body and sends
/// nothing takes no memory from others.
///
/// Invariant: `filled <= charged_for <= bytes_max`.
#[derive(Debug)]
pub struct MappedBuffer {
    /// `Some` until it is dropped.
    map: Option<MmapMut>,
    /// The announced length of the body.
    bytes_max: usize,
    filled: usize,
    /// How many bytes are charged for, at most twice as many as have arrived.
    charged_for: usize,
    charge: MemoryCharge,
}

/// Why bytes were not appended.
#[derive(Debug, PartialEq, Eq)]
pub enum AppendError {
    /// They exceed the announced length.
    TooLong,
    OutOfMemory(OutOfMemory),
}

impl MappedBuffer {
    /// Creates a buffer for `bytes` bytes, charged to `charge`, which is of nothing yet.
    pub fn with_capacity(bytes: usize, charge: MemoryCharge) -> io::Result<Self> {
        let spare = SPARE.with_borrow_mut(|spare| spare.map.take_if(|map| map.len() >= bytes));
        let map = match spare {
            Some(map) => map,
            None => MmapMut::map_anon(bytes.checked_next_multiple_of(STEP_BYTES).unwrap_or(bytes))?,
        };
        Ok(Self { map: Some(map), bytes_max: bytes, filled: 0, charged_for: 0, charge })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`AppendError`]; nothing is appended.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let end = self.filled.saturating_add(bytes.len());
        let Some(map) = self.map.as_mut().filter(|_| end <= self.bytes_max) else {
            return Err(AppendError::TooLong);
        };
        if end > self.charged_for {
            // Doubled, so that a body of many reads seldom touches the counter that all threads share.
            let doubled = end.saturating_mul(2).min(self.bytes_max);
            self.charged_for = match self.charge.retry(doubled) {
                Ok(()) => doubled,
                // Near the limit of memory, what is needed is all that is charged.
                Err(_full) => {
                    self.charge.resize(end).map_err(AppendError::OutOfMemory)?;
                    end
                }
            };
        }
        map[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
        Ok(())
    }

    /// Returns the appended bytes only: the map may contain an earlier body after them. They hold the charge.
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
    use metamcp_core::base::MemoryAccount;

    use super::*;

    fn kept_bytes() -> usize {
        SPARE.with_borrow(|spare| spare.map.as_ref().map_or(0, |map| map.len()))
    }

    fn buffer(bytes: usize) -> MappedBuffer {
        MappedBuffer::with_capacity(bytes, account(usize::MAX).charge()).expect("there is memory")
    }

    fn account(bytes_max: usize) -> &'static MemoryAccount {
        let account = Box::leak(Box::new(MemoryAccount::new()));
        account.set_bytes_max(bytes_max);
        account
    }

    fn body(bytes: usize, with: u8) -> Bytes {
        let mut mapped = buffer(bytes);
        assert_eq!(mapped.append(&vec![with; bytes]), Ok(()));
        assert_eq!(mapped.append(b"x"), Err(AppendError::TooLong));
        mapped.freeze()
    }

    #[test]
    fn a_body_is_read_back_as_written() {
        for bytes in [0, 1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1] {
            assert!(body(bytes, b'a') == vec![b'a'; bytes], "{bytes}");
        }
        let mut begun = buffer(8);
        assert!(
            begun.append(b"ab").is_ok() && begun.append(b"cd").is_ok() && begun.append(b"efghi").is_err()
        );
        assert_eq!(begun.freeze(), "abcd");
    }

    #[test]
    fn a_reused_map_shows_nothing_of_the_earlier_body() {
        sweep();
        drop(body(STEP_BYTES, b'a'));
        assert_eq!(kept_bytes(), STEP_BYTES);
        let mut second = buffer(8);
        assert_eq!(kept_bytes(), 0, "it was taken");
        assert_eq!(second.append(b"b"), Ok(()));
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

    /// Appends parts of 64 KiB to a body of `announced` of them. `expected` are the bytes charged after each, in the same
    /// unit; `None` for a refusal.
    #[track_caller]
    fn check_charged(bytes_max: usize, announced: usize, expected: &[Option<usize>]) {
        const PART: usize = 64 << 10;
        let account = account(bytes_max);
        let mut buffer =
            MappedBuffer::with_capacity(announced * PART, account.charge()).expect("there is memory");
        assert_eq!(account.charged_bytes(), 0, "nothing has arrived");
        for (number, expected) in expected.iter().enumerate() {
            let outcome = buffer.append(&vec![b'x'; PART]).map(|()| account.charged_bytes() / PART);
            let expected = expected.ok_or(AppendError::OutOfMemory(OutOfMemory));
            assert_eq!(outcome, expected, "{number} of {announced}");
        }
        drop(buffer.freeze());
        assert_eq!(account.charged_bytes(), 0);
    }

    #[test]
    fn bytes_are_charged_as_they_arrive() {
        check_charged(usize::MAX, 64, &[Some(2), Some(2), Some(6), Some(6), Some(6), Some(6), Some(14)]);
        check_charged(usize::MAX, 3, &[Some(2), Some(2), Some(3)]);
        // 1 MiB: 7/8 of it is for large bodies.
        check_charged(1 << 20, 64, &[Some(2), Some(2), Some(6), Some(6), Some(6), Some(6), Some(14)]);
        check_charged(256 << 10, 64, &[Some(2), Some(2), Some(3), None]);
    }
}
