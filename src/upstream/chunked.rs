//! Bodies in chunks (RFC 9112, section 7.1), taken apart as they come.
//!
//! Invariant: accepts nothing that hyper does not. Chunks mean nothing to MCP: what came at once is handed on as one
//! piece, however many there were.

use bytes::{BufMut as _, BytesMut};

/// Where in a body in chunks the next byte stands.
#[derive(Debug, Default)]
pub struct Chunked {
    place: Place,
    /// Bytes to come of the chunk, or the size as far as it was read.
    left: u64,
    /// Bytes of chunk extensions so far, in all chunks.
    extension_bytes: usize,
    /// Fields behind the last chunk, with their ends of lines.
    trailers: Vec<u8>,
    trailer_lines: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The first digit of a size.
    #[default]
    Size,
    MoreSize,
    BehindSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The beginning of a line behind the last chunk.
    Trailer,
    MoreTrailer,
    TrailerLf,
    LastLf,
    End,
}

/// What no decoder may guess the meaning of: both sides would disagree about where the body ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Nobody uses extensions; hyper's bound.
const EXTENSION_BYTES_MAX: usize = 16 << 10;

/// What may stand behind the last chunk: the bounds of a head, as `general` has them.
const TRAILER_BYTES_MAX: usize = 64 << 10;
const TRAILERS_MAX: usize = 100;

/// Of the size of a usual chunk, which is less than 256 MiB.
const USUAL_DIGITS: usize = 7;

