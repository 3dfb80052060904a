//! A log that survives the death of the process: fixed headers and bytes in files that are mapped into
//! memory; on top of it the counts of usage, exact over outages and kills; and room for the events of streams,
//! which ends with the process.
//!
//! A record is durable against a kill of the process as soon as [`Journal::append`] returns, because a
//! shared mapping is the page cache itself; against a loss of power after [`Journal::sync`].
//!
//! Invariants:
//! - An append neither allocates nor calls the system. Files are created, and their blocks reserved,
//!   beforehand by [`Journal::prepare`], so that a full disk is an error there and not a signal here.
//! - The first word of a record is stored last: what stands before it is whole.
//! - Sequence numbers rise by one over all segments. Each opening of a journal is a *source* of its own,
//!   so that (source, sequence) never names two different records, whatever was lost in between.
//! - Nothing found on disk is believed before its CRC fits; damage is reported and never a panic.
//! - One process per folder (a lock), one writer per journal (`&mut`).
//!
//! A mapped file that somebody else cuts short, or a disk that fails to read a page, ends the process with
//! SIGBUS: the folder is 0700 and locked, and what was left by an earlier process is read, not mapped,
//! tables of counters excepted, whose length is checked.
//!
//! Does not know: what the records are for, who takes the counts, clocks, or threads.

pub mod events;
pub mod usage;

mod error;
mod folder;
mod header;
mod log;
mod map;
mod recovery;
mod segment;
#[cfg(test)]
pub(crate) mod tests;

pub use error::JournalError;
pub use log::{Config, Journal, Kind, Record, Records, Sequence};
pub use recovery::{Damage, DamageKind, Recovery};

/// One segment. So big that a new file is a rare event at a few KiB a second, so small that a backlog is
/// given back to the disk in small pieces, and that reading one into memory does not matter.
pub const SEGMENT_BYTES: usize = 4 << 20;

/// A longer segment is not read: it was not written by this program.
pub const SEGMENT_BYTES_MAX: usize = 64 << 20;

/// The smallest segment: one page, below which nothing is saved on any disk.
pub const SEGMENT_BYTES_MIN: usize = 4096;

/// All segments together, when nothing else is said: sixteen of the usual size.
pub const TOTAL_BYTES: u64 = 64 << 20;

const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES && SEGMENT_BYTES <= SEGMENT_BYTES_MAX);
// The headers are mapped as they are in memory, and are little endian on disk.
const _: () = assert!(cfg!(target_endian = "little"), "the journal's files are little endian");
