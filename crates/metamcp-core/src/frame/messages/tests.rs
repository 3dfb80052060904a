use super::*;
use crate::base::{CHARGED_BYTES_MIN, ChargedBuffer, MemoryAccount};

const BYTES_MAX: usize = 8;

/// Reads a stream. Returns the messages, `!` for one that is too long, and the remainder or error at the end.
fn read(form: MessageFraming, chunks: &[&[u8]]) -> String {
    let mut reader = MessageReader::new(form, BYTES_MAX);
    let mut told = Vec::new();
    for chunk in chunks {
        reader.push(Bytes::copy_from_slice(chunk));
        loop {
            match reader.next() {
                Ok(Some(StreamItem::Message { header, bytes })) => {
                    let method = header.map(|header| format!("{}:", header.method())).unwrap_or_default();
                    told.push(format!("{method}{}", String::from_utf8_lossy(&bytes)));
                }
                Ok(Some(StreamItem::TooLong | StreamItem::Refused(_))) => told.push("!".into()),
                Ok(None) => break,
                Err(error) => {
                    told.push(format!("{error:?}"));
                    return told.join(" ");
                }
            }
        }
        assert!(
            reader.partial.len() <= BYTES_MAX.max(FRAME_HEADER_BYTES) + 1,
            "no more than a message is held"
        );
    }
    match reader.finish() {
        StreamRemainder::Empty => {}
        StreamRemainder::Line(line) => told.push(format!("~{}", String::from_utf8_lossy(&line))),
        StreamRemainder::Incomplete => told.push("~".into()),
    }
    told.join(" ")
}

/// Checks the stream whole, byte by byte, and split in two at every offset.
#[track_caller]
fn check(form: MessageFraming, stream: &[u8], expected: &str) {
    assert_eq!(read(form, &[stream]), expected, "whole");
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(form, &bytes), expected, "byte by byte");
    for cut in 0..=stream.len() {
        let (one, other) = stream.split_at(cut);
        assert_eq!(read(form, &[one, other]), expected, "cut at {cut}");
    }
}

#[test]
fn lines() {
    let check = |stream: &str, expected| check(MessageFraming::Lines, stream.as_bytes(), expected);
    check("", "");
    check("one\ntwo\n", "one two");
    check("one\r\n\r\n\n  \ntwo\r\n", "one two");
    check("12345678\n12345678\r\n", "12345678 12345678");
    check("123456789\n1\n", "! 1");
    check("123456789012345678901234567890\n1\n", "! 1");
    check("1\nhalf", "1 ~half");
    check("1\n  \n ", "1");
    check("1\n12345678901234567", "1 ! ~");
    // Blanks around a message count, wherever a chunk ends.
    check("        1\n", "1");
    check("         1\n2\n", "! 2");
    check("12345678  \n2\n", "! 2");
}

fn frame(method: u32, payload: &str) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [FrameHeader::new(0, method, length).as_bytes(), payload.as_bytes()].concat()
}

#[test]
fn frames() {
    let check = |stream: &[&[u8]], expected| check(MessageFraming::Frames, &stream.concat(), expected);
    check(&[], "");
    check(&[&frame(2, "one"), &frame(0, ""), &frame(17, "two\n")], "2:one 17:two\n");
    check(&[&frame(0, "12345678"), &frame(0, "123456789"), &frame(1, "x")], "0:12345678 ! 1:x");
    check(&[&frame(1, "one"), &frame(1, "two")[..22]], "1:one ~");
    check(&[&frame(1, "one"), &frame(1, "two")[..7]], "1:one ~");
    check(&[&frame(0, "1234567890")[..25]], "! ~");
    check(&[&frame(1, "one"), b"{\"jsonrpc\""], "1:one Magic");
    check(&[b"MCPF\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"], "Version(7)");
    check(&[b"MCPF\x01\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0"], "Flags(4)");
}

#[test]
fn a_wrong_length_reserves_no_memory() {
    let mut reader = MessageReader::new(MessageFraming::Frames, 1 << 30);
    reader.push(Bytes::copy_from_slice(FrameHeader::new(0, 0, 1 << 30).as_bytes()));
    assert_eq!(reader.next(), Ok(None));
    reader.push(Bytes::from_static(b"{"));
    assert_eq!(reader.next(), Ok(None));
    assert!(reader.is_mid_message() && reader.partial.capacity() < 4096);
}

#[test]
fn a_message_shares_its_chunk() {
    let mut reader = MessageReader::new(MessageFraming::Lines, 100);
    let chunk = Bytes::from_static(b"one\ntwo\n");
    reader.push(chunk.clone());
    for at in [0, 4] {
        let Ok(Some(StreamItem::Message { bytes, .. })) = reader.next() else { panic!("a message") };
        assert_eq!(bytes.as_ptr(), chunk[at..].as_ptr());
    }
}

#[test]
fn a_message_without_memory_is_skipped() {
    let account: &'static MemoryAccount = Box::leak(Box::default());
    account.set_bytes_max(CHARGED_BYTES_MIN);
    let long = vec![b'x'; 4 * CHARGED_BYTES_MIN];
    let frame = |payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("a length of a frame");
        [FrameHeader::new(0, 0, length).as_bytes(), payload].concat()
    };
    let rows = [
        (MessageFraming::Lines, [&long[..], b"\nnext\n"].concat()),
        (MessageFraming::Frames, [frame(&long), frame(b"next")].concat()),
    ];
    for (framing, bytes) in rows {
        let mut reader = MessageReader::new(framing, 1 << 20);
        reader.partial = ChargedBuffer::with_charge(account.charge());
        let mut items = Vec::new();
        for chunk in bytes.chunks(5000) {
            reader.push(Bytes::copy_from_slice(chunk));
            while let Some(item) = reader.next().expect("the framing is right") {
                items.push(item);
            }
        }
        let [StreamItem::Refused(_), StreamItem::Message { bytes, .. }] = &items[..] else {
            panic!("{framing:?}: {items:?}")
        };
        assert_eq!((&bytes[..], account.charged_bytes(), account.refusals() > 0), (&b"next"[..], 0, true));
    }
}
