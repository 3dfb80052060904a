//! What hyper reads of an HTTP/1.1 connection: well-formed requests, one at a time.
//!
//! hyper accepts more than the standard allows, such as a line feed alone as the end of a line. So the bytes
//! are checked before hyper has them. In place of the first byte that is wrong, hyper reads what it surely
//! refuses, and then the end of the connection: whatever was sent behind it never runs.
//!
//! hyper reads the next request when it has answered the one before. So its buffer is empty when it hands the
//! connection over, and the rest is in the socket's own form.
//!
//! The chunks of a body reach hyper in the sizes in which they were read, without extensions and trailers.
//! hyper takes a chunk's head apart byte by byte, which would make a body in tiny chunks expensive.

use std::io;

use tokio::io::ReadBuf;

use crate::server::http1::activity::ConnectionActivity;
use metamcp_core::http1::{ChunkPart, Refusal, RequestPart, RequestReader};

/// Follows the requests on a connection, and passes them on.
pub struct StrictFeed {
    reader: RequestReader,
    /// What hyper reads in place of the rest, once a request was refused.
    ending: Option<FeedEnding>,
    /// How many requests had begun on the connection when the current one did.
    begun_before: u32,
    /// Whether the current request arrived before the one in front of it was answered.
    pub is_pipelined: bool,
}

/// How a feed ends that has refused a request.
#[derive(Clone, Copy)]
enum FeedEnding {
    /// These bytes are to be read, then the end of the connection.
    Bytes(&'static [u8]),
    /// An error: hyper reports it to whoever reads the body.
    BrokenBody,
}

/// No head may contain a NUL, which hyper answers with 400. It looks at a head that came in parts only when an
/// empty line has come.
const REFUSED_HEAD: &[u8] = b"\0\r\n\r\n";

/// The beginning of a chunk for hyper. The digits are filled in when its data is there.
const CHUNK_HEAD: &[u8] = b"00000000\r\n";

const CHUNK_TAIL: &[u8] = b"\r\n";

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The bytes that a chunk adds to its data.
const CHUNK_OVERHEAD: usize = CHUNK_HEAD.len() + CHUNK_TAIL.len() + LAST_CHUNK.len();

impl StrictFeed {
    /// Begins with the head of a request. `is_pipelined`: whether it arrived before the one in front of it was
    /// answered.
    pub fn new(activity: &ConnectionActivity, is_pipelined: bool) -> Self {
        let (reader, begun_before) = (RequestReader::default(), activity.requests_begun());
        Self { reader, ending: None, begun_before, is_pipelined }
    }

    /// Whether a request was refused, and none is to follow.
    pub fn is_refused(&self) -> bool {
        self.ending.is_some()
    }

    /// Whether hyper has the whole request, and may not yet have the next.
    pub fn is_between(&self) -> bool {
        self.reader.is_between()
    }

    /// Whether hyper has the head of a request, and not all of its body.
    pub fn is_in_body(&self) -> bool {
        self.reader.is_in_body()
    }

    /// Whether the next bytes can be read into hyper's buffer, since they are passed on as they are.
    pub fn is_plain(&self) -> bool {
        !self.reader.is_between() && !self.reader.is_chunked()
    }

    /// Begins the next request, if hyper has answered the last one. `has_arrived`: whether some of it is there.
    pub fn begin_next(&mut self, activity: &ConnectionActivity, has_arrived: bool) -> bool {
        let is_answered =
            activity.requests_begun() != self.begun_before && activity.requests_in_flight() == 0;
        if is_answered {
            self.begun_before = activity.requests_begun();
            self.is_pipelined = has_arrived;
            self.reader.begin_next();
        }
        is_answered
    }

    /// Follows bytes that hyper has as they are. Returns how many of them it may keep.
    pub fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.is_plain() {
            match self.reader.next(&bytes[at..]) {
                Ok((count, _plain)) => at += count,
                Err(refusal) => {
                    at += refusal.at;
                    self.refuse(&refusal);
                    break;
                }
            }
        }
        at
    }

    /// Passes on as much as there is room for and hyper may have. Returns how many bytes of the input are done
    /// with.
    pub fn pass(&mut self, input: &[u8], out: &mut ReadBuf<'_>) -> usize {
        let mut at = 0;
        while at < input.len() && !self.is_refused() && !self.is_between() {
            let count = if self.reader.is_chunked() {
                self.pass_chunks(&input[at..], out)
            } else {
                let piece = &input[at..input.len().min(at.saturating_add(out.remaining()))];
                let count = self.follow(piece);
                out.put_slice(&piece[..count]);
                count
            };
            if count == 0 {
                break;
            }
            at += count;
        }
        at
    }

