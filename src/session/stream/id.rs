//! The id of an event: what names its stream, sealed, and the event's number in it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::auth::{Purpose, Sealer};
use crate::session::id::SessionClaims;

/// What an event id says. Layout of the sealed bytes, with the key and the session as associated data:
///
/// ```text
/// format 1 | process 8 | stream 8 (big endian) | raw id of the request, if it answers one
/// ```
///
/// Behind them, in the clear: a point and the event's number in sixteen hexadecimal digits. The number leads nowhere but
/// within the client's own stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// Which process had the stream.
    pub(super) process: u64,
    /// Which of its streams.
    pub(super) number: u64,
    /// The raw id of the call that the stream answers; of a session's own stream none.
    pub request: Option<Bytes>,
    /// The last event that the client has.
    pub sequence: u64,
    label: Box<str>,
}

/// Behind every event: the client was told that what it misses is gone.
const OVER: u64 = u64::MAX;

/// A longer id of a request is not carried in an event's: real ones are numbers or UUIDs.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// The first byte of the sealed bytes; another one is another layout.
const FORMAT: u8 = 1;

/// Longer than any id of ours can be; longer texts are not decoded.
const TEXT_BYTES_MAX: usize = 512;

const SEQUENCE_DIGITS: usize = 16;

/// Whose a stream is: nobody else's id can be opened with it.
pub(super) struct StreamOwner([u8; 28]);

impl StreamOwner {
    pub fn new(seal: &SessionClaims) -> Self {
        let mut owner = [0; 28];
        owner[..12].copy_from_slice(seal.key_id.as_bytes());
        owner[12..].copy_from_slice(&seal.key.0);
        Self(owner)
    }
}

/// What the ids of a stream begin with; another text each time, which says the same.
pub(super) fn label(
    sealer: &Sealer,
    owner: &StreamOwner,
    process: u64,
    number: u64,
    request: &[u8],
) -> Box<str> {
    let mut plain = Vec::with_capacity(1 + 8 + 8 + request.len());
    plain.push(FORMAT);
    plain.extend_from_slice(&process.to_be_bytes());
    plain.extend_from_slice(&number.to_be_bytes());
    plain.extend_from_slice(request);
    URL_SAFE_NO_PAD.encode(sealer.seal(Purpose::EventId, &owner.0, &plain)).into()
}

/// Writes the `id` line of an event.
pub(super) fn write(label: &str, sequence: u64, into: &mut Vec<u8>) {
    use std::io::Write as _;
    // Writing to a Vec cannot fail.
    let _ = writeln!(into, "id: {label}.{sequence:016x}");
}

pub(super) fn loss_notice_line(label: &str) -> Vec<u8> {
    let mut line = Vec::new();
    write(label, OVER, &mut line);
    line
}

impl EventId {
    pub(super) fn parse(text: &[u8], sealer: &Sealer, seal: &SessionClaims) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        let (label, digits) = text.split_once('.')?;
        let is_number =
            digits.len() == SEQUENCE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sequence = u64::from_str_radix(digits, 16).ok().filter(|_| is_number)?;
        let sealed = URL_SAFE_NO_PAD.decode(label).ok()?;
        let plain = sealer.open(Purpose::EventId, &StreamOwner::new(seal).0, &sealed).ok()?;
        let (format, rest) = plain.split_first()?;
        let (process, rest) = rest.split_first_chunk::<8>()?;
        let (number, request) = rest.split_first_chunk::<8>()?;
        (*format == FORMAT).then_some(Self {
            process: u64::from_be_bytes(*process),
            number: u64::from_be_bytes(*number),
            request: (!request.is_empty()).then(|| Bytes::copy_from_slice(request)),
            sequence,
            label: label.into(),
        })
    }

    /// The `id` line of the event by which the client is told that what it misses is gone.
    pub fn loss_notice_line(&self) -> Vec<u8> {
        loss_notice_line(&self.label)
    }

    /// Whether the client was told that what it misses is gone.
    pub fn is_over(&self) -> bool {
        self.sequence == OVER
    }
}
