//! The format of a usage batch in a journal record: a header, then for each row a fixed part and its labels.

use bytemuck::{Pod, Zeroable};

use super::count::{CallCounts, WORDS};
use super::labels::CounterLabels;
use crate::journal::record::{Record, RecordKind, Sequence};

/// The usage of one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledBatch {
    /// With `sequence` the globally unique name of this batch.
    pub source: u128,
    /// Rises within a source: a sink that has applied a later batch of the source has applied this one.
    pub sequence: Sequence,
    /// The end of the batch before, in milliseconds since 1970; zero for the first batch of a process.
    pub from_unix_ms: u64,
    /// Unix time in milliseconds.
    pub until_unix_ms: u64,
    payload: Vec<u8>,
}

/// One row of a batch. Several rows may have the same labels, from different workers: add them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpooledRow<'a> {
    /// The key's id, or [`OTHER`](super::OTHER).
    pub key: &'a str,
    /// The server's name, or [`OTHER`](super::OTHER).
    pub server: &'a str,
    /// The tool's name, or [`OTHER`](super::OTHER).
    pub tool: &'a str,
    /// The increments of this batch.
    pub count: CallCounts,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BatchHeader {
    from_unix_ms: u64,
    until_unix_ms: u64,
    rows: u64,
}

/// The fixed part of a row. The labels follow, padded with zeros to eight bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RowHeader {
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

/// The kind of journal records that hold batches.
pub(super) const BATCH_RECORD_KIND: RecordKind = RecordKind(std::num::NonZeroU8::MIN);

const HEADER_BYTES: usize = size_of::<BatchHeader>();
const ROW_HEADER_BYTES: usize = size_of::<RowHeader>();

/// A batch under construction, and what to record once it is in the journal.
pub(super) struct BatchBuilder {
    header: BatchHeader,
    payload: Vec<u8>,
    bytes_max: usize,
    /// The index of the table in the caller's list, the slot, and its total.
    pub rows: Vec<(usize, usize, CallCounts)>,
}

impl BatchBuilder {
    pub fn new(from_unix_ms: u64, until_unix_ms: u64, bytes_max: usize) -> Self {
        let header = BatchHeader { from_unix_ms, until_unix_ms, rows: 0 };
        Self { header, payload: vec![0; HEADER_BYTES], bytes_max, rows: Vec::new() }
    }

    pub fn fits(&self, labels: &CounterLabels) -> bool {
        self.payload.len() + ROW_HEADER_BYTES + labels.text().len().next_multiple_of(8) <= self.bytes_max
    }

    pub fn push(
        &mut self,
        (at, table): (usize, u64),
        slot: usize,
        labels: &CounterLabels,
        before: CallCounts,
        total: CallCounts,
    ) {
        let [key_bytes, server_bytes, tool_bytes] = labels.lengths();
        let counts = total.since(before).to_words();
        let (slot_word, totals) = (slot as u64, total.to_words());
        let entry = RowHeader {
            table,
            slot: slot_word,
            key_bytes,
            server_bytes,
            tool_bytes,
            padding: 0,
            counts,
            totals,
        };
        self.payload.extend_from_slice(bytemuck::bytes_of(&entry));
        self.payload.extend_from_slice(labels.text().as_bytes());
        self.payload.resize(self.payload.len().next_multiple_of(8), 0);
        self.header.rows += 1;
        self.rows.push((at, slot, total));
    }

    pub fn payload(&mut self) -> &[u8] {
        self.payload[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&self.header));
        &self.payload
    }
}

impl SpooledBatch {
    /// Decodes a record; `None` when it is not a batch.
    pub(super) fn decode(record: Record) -> Option<Self> {
        let header: BatchHeader = bytemuck::pod_read_unaligned(record.payload.get(..HEADER_BYTES)?);
        let Record { source, sequence, kind, payload } = record;
        let BatchHeader { from_unix_ms, until_unix_ms, rows } = header;
        let batch = Self { source, sequence, from_unix_ms, until_unix_ms, payload };
        (kind == BATCH_RECORD_KIND && batch.entries().count() as u64 == rows).then_some(batch)
    }

    pub fn rows(&self) -> impl Iterator<Item = SpooledRow<'_>> {
        self.entries().map(|(entry, [key, server, tool])| {
            let count = CallCounts::from_words(entry.counts);
            SpooledRow { key, server, tool, count }
        })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (RowHeader, [&str; 3])> {
        let mut rest = self.payload.get(HEADER_BYTES..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (entry, labels, remaining) = split(rest)?;
            rest = remaining;
            Some((entry, labels))
        })
    }
}

fn split(bytes: &[u8]) -> Option<(RowHeader, [&str; 3], &[u8])> {
    let (entry, rest) = bytes.split_at_checked(ROW_HEADER_BYTES)?;
    let entry: RowHeader = bytemuck::pod_read_unaligned(entry);
    let lengths = [entry.key_bytes, entry.server_bytes, entry.tool_bytes].map(usize::from);
    let text: usize = lengths.iter().sum();
    let (names, rest) = rest.split_at_checked(text.next_multiple_of(8))?;
    let names = std::str::from_utf8(&names[..text]).ok()?;
    let (key, names) = names.split_at_checked(lengths[0])?;
    let (server, tool) = names.split_at_checked(lengths[1])?;
    Some((entry, [key, server, tool], rest))
}
