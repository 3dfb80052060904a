//! A memory-mapped file as an array of atomic words. The only file with unsafe code.
//!
//! The words are atomic because a worker writes what a flusher reads. Offsets are in bytes and multiples of eight.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;

#[cfg(test)]
pub(super) use super::tests::crash::crash_point;

/// A mapped file. Invariant: its length is a multiple of eight and does not change.
pub(super) struct MappedFile {
    raw: MmapRaw,
}

pub(super) const WORD: usize = size_of::<u64>();

/// A place at which tests simulate a kill of the process.
#[cfg(not(test))]
#[inline]
pub(super) fn crash_point() {}

impl MappedFile {
    /// Creates a file of zeros with reserved blocks. Leaves nothing behind when that fails.
    pub fn create(path: &Path, bytes: usize) -> io::Result<Self> {
        crash_point();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        crash_point();
        let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64);
        let map = reserved.map_err(io::Error::from).and_then(|()| Self::from_file(&file, bytes));
        if map.is_err() {
            // The first error is the one to report. An empty file left behind is removed at the next start.
            drop(std::fs::remove_file(path));
        }
        map
    }

    /// Maps an existing file of exactly `bytes`.
    pub fn open(path: &Path, bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() != bytes as u64 {
            return Err(io::Error::other("its length differs from the one in its header"));
        }
        Self::from_file(&file, bytes)
    }

    fn from_file(file: &File, bytes: usize) -> io::Result<Self> {
        let raw = MmapRaw::map_raw(file)?;
        if raw.len() != bytes || !bytes.is_multiple_of(WORD) {
            return Err(io::Error::other("its length changed while it was mapped"));
        }
        Ok(Self { raw })
    }

    #[allow(unsafe_code)] // the only way to access mapped memory; see the SAFETY comment
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        let (start, words) = (self.raw.as_mut_ptr(), self.raw.len() / WORD);
        #[allow(clippy::cast_ptr_alignment)] // a mapping begins at a page
        // SAFETY: the mapping is readable and writable, page aligned, `words * 8` bytes long, and lives as
        // long as `self`. Any bit pattern is a valid `AtomicU64`, and every access goes through this slice, so
        // all accesses are atomic. The lock on the folder keeps other processes out.
        unsafe {
            std::slice::from_raw_parts(start.cast::<AtomicU64>(), words)
        }
    }

    pub fn len(&self) -> usize {
        self.raw.len()
    }

    #[inline]
    pub fn load(&self, at: usize) -> u64 {
        self.words()[at / WORD].load(Ordering::Relaxed)
    }

    #[inline]
    pub fn load_acquire(&self, at: usize) -> u64 {
        self.words()[at / WORD].load(Ordering::Acquire)
    }

    #[inline]
    pub fn store(&self, at: usize, value: u64) {
        crash_point();
        self.words()[at / WORD].store(value, Ordering::Relaxed);
    }

    /// Stores a word with release ordering: after everything that was stored before it.
    #[inline]
    pub fn publish(&self, at: usize, value: u64) {
        crash_point();
        self.words()[at / WORD].store(value, Ordering::Release);
    }

    /// Adds to consecutive words that only the caller writes, so no locked instruction is needed.
    #[inline]
    pub fn add<const N: usize>(&self, at: usize, values: [u64; N]) {
        for (word, value) in self.words()[at / WORD..][..N].iter().zip(values) {
            crash_point();
            word.store(word.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        }
    }

    /// Stores bytes, and pads the last word with zeros.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let words = &self.words()[at / WORD..][..bytes.len().div_ceil(WORD)];
        let (whole, rest) = bytes.as_chunks::<WORD>();
        for (word, bytes) in words.iter().zip(whole) {
            crash_point();
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        if let (Some(word), false) = (words.last(), rest.is_empty()) {
            let mut last = [0; WORD];
            last[..rest.len()].copy_from_slice(rest);
            crash_point();
            word.store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    /// Appends `bytes` bytes from offset `at` to `into`.
    pub fn read(&self, at: usize, bytes: usize, into: &mut Vec<u8>) {
        let words = &self.words()[at / WORD..][..bytes.div_ceil(WORD)];
        let end = into.len() + bytes;
        into.reserve(words.len() * WORD);
        for word in words {
            into.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        into.truncate(end);
    }

    /// Copies a range whose ends are multiples of eight.
    pub fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let words = &self.words()[range.start / WORD..range.end / WORD];
        words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
    }

    /// Waits until the range is on disk.
    pub fn sync(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() { Ok(()) } else { self.raw.flush_range(range.start, range.len()) }
    }
}
