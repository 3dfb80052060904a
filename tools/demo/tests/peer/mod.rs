//! A client that writes requests as bytes and reads what comes back: it must not share the server's mistakes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

/// Nothing here takes long; a test that waits for this has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const ACCEPT: &str = "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n";

/// A response whose head was read; the body is still to come.
pub struct Response {
    pub status: u16,
    head: String,
    reader: BufReader<TcpStream>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The whole body as JSON; null when there is none.
    pub fn json(mut self) -> Value {
        let length = self.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).unwrap();
        if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() }
    }

    /// The next message of a stream; `None` at its end.
    pub fn event(&mut self) -> Option<Value> {
        self.raw_event().map(|(_, data)| serde_json::from_str(&data).unwrap())
    }

    /// The id, empty when there is none, and the data of the next event.
    pub fn raw_event(&mut self) -> Option<(String, String)> {
        let (mut id, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            // A line that is only digits is the size of a chunk; the last chunk has size 0.
            if self.reader.read_line(&mut line).unwrap() == 0 || line.trim_end() == "0" {
                return None;
            }
            if let Some(text) = line.strip_prefix("id: ") {
                text.trim_end().clone_into(&mut id);
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some((id, data.trim_end().to_owned()));
            }
        }
    }
}

pub fn send(address: SocketAddr, request: &str) -> Response {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the connection ended within the head: {head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, reader }
}

pub fn post(address: SocketAddr, headers: &str, body: &str) -> Response {
    let length = body.len();
    let request =
        format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    send(address, &request)
}

/// A Legacy session, with the headers that name it.
pub fn session(address: SocketAddr, capabilities: &Value) -> String {
    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": { "name": "wire", "version": "1" },
    });
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string();
    let response = post(address, ACCEPT, &body);
    assert_eq!(response.status, 200);
    let id = response.header("mcp-session-id").unwrap();
    format!("{ACCEPT}Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
}

pub fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": id,
        "method": "tools/call",
        "params": { "name": tool, "arguments": arguments, "_meta": { "progressToken": "p" } },
    })
}

/// Makes a Modern request of it, and the headers that belong to it.
pub fn modern(mut message: Value) -> (String, String) {
    let meta = &mut message["params"]["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let method = message["method"].as_str().unwrap();
    let name =
        message["params"]["name"].as_str().map_or(String::new(), |name| format!("Mcp-Name: {name}\r\n"));
    let headers = format!("{ACCEPT}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}");
    (headers, message.to_string())
}
