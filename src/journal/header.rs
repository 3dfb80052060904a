//! The fixed headers, little endian: 64 bytes at the start of a file, 24 before each record.

use bytemuck::{Pod, Zeroable};

/// The header of a file. The CRC covers the whole header, with the CRC field itself as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FileHeader {
    pub magic: [u8; 4],
    pub version: u16,
    /// Either [`FileHeader::SEGMENT`] or [`FileHeader::TABLE`].
    pub kind: u16,
    pub directory: u64,
    /// Random. In a segment: the opening of the journal that wrote it. In a table: the table's own.
    pub incarnation: u64,
    /// Orders the files. The same number is in the file's name.
    pub number: u64,
    /// The length of the file when it was created.
    pub bytes: u64,
    /// In a table: the number of its slots.
    pub slots: u64,
    pub reserved: u64,
    pub crc: u32,
    pub padding: u32,
}

/// The header of a record, before its payload. The CRC covers the rest of the header and the payload with its padding
/// to eight bytes. It is seeded with the CRC of the file's header, so that a record copied from another file does not
/// verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RecordHeader {
    pub magic: [u8; 4],
    pub version: u8,
    pub kind: u8,
    pub flags: u16,
    /// The length of the payload, without padding.
    pub length: u32,
    pub crc: u32,
    pub sequence: u64,
}

pub(super) const FILE_HEADER_BYTES: usize = size_of::<FileHeader>();
pub(super) const RECORD_HEADER_BYTES: usize = size_of::<RecordHeader>();

/// The version of files and of records.
pub(super) const VERSION: u8 = 1;

/// The kind of the record that ends a truncated segment.
pub(super) const SEAL: u8 = 0;

const _: () = assert!(FILE_HEADER_BYTES == 64 && RECORD_HEADER_BYTES == 24);
// The headers are mapped as they are in memory, and are little endian on disk.
const _: () = assert!(cfg!(target_endian = "little"), "the journal's files are little endian");

/// Why a file header is not valid, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    Invalid,
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

    /// Parses and checks the first bytes of a file.
    pub fn read(bytes: &[u8], kind: u16) -> Result<Self, HeaderError> {
        let start = bytes.get(..FILE_HEADER_BYTES).ok_or(HeaderError::Invalid)?;
        let header: Self = bytemuck::pod_read_unaligned(start);
        if header.magic != Self::MAGIC || header.crc != header.checksum() || header.kind != kind {
            return Err(HeaderError::Invalid);
        }
        if header.version != u16::from(VERSION) {
            return Err(HeaderError::FutureVersion);
        }
        Ok(header)
    }
}

impl RecordHeader {
    pub const MAGIC: [u8; 4] = *b"MREC";

    /// The header for a payload.
    pub fn new(seed: u32, kind: u8, sequence: u64, payload: &[u8]) -> Self {
        // A segment, and so a payload, is far smaller than 4 GiB; the caller has checked its length.
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

    /// The length of a record: header, payload and padding.
    pub fn record_bytes(payload: usize) -> usize {
        RECORD_HEADER_BYTES + payload + padding(payload)
    }

    /// The words in the order of storage.
    pub fn to_words(self) -> [u64; 3] {
        bytemuck::cast(self)
    }
}

fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(8) - bytes
}
