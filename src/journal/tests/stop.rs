//! Death at a chosen place: after so many stores and changes of files the thread unwinds, and nothing of the
//! code under test runs any more. What the files hold then is what a killed process leaves.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What the thread unwinds with.
struct Died;

/// Called before each store and each change of a file.
pub(crate) fn step() {
    LEFT.with(|left| match left.get() {
        Some(0) => {
            left.set(None);
            resume_unwind(Box::new(Died));
        }
        Some(steps) => left.set(Some(steps - 1)),
        None => {}
    });
}

/// Runs `life` until it is over, or for that many steps. Whether it died before its end.
pub(crate) fn dies_after(steps: u64, life: impl FnOnce()) -> bool {
    LEFT.set(Some(steps));
    let ended = catch_unwind(AssertUnwindSafe(life));
    LEFT.set(None);
    match ended {
        Ok(()) => false,
        Err(cause) if cause.is::<Died>() => true,
        Err(cause) => resume_unwind(cause),
    }
}
