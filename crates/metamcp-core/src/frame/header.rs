//! The fixed header in front of each message of a framed stream: five words, little endian.
//!
//! ```text
//! offset  0        4          8        12        16        20
//!         | "MCPF" | version  | flags  | method  | length  | length bytes of payload ...
//! ```

use bytemuck::{Pod, Zeroable};

/// In front of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FrameHeader {
    magic: [u8; 4],
    version: [u8; 4],
    flags: [u8; 4],
    method: [u8; 4],
    length: [u8; 4],
}

/// From its first to its last byte.
pub const FRAME_HEADER_BYTES: usize = size_of::<FrameHeader>();

const _: () = assert!(FRAME_HEADER_BYTES == 20 && align_of::<FrameHeader>() == 1);

/// The only version there is.
pub const FRAME_VERSION: u32 = 1;

/// The payload is a result or an error; the method is zero then.
pub const FLAG_RESPONSE: u32 = 1;

/// Nothing follows. Only the gateway says so.
pub const FLAG_LAST: u32 = 1 << 1;

const MAGIC: [u8; 4] = *b"MCPF";

/// A header behind which nothing can be read any more. The texts are for whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameHeaderError {
    /// It does not begin as a header does.
    #[error("a frame must begin with the four bytes MCPF; where one ends the next begins")]
    Magic,
    /// Of another version.
    #[error("frame version {0} is not spoken here; send version 1")]
    Version(u32),
    /// Flags that have no meaning yet, or that a client does not send.
    #[error("frame flags {0:#x} are not known here; send 0, or 1 with an answer")]
    Flags(u32),
}

impl FrameHeader {
    /// For a payload of that length.
    pub fn new(flags: u32, method: u32, length: u32) -> Self {
        Self {
            magic: MAGIC,
            version: FRAME_VERSION.to_le_bytes(),
            flags: flags.to_le_bytes(),
            method: method.to_le_bytes(),
            length: length.to_le_bytes(),
        }
    }

    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// From a client. `bytes` may be the beginning of one: what is wrong already is told, else `None`.
    ///
    /// # Errors
    /// [`BadHeader`]: the stream cannot be read on.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameHeaderError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
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

    /// [`FLAG_ANSWER`] or none, as far as a client says.
    pub fn flags(&self) -> u32 {
        u32::from_le_bytes(self.flags)
    }

    /// The number of the method; zero: not said.
    pub fn method(&self) -> u32 {
        u32::from_le_bytes(self.method)
    }

    /// Of the payload, in bytes.
    pub fn length(&self) -> u32 {
        u32::from_le_bytes(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<(u32, u32, u32)>, FrameHeaderError>) {
        let read = FrameHeader::parse(bytes);
        assert_eq!(read.map(|read| read.map(|read| (read.flags(), read.method(), read.length()))), expected);
    }

    /// As `docs/FRAMES.md` shows it.
    const PING: [u8; 20] = *b"MCPF\x01\0\0\0\0\0\0\0\x02\0\0\0\x28\0\0\0";

    #[test]
    fn headers() {
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
