//! Event ids: the sealed name of a stream, and the number of an event in it.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::session::claims::SessionClaims;
use metamcp_store::auth::{Purpose, Sealer};

/// The contents of an event id. Layout of the sealed bytes, with the key and the session as associated data:
///
/// ```text
/// format 1 | process 8 | stream 8 (big endian) | raw id of the request, if the stream answers one
/// ```
///
/// A dot and the event's number in sixteen hexadecimal digits follow in the clear. Altering the number only leads to
/// another event of the client's own stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// The process that created the stream.
    pub(super) process: u64,
    /// The number of the stream in that process.
    pub(super) stream: u64,
    /// The raw id of the request that the stream answers. `None` for a session's own stream.
    pub request_id: Option<Bytes>,
    /// The last event that the client has.
    pub sequence: u64,
    label: Box<str>,
}

/// The sequence of a loss notice, which follows every event.
const LOSS_SEQUENCE: u64 = u64::MAX;

/// Longer request ids are not put into event ids. Real ones are numbers or UUIDs.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// The first of the sealed bytes. Another layout has another value.
const FORMAT: u8 = 1;

/// Longer ids are not decoded. Ours are shorter.
const ID_BYTES_MAX: usize = 512;

const SEQUENCE_DIGITS: usize = 16;

/// The key and session that a stream belongs to: the associated data of its event ids.
pub(super) struct StreamOwner([u8; 28]);

impl StreamOwner {
    pub fn new(claims: &SessionClaims) -> Self {
        let mut owner = [0; 28];
        owner[..12].copy_from_slice(claims.key_id.as_bytes());
        owner[12..].copy_from_slice(&claims.key.0);
        Self(owner)
    }
}

/// Seals the part that all event ids of a stream start with. Each call returns a different text with the same meaning.
pub(super) fn seal_label(
    sealer: &Sealer,
    owner: &StreamOwner,
    process: u64,
    stream: u64,
    request_id: &[u8],
) -> Box<str> {
    let mut plain = Vec::with_capacity(1 + 8 + 8 + request_id.len());
    plain.push(FORMAT);
    plain.extend_from_slice(&process.to_be_bytes());
    plain.extend_from_slice(&stream.to_be_bytes());
    plain.extend_from_slice(request_id);
    URL_SAFE_NO_PAD.encode(sealer.seal(Purpose::EventId, &owner.0, &plain)).into()
}

/// Writes the `id` line of an event.
pub(super) fn write_id_line(label: &str, sequence: u64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = writeln!(out, "id: {label}.{sequence:016x}");
}

/// The `id` line of the event that notifies a client of lost events.
pub(super) fn loss_notice_line(label: &str) -> Vec<u8> {
    let mut line = Vec::new();
    write_id_line(label, LOSS_SEQUENCE, &mut line);
    line
}

impl EventId {
    pub(super) fn parse(text: &[u8], sealer: &Sealer, claims: &SessionClaims) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= ID_BYTES_MAX)?;
        let (label, digits) = text.split_once('.')?;
        let is_number =
            digits.len() == SEQUENCE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sequence = u64::from_str_radix(digits, 16).ok().filter(|_| is_number)?;
        let sealed = URL_SAFE_NO_PAD.decode(label).ok()?;
        let plain = sealer.open(Purpose::EventId, &StreamOwner::new(claims).0, &sealed).ok()?;
        let (format, rest) = plain.split_first()?;
        let (process, rest) = rest.split_first_chunk::<8>()?;
        let (stream, request_id) = rest.split_first_chunk::<8>()?;
        (*format == FORMAT).then_some(Self {
            process: u64::from_be_bytes(*process),
            stream: u64::from_be_bytes(*stream),
            request_id: (!request_id.is_empty()).then(|| Bytes::copy_from_slice(request_id)),
            sequence,
            label: label.into(),
        })
    }

    /// The `id` line of the event that notifies the client of lost events.
    pub fn loss_notice_line(&self) -> Vec<u8> {
        loss_notice_line(&self.label)
    }

    /// Whether this is the id of a loss notice.
    pub fn is_loss_notice(&self) -> bool {
        self.sequence == LOSS_SEQUENCE
    }
}
