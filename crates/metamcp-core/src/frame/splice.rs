//! Replaces parts of a message without copying the rest.

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::span::Span;

/// Edits per message. A forwarded message has at most these: name, id, progress token, request state and trace context.
pub const EDITS_MAX: usize = 5;

/// Edits that do not fit the message. A bug of the caller, never caused by a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// There are more than [`EDITS_MAX`] edits.
    #[error("more than {EDITS_MAX} edits to one message")]
    TooMany,
    /// A span that ends before it starts, or outside the message.
    #[error("an edit lies outside the message")]
    Bounds,
    /// Edits that overlap or are not in ascending order.
    #[error("edits overlap or are out of order")]
    Order,
}

/// Replaces some spans of `original`. The rest is not copied: the result shares it.
///
/// Edits must be in ascending order. An empty span inserts.
///
/// # Errors
/// [`SpliceError`] if the edits do not fit the message.
pub fn splice(original: &Bytes, edits: &[(Span, Bytes)]) -> Result<SplicedMessage, SpliceError> {
    if edits.len() > EDITS_MAX {
        return Err(SpliceError::TooMany);
    }
    let mut message = SplicedMessage { chunks: Vec::with_capacity(2 * edits.len() + 1), taken: 0 };
    let mut copied = 0;
    for (span, replacement) in edits {
        let (start, end) = (span.start as usize, span.end as usize);
        if start > end || end > original.len() {
            return Err(SpliceError::Bounds);
        }
        if start < copied {
            return Err(SpliceError::Order);
        }
        message.add(original.slice(copied..start));
        message.add(replacement.clone());
        copied = end;
    }
    message.add(original.slice(copied..));
    Ok(message)
}

/// An edited message as a sequence of chunks, none of them empty.
#[derive(Clone, Debug)]
pub struct SplicedMessage {
    /// Those before `taken` are empty.
    chunks: Vec<Bytes>,
    taken: usize,
}

impl SplicedMessage {
    /// Creates a message without edits.
    pub fn unedited(message: Bytes) -> Self {
        let mut spliced = Self { chunks: Vec::with_capacity(1), taken: 0 };
        spliced.add(message);
        spliced
    }

    /// The number of bytes that were not taken yet. The Content-Length, as long as none was.
    pub fn remaining_bytes(&self) -> usize {
        self.parts().iter().map(Bytes::len).sum()
    }

    /// The chunks that were not taken yet.
    pub fn parts(&self) -> &[Bytes] {
        &self.chunks[self.taken..]
    }

    fn add(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
    }
}

impl Iterator for SplicedMessage {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let chunk = std::mem::take(self.chunks.get_mut(self.taken)?);
        self.taken += 1;
        Some(chunk)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.chunks.len() - self.taken;
        (left, Some(left))
    }
}

impl ExactSizeIterator for SplicedMessage {}

/// Encodes a text as a JSON string with quotes. Escapes only what JSON requires (RFC 8259, section 7).
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
        write_escape(&mut json, byte);
    }
    json.extend_from_slice(&text.as_bytes()[copied..]);
    json.put_u8(b'"');
    json.freeze()
}

fn write_escape(json: &mut BytesMut, byte: u8) {
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
