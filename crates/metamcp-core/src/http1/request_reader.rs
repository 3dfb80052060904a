//! Follows the requests on an HTTP/1.1 connection, byte by byte: where heads, bodies and chunks begin and end.

use super::chunked_request::{ChunkPart, ChunkedReader};
use super::request_head::{BodyFraming, HeadReader};
use super::strict_bytes::MalformedRequest;

/// Follows one request after the other, in pieces of any size.
///
/// Once it has refused a request, it must not be used again: where the next one begins is unknown.
#[derive(Debug)]
pub struct RequestReader {
    phase: ReadPhase,
}

#[derive(Debug)]
enum ReadPhase {
    Head(HeadReader),
    /// So many bytes of the body are to come.
    Sized(u64),
    /// Boxed: its state is larger than the others', and bodies are rarely chunked.
    Chunked(Box<ChunkedReader>),
    Between,
}

/// What a piece of the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPart {
    /// Of a head, or of a body with a `Content-Length`.
    Plain,
    /// Of a chunked body.
    Chunked(ChunkPart),
    /// The request is complete: none of the input belongs to it.
    Complete,
}

/// A request was refused at this byte of the input. Those before it are a part of the request.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub at: usize,
    pub malformed: MalformedRequest,
    /// Whether the body has begun.
    pub in_body: bool,
}

impl Default for RequestReader {
    fn default() -> Self {
        Self { phase: ReadPhase::Head(HeadReader::default()) }
    }
}

impl RequestReader {
    /// Classifies the first bytes of the input, and returns how many they are: all of it, or up to where a part
    /// of another kind begins.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, RequestPart), Refusal> {
        match &mut self.phase {
            ReadPhase::Head(head) => {
                let (count, framing) =
                    head.read(input).map_err(|(at, malformed)| Refusal { at, malformed, in_body: false })?;
                match framing {
                    None => {}
                    Some(BodyFraming::Length(0)) => self.phase = ReadPhase::Between,
                    Some(BodyFraming::Length(bytes)) => self.phase = ReadPhase::Sized(bytes),
                    Some(BodyFraming::Chunked) => self.phase = ReadPhase::Chunked(Box::default()),
                }
                Ok((count, RequestPart::Plain))
            }
            ReadPhase::Sized(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    self.phase = ReadPhase::Between;
                }
                Ok((count, RequestPart::Plain))
            }
            ReadPhase::Chunked(chunks) => {
                let (count, part) =
                    chunks.next(input).map_err(|malformed| Refusal { at: 0, malformed, in_body: true })?;
                if part == ChunkPart::End {
                    self.phase = ReadPhase::Between;
                }
                Ok((count, RequestPart::Chunked(part)))
            }
            ReadPhase::Between => Ok((0, RequestPart::Complete)),
        }
    }

    /// Copies the data of whole chunks to `out`, where the input begins with such. Returns how many bytes of the input
    /// they take, and how many were copied.
    pub fn copy_whole_chunks(&mut self, input: &[u8], out: &mut [u8]) -> (usize, usize) {
        match &mut self.phase {
            ReadPhase::Chunked(chunks) => chunks.copy_whole_chunks(input, out),
            _ => (0, 0),
        }
    }

    /// Whether a request is complete, and the next one has not begun.
    pub fn is_between(&self) -> bool {
        matches!(self.phase, ReadPhase::Between)
    }

    /// Whether the head of a request is complete, and its body is not.
    pub fn is_in_body(&self) -> bool {
        !matches!(self.phase, ReadPhase::Head(_) | ReadPhase::Between)
    }

    /// Whether the body of a request is chunked, and has not ended.
    pub fn is_chunked(&self) -> bool {
        matches!(self.phase, ReadPhase::Chunked(_))
    }

    /// Expects the head of the next request.
    pub fn begin_next(&mut self) {
        self.phase = ReadPhase::Head(HeadReader::default());
    }
}

/// Reads all requests in `input`, `at_a_time` bytes at a time, and returns what a server would see of them: the
/// heads as they are, the bodies without their framing, and why the rest is refused. The cuts must make no
/// difference. A fuzz target can call this with any bytes.
pub fn read_all(input: &[u8], at_a_time: usize) -> (Vec<u8>, Option<MalformedRequest>) {
    let (mut reader, mut seen) = (RequestReader::default(), Vec::new());
    for mut piece in input.chunks(at_a_time.max(1)) {
        while !piece.is_empty() {
            match reader.next(piece) {
                Ok((_, RequestPart::Complete)) => reader.begin_next(),
                Ok((count, part)) => {
                    if !matches!(part, RequestPart::Chunked(ChunkPart::Framing | ChunkPart::End)) {
                        seen.extend_from_slice(&piece[..count]);
                    }
                    piece = &piece[count..];
                }
                Err(refusal) => {
                    seen.extend_from_slice(&piece[..refusal.at]);
                    return (seen, Some(refusal.malformed));
                }
            }
        }
    }
    (seen, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use MalformedRequest as M;

    #[track_caller]
    fn check(input: &str, seen: &str, refused: Option<MalformedRequest>) {
        let expected = (seen.as_bytes().to_vec(), refused);
        for at_a_time in (1..=input.len()).chain([usize::MAX]) {
            assert_eq!(read_all(input.as_bytes(), at_a_time), expected, "{input:?}, {at_a_time} at a time");
        }
        for cut in 0..input.len() {
            let (part, _) = read_all(&input.as_bytes()[..cut], usize::MAX);
            assert!(seen.as_bytes().starts_with(&part), "{input:?} cut at {cut}");
        }
    }

    #[test]
    fn requests_one_behind_the_other() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{get}{post}abc{get}"), &format!("{get}{post}abc{get}"), None);
        check(&format!("{post}abc\r\n\r\n{get}"), &format!("{post}abc\r\n\r\n{get}"), None);
        check(
            &format!("{chunked}2\r\nab\r\n1;x\r\nc\r\n0\r\nA: b\r\n\r\n{post}abc"),
            &format!("{chunked}abc{post}abc"),
            None,
        );
        check(&format!("{post}abcX Y\n{get}"), &format!("{post}abcX Y"), Some(M::RequestLine));
        check(&format!("{post}abc\n{get}"), &format!("{post}abc"), Some(M::RequestLine));
        check(&format!("{post}abc\r\n\r\n\r\n{get}"), &format!("{post}abc\r\n\r\n"), Some(M::RequestLine));
        check(&format!("{chunked}1\r\nab\r\n{get}"), &format!("{chunked}a"), Some(M::ChunkEnd));
        check(&format!("{get}\0{get}"), get, Some(M::RequestLine));
    }
}
