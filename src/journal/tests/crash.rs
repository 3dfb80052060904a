//! Simulates a kill of the process: after a number of stores and file changes the thread unwinds, and no code under test
//! runs any more. The files then hold what a killed process leaves.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The payload of the unwinding.
struct Crashed;

/// Called before each store and each change of a file.
pub(crate) fn crash_point() {
    LEFT.with(|left| match left.get() {
        Some(0) => {
            left.set(None);
            resume_unwind(Box::new(Crashed));
        }
        Some(steps) => left.set(Some(steps - 1)),
        None => {}
    });
}

/// Runs `life` to its end or for `steps` crash points. Returns whether it crashed.
pub(crate) fn crashes_after(steps: u64, life: impl FnOnce()) -> bool {
    LEFT.set(Some(steps));
    let ended = catch_unwind(AssertUnwindSafe(life));
    LEFT.set(None);
    match ended {
        Ok(()) => false,
        Err(cause) if cause.is::<Crashed>() => true,
        Err(cause) => resume_unwind(cause),
    }
}
