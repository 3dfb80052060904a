//! A client that speaks raw HTTP/1.1.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
    framing: Framing,
    /// Of the body: decoded, and not yet a whole event.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Length(usize),
    Chunked,
    Ended,
}

/// A response; `whole` says whether its body came to its regular end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The status, the headers in order of their names, and the body, without what every response has anew.
    pub fn comparable(&self) -> (u16, Vec<(String, String)>, String) {
        let is_new = |name: &str| matches!(name, "x-request-id" | "date");
        let headers = self.headers.iter().filter(|(name, _)| !is_new(name));
        let mut headers: Vec<_> = headers.cloned().collect();
        headers.sort();
        (self.status, headers, self.text())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: HTTP {} {}", self.status, self.text()))
    }

    /// The data of each whole event in the body.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        // An event without data only tells its id.
        data.filter(|data| !data.is_empty()).map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), framing: Framing::Ended, partial: Vec::new() }
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn once(address: SocketAddr, request: &Request) -> Response {
        Self::connect(address).ask(request)
    }

    #[track_caller]
    pub fn ask(&mut self, request: &Request) -> Response {
        self.send(&request.bytes());
        self.response()
    }

    /// A gateway that refuses may close before it has read all of it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Nothing more is sent; what comes is still read.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The head of the next response; its body is read by the calls below.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.fill().is_ok_and(|count| count > 0), "no head of a response came, but {text:?}");
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let response = Response { status, headers, body: Vec::new(), whole: false };
        self.framing = match response.header("content-length") {
            Some(length) => Framing::Length(length.parse().unwrap()),
            None if response.header("transfer-encoding") == Some("chunked") => Framing::Chunked,
            None => Framing::Ended,
        };
        response
    }

    #[track_caller]
    pub fn response(&mut self) -> Response {
        let mut response = self.head();
        response.whole = loop {
            match self.chunk() {
                Ok(Some(bytes)) => response.body.extend(bytes),
                Ok(None) => break true,
                Err(error) if is_timeout(&error) => {
                    panic!("a body did not end: {:?}", String::from_utf8_lossy(&response.body))
                }
                Err(_) => break false,
            }
        };
        response
    }

    /// As [`response`](Self::response); `None` when the connection ends without one.
    pub fn outcome(&mut self) -> Option<Response> {
        while self.buffer.is_empty() {
            self.fill_some().ok()?;
        }
        Some(self.response())
    }

    /// The next bytes of the body; `None` at its regular end, an error when it breaks off.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.framing {
            Framing::Ended | Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                while self.buffer.is_empty() {
                    self.fill_some()?;
                }
                let bytes: Vec<u8> = self.buffer.drain(..left.min(self.buffer.len())).collect();
                self.framing = Framing::Length(left - bytes.len());
                Ok(Some(bytes))
            }
            Framing::Chunked => {
                let line = self.line()?;
                let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
                while self.buffer.len() < length + 2 {
                    self.fill_some()?;
                }
                let mut bytes: Vec<u8> = self.buffer.drain(..length + 2).collect();
                assert_eq!(bytes.split_off(length), b"\r\n");
                if length == 0 {
                    self.framing = Framing::Ended;
                    return Ok(None);
                }
                Ok(Some(bytes))
            }
        }
    }

    /// The next event of a stream as it came, comments left out; `None` at the regular end.
    #[track_caller]
    pub fn raw_event(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.partial.windows(2).position(|window| window == b"\n\n") {
                let event = String::from_utf8(self.partial.drain(..at + 2).collect()).unwrap();
                if !event.starts_with(':') {
                    return Some(event);
                }
                continue;
            }
            match self.chunk() {
                Ok(Some(bytes)) => self.partial.extend(bytes),
                Ok(None) => return None,
                Err(error) => panic!("the stream broke off: {error}"),
            }
        }
    }

    /// The data of the next event; one without only tells its id.
    #[track_caller]
    pub fn event(&mut self) -> Option<Value> {
        loop {
            let event = self.raw_event()?;
            match event.lines().find_map(|line| line.strip_prefix("data: ")) {
                Some("") => {}
                data => return Some(data.map_or(Value::Null, |data| serde_json::from_str(data).unwrap())),
            }
        }
    }

    /// Waits for the other side to close, with nothing more to read.
    pub fn is_closed(&mut self) -> bool {
        match self.fill() {
            Ok(count) => self.buffer.is_empty() && count == 0,
            Err(error) => !is_timeout(&error),
        }
    }

    /// So many bytes, whatever they are.
    pub fn first_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            self.fill_some().unwrap();
        }
        self.buffer.drain(..count).collect()
    }

    /// What was read and not looked at.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                line.truncate(at);
                return String::from_utf8(line).map_err(io::Error::other);
            }
            self.fill_some()?;
        }
    }

    fn fill_some(&mut self) -> io::Result<()> {
        if self.fill()? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes)?;
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A request, header by header.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        let headers = vec![("Host".into(), "localhost".into())];
        Self { method: method.into(), path: path.into(), headers, body: Vec::new() }
    }

    /// With what every message of MCP carries.
    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::new("POST", path)
            .with("Content-Type", "application/json")
            .with("Accept", "application/json, text/event-stream");
        request.body = body.into();
        request
    }

    /// One more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Without the headers of that name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// With that header in place of those of its name.
    #[must_use]
    pub fn set(self, name: &str, value: impl Into<String>) -> Self {
        self.without(name).with(name, value)
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// As it goes over the wire. Framed by Content-Length unless its headers say otherwise.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let framed = ["content-length", "transfer-encoding"];
        if !self.headers.iter().any(|(name, _)| framed.contains(&name.to_ascii_lowercase().as_str())) {
            head.extend(["Content-Length: ", &self.body.len().to_string(), "\r\n"]);
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}
