//! The fixed header before each message of a framed stream: five little-endian words.
//!
//! ```text
//! offset  0        4          8        12        16        20
//!         | "MCPF" | version  | flags  | method  | length  | length bytes of payload ...
//! ```

use bytemuck::{Pod, Zeroable};

/// The header of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FrameHeader {
    magic: [u8; 4],
    version: [u8; 4],
    flags: [u8; 4],
    method: [u8; 4],
    length: [u8; 4],
}

/// The length of a header.
pub const FRAME_HEADER_BYTES: usize = size_of::<FrameHeader>();

const _: () = assert!(FRAME_HEADER_BYTES == 20 && align_of::<FrameHeader>() == 1);

/// The version of the format.
pub const FRAME_VERSION: u32 = 1;

/// The payload is a response. Its method is zero.
pub const FLAG_RESPONSE: u32 = 1;

/// The last message of the stream. Only the gateway sets it.
pub const FLAG_LAST: u32 = 1 << 1;

const MAGIC: [u8; 4] = *b"MCPF";

/// An invalid header. The rest of the stream is unreadable. The texts are for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameHeaderError {
    /// The magic bytes are wrong.
    #[error("a frame must begin with the four bytes MCPF; where one ends the next begins")]
    Magic,
    #[error("frame version {0} is not spoken here; send version 1")]
    Version(u32),
    /// Unknown flags, or flags that a client must not send.
    #[error("frame flags {0:#x} are not known here; send 0, or 1 with an answer")]
    Flags(u32),
}

impl FrameHeader {
    /// Creates the header of a payload of `length` bytes.
    pub fn new(flags: u32, method: u32, length: u32) -> Self {
        Self {
            magic: MAGIC,
            version: FRAME_VERSION.to_le_bytes(),
            flags: flags.to_le_bytes(),
            method: method.to_le_bytes(),
            length: length.to_le_bytes(),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// Parses a header from a client. `None` if `bytes` is too short; an error in it is reported as soon as it is visible.
    ///
    /// # Errors
    /// [`FrameHeaderError`]: the rest of the stream is unreadable.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameHeaderError> {
        let magic_bytes = bytes.len().min(MAGIC.len());
        if bytes[..magic_bytes] != MAGIC[..magic_bytes] {
            return Err(FrameHeaderError::Magic);
        }
        let Some(bytes) = bytes.get(..FRAME_HEADER_BYTES) else { return Ok(None) };
        let header: Self = bytemuck::pod_read_unaligned(bytes);
        let version = u32::from_le_bytes(header.version);
        if version != FRAME_VERSION {
            return Err(FrameHeaderError::Version(version));
        }
        if header.flags() & !FLAG_RESPONSE != 0 {
            return Err(FrameHeaderError::Flags(header.flags()));
        }
        Ok(Some(header))
    }

    /// The flags. A client sends [`FLAG_RESPONSE`] or none.
    pub fn flags(&self) -> u32 {
        u32::from_le_bytes(self.flags)
    }

    /// The number of the method; zero if unspecified.
    pub fn method(&self) -> u32 {
        u32::from_le_bytes(self.method)
    }

    /// The length of the payload in bytes.
    pub fn length(&self) -> u32 {
        u32::from_le_bytes(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<(u32, u32, u32)>, FrameHeaderError>) {
        let parsed = FrameHeader::parse(bytes);
        assert_eq!(
            parsed.map(|parsed| parsed.map(|header| (header.flags(), header.method(), header.length()))),
            expected
        );
    }

    /// The example in `docs/FRAMES.md`.
    const PING: [u8; 20] = *b"MCPF\x01\0\0\0\0\0\0\0\x02\0\0\0\x28\0\0\0";

    #[test]
    fn headers_are_parsed() {
        check(&PING, Ok(Some((0, 2, 40))));
        assert_eq!(FrameHeader::new(0, 2, 40).as_bytes(), PING);
        check(&[&PING[..], b"more"].concat(), Ok(Some((0, 2, 40))));
        (0..20).for_each(|cut| check(&PING[..cut], Ok(None)));
        check(b"G", Err(FrameHeaderError::Magic));
        check(b"MCPG", Err(FrameHeaderError::Magic));
        check(b"MCPF\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0", Err(FrameHeaderError::Version(1 << 24)));
        check(b"MCPF\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Err(FrameHeaderError::Version(2)));
        check(b"MCPF\x01\0\0\0\x01\0\0\0\0\0\0\0\xff\xff\xff\xff", Ok(Some((1, 0, u32::MAX))));
        check(b"MCPF\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0", Err(FrameHeaderError::Flags(2)));
        check(b"MCPF\x01\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\0", Err(FrameHeaderError::Flags(1 << 31)));
    }
}
