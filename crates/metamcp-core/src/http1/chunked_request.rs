//! Follows the framing of a chunked request body as strictly as RFC 9112, section 7.1, allows.
//!
//! Chunk extensions and trailers have no meaning in MCP. They are checked, bounded and ignored.

use super::strict_bytes::{MalformedRequest, is_token_byte, is_value_byte};

/// Follows one body, in pieces of any size.
#[derive(Debug, Default)]
pub struct ChunkedReader {
    state: ChunkState,
    /// Bytes of data left in the chunk; while its size is read, the size.
    left: u64,
    size_digits: u8,
    /// Bytes of the extensions of this chunk.
    extension_bytes: usize,
    extension_bytes_of_body: usize,
    trailer_bytes: usize,
}

/// What a piece of the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPart {
    /// Sizes, line ends and the like.
    Framing,
    Data,
    /// Framing, and the last byte of the body.
    End,
}

/// What was read last, or comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    /// Blanks after a size or an extension, which only another extension may follow.
    BeforeExtension,
    /// A semicolon, and blanks.
    ExtensionStart,
    ExtensionName,
    AfterExtensionName,
    ValueStart,
    ValueToken,
    ValueQuoted,
    ValueEscape,
    ValueEnd,
    SizeCr,
    Data,
    DataEnd,
    DataCr,
    /// The beginning of a line after the last chunk.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerCr,
    EndCr,
    End,
}

/// Digits of a size: as many as 64 bits have. Zeros in front count too, or a size would have no end.
const SIZE_DIGITS_MAX: u8 = 16;

/// Extensions of one chunk. Nothing that is known to be sent comes near it.
const EXTENSION_BYTES_MAX: usize = 256;

/// Extensions of all chunks of a body, so that a body cannot consist of them.
const EXTENSION_BYTES_OF_BODY_MAX: usize = 16 << 10;

/// All trailers: what a head on the fast lane may have.
const TRAILER_BYTES_MAX: usize = 8 << 10;

