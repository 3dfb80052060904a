//! Chunked bodies (RFC 9112, section 7.1), decoded as they arrive.
//!
//! Invariant: accepts nothing that hyper rejects. Chunk boundaries mean nothing to MCP: data that arrived
//! together is passed on as one piece, however many chunks it came in.

use bytes::{BufMut as _, BytesMut};

/// Decodes one chunked body.
#[derive(Debug, Default)]
pub struct ChunkedDecoder {
    state: DecoderState,
    /// Bytes left of the chunk, or the size as far as it is parsed.
    left: u64,
    /// Bytes of chunk extensions so far, over all chunks.
    extension_bytes: usize,
    /// Trailer fields with their line ends.
    trailers: Vec<u8>,
    trailer_lines: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum DecoderState {
    /// The first digit of a size.
    #[default]
    SizeStart,
    Size,
    AfterSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The beginning of a line after the last chunk.
    TrailerStart,
    Trailer,
    TrailerLf,
    FinalLf,
    End,
}

/// The body is malformed. No decoder may guess what was meant: two that guess differently disagree about
/// where the body ends.
#[derive(Debug, PartialEq, Eq)]
pub struct MalformedChunk;

/// Extensions are not used in practice. The bound is hyper's.
const EXTENSION_BYTES_MAX: usize = 16 << 10;

/// Bounds of the trailers: those of a head in `hyper_connection`.
const TRAILER_BYTES_MAX: usize = 64 << 10;
const TRAILERS_MAX: usize = 100;

/// Digits in the size of a common chunk, which is less than 256 MiB.
const COMMON_SIZE_DIGITS: usize = 7;

impl ChunkedDecoder {
    /// Appends the data in `input` to `data`. Returns how many bytes belong to the body: fewer than all only
    /// at its end.
    pub fn decode(&mut self, input: &[u8], data: &mut BytesMut) -> Result<usize, MalformedChunk> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if self.state == DecoderState::Data {
                let available = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                data.put_slice(&input[at..at + available]);
                at += available;
                self.left -= available as u64;
                if self.left == 0 {
                    self.state = DecoderState::DataCr;
                }
                continue;
            }
            if let Some(bytes) = self.decode_common_header(&input[at..]) {
                at += bytes;
                continue;
            }
            self.step(byte)?;
            at += 1;
            if self.is_ended() {
                break;
            }
        }
        Ok(at)
    }

    /// Whether the last byte of the body was decoded.
    pub fn is_ended(&self) -> bool {
        self.state == DecoderState::End
    }

    /// Decodes a chunk header as nearly every server writes it, with the end of the chunk before: a stream of
    /// small events has one for each event. Returns its length; `None` when it is written otherwise or
    /// incomplete.
    fn decode_common_header(&mut self, input: &[u8]) -> Option<usize> {
        let line = match self.state {
            DecoderState::SizeStart => input,
            DecoderState::DataCr => input.strip_prefix(b"\r\n")?,
            _ => return None,
        };
        let mut size = 0;
        for (at, &byte) in line.iter().enumerate().take(COMMON_SIZE_DIGITS + 1) {
            let Some(digit) = char::from(byte).to_digit(16) else {
                let is_common = size > 0 && line[at..].starts_with(b"\r\n");
                return is_common.then(|| {
                    (self.left, self.state) = (size, DecoderState::Data);
                    input.len() - line.len() + at + 2
                });
            };
            size = size * 16 + u64::from(digit);
        }
        None
    }

    fn step(&mut self, byte: u8) -> Result<(), MalformedChunk> {
        use DecoderState as S;
        self.state = match (self.state, byte) {
            (S::SizeStart, _) => self.size_digit(byte)?,
            (S::Size | S::AfterSize, b'\t' | b' ') => S::AfterSize,
            (S::Size | S::AfterSize, b';') => S::Extension,
            (S::Size | S::AfterSize | S::Extension, b'\r') => S::SizeLf,
            (S::Size, _) => self.size_digit(byte)?,
            // Some decoders take this for the end of the line; for them the body would end elsewhere.
            (S::Extension, b'\n') => return Err(MalformedChunk),
            (S::Extension, _) => {
                self.extension_bytes += 1;
                check_bound(self.extension_bytes, EXTENSION_BYTES_MAX, S::Extension)?
            }
            (S::SizeLf, b'\n') if self.left == 0 => S::TrailerStart,
            (S::SizeLf, b'\n') => S::Data,
            (S::DataCr, b'\r') => S::DataLf,
            (S::DataLf, b'\n') => S::SizeStart,
            (S::TrailerStart, b'\r') => S::FinalLf,
            // httparse takes this for the end of a line; hyper counts lines by their carriage returns.
            (S::TrailerStart | S::Trailer, b'\n') => return Err(MalformedChunk),
            (S::TrailerStart | S::Trailer, _) => self.trailer_byte(byte)?,
            (S::TrailerLf, b'\n') => {
                self.trailer_lines += 1;
                self.trailers.push(byte);
                check_bound(self.trailers.len(), TRAILER_BYTES_MAX, S::TrailerStart)?;
                check_bound(self.trailer_lines, TRAILERS_MAX + 1, S::TrailerStart)?
            }
            (S::FinalLf, b'\n') => self.finish()?,
            _ => return Err(MalformedChunk),
        };
        Ok(())
    }

    fn size_digit(&mut self, byte: u8) -> Result<DecoderState, MalformedChunk> {
        let digit = char::from(byte).to_digit(16).ok_or(MalformedChunk)?;
        let size = self.left.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
        self.left = size.ok_or(MalformedChunk)?;
        Ok(DecoderState::Size)
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<DecoderState, MalformedChunk> {
        self.trailers.push(byte);
        let next = if byte == b'\r' { DecoderState::TrailerLf } else { DecoderState::Trailer };
        check_bound(self.trailers.len(), TRAILER_BYTES_MAX, next)
    }

    /// Checks the trailers. They have no meaning in MCP, but bytes that are no fields did not end a body.
    fn finish(&mut self) -> Result<DecoderState, MalformedChunk> {
        if !self.trailers.is_empty() {
            self.trailers.extend_from_slice(b"\r\n");
            check_bound(self.trailers.len(), TRAILER_BYTES_MAX, DecoderState::End)?;
            let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
            match httparse::parse_headers(&self.trailers, &mut fields) {
                Ok(httparse::Status::Complete((bytes, _))) if bytes == self.trailers.len() => {}
                _ => return Err(MalformedChunk),
            }
        }
        self.trailers = Vec::new();
        Ok(DecoderState::End)
    }
}

