//! Chunked bodies of requests, beside a second parser of the grammar in RFC 9112, section 7.1, that has the whole body.

use crate::http1::MalformedRequest;
use crate::http1::chunked_request::{ChunkPart, ChunkedReader};
use crate::http1::strict_bytes::{is_token_byte, is_value_byte};

/// The data of a body, the bytes that it takes, and whether it has ended.
type Body = Result<(Vec<u8>, usize, bool), MalformedRequest>;

/// Places at which an input is cut.
const CUTS: usize = 32;

/// Reads a body, whole and in pieces, and with chunks copied at once.
pub fn chunked_request(body: &[u8]) {
    let whole = read([body]);
    for at_a_time in [1, 2, 7] {
        assert_eq!(read(body.chunks(at_a_time)), whole, "{at_a_time} bytes at a time");
        assert_eq!(read_by_copying(body, at_a_time, 7), whole, "{at_a_time} bytes at a time, copied");
    }
    for room in [1, 64, body.len()] {
        assert_eq!(read_by_copying(body, usize::MAX, room), whole, "copied to {room} bytes");
    }
    // A long body is cut at a few places only, for a bounded time.
    for at in (0..body.len()).step_by(1 + body.len() / CUTS) {
        assert_eq!(read([&body[..at], &body[at..]]), whole, "cut at {at}");
    }
    let ended = whole.ok().filter(|(.., is_ended)| *is_ended).map(|(data, bytes, _)| (data, bytes));
    let expected = parse_strict_body(body);
    assert!(ended.is_none() || ended == expected, "{expected:?} is what the grammar says");
    // The limits of extensions and trailers refuse some that the grammar accepts.
    assert!(body.len() > LIMITS_BYTES_MIN || ended == expected, "{expected:?} is what the grammar says");
}

/// The least of the limits of extensions and trailers.
const LIMITS_BYTES_MIN: usize = 256;

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Body {
    let (mut reader, mut data, mut taken) = (ChunkedReader::default(), Vec::new(), 0);
    for mut piece in pieces {
        while !piece.is_empty() {
            let (bytes, part) = reader.next(piece)?;
            assert!(bytes > 0, "no progress");
            if part == ChunkPart::Data {
                data.extend_from_slice(&piece[..bytes]);
            }
            (taken, piece) = (taken + bytes, &piece[bytes..]);
            if part == ChunkPart::End {
                return Ok((data, taken, true));
            }
        }
    }
    Ok((data, taken, false))
}

/// Likewise, with whole chunks copied where there are any, in pieces of `room` bytes.
fn read_by_copying(body: &[u8], at_a_time: usize, room: usize) -> Body {
    let (mut reader, mut data, mut taken) = (ChunkedReader::default(), Vec::new(), 0);
    let mut out = vec![0; room];
    for mut piece in body.chunks(at_a_time) {
        while !piece.is_empty() {
            let (bytes, copied) = reader.copy_whole_chunks(piece, &mut out);
            data.extend_from_slice(&out[..copied]);
            (taken, piece) = (taken + bytes, &piece[bytes..]);
            if bytes > 0 {
                continue;
            }
            let (bytes, part) = reader.next(piece)?;
            if part == ChunkPart::Data {
                data.extend_from_slice(&piece[..bytes]);
            }
            (taken, piece) = (taken + bytes, &piece[bytes..]);
            if part == ChunkPart::End {
                return Ok((data, taken, true));
            }
        }
    }
    Ok((data, taken, false))
}

/// Parses a complete body at the beginning of the input, without limits: its data and its length.
pub fn parse_strict_body(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = line(&input[at..])?;
        at += line.len() + 2;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits]).ok().filter(|_| digits <= 16)?;
        let size = usize::try_from(u64::from_str_radix(size, 16).ok()?).ok()?;
        parse_extensions(&line[digits..])?;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size)?;
        data.extend_from_slice(input.get(at..end)?);
        at = end + 2;
        (input.get(end..at)? == b"\r\n").then_some(())?;
    }
    loop {
        let line = line(&input[at..])?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some((data, at));
        }
        let name = token(line)?;
        let value = line[name..].strip_prefix(b":")?;
        value.iter().all(|byte| is_value_byte(*byte)).then_some(())?;
    }
}

/// The first line, without its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    Some(&input[..memchr::memmem::find(input, b"\r\n")?])
}

/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`
fn parse_extensions(mut rest: &[u8]) -> Option<()> {
    while !rest.is_empty() {
        rest = skip_blanks(skip_blanks(rest).strip_prefix(b";")?);
        rest = &rest[token(rest)?..];
        if let Some(value) = skip_blanks(rest).strip_prefix(b"=") {
            let value = skip_blanks(value);
            rest = match value.strip_prefix(b"\"") {
                Some(text) => quoted(text)?,
                None => &value[token(value)?..],
            };
        }
    }
    Some(())
}

/// What follows a quoted string, whose first quote is before the text.
fn quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let (byte, rest) = text.split_first()?;
        text = match byte {
            b'"' => return Some(rest),
            b'\\' => rest.split_first().filter(|(byte, _)| is_value_byte(**byte))?.1,
            byte if is_value_byte(*byte) => rest,
            _ => return None,
        };
    }
}

/// The length of the token at the beginning, which is not empty.
fn token(text: &[u8]) -> Option<usize> {
    let length = text.iter().take_while(|byte| is_token_byte(**byte)).count();
    (length > 0).then_some(length)
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[blanks..]
}