impl ChunkedReader {
    /// Classifies the first bytes of the input, and returns how many they are: all of it, or up to where a part
    /// of another kind begins.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, ChunkPart), MalformedRequest> {
        if self.state == ChunkState::Data {
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            self.left -= count as u64;
            if self.left == 0 {
                self.state = ChunkState::DataEnd;
            }
            return Ok((count, ChunkPart::Data));
        }
        for (at, byte) in input.iter().enumerate() {
            self.step(*byte)?;
            match self.state {
                // Behind a chunk, more may be copied.
                ChunkState::Size if self.size_digits == 0 => return Ok((at + 1, ChunkPart::Framing)),
                ChunkState::Data => return Ok((at + 1, ChunkPart::Framing)),
                ChunkState::End => return Ok((at + 1, ChunkPart::End)),
                _ => {}
            }
        }
        Ok((input.len(), ChunkPart::Framing))
    }

    /// Copies the data of whole chunks with common heads to `out`, as long as they fit. Returns how many bytes of the
    /// input they take, and how many were copied. A body in tiny chunks consists of little else.
    pub fn copy_whole_chunks(&mut self, input: &[u8], out: &mut [u8]) -> (usize, usize) {
        let (mut at, mut copied) = (0, 0);
        if self.state != ChunkState::Size || self.size_digits > 0 {
            return (0, 0);
        }
        loop {
            // These cost the most for each byte of data.
            while let Some([b'1', b'\r', b'\n', only, b'\r', b'\n']) =
                input.get(at..).and_then(|rest| rest.first_chunk())
                && let Some(place) = out.get_mut(copied)
            {
                *place = *only;
                (at, copied) = (at + 6, copied + 1);
            }
            let Some((head, size)) = input.get(at..).and_then(common_head) else { break };
            let (begin, end) = (at + head, at + head + size);
            let is_whole = input.get(end..end + 2) == Some(b"\r\n");
            let Some(place) = out.get_mut(copied..copied + size).filter(|_| is_whole) else { break };
            place.copy_from_slice(&input[begin..end]);
            (at, copied) = (end + 2, copied + size);
        }
        (at, copied)
    }

    fn step(&mut self, byte: u8) -> Result<(), MalformedRequest> {
        use ChunkState as S;
        self.state = match (self.state, byte) {
            (S::Size, b'\r') if self.size_digits > 0 => S::SizeCr,
            (S::Size, b' ' | b'\t' | b';') if self.size_digits > 0 => self.extension_byte(byte)?,
            (S::Size, _) => self.size_digit(byte)?,
            (S::SizeCr, b'\n') => {
                (self.size_digits, self.extension_bytes) = (0, 0);
                if self.left == 0 { S::TrailerStart } else { S::Data }
            }
            (S::SizeCr, _) => return Err(MalformedRequest::ChunkSize),
            (S::DataEnd, b'\r') => S::DataCr,
            (S::DataCr, b'\n') => S::Size,
            (S::DataEnd | S::DataCr, _) => return Err(MalformedRequest::ChunkEnd),
            (S::TrailerStart, b'\r') => S::EndCr,
            (S::EndCr, b'\n') => S::End,
            (S::TrailerStart | S::TrailerName | S::TrailerValue | S::TrailerCr | S::EndCr, _) => {
                self.trailer_byte(byte)?
            }
            _ => self.extension_byte(byte)?,
        };
        Ok(())
    }

    fn size_digit(&mut self, byte: u8) -> Result<ChunkState, MalformedRequest> {
        let digit = char::from(byte).to_digit(16).ok_or(MalformedRequest::ChunkSize)?;
        if self.size_digits == SIZE_DIGITS_MAX {
            return Err(MalformedRequest::ChunkSize);
        }
        self.size_digits += 1;
        // So many digits fit.
        self.left = (self.left << 4) | u64::from(digit);
        Ok(ChunkState::Size)
    }

    /// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` (RFC 9112, section 7.1.1), up to the
    /// carriage return.
    fn extension_byte(&mut self, byte: u8) -> Result<ChunkState, MalformedRequest> {
        use ChunkState as S;
        self.extension_bytes += 1;
        self.extension_bytes_of_body += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX
            || self.extension_bytes_of_body > EXTENSION_BYTES_OF_BODY_MAX
        {
            return Err(MalformedRequest::ChunkExtension);
        }
        Ok(match (self.state, byte) {
            (S::Size | S::BeforeExtension | S::ValueToken | S::ValueEnd, b' ' | b'\t') => S::BeforeExtension,
            (S::ExtensionStart, b' ' | b'\t') => S::ExtensionStart,
            (S::ExtensionName | S::AfterExtensionName, b' ' | b'\t') => S::AfterExtensionName,
            (S::ValueStart, b' ' | b'\t') => S::ValueStart,
            (
                S::Size
                | S::BeforeExtension
                | S::ExtensionName
                | S::AfterExtensionName
                | S::ValueToken
                | S::ValueEnd,
                b';',
            ) => S::ExtensionStart,
            (S::ExtensionName | S::AfterExtensionName, b'=') => S::ValueStart,
            (S::ExtensionName | S::ValueToken | S::ValueEnd, b'\r') => S::SizeCr,
            (S::ExtensionStart | S::ExtensionName, _) if is_token_byte(byte) => S::ExtensionName,
            (S::ValueStart | S::ValueToken, _) if is_token_byte(byte) => S::ValueToken,
            (S::ValueStart, b'"') => S::ValueQuoted,
            (S::ValueQuoted, b'"') => S::ValueEnd,
            (S::ValueQuoted, b'\\') => S::ValueEscape,
            (S::ValueQuoted | S::ValueEscape, _) if is_value_byte(byte) => S::ValueQuoted,
            (S::BeforeExtension, _) => return Err(MalformedRequest::ChunkSize),
            _ => return Err(MalformedRequest::ChunkExtension),
        })
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<ChunkState, MalformedRequest> {
        use ChunkState as S;
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(MalformedRequest::Trailers);
        }
        Ok(match (self.state, byte) {
            (S::TrailerStart | S::TrailerName, _) if is_token_byte(byte) => S::TrailerName,
            (S::TrailerName, b':') => S::TrailerValue,
            (S::TrailerValue, b'\r') => S::TrailerCr,
            (S::TrailerValue, _) if is_value_byte(byte) => S::TrailerValue,
            (S::TrailerCr, b'\n') => S::TrailerStart,
            _ => return Err(MalformedRequest::Trailers),
        })
    }
}

