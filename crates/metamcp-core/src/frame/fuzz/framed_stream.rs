//! Framed streams: the cuts between chunks make no difference.

use bytes::Bytes;

use crate::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameHeaderError, MessageFraming, MessageReader, StreamItem,
    StreamRemainder,
};

/// What a stream consists of, with its end, or the error in it.
type Content = (Vec<StreamItem>, Result<StreamRemainder, FrameHeaderError>);

/// Reads a stream in both framings, whole and in pieces. The first byte is the limit of a message.
pub fn framed_stream(bytes: &[u8]) {
    header(bytes);
    let Some((limit, stream)) = bytes.split_first() else { return };
    for framing in [MessageFraming::Lines, MessageFraming::Frames] {
        let limit = usize::from(*limit);
        let whole = read(framing, limit, [stream]);
        for at_a_time in [1, 2, 7, FRAME_HEADER_BYTES + 1] {
            let cut = read(framing, limit, stream.chunks(at_a_time));
            assert_eq!(cut, whole, "{framing:?}, {at_a_time} bytes at a time");
        }
        // A long stream is cut at a few places only, for a bounded time.
        for at in (0..stream.len()).step_by(1 + stream.len() / CUTS) {
            let cut = read(framing, limit, [&stream[..at], &stream[at..]]);
            assert_eq!(cut, whole, "{framing:?}, cut at {at}");
        }
        check_items(framing, limit, &whole.0, stream);
    }
}

/// Places at which an input is cut.
const CUTS: usize = 32;

fn read<'a>(framing: MessageFraming, limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Content {
    let (mut reader, mut items) = (MessageReader::new(framing, limit), Vec::new());
    for piece in pieces {
        reader.push(Bytes::copy_from_slice(piece));
        loop {
            match reader.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Err(error)),
            }
        }
    }
    (items, Ok(reader.finish()))
}

/// No message is empty or over the limit, and all of them are in the stream, in this order.
fn check_items(framing: MessageFraming, limit: usize, items: &[StreamItem], stream: &[u8]) {
    let mut rest = stream;
    for item in items {
        let StreamItem::Message { header, bytes } = item else { continue };
        assert!((1..=limit).contains(&bytes.len()));
        assert_eq!(header.is_some(), framing == MessageFraming::Frames);
        let at = memchr::memmem::find(rest, bytes).expect("a message is a part of the stream");
        rest = &rest[at + bytes.len()..];
    }
}

/// A header is written as it was read, and an error shows as soon as it does in more bytes.
fn header(bytes: &[u8]) {
    let whole = FrameHeader::parse(bytes);
    if let Ok(Some(header)) = whole {
        assert_eq!(header.as_bytes(), &bytes[..FRAME_HEADER_BYTES]);
        assert_eq!(FrameHeader::new(header.flags(), header.method(), header.length()), header);
    }
    for cut in 0..bytes.len().min(FRAME_HEADER_BYTES) {
        match FrameHeader::parse(&bytes[..cut]) {
            Ok(header) => assert_eq!(header, None),
            Err(error) => assert_eq!(whole, Err(error)),
        }
    }
}