fn check_bound(count: usize, bound: usize, next: DecoderState) -> Result<DecoderState, MalformedChunk> {
    if count < bound { Ok(next) } else { Err(MalformedChunk) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `body`, fed `at_a_time` bytes at a time: the data, the bytes that belong to the body, whether
    /// it ended.
    fn decode(body: &[u8], at_a_time: usize) -> Result<(Vec<u8>, usize, bool), MalformedChunk> {
        let (mut chunked, mut data, mut taken) = (ChunkedDecoder::default(), BytesMut::new(), 0);
        for part in body.chunks(at_a_time) {
            if chunked.is_ended() {
                break;
            }
            let count = chunked.decode(part, &mut data)?;
            assert!(count == part.len() || chunked.is_ended(), "bytes are left before the end");
            taken += count;
        }
        Ok((data.to_vec(), taken, chunked.is_ended()))
    }

    /// `behind`: bytes after the end of the body.
    #[track_caller]
    fn check(body: &str, expected: Result<(&str, bool), MalformedChunk>, behind: usize) {
        let expected = expected.map(|(data, ended)| (data.as_bytes().to_vec(), body.len() - behind, ended));
        for at_a_time in (1..body.len().max(2)).chain([usize::MAX]) {
            assert_eq!(decode(body.as_bytes(), at_a_time), expected, "{body:?}, {at_a_time} bytes at a time");
        }
        if let (Ok((_, taken, true)), true) = (&expected, behind == 0) {
            for cut in 0..*taken {
                assert!(!decode(&body.as_bytes()[..cut], cut.max(1)).is_ok_and(|(.., ended)| ended), "{cut}");
            }
        }
    }

    #[test]
    fn bodies() {
        check("", Ok(("", false)), 0);
        check("0\r\n\r\n", Ok(("", true)), 0);
        check("3\r\nabc\r\n0\r\n\r\n", Ok(("abc", true)), 0);
        check("3\r\nabc\r\n00A\r\n0123456789\r\n000\r\n\r\n", Ok(("abc0123456789", true)), 0);
        for zeros in 5..9 {
            let body =
                format!("{}3\r\nabc\r\n{}A\r\n0123456789\r\n0\r\n\r\n", "0".repeat(zeros), "0".repeat(zeros));
            check(&body, Ok(("abc0123456789", true)), 0);
        }
        check("3 \t\r\nabc\r\n0 \r\n\r\n", Ok(("abc", true)), 0);
        check("3;a=\"b\"\r\nabc\r\n0 ;c\r\n\r\n", Ok(("abc", true)), 0);
        check("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", Ok(("\r\n", true)), 0);
        check("3\r\nabc\r\n0\r\nX: 1\r\nY: 2\r\n\r\n", Ok(("abc", true)), 0);
        check("3\r\nab", Ok(("ab", false)), 0);
        check("0\r\n\r\nHTTP/1.1 200 OK\r\n", Ok(("", true)), 17);
        check("3\r\nabc\r\n0\r\n\r\nx", Ok(("abc", true)), 1);
        check("ffffffffffffffff\r\nab", Ok(("ab", false)), 0);
    }

    #[test]
    fn malformed_bodies() {
        for body in [
            "\r\n",
            " 3\r\nabc\r\n",
            ";a\r\n",
            "0x3\r\n",
            "+3\r\n",
            "-1\r\n",
            "3 3\r\n",
            "3\nabc\n",
            "3\r\nabc\r\n3\nabc\n",
            "3\r\nabc\n\n3\r\nabc",
            "3\r\nabc3\r\nabc",
            "3\r\r\n",
            "3;a\nb\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "3\r\nabc\r0",
            "10000000000000000\r\n",
            "0\r\n\n\r\n\r\n",
            "0\r\n\r\r",
            "0\r\nX: 1\rY",
            "0\r\nX: 1\nY: 2\r\n\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
        ] {
            check(body, Err(MalformedChunk), 0);
        }
    }

    #[test]
    fn bounds() {
        let ended = |body: String| decode(body.as_bytes(), usize::MAX).map(|(.., ended)| ended);
        let extension = |bytes| format!("0;{}\r\n\r\n", "x".repeat(bytes));
        assert_eq!(ended(extension(EXTENSION_BYTES_MAX - 1)), Ok(true));
        assert_eq!(ended(extension(EXTENSION_BYTES_MAX)), Err(MalformedChunk));
        // Summed over all chunks.
        let often = "1;xxx\r\na\r\n".repeat(EXTENSION_BYTES_MAX / 3 + 1);
        assert_eq!(ended(often), Err(MalformedChunk));
        let trailers = |count| format!("0\r\n{}\r\n", "X: 1\r\n".repeat(count));
        assert_eq!(ended(trailers(TRAILERS_MAX)), Ok(true));
        assert_eq!(ended(trailers(TRAILERS_MAX + 1)), Err(MalformedChunk));
        let long = |bytes| format!("0\r\nX: {}\r\n\r\n", "x".repeat(bytes));
        // "X: ", and the ends of two lines.
        let around = TRAILER_BYTES_MAX - 7;
        assert_eq!(ended(long(around - 1)), Ok(true));
        for bytes in around..around + 9 {
            assert_eq!(ended(long(bytes)), Err(MalformedChunk), "{bytes}");
        }
    }
}
