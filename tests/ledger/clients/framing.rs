//! Both forms of the framed stream (docs/FRAMES.md).

use std::io;

/// How messages are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A line for each message.
    Lines,
    /// A header of five 32-bit words before each message.
    Binary,
}

/// The length of a header.
const HEADER_BYTES: usize = 20;

const MAGIC: &[u8] = b"MCPF\x01\0\0\0";

/// Flags: a result or an error, and the last message.
const FLAG_ANSWER: u8 = 1;
const FLAG_LAST: u8 = 2;

impl Framing {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Binary => "application/vnd.metamcp.frames",
        }
    }

    /// A message in its frame.
    pub fn encode(self, message: &str) -> Vec<u8> {
        match self {
            Self::Lines => format!("{message}\n").into_bytes(),
            Self::Binary => {
                let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
                // Neither flags nor method: a client may leave both out.
                [MAGIC, &[0; 8], &length.to_le_bytes(), message.as_bytes()].concat()
            }
        }
    }

    /// Takes the next message from what was received; `None` if it is not complete. Empty without a message.
    pub fn decode(self, received: &mut Vec<u8>) -> io::Result<Option<String>> {
        let message: Vec<u8> = match self {
            Self::Lines => {
                let Some(end) = memchr::memchr(b'\n', received) else { return Ok(None) };
                received.drain(..=end).collect()
            }
            Self::Binary => {
                if received.len() < HEADER_BYTES {
                    return Ok(None);
                }
                let length = u32::from_le_bytes([received[16], received[17], received[18], received[19]]);
                let end = HEADER_BYTES + length as usize;
                if received.len() < end {
                    return Ok(None);
                }
                let frame: Vec<u8> = received.drain(..end).collect();
                check_header(&frame)?;
                frame[HEADER_BYTES..].to_vec()
            }
        };
        Ok(Some(String::from_utf8_lossy(&message).trim().to_owned()))
    }
}

/// Fails unless the header says what the payload is.
fn check_header(frame: &[u8]) -> io::Result<()> {
    let (header, payload) = frame.split_at(HEADER_BYTES);
    let payload = String::from_utf8_lossy(payload);
    let is_answer = payload.contains(r#""result":"#) || payload.contains(r#""error":"#);
    let is_last = payload.contains(r#""last":true"#);
    let mut flags = if is_answer { FLAG_ANSWER } else { 0 };
    flags |= if is_last { FLAG_LAST } else { 0 };
    if !header.starts_with(MAGIC) || header[8] != flags {
        return Err(io::Error::other(format!("the header {header:?} precedes {payload}")));
    }
    Ok(())
}
