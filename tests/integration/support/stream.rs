//! A client of a framed stream, over a raw connection.

use serde_json::Value;

use super::{Client, Gateway, Request};

/// How its messages are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Lines,
    Frames,
}

impl Form {
    pub const BOTH: [Self; 2] = [Self::Lines, Self::Frames];

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Frames => "application/vnd.metamcp.frames",
        }
    }

    /// A message as it is sent.
    pub fn wrap(self, message: &str) -> Vec<u8> {
        match self {
            Self::Lines => format!("{message}\n").into_bytes(),
            Self::Frames => frame(1, 0, 0, message),
        }
    }

    /// The first message of these bytes, and how many bytes it is.
    pub fn unwrap(self, bytes: &[u8]) -> Option<(&[u8], usize)> {
        match self {
            Self::Lines => {
                let end = bytes.iter().position(|byte| *byte == b'\n')?;
                Some((&bytes[..end], end + 1))
            }
            Self::Frames => {
                let header = bytes.get(..20)?;
                assert_eq!(&header[..8], b"MCPF\x01\0\0\0");
                let length = u32::from_le_bytes(header[16..].try_into().unwrap()) as usize;
                Some((bytes.get(20..20 + length)?, 20 + length))
            }
        }
    }
}

/// A frame with that header.
pub fn frame(version: u32, flags: u32, method: u32, payload: &str) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let words = [version, flags, method, length].map(u32::to_le_bytes).concat();
    [&b"MCPF"[..], &words, payload.as_bytes()].concat()
}

/// One open stream.
pub struct Stream {
    pub client: Client,
    form: Form,
    held: Vec<u8>,
    /// Of the last message that came.
    pub header: Vec<u8>,
}

impl Stream {
    pub const PATH: &str = "/api/v1/mcp/stream";

    #[track_caller]
    pub fn open(gateway: &Gateway, path: &str, form: Form) -> Self {
        Self::open_with(gateway, &Request::new("POST", path), form)
    }

    /// With the header fields of that request.
    #[track_caller]
    pub fn open_with(gateway: &Gateway, request: &Request, form: Form) -> Self {
        let request = request.clone().set("Content-Type", form.media_type());
        let request = request.with("Transfer-Encoding", "chunked");
        let mut client = Client::connect(gateway.address);
        assert!(client.send(&request.bytes()));
        let head = client.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some(form.media_type())));
        Self { client, form, held: Vec::new(), header: Vec::new() }
    }

    /// In one segment.
    pub fn send(&mut self, messages: &[&str]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| self.form.wrap(message)).collect();
        self.raw(&bytes);
    }

    /// As one chunk.
    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        self.client.send(&chunked(bytes))
    }

    /// All is said.
    pub fn end(&mut self) {
        self.client.send(b"0\r\n\r\n");
    }

    /// The next message; `None` at the regular end.
    #[track_caller]
    pub fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((message, taken)) = self.form.unwrap(&self.held) {
                let value = (!message.is_empty()).then(|| serde_json::from_slice(message).unwrap());
                self.header = self.held[..taken.min(20)].to_vec();
                self.held.drain(..taken);
                if value.is_some() {
                    return value;
                }
            }
            match self.client.chunk() {
                Ok(Some(bytes)) => self.held.extend(bytes),
                Ok(None) => {
                    assert!(self.held.is_empty(), "it ends within a message");
                    return None;
                }
                Err(error) => panic!("the stream broke off: {error}"),
            }
        }
    }

    /// The next message, which there must be.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        self.next().expect("one more message")
    }

    /// Sends one and takes the next.
    #[track_caller]
    pub fn ask(&mut self, message: &str) -> Value {
        self.send(&[message]);
        self.message()
    }

    /// Opens a session in it, with these capabilities.
    #[track_caller]
    pub fn initialize(&mut self, capabilities: &str) -> Value {
        let opened = self.ask(&format!(
            r#"{{"jsonrpc":"2.0","id":"i","method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{capabilities},"clientInfo":{{"name":"test","version":"1"}}}}}}"#
        ));
        assert_eq!(opened["id"], "i", "{opened}");
        self.send(&[r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#]);
        opened
    }
}

/// One chunk of a request.
pub fn chunked(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}
