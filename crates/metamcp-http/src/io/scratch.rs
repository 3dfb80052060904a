use std::cell::RefCell;

/// The size of the buffer: a usual message in one read, and no more than fits into the L1 cache.
const SCRATCH_BYTES: usize = 16 << 10;

/// Lends this thread's read buffer, so that an idle connection needs none of its own. Its initial content is arbitrary.
///
/// # Panics
/// When calls are nested.
pub fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}
