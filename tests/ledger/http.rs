//! HTTP/1.1 by hand, for both sides: heads, bodies and events, over connections that may be broken at any byte.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// One connection, and what came over it.
pub struct Wire {
    socket: Socket,
    /// A client's: the epoch of the gateway that it was opened in.
    pub epoch: u32,
    buffer: Vec<u8>,
    framing: Framing,
    /// Decoded bytes of a body, which are not yet a whole event.
    partial: Vec<u8>,
}

/// What carries the bytes.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A pipe to the task that translates to a stream of HTTP/2.
    Pipe(DuplexStream),
}

/// The same for each kind of socket.
macro_rules! each_socket {
    ($socket:expr, $name:ident => $body:expr) => {
        match $socket {
            Socket::Tcp($name) => $body,
            Socket::Unix($name) => $body,
            Socket::Tls($name) => $body,
            Socket::Pipe($name) => $body,
        }
    };
}

#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Length(usize),
    Chunked,
    End,
}

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub session: Option<String>,
    pub is_stream: bool,
    /// Whether the connection ends with the response.
    pub is_last: bool,
}

/// The head of a request, and where its body is in the buffer.
pub struct Request {
    pub method: [u8; 4],
    /// The path and the query.
    pub path: String,
    pub session: Option<String>,
    pub last_event_id: Option<String>,
    pub body: Vec<u8>,
}

/// An event of a stream.
#[derive(Debug, Default)]
pub struct Event {
    pub id: Option<String>,
    pub data: Option<String>,
}

/// A head or an event is not longer than this: nothing in the suite is.
const BUFFER_BYTES_MAX: usize = 8 << 20;