/// The length of the head of a chunk that is not the last, and the size in it, if it has up to three digits and
/// nothing else.
fn common_head(input: &[u8]) -> Option<(usize, usize)> {
    let digit = |byte: u8| DIGITS[usize::from(byte)];
    let (head, size) = match *input {
        [a, b'\r', b'\n', ..] => (3, digit(a)?),
        [a, b, b'\r', b'\n', ..] => (4, digit(a)? << 4 | digit(b)?),
        [a, b, c, b'\r', b'\n', ..] => (5, digit(a)? << 8 | digit(b)? << 4 | digit(c)?),
        _ => return None,
    };
    (size > 0).then_some((head, usize::from(size)))
}

/// The value of each hexadecimal digit.
const DIGITS: [Option<u16>; 256] = {
    let mut digits = [None; 256];
    let mut value: u8 = 0;
    while value < 16 {
        let byte = b"0123456789abcdef"[value as usize];
        digits[byte as usize] = Some(value as u16);
        digits[byte.to_ascii_uppercase() as usize] = Some(value as u16);
        value += 1;
    }
    digits
};

#[cfg(test)]
mod tests {
    use super::*;
    use MalformedRequest as M;

    /// The data, the bytes of the body, and whether it ended; or what is wrong.
    fn read(body: &[u8], at_a_time: usize) -> Result<(Vec<u8>, usize, bool), M> {
        let (mut reader, mut data, mut count) = (ChunkedReader::default(), Vec::new(), 0);
        for mut part in body.chunks(at_a_time) {
            while !part.is_empty() {
                let (bytes, kind) = reader.next(part)?;
                assert!(bytes > 0, "no progress");
                if kind == ChunkPart::Data {
                    data.extend_from_slice(&part[..bytes]);
                }
                count += bytes;
                part = &part[bytes..];
                if kind == ChunkPart::End {
                    return Ok((data, count, true));
                }
            }
        }
        Ok((data, count, false))
    }

    /// Likewise, with whole chunks copied where there are any, in pieces of `room` bytes.
    fn read_by_copying(body: &[u8], at_a_time: usize, room: usize) -> Result<(Vec<u8>, usize, bool), M> {
        let (mut reader, mut data, mut count) = (ChunkedReader::default(), Vec::new(), 0);
        for mut part in body.chunks(at_a_time) {
            while !part.is_empty() {
                let mut out = vec![0; room];
                let (bytes, copied) = reader.copy_whole_chunks(part, &mut out);
                data.extend_from_slice(&out[..copied]);
                (count, part) = (count + bytes, &part[bytes..]);
                if part.is_empty() {
                    break;
                }
                let (bytes, kind) = reader.next(part)?;
                if kind == ChunkPart::Data {
                    data.extend_from_slice(&part[..bytes]);
                }
                (count, part) = (count + bytes, &part[bytes..]);
                if kind == ChunkPart::End {
                    return Ok((data, count, true));
                }
            }
        }
        Ok((data, count, false))
    }

    #[track_caller]
    fn check(body: &str, expected: Result<&str, M>) {
        let whole = expected.map(|data| (data.as_bytes().to_vec(), body.len(), true));
        for room in [0, 1, 3, 1000] {
            for at_a_time in (1..=body.len()).chain([usize::MAX]) {
                let got = read_by_copying(body.as_bytes(), at_a_time, room);
                assert_eq!(got, whole, "{body:?}, {at_a_time} bytes at a time, copied to {room}");
            }
        }
        for at_a_time in (1..=body.len()).chain([usize::MAX]) {
            assert_eq!(read(body.as_bytes(), at_a_time), whole, "{body:?}, {at_a_time} bytes at a time");
        }
        if whole.is_ok() {
            for cut in 0..body.len() {
                let read = read(&body.as_bytes()[..cut], usize::MAX);
                assert!(read.is_ok_and(|(.., ended)| !ended), "{body:?} cut at {cut}");
            }
            let longer = format!("{body}behind");
            assert_eq!(read(longer.as_bytes(), usize::MAX), whole, "{body:?}");
        }
    }