    /// Passes on the data of all chunks in the input as one chunk.
    fn pass_chunks(&mut self, input: &[u8], out: &mut ReadBuf<'_>) -> usize {
        if out.remaining() <= CHUNK_OVERHEAD {
            return 0;
        }
        let begin = out.filled().len();
        out.put_slice(CHUNK_HEAD);
        let (mut at, mut is_ended) = (0, false);
        while at < input.len() && !is_ended {
            let room = out.remaining() - CHUNK_TAIL.len() - LAST_CHUNK.len();
            let piece = &input[at..input.len().min(at.saturating_add(room))];
            if piece.is_empty() {
                break;
            }
            let (count, copied) =
                self.reader.copy_whole_chunks(piece, out.initialize_unfilled_to(piece.len()));
            if count > 0 {
                out.advance(copied);
                at += count;
                continue;
            }
            match self.reader.next(piece) {
                Ok((count, part)) => {
                    at += count;
                    match part {
                        RequestPart::Chunked(ChunkPart::Data) => out.put_slice(&piece[..count]),
                        RequestPart::Chunked(ChunkPart::Framing) => {}
                        _ => is_ended = true,
                    }
                }
                Err(refusal) => {
                    self.refuse(&refusal);
                    break;
                }
            }
        }
        let data = out.filled().len() - begin - CHUNK_HEAD.len();
        if data == 0 {
            out.set_filled(begin);
        } else {
            write_size(&mut out.filled_mut()[begin..], data);
            out.put_slice(CHUNK_TAIL);
        }
        if is_ended {
            out.put_slice(LAST_CHUNK);
        }
        at
    }

    #[cold]
    fn refuse(&mut self, refusal: &Refusal) {
        tracing::debug!(reason = refusal.malformed.as_str(), "refused a malformed request");
        self.ending =
            Some(if refusal.in_body { FeedEnding::BrokenBody } else { FeedEnding::Bytes(REFUSED_HEAD) });
    }

    /// Passes on what hyper reads after a refusal.
    pub fn end(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        match &mut self.ending {
            Some(FeedEnding::Bytes(left)) => {
                let (now, later) = left.split_at(left.len().min(out.remaining()));
                out.put_slice(now);
                *left = later;
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunk")),
        }
    }
}

/// Writes a size over the digits of [`CHUNK_HEAD`]. hyper's buffers are far smaller than 4 GiB.
fn write_size(digits: &mut [u8], size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (place, digit) in digits.iter_mut().take(8).enumerate() {
        *digit = DIGITS[(size >> (4 * (7 - place))) & 0xf];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// What hyper reads of `input` in buffers of `room` bytes, and whether a request was refused.
    fn read(input: &str, room: usize) -> (String, bool) {
        let activity = ConnectionActivity::new();
        let mut feed = StrictFeed::new(&activity, false);
        let (mut rest, mut seen) = (input.as_bytes(), Vec::new());
        while !rest.is_empty() && !feed.is_refused() {
            let mut bytes = vec![0; room];
            let mut out = ReadBuf::new(&mut bytes);
            if feed.is_between() {
                assert!(!feed.begin_next(&activity, true), "the one before was not answered");
                drop(activity.begin_request());
                assert!(feed.begin_next(&activity, true));
            }
            let count = feed.pass(rest, &mut out);
            assert!(count > 0 || feed.is_refused(), "no progress");
            rest = &rest[count..];
            seen.extend_from_slice(out.filled());
        }
        (String::from_utf8(seen).expect("ASCII"), feed.is_refused())
    }

    #[track_caller]
    fn check(input: &str, expected: &str, refused: bool) {
        assert_eq!(read(input, 1000), (expected.to_owned(), refused), "{input:?}");
        // In small buffers there are more chunks, of the same data.
        for room in CHUNK_OVERHEAD + 1..100 {
            let (seen, is_refused) = read(input, room);
            let (data, why) = metamcp_core::http1::read_all(seen.as_bytes(), usize::MAX);
            let (wanted, _) = metamcp_core::http1::read_all(expected.as_bytes(), usize::MAX);
            assert_eq!((data, why, is_refused), (wanted, None, refused), "{input:?} in {room} bytes");
        }
    }

    #[test]
    fn chunks_are_joined() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        check(&format!("{get}{get}"), &format!("{get}{get}"), false);
        check(&format!("{HEAD}0\r\n\r\n{get}"), &format!("{HEAD}0\r\n\r\n{get}"), false);
        check(
            &format!("{HEAD}1\r\na\r\n2;x\r\nbc\r\n0\r\nX: 1\r\n\r\n{get}"),
            &format!("{HEAD}00000003\r\nabc\r\n0\r\n\r\n{get}"),
            false,
        );
        let tiny = "1\r\nx\r\n".repeat(0x123);
        let data = "x".repeat(0x123);
        check(&format!("{HEAD}{tiny}"), &format!("{HEAD}00000123\r\n{data}\r\n"), false);
    }

    #[test]
    fn nothing_follows_what_is_wrong() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        check(&format!("{get}GET / HTTP/1.1\n{get}"), &format!("{get}GET / HTTP/1.1"), true);
        check(&format!("{HEAD}1\r\nab{get}"), &format!("{HEAD}00000001\r\na\r\n"), true);
        let activity = ConnectionActivity::new();
        let mut feed = StrictFeed::new(&activity, false);
        assert_eq!(feed.follow(b"GET / HTTP/1.1\nHost"), 14);
        let mut ending = Vec::new();
        for _ in 0..10 {
            let mut bytes = [0; 2];
            let mut out = ReadBuf::new(&mut bytes);
            feed.end(&mut out).expect("it is no body");
            ending.extend_from_slice(out.filled());
        }
        assert_eq!(ending, REFUSED_HEAD);
    }
}
