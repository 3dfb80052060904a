use std::cell::RefCell;

/// Bytes taken from a socket at a time before it is known what they are: a usual message in one read, and no
/// more than stays in the core's first cache.
const SCRATCH_BYTES: usize = 16 << 10;

/// Lends this thread's buffer to read into, so that a connection needs none of its own while nothing comes.
/// What is in it at first is of no meaning. It cannot be lent twice at once.
pub fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}
