//! Cutting and replacing parts of a message without writing the rest anew.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::span::Span;

/// Edits to one message. The most that a forwarded message needs are name, id, progress token, request state, and
/// where it is in its trace.
pub const EDITS_MAX: usize = 5;

/// Edits that do not fit the message: a mistake of the caller, never of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// More than [`EDITS_MAX`].
    #[error("more than {EDITS_MAX} edits to one message")]
    TooMany,
    /// A span that ends before it starts, or outside the message.
    #[error("an edit lies outside the message")]
    Bounds,
    /// Edits that overlap, or stand in another order than their places.
    #[error("edits overlap or are out of order")]
    Order,
}

/// Puts other bytes in the place of some spans of `original`. The rest is not copied: the slices share it.
///
/// Edits are in ascending order; an empty span inserts.
///
/// # Errors
/// [`SpliceError`], when the edits do not fit the message.
pub fn splice(original: &Bytes, edits: &[(Span, Bytes)]) -> Result<SplicedMessage, SpliceError> {
    if edits.len() > EDITS_MAX {
        return Err(SpliceError::TooMany);
    }
    let mut slices = SplicedMessage { parts: Vec::with_capacity(2 * edits.len() + 1), taken: 0 };
    let mut copied = 0;
    for (span, replacement) in edits {
        let (start, end) = (span.start as usize, span.end as usize);
        if start > end || end > original.len() {
            return Err(SpliceError::Bounds);
        }
        if start < copied {
            return Err(SpliceError::Order);
        }
        slices.add(original.slice(copied..start));
        slices.add(replacement.clone());
        copied = end;
    }
    slices.add(original.slice(copied..));
    Ok(slices)
}

/// The parts of an edited message, in order, none of them empty.
#[derive(Clone, Debug)]
pub struct SplicedMessage {
    /// Those before `taken` are empty.
    parts: Vec<Bytes>,
    taken: usize,
}

impl SplicedMessage {
    /// A message that is not edited.
    pub fn unedited(message: Bytes) -> Self {
        let mut slices = Self { parts: Vec::with_capacity(1), taken: 0 };
        slices.add(message);
        slices
    }

    /// Bytes in the slices which were not taken yet: the Content-Length, as long as none was.
    pub fn remaining_bytes(&self) -> usize {
        self.parts().iter().map(Bytes::len).sum()
    }

    /// Those which were not taken yet.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts[self.taken..]
    }

    fn add(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }
}

impl Iterator for SplicedMessage {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let part = std::mem::take(self.parts.get_mut(self.taken)?);
        self.taken += 1;
        Some(part)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.parts.len() - self.taken;
        (left, Some(left))
    }
}

impl ExactSizeIterator for SplicedMessage {}

/// `text` as a JSON string, quotes included; escapes only what JSON demands (RFC 8259, section 7).
pub fn json_string(text: &str) -> Bytes {
    let mut json = BytesMut::with_capacity(text.len() + 2);
    json.put_u8(b'"');
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        json.extend_from_slice(&text.as_bytes()[copied..at]);
        copied = at + 1;
        put_escape(&mut json, byte);
    }
    json.extend_from_slice(&text.as_bytes()[copied..]);
    json.put_u8(b'"');
    json.freeze()
}

fn put_escape(json: &mut BytesMut, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            json.put_slice(b"\\u00");
            json.put_u8(HEX[usize::from(byte >> 4)]);
            json.put_u8(HEX[usize::from(byte & 0xf)]);
            return;
        }
    };
    json.put_u8(b'\\');
    json.put_u8(short);
}

#[cfg(test)]
mod tests;
