//! Huge pages: disabled for this process, while the programs that it starts may have them.
//!
//! When the kernel merges small pages into one of 2 MiB, it includes those in between that were freed. A
//! minute after a peak much of the freed memory is back, used by nothing (transparent huge pages,
//! `khugepaged`, in the kernel's admin-guide/mm/transhuge; the allocator enables them by itself).

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

/// Whether this process disabled them itself.
static DISABLED: AtomicBool = AtomicBool::new(false);

/// Disables huge pages for this process.
pub fn disable_huge_pages() {
    // A kernel without them, or one that refuses, leaves things as they are.
    let has_some = transparent_huge_pages_are_disabled() == Ok(false);
    let is_done = has_some && disable_transparent_huge_pages(true).is_ok();
    DISABLED.store(is_done, Ordering::Relaxed);
}

/// Whether this process disabled huge pages, so that started programs must enable them again.
pub fn has_disabled_huge_pages() -> bool {
    DISABLED.load(Ordering::Relaxed)
}

/// Notes that the process that started this one has disabled them, which is inherited.
pub fn inherit_disabled_huge_pages() {
    DISABLED.store(true, Ordering::Relaxed);
}

/// Enables huge pages again, before this process becomes a program.
pub(super) fn enable_huge_pages() -> Result<(), String> {
    disable_transparent_huge_pages(false).map_err(|error| format!("huge pages cannot be enabled: {error}"))
}
