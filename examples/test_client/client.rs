//! The client: plain HTTP requests, one connection each, and their responses.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

pub const MODERN: &str = "2026-07-28";
pub const LEGACY: &str = "2025-11-25";

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The address of the gateway, and the credential to send.
#[derive(Clone)]
pub struct Gateway {
    pub authority: String,
    pub path: String,
    pub token: Option<String>,
}

/// Sends requests in one era; in the Legacy era with the session that `initialize` opened.
pub struct Session {
    pub gateway: Gateway,
    pub era: &'static str,
    pub id: Option<HeaderValue>,
    pub last_id: u64,
    pub tools: Vec<Value>,
}

/// A response that is read as it arrives. Dropping it early closes the connection.
pub struct Reply {
    pub status: StatusCode,
    pub session: Option<HeaderValue>,
    pub is_events: bool,
    body: Incoming,
    /// The start of an event that has not arrived completely.
    buffer: Vec<u8>,
    pub id: Option<u64>,
}

/// Fails with a message unless `holds`.
pub fn expect(holds: bool, or: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(or().into()) }
}

impl Gateway {
    pub fn new(url: &str) -> Result<Self> {
        let url: Uri = url.parse()?;
        expect(url.scheme_str() == Some("http"), || "only http:// URLs can be reached".to_owned())?;
        let authority = url.authority().ok_or("a host is missing")?.to_string();
        Ok(Self { authority, path: url.path().to_owned(), token: None })
    }

    /// Sends one request on its own connection and waits for the head of the response.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Value>,
    ) -> Result<Reply> {
        let has_port = self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let address = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let stream = TcpStream::connect(&address).await.map_err(|error| format!("{address}: {error}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let id = body.as_ref().and_then(|body| body["id"].as_u64());
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .body(Full::new(bytes))?;
        request.headers_mut().extend(headers);
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert("accept", accept);
        if let Some(token) = &self.token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        let (head, body) = sender.send_request(request).await?.into_parts();
        let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok());
        Ok(Reply {
            status: head.status,
            session: head.headers.get("mcp-session-id").cloned(),
            is_events: content_type.is_some_and(|value| value.starts_with("text/event-stream")),
            body,
            buffer: Vec::new(),
            id,
        })
    }
}

impl Session {
    pub fn modern(gateway: Gateway) -> Self {
        Self { gateway, era: MODERN, id: None, last_id: 0, tools: Vec::new() }
    }

    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("mcp-protocol-version", HeaderValue::from_static(self.era));
        if let Some(id) = &self.id {
            headers.insert("mcp-session-id", id.clone());
        }
        headers
    }

    /// Sends a request with a new id, and with the headers and `_meta` of the era.
    pub async fn request(&mut self, method: &str, mut params: Value) -> Result<Reply> {
        self.last_id += 1;
        let mut headers = self.headers();
        if self.era == MODERN {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
            headers.insert("mcp-method", method.parse()?);
            let subject = match method {
                "tools/call" | "prompts/get" => params["name"].as_str(),
                "resources/read" => params["uri"].as_str(),
                _ => None,
            };
            if let Some(subject) = subject {
                headers.insert(HeaderName::from_static("mcp-name"), subject.parse()?);
            }
        }
        let message = json!({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params});
        self.gateway.send(Method::POST, &self.gateway.path, headers, Some(message)).await
    }

    /// Sends a request and returns its result; skips messages before it.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let mut answer = self.request(method, params).await?.answer().await?;
        expect(answer["result"].is_object(), || format!("answered with {answer}"))?;
        Ok(answer["result"].take())
    }

    pub async fn notify(&self, method: &str, params: Value) -> Result<()> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let reply =
            self.gateway.send(Method::POST, &self.gateway.path, self.headers(), Some(message)).await?;
        expect(reply.status == StatusCode::ACCEPTED, || reply.unexpected())
    }
}

impl Reply {
    pub fn unexpected(&self) -> String {
        format!("answered with HTTP {}", self.status)
    }

    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Returns the next message of an event stream, or the only one of a JSON response.
    pub async fn message(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(message) = self.event()? {
                return Ok(Some(message));
            }
            if let Some(bytes) = self.chunk().await? {
                // Lines of a stream may end in CR LF; JSON has no bare CR.
                self.buffer.extend(bytes.iter().filter(|byte| **byte != b'\r'));
                continue;
            }
            let rest = std::mem::take(&mut self.buffer);
            // The rest of a stream is not a complete event.
            return if self.is_events || rest.is_empty() {
                Ok(None)
            } else {
                Ok(Some(serde_json::from_slice(&rest)?))
            };
        }
    }

    /// Takes events from the buffer, up to the first one with a message.
    pub fn event(&mut self) -> Result<Option<Value>> {
        while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n").filter(|_| self.is_events)
        {
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let lines = std::str::from_utf8(&event)?.lines();
            let data: Vec<_> = lines.filter_map(|line| line.strip_prefix("data:")).collect();
            let data = data.join("\n");
            // Comments keep a stream alive; an event without data starts one that can be resumed.
            if !data.trim().is_empty() {
                return Ok(Some(serde_json::from_str(&data)?));
            }
        }
        Ok(None)
    }

    /// Returns the response to the request, whether a result or an error.
    pub async fn answer(&mut self) -> Result<Value> {
        while let Some(message) = self.message().await? {
            if message["id"].as_u64() == self.id && message.get("method").is_none() {
                return Ok(message);
            }
        }
        Err(format!("{}, without an answer", self.unexpected()).into())
    }
}