impl Wire {
    pub fn new(socket: Socket) -> Self {
        Self { socket, epoch: 0, buffer: Vec::new(), framing: Framing::End, partial: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        each_socket!(&mut self.socket, socket => {
            socket.write_all(bytes).await?;
            socket.flush().await
        })
    }

    /// Ends the connection with RST, where there is one.
    pub fn reset(self) {
        if let Some(tcp) = self.tcp() {
            drop(socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)));
        }
    }

    /// Ends the sending side.
    pub async fn half_close(&mut self) {
        match &mut self.socket {
            Socket::Tcp(socket) => drop(socket2::SockRef::from(&*socket).shutdown(Shutdown::Write)),
            Socket::Unix(socket) => drop(socket.shutdown().await),
            Socket::Tls(socket) => drop(socket.shutdown().await),
            Socket::Pipe(socket) => drop(socket.shutdown().await),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match &self.socket {
            Socket::Tcp(socket) => Some(socket),
            Socket::Tls(socket) => Some(socket.get_ref().0),
            Socket::Unix(_) | Socket::Pipe(_) => None,
        }
    }

    /// The ports of this side and of the other; 0 without TCP.
    pub fn ports(&self) -> [u16; 2] {
        let addresses = self.tcp().map(|tcp| [tcp.local_addr(), tcp.peer_addr()]);
        addresses.map_or([0; 2], |both| both.map(|address| address.map_or(0, |address| address.port())))
    }

    /// Not cancel safe: what was read stays in the buffer, but a head that was taken is lost.
    pub async fn head(&mut self) -> io::Result<Head> {
        let end = self.head_end().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        self.partial.clear();
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status: {text}")))?;
        let mut head = Head { status, session: None, is_stream: false, is_last: false };
        self.framing = Framing::End;
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            if name.eq_ignore_ascii_case("content-length") {
                self.framing = Framing::Length(value.parse().map_err(io::Error::other)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.framing = Framing::Chunked;
            } else if name.eq_ignore_ascii_case("mcp-session-id") {
                head.session = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("content-type") {
                head.is_stream = value.starts_with("text/event-stream");
            } else if name.eq_ignore_ascii_case("connection") {
                head.is_last = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }

    /// The rest of the body. Not cancel safe.
    pub async fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut body = std::mem::take(&mut self.partial);
        while self.chunk(&mut body).await? {}
        Ok(body)
    }

    /// A body of a stated length. Cancel safe.
    pub async fn whole(&mut self) -> io::Result<Vec<u8>> {
        let length = if let Framing::Length(length) = self.framing { length } else { 0 };
        while self.buffer.len() < length {
            self.fill_some().await?;
        }
        self.framing = Framing::End;
        Ok(self.buffer.drain(..length).collect())
    }

    /// The next event of the body, comments left out; `None` at the regular end. Not cancel safe.
    pub async fn event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.partial, b"\n\n") {
                let text = String::from_utf8_lossy(&self.partial[..at]).into_owned();
                self.partial.drain(..at + 2);
                let field = |name: &str| {
                    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
                };
                let event = Event { id: field("id:"), data: field("data:").filter(|data| !data.is_empty()) };
                if event.id.is_some() || event.data.is_some() {
                    return Ok(Some(event));
                }
                continue;
            }
            let mut partial = std::mem::take(&mut self.partial);
            let more = self.chunk(&mut partial).await;
            self.partial = partial;
            if !more? {
                return Ok(None);
            }
        }
    }

    /// Adds the next bytes of the body; false at its regular end. Cancel safe.
    pub async fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        match self.framing {
            Framing::End | Framing::Length(0) => Ok(false),
            Framing::Length(left) => {
                if self.buffer.is_empty() {
                    self.fill_some().await?;
                }
                let count = left.min(self.buffer.len());
                body.extend(self.buffer.drain(..count));
                self.framing = Framing::Length(left - count);
                Ok(true)
            }
            Framing::Chunked => {
                let end = loop {
                    match memchr::memmem::find(&self.buffer, b"\r\n") {
                        Some(end) => break end,
                        None => self.fill_some().await?,
                    }
                };
                let digits = std::str::from_utf8(&self.buffer[..end]).map_err(io::Error::other)?;
                let length = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
                while self.buffer.len() < end + 2 + length + 2 {
                    self.fill_some().await?;
                }
                body.extend_from_slice(&self.buffer[end + 2..end + 2 + length]);
                self.buffer.drain(..end + 2 + length + 2);
                if length == 0 {
                    self.framing = Framing::End;
                }
                Ok(length > 0)
            }
        }
    }

    /// The next request; `None` when the other side has closed. Not cancel safe.
    pub async fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(end) = self.head_end().await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&self.buffer[..end]);
        let mut method = [b' '; 4];
        method.copy_from_slice(&self.buffer[..4]);
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { method, path, session: None, last_event_id: None, body: Vec::new() };
        let mut length = 0;
        for (name, value) in text.split("\r\n").filter_map(|line| line.split_once(": ")) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().map_err(io::Error::other)?;
            } else if name.eq_ignore_ascii_case("mcp-session-id") {
                request.session = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("last-event-id") {
                request.last_event_id = Some(value.to_owned());
            }
        }
        while self.buffer.len() < end + length {
            self.fill_some().await?;
        }
        request.body.extend_from_slice(&self.buffer[end..end + length]);
        self.buffer.drain(..end + length);
        Ok(Some(request))
    }

    /// The text of the next head, after which [`chunk`](Self::chunk) reads the body; `None` when the other side has
    /// closed. Not cancel safe.
    pub async fn raw_head(&mut self) -> io::Result<Option<String>> {
        let Some(end) = self.head_end().await? else { return Ok(None) };
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        self.framing = Framing::End;
        for (name, value) in text.split("\r\n").filter_map(|line| line.split_once(": ")) {
            if name.eq_ignore_ascii_case("content-length") {
                self.framing = Framing::Length(value.parse().map_err(io::Error::other)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.framing = Framing::Chunked;
            }
        }
        Ok(Some(text))
    }

    /// Waits until the other side has closed; what still comes stays in the buffer. Cancel safe.
    pub async fn gone(&mut self) {
        while self.fill().await.is_ok_and(|count| count > 0) {}
    }

    /// Waits until the other side has closed; what still comes is dropped.
    pub async fn closed(&mut self) {
        let mut rest = [0; 1024];
        while each_socket!(&mut self.socket, socket => socket.read(&mut rest).await)
            .is_ok_and(|count| count > 0)
        {}
    }

    /// Where the head ends in the buffer; `None` when the connection ends before it began.
    async fn head_end(&mut self) -> io::Result<Option<usize>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(at + 4));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    async fn fill_some(&mut self) -> io::Result<()> {
        if self.fill().await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.len() > BUFFER_BYTES_MAX {
            return Err(io::Error::other("more came than the suite sends"));
        }
        each_socket!(&mut self.socket, socket => socket.read_buf(&mut self.buffer).await)
    }
}

/// A whole response with a JSON body.
pub fn json_response(status: &str, extra: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The head of an event stream.
pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One chunk; an empty one ends the body.
pub fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// An event of a stream.
pub fn event(id: Option<&str>, data: &str) -> String {
    match id {
        Some(id) => format!("id: {id}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    }
}
