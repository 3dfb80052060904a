//! The fixed headers, little endian: 64 bytes at the start of a file, 24 in front of each record.

use bytemuck::{Pod, Zeroable};

/// At the start of each file. The CRC covers all of it, itself taken as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FileHeader {
    pub magic: [u8; 4],
    pub version: u16,
    /// [`FileHeader::SEGMENT`] or [`FileHeader::TABLE`].
    pub kind: u16,
    /// The journal that the file belongs to.
    pub directory: u64,
    /// Random. Of a segment: the opening of the journal that wrote it. Of a table: its own.
    pub incarnation: u64,
    /// Files are in this order; it is the file's name too.
    pub number: u64,
    /// How long the file was made.
    pub bytes: u64,
    /// Of a table: how many slots it has.
    pub slots: u64,
    pub reserved: u64,
    pub crc: u32,
    pub padding: u32,
}

/// In front of each record's payload. The CRC covers the rest of the header and the payload, with the zeros
/// that fill it up to eight bytes, and begins with the CRC of the file's header, so that bytes which come
/// from another file do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RecordHeader {
    pub magic: [u8; 4],
    pub version: u8,
    pub kind: u8,
    pub flags: u16,
    /// Of the payload, without what fills it up.
    pub length: u32,
    pub crc: u32,
    pub sequence: u64,
}

pub(super) const FILE_HEADER_BYTES: usize = size_of::<FileHeader>();
pub(super) const RECORD_HEADER_BYTES: usize = size_of::<RecordHeader>();

/// Of files and of records.
pub(super) const VERSION: u8 = 1;

/// The kind of the record that ends a segment which was cut to what it holds.
pub(super) const SEAL: u8 = 0;

const _: () = assert!(FILE_HEADER_BYTES == 64 && RECORD_HEADER_BYTES == 24);

/// Why a header is not one of ours, in the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotOurs {
    Broken,
    FutureVersion,
}

impl FileHeader {
    pub const SEGMENT: u16 = 1;
    pub const TABLE: u16 = 2;
    const MAGIC: [u8; 4] = *b"MCPJ";

    pub fn new(kind: u16, directory: u64, incarnation: u64, number: u64, bytes: u64, slots: u64) -> Self {
        let magic = Self::MAGIC;
        let version = u16::from(VERSION);
        let header = Self {
            magic,
            version,
            kind,
            directory,
            incarnation,
            number,
            bytes,
            slots,
            reserved: 0,
            crc: 0,
            padding: 0,
        };
        Self { crc: header.checksum(), ..header }
    }

    fn checksum(&self) -> u32 {
        crc32fast::hash(bytemuck::bytes_of(&Self { crc: 0, ..*self }))
    }

    /// Of a file's first bytes.
    pub fn read(bytes: &[u8], kind: u16) -> Result<Self, NotOurs> {
        let start = bytes.get(..FILE_HEADER_BYTES).ok_or(NotOurs::Broken)?;
        let header: Self = bytemuck::pod_read_unaligned(start);
        if header.magic != Self::MAGIC || header.crc != header.checksum() || header.kind != kind {
            return Err(NotOurs::Broken);
        }
        if header.version != u16::from(VERSION) {
            return Err(NotOurs::FutureVersion);
        }
        Ok(header)
    }
}

impl RecordHeader {
    pub const MAGIC: [u8; 4] = *b"MREC";

    /// For a payload that follows it.
    pub fn new(seed: u32, kind: u8, sequence: u64, payload: &[u8]) -> Self {
        // A segment, and so a payload, is far below 4 GiB; the caller has compared.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Self { magic: Self::MAGIC, version: VERSION, kind, flags: 0, length, crc: 0, sequence };
        Self { crc: header.checksum(seed, payload), ..header }
    }

    pub fn checksum(&self, seed: u32, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(bytemuck::bytes_of(&Self { crc: 0, ..*self }));
        hasher.update(payload);
        hasher.update(&[0; 8][..padding(payload.len())]);
        hasher.finalize()
    }

    /// From the first to the last byte of a record with so long a payload.
    pub fn record_bytes(payload: usize) -> usize {
        RECORD_HEADER_BYTES + payload + padding(payload)
    }

    /// The words as they are stored.
    pub fn words(&self) -> [u64; 3] {
        bytemuck::cast(*self)
    }
}

fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(8) - bytes
}
