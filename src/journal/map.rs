//! A file as a row of atomic words: the only place with unsafe code.
//!
//! Words are atomic because a worker writes what a flusher reads. Offsets are in bytes and multiples of eight.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;

#[cfg(test)]
pub(super) use super::tests::stop::step;

/// A mapped file. Invariant: its length is a multiple of eight and does not change.
pub(super) struct Map {
    raw: MmapRaw,
}

pub(super) const WORD: usize = size_of::<u64>();

/// A place at which tests let the process die.
#[cfg(not(test))]
#[inline]
pub(super) fn step() {}

impl Map {
    /// A new file of zeros whose blocks are reserved. Nothing is left behind when that fails.
    pub fn create(path: &Path, bytes: usize) -> io::Result<Self> {
        step();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        step();
        let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64);
        let map = reserved.map_err(io::Error::from).and_then(|()| Self::of(&file, bytes));
        if map.is_err() {
            // The reason is told; an empty file left behind is swept away at the next start.
            drop(std::fs::remove_file(path));
        }
        map
    }

    /// A file that is there, all `bytes` of it.
    pub fn open(path: &Path, bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() != bytes as u64 {
            return Err(io::Error::other("its length is not what its header says"));
        }
        Self::of(&file, bytes)
    }

    fn of(file: &File, bytes: usize) -> io::Result<Self> {
        let raw = MmapRaw::map_raw(file)?;
        if raw.len() != bytes || !bytes.is_multiple_of(WORD) {
            return Err(io::Error::other("its length changed while it was mapped"));
        }
        Ok(Self { raw })
    }

    #[allow(unsafe_code)] // the only way to see mapped memory; the reasons stand in the note
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        let (start, words) = (self.raw.as_mut_ptr(), self.raw.len() / WORD);
        #[allow(clippy::cast_ptr_alignment)] // a mapping begins at a page
        // SAFETY: the mapping is readable and writable, page aligned, `words * 8` bytes long, and lives as
        // long as `self`. Any bit pattern is an `AtomicU64`, and every access goes through this slice, so
        // there are atomic accesses only. Other processes are kept out by the lock on the folder.
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
        step();
        self.words()[at / WORD].store(value, Ordering::Relaxed);
    }

    /// Stores a word behind all that was stored before it.
    #[inline]
    pub fn publish(&self, at: usize, value: u64) {
        step();
        self.words()[at / WORD].store(value, Ordering::Release);
    }

    /// Adds to consecutive words of which the caller is the only writer: no locked instruction is needed.
    #[inline]
    pub fn add<const N: usize>(&self, at: usize, values: [u64; N]) {
        for (word, value) in self.words()[at / WORD..][..N].iter().zip(values) {
            step();
            word.store(word.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        }
    }

    /// Stores bytes; the last word is filled up with zeros.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let words = &self.words()[at / WORD..][..bytes.len().div_ceil(WORD)];
        let (whole, rest) = bytes.as_chunks::<WORD>();
        for (word, bytes) in words.iter().zip(whole) {
            step();
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        if let (Some(word), false) = (words.last(), rest.is_empty()) {
            let mut last = [0; WORD];
            last[..rest.len()].copy_from_slice(rest);
            step();
            word.store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    /// Adds the bytes from there on, so many, to `into`.
    pub fn read(&self, at: usize, bytes: usize, into: &mut Vec<u8>) {
        let words = &self.words()[at / WORD..][..bytes.div_ceil(WORD)];
        let end = into.len() + bytes;
        into.reserve(words.len() * WORD);
        for word in words {
            into.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        into.truncate(end);
    }

    /// A copy of some bytes; both ends are multiples of eight.
    pub fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let words = &self.words()[range.start / WORD..range.end / WORD];
        words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
    }

    /// Waits until the disk has the bytes.
    pub fn sync(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() { Ok(()) } else { self.raw.flush_range(range.start, range.len()) }
    }
}
