//! Many counts as one record: a head, then for each row a fixed part and its names.

use bytemuck::{Pod, Zeroable};

use super::count::{Count, WORDS};
use super::table::Names;
use crate::journal::{Record, Sequence};

/// What was used from one time to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// With `sequence` the name of this batch, unique in the world.
    pub source: u128,
    /// Rises within a source; a sink has applied a batch when it has applied a later one of its source.
    pub sequence: Sequence,
    /// Milliseconds since 1970; of the batch before, or zero for the first of a process.
    pub from_unix_ms: u64,
    /// Milliseconds since 1970.
    pub until_unix_ms: u64,
    payload: Vec<u8>,
}

/// One row of a batch. There may be several for the same names, from different workers: add them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The key's id, or [`super::OTHER`].
    pub key: &'a str,
    /// The server's name, or [`super::OTHER`].
    pub server: &'a str,
    /// The tool's name, or [`super::OTHER`].
    pub tool: &'a str,
    /// What to add.
    pub count: Count,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    from_unix_ms: u64,
    until_unix_ms: u64,
    rows: u64,
}

/// The fixed part of a row. The names follow, filled up with zeros to eight bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    pub table: u64,
    pub slot: u64,
    key_bytes: u16,
    server_bytes: u16,
    tool_bytes: u16,
    padding: u16,
    pub counts: [u64; WORDS],
    /// The slot's counters when the row was made.
    pub totals: [u64; WORDS],
}

const HEAD_BYTES: usize = size_of::<Head>();
const ENTRY_BYTES: usize = size_of::<Entry>();

/// A batch that is being made, with what to remember once it is in the journal.
pub(super) struct Draft {
    head: Head,
    payload: Vec<u8>,
    bytes_max: usize,
    /// Which table of the caller's list, which slot, and its total.
    pub rows: Vec<(usize, usize, Count)>,
}

impl Draft {
    pub fn new(from_unix_ms: u64, until_unix_ms: u64, bytes_max: usize) -> Self {
        let head = Head { from_unix_ms, until_unix_ms, rows: 0 };
        Self { head, payload: vec![0; HEAD_BYTES], bytes_max, rows: Vec::new() }
    }

    pub fn fits(&self, names: &Names) -> bool {
        self.payload.len() + ENTRY_BYTES + names.text().len().next_multiple_of(8) <= self.bytes_max
    }

    pub fn push(
        &mut self,
        (at, table): (usize, u64),
        slot: usize,
        names: &Names,
        before: Count,
        total: Count,
    ) {
        let [key_bytes, server_bytes, tool_bytes] = names.lengths();
        let counts = total.since(before).words();
        let (slot_word, totals) = (slot as u64, total.words());
        let entry =
            Entry { table, slot: slot_word, key_bytes, server_bytes, tool_bytes, padding: 0, counts, totals };
        self.payload.extend_from_slice(bytemuck::bytes_of(&entry));
        self.payload.extend_from_slice(names.text().as_bytes());
        self.payload.resize(self.payload.len().next_multiple_of(8), 0);
        self.head.rows += 1;
        self.rows.push((at, slot, total));
    }

    pub fn payload(&mut self) -> &[u8] {
        self.payload[..HEAD_BYTES].copy_from_slice(bytemuck::bytes_of(&self.head));
        &self.payload
    }
}

impl Batch {
    /// None when the record is no batch.
    pub(super) fn decode(record: Record) -> Option<Self> {
        let head: Head = bytemuck::pod_read_unaligned(record.payload.get(..HEAD_BYTES)?);
        let Record { source, sequence, kind, payload } = record;
        let Head { from_unix_ms, until_unix_ms, rows } = head;
        let batch = Self { source, sequence, from_unix_ms, until_unix_ms, payload };
        (kind == super::KIND && batch.entries().count() as u64 == rows).then_some(batch)
    }

    /// What was used.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.entries().map(|(entry, [key, server, tool])| {
            let count = Count::from_words(entry.counts);
            Row { key, server, tool, count }
        })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Entry, [&str; 3])> {
        let mut rest = self.payload.get(HEAD_BYTES..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (entry, names, behind) = split(rest)?;
            rest = behind;
            Some((entry, names))
        })
    }
}

fn split(bytes: &[u8]) -> Option<(Entry, [&str; 3], &[u8])> {
    let (entry, rest) = bytes.split_at_checked(ENTRY_BYTES)?;
    let entry: Entry = bytemuck::pod_read_unaligned(entry);
    let lengths = [entry.key_bytes, entry.server_bytes, entry.tool_bytes].map(usize::from);
    let text: usize = lengths.iter().sum();
    let (names, rest) = rest.split_at_checked(text.next_multiple_of(8))?;
    let names = std::str::from_utf8(&names[..text]).ok()?;
    let (key, names) = names.split_at_checked(lengths[0])?;
    let (server, tool) = names.split_at_checked(lengths[1])?;
    Some((entry, [key, server, tool], rest))
}