    #[test]
    fn bodies() {
        check("0\r\n\r\n", Ok(""));
        check("3\r\nabc\r\n0\r\n\r\n", Ok("abc"));
        check("3\r\nabc\r\n00A\r\n0123456789\r\n000\r\n\r\n", Ok("abc0123456789"));
        let mixed = format!("1\r\na\r\n{:X}\r\n{}\r\n12c\r\n{}\r\n", 0x1f, "b".repeat(0x1f), "c".repeat(300));
        check(&format!("{mixed}0\r\n\r\n"), Ok(&format!("a{}{}", "b".repeat(0x1f), "c".repeat(300))));
        check("2\r\n\r\n\r\n1\r\n\n\r\n0\r\n\r\n", Ok("\r\n\n"));
        for extension in [";a", ";a=b", ";a=\"b\"", " ;\ta", ";a \t=\t b", ";a;b;c=d ;e", ";a=\"\\\"\t;\""] {
            check(&format!("3{extension}\r\nabc\r\n0{extension}\r\n\r\n"), Ok("abc"));
        }
        check("3\r\nabc\r\n0\r\nX: 1\r\nY:\r\nZ:\t \u{e9}\r\n\r\n", Ok("abc"));
        assert_eq!(read(b"ffffffffffffffff\r\nab", 1), Ok((b"ab".to_vec(), 20, false)));
    }

    #[test]
    fn malformed_bodies() {
        let rows: [(M, &[&str]); 5] = [
            (
                M::ChunkSize,
                &[
                    "\r\n",
                    "\n",
                    " 3\r\n",
                    "\t3\r\n",
                    ";a\r\n",
                    "0x3\r\n",
                    "+3\r\n",
                    "-1\r\n",
                    "3\n",
                    "3 \r\n",
                    "3\t\r\n",
                    "3 3\r\n",
                    "g\r\n",
                    "3\r\r\n",
                    "3\rabc",
                    "00000000000000003\r\n",
                    "fffffffffffffffff\r\n",
                    "3\r\nabc\r\n3\nabc\n",
                    "3;a \t;b=c \r\n",
                    "3;a=\"b\" \r\n",
                ],
            ),
            (
                M::ChunkExtension,
                &[
                    "3;\r\n",
                    "3;a\n",
                    "3;a \r\n",
                    "3;a=\r\n",
                    "3;=a\r\n",
                    "3;a=b=c\r\n",
                    "3;a b\r\n",
                    "3;a=\"b\r\n",
                    "3;a=\"b\"c\r\n",
                    "3;a=\"\n\"\r\n",
                    "3;;a\r\n",
                    "3;(\r\n",
                ],
            ),
            (M::ChunkEnd, &["3\r\nabcd\r\n", "3\r\nabc\n", "3\r\nabc\r0", "3\r\nabcXX", "3\r\nabc\r\r\n"]),
            (
                M::Trailers,
                &[
                    "0\r\n\n",
                    "0\r\n\r\r",
                    "0\r\nX: 1\rY",
                    "0\r\nX: 1\n\r\n",
                    "0\r\nno field\r\n",
                    "0\r\nX : 1\r\n",
                    "0\r\n: 1\r\n",
                    "0\r\n X: 1\r\n",
                    "0\r\nX: \0\r\n",
                ],
            ),
            (M::ChunkEnd, &["1\r\na3\r\nabc\r\n"]),
        ];
        for (malformed, bodies) in rows {
            for body in bodies {
                check(body, Err(malformed));
            }
        }
    }

    #[test]
    fn bounds() {
        let ended = |body: &str| read(body.as_bytes(), usize::MAX).map(|(.., ended)| ended);
        let extension = |bytes: usize| format!(";{}", "x".repeat(bytes - 1));
        let last = |bytes| format!("0{}\r\n\r\n", extension(bytes));
        assert_eq!(ended(&last(EXTENSION_BYTES_MAX - 1)), Ok(true));
        assert_eq!(ended(&last(EXTENSION_BYTES_MAX)), Err(M::ChunkExtension));
        let full = format!("1{}\r\na\r\n", extension(EXTENSION_BYTES_MAX / 2 - 1));
        let times = EXTENSION_BYTES_OF_BODY_MAX / (EXTENSION_BYTES_MAX / 2);
        assert_eq!(ended(&(full.repeat(times) + "0\r\n\r\n")), Ok(true));
        assert_eq!(ended(&(full.repeat(times) + "0;x\r\n\r\n")), Err(M::ChunkExtension));
        let trailer = |bytes: usize| format!("0\r\nX:{}\r\n\r\n", "x".repeat(bytes - 4));
        assert_eq!(ended(&trailer(TRAILER_BYTES_MAX)), Ok(true));
        assert_eq!(ended(&trailer(TRAILER_BYTES_MAX + 1)), Err(M::Trailers));
        let many = format!("0\r\n{}\r\n", "X:\r\n".repeat(TRAILER_BYTES_MAX / 4 + 1));
        assert_eq!(ended(&many), Err(M::Trailers));
    }
}