impl Chunked {
    /// Puts what is data behind `data`; gives how many bytes belong to the body: less than all only at its end.
    pub fn decode(&mut self, came: &[u8], data: &mut BytesMut) -> Result<usize, Malformed> {
        let mut at = 0;
        while let Some(&byte) = came.get(at) {
            if self.place == Place::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(came.len() - at);
                data.put_slice(&came[at..at + here]);
                at += here;
                self.left -= here as u64;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            if let Some(bytes) = self.usual(&came[at..]) {
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

    /// Whether the last byte of the body was taken.
    pub fn is_ended(&self) -> bool {
        self.place == Place::End
    }

    /// The beginning of a chunk as nearly all are written, with the end of the one before it: a stream of small events has
    /// one for each. Gives its bytes; `None`: it is none, or not all of it is here.
    fn usual(&mut self, came: &[u8]) -> Option<usize> {
        let line = match self.place {
            Place::Size => came,
            Place::DataCr => came.strip_prefix(b"\r\n")?,
            _ => return None,
        };
        let mut size = 0;
        for (at, &byte) in line.iter().enumerate().take(USUAL_DIGITS + 1) {
            let Some(digit) = char::from(byte).to_digit(16) else {
                let is_usual = size > 0 && line[at..].starts_with(b"\r\n");
                return is_usual.then(|| {
                    (self.left, self.place) = (size, Place::Data);
                    came.len() - line.len() + at + 2
                });
            };
            size = size * 16 + u64::from(digit);
        }
        None
    }

    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.place = match (self.place, byte) {
            (Place::Size, _) => self.digit(byte)?,
            (Place::MoreSize | Place::BehindSize, b'\t' | b' ') => Place::BehindSize,
            (Place::MoreSize | Place::BehindSize, b';') => Place::Extension,
            (Place::MoreSize | Place::BehindSize | Place::Extension, b'\r') => Place::SizeLf,
            (Place::MoreSize, _) => self.digit(byte)?,
            // Some take it for the end of the line: then the body would end elsewhere for them.
            (Place::Extension, b'\n') => return Err(Malformed),
            (Place::Extension, _) => {
                self.extension_bytes += 1;
                bounded(self.extension_bytes, EXTENSION_BYTES_MAX, Place::Extension)?
            }
            (Place::SizeLf, b'\n') if self.left == 0 => Place::Trailer,
            (Place::SizeLf, b'\n') => Place::Data,
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size,
            (Place::Trailer, b'\r') => Place::LastLf,
            (Place::Trailer | Place::MoreTrailer, _) => self.trailer(byte)?,
            (Place::TrailerLf, b'\n') => {
                self.trailer_lines += 1;
                self.trailers.push(byte);
                bounded(self.trailers.len(), TRAILER_BYTES_MAX, Place::Trailer)?;
                bounded(self.trailer_lines, TRAILERS_MAX + 1, Place::Trailer)?
            }
            (Place::LastLf, b'\n') => self.end()?,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<Place, Malformed> {
        let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
        let more = self.left.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
        self.left = more.ok_or(Malformed)?;
        Ok(Place::MoreSize)
    }

    fn trailer(&mut self, byte: u8) -> Result<Place, Malformed> {
        self.trailers.push(byte);
        let next = if byte == b'\r' { Place::TrailerLf } else { Place::MoreTrailer };
        bounded(self.trailers.len(), TRAILER_BYTES_MAX, next)
    }

    /// Fields behind the body have no meaning in MCP, but what is none was no end of a body.
    fn end(&mut self) -> Result<Place, Malformed> {
        if !self.trailers.is_empty() {
            self.trailers.extend_from_slice(b"\r\n");
            bounded(self.trailers.len(), TRAILER_BYTES_MAX, Place::End)?;
            let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
            match httparse::parse_headers(&self.trailers, &mut fields) {
                Ok(httparse::Status::Complete((bytes, _))) if bytes == self.trailers.len() => {}
                _ => return Err(Malformed),
            }
        }
        self.trailers = Vec::new();
        Ok(Place::End)
    }
}

fn bounded(count: usize, bound: usize, next: Place) -> Result<Place, Malformed> {
    if count < bound { Ok(next) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of it, when it comes so many bytes at a time: the data, how much belonged to the body, whether it ended.
    fn decode(body: &[u8], at_a_time: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut chunked, mut data, mut taken) = (Chunked::default(), BytesMut::new(), 0);
        for part in body.chunks(at_a_time) {
            if chunked.is_ended() {
                break;
            }
            let count = chunked.decode(part, &mut data)?;
            assert!(count == part.len() || chunked.is_ended(), "it leaves something in its midst");
            taken += count;
        }
        Ok((data.to_vec(), taken, chunked.is_ended()))
    }

    /// `behind` is what does not belong to the body any more.
    #[track_caller]
    fn check(body: &str, expected: Result<(&str, bool), Malformed>, behind: usize) {
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
    fn what_is_none() {
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
            "0\r\nno field\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
        ] {
            check(body, Err(Malformed), 0);
        }
    }

    #[test]
    fn bounds() {
        let ended = |body: String| decode(body.as_bytes(), usize::MAX).map(|(.., ended)| ended);
        let extension = |bytes| format!("0;{}\r\n\r\n", "x".repeat(bytes));
        assert_eq!(ended(extension(EXTENSION_BYTES_MAX - 1)), Ok(true));
        assert_eq!(ended(extension(EXTENSION_BYTES_MAX)), Err(Malformed));
        // Over all chunks together.
        let often = "1;xxx\r\na\r\n".repeat(EXTENSION_BYTES_MAX / 3 + 1);
        assert_eq!(ended(often), Err(Malformed));
        let trailers = |count| format!("0\r\n{}\r\n", "X: 1\r\n".repeat(count));
        assert_eq!(ended(trailers(TRAILERS_MAX)), Ok(true));
        assert_eq!(ended(trailers(TRAILERS_MAX + 1)), Err(Malformed));
        let long = |bytes| format!("0\r\nX: {}\r\n\r\n", "x".repeat(bytes));
        // "X: ", and the ends of two lines.
        let around = TRAILER_BYTES_MAX - 7;
        assert_eq!(ended(long(around - 1)), Ok(true));
        for bytes in around..around + 9 {
            assert_eq!(ended(long(bytes)), Err(Malformed), "{bytes}");
        }
    }
}
