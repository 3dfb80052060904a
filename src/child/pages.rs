//! Huge pages: this process has none, while programs that it starts may have what it might have had.
//!
//! Where the kernel makes one page of 2 MiB of many small ones, it makes it of those between them too that were given back:
//! a minute after a peak much of it is there again, and held by nothing (transparent huge pages, `khugepaged`, in the
//! kernel's admin-guide/mm/transhuge; the allocator asks for them by itself).

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

/// Whether this process gave them up itself.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// Has the kernel give this process none from now on.
pub fn give_up_huge_pages() {
    // A kernel that has none, or refuses, leaves things as they are.
    let has_some = transparent_huge_pages_are_disabled() == Ok(false);
    let is_done = has_some && disable_transparent_huge_pages(true).is_ok();
    GIVEN_UP.store(is_done, Ordering::Relaxed);
}

/// Whether a program that is started is to have them again.
pub fn gave_up_huge_pages() -> bool {
    GIVEN_UP.load(Ordering::Relaxed)
}

/// Lets this process have them again.
pub(super) fn take_huge_pages() -> Result<(), String> {
    disable_transparent_huge_pages(false).map_err(|error| format!("huge pages cannot be had again: {error}"))
}
