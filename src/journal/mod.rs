//! An append-only log that survives a kill of the process: records with fixed headers, in memory-mapped files.
//!
//! Built on the same files: usage counters that stay exact over outages and kills ([`usage`]), and a buffer for the
//! events of streams, which ends with the process ([`events`]).
//!
//! A record survives a kill of the process as soon as [`Journal::append`] returns, because a shared mapping is the page
//! cache itself. It survives a loss of power after [`Journal::sync`].
//!
//! Invariants:
//! - An append neither allocates nor makes a system call. [`Journal::prepare`] creates files and reserves their blocks
//!   beforehand, so that a full disk is an error there and not a signal here.
//! - The first word of a record is stored last: a record whose first word is there is complete.
//! - Sequence numbers rise by one across all segments. Each opening of a journal is its own *source*, so that
//!   (source, sequence) never names two different records, whatever was lost in between.
//! - Nothing on disk is trusted before its CRC is checked. Damage is reported and never a panic.
//! - One process per folder (a lock), one writer per journal (`&mut`).
//!
//! If another process truncates a mapped file, or the disk fails to read a page of it, the process dies of SIGBUS. To
//! prevent this the folder has mode 0700 and is locked, and files of an earlier process are read, not mapped. The
//! exception are counter tables, whose length is checked before they are mapped.
//!
//! Does not know: the meaning of records, who receives the counts, clocks, or threads.

pub mod events;
pub mod usage;

mod error;
mod folder;
mod header;
mod log;
mod map;
mod record;
mod recovery;
mod segment;
#[cfg(test)]
pub(crate) mod tests;

pub use error::JournalError;
pub use folder::{FolderUse, find_use, mark_handed_over};
pub use log::{Config, Journal, Records, TOTAL_BYTES};
pub use record::{Record, RecordKind, Sequence};
pub use recovery::{Damage, DamageKind, Recovery};
pub use segment::{SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
