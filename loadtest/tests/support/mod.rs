//! An MCP server of both eras within the process, which can be told to be wrong in one way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpload::net::{Connect, Connecting, Stream};
use serde_json::{Value, json};

/// What the server does with a call.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "each test file uses some of them")]
pub enum Manner {
    /// As JSON.
    Right,
    /// As an event stream, with two messages of progress.
    Stream,
    /// As an event stream that ends after so many bytes.
    CutAt(usize),
    /// The connection ends before the length that was promised.
    Broken,
    /// So much later.
    Slow(Duration),
    /// One call, by its number, so much later; the others at once.
    SlowOnce(u64, Duration),
    /// Never.
    Silent,
    /// With the id of another.
    ForeignId,
    /// With the canary of the call before.
    ForeignCanary,
    /// Without what was sent.
    LostCanary,
    /// As an event stream, twice.
    Twice,
    /// 503.
    Busy,
    /// A JSON-RPC error that repeats the credential.
    Refuse,
    /// HTML.
    NotMcp,
    /// Right, and the connection ends after each.
    Closes,
    /// Right, but every fifth call finds its session gone.
    LosesSession,
    /// Right, but the first event stream that is held ends at once.
    DropsStream,
}

/// The server.
pub struct Server {
    manner: Manner,
    /// What was called, in order of arrival.
    pub calls: AtomicU64,
    /// Sessions that were begun and not ended.
    pub sessions: AtomicU64,
    streams: AtomicU64,
    last: std::sync::Mutex<String>,
}

impl Server {
    pub fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self {
            manner,
            calls: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            last: std::sync::Mutex::default(),
        })
    }

    /// Serves one connection until it ends.
    pub async fn serve(self: Arc<Self>, stream: impl Stream + 'static) {
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Said> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("the load sends whole requests").to_bytes();
        match head.method {
            Method::GET => return self.held(),
            Method::DELETE => {
                self.sessions.fetch_sub(1, Ordering::Relaxed);
                return said(StatusCode::OK, "text/plain", "");
            }
            _ => {}
        }
        let message: Value = serde_json::from_slice(&body).expect("the load sends JSON");
        let id = message["id"].clone();
        let is_modern = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
        assert_eq!(head.headers.contains_key("mcp-method"), is_modern, "{:?}", head.headers);
        match message["method"].as_str().expect("a method") {
            "initialize" => {
                self.sessions.fetch_add(1, Ordering::Relaxed);
                let mut response =
                    right(&id, &json!({ "protocolVersion": "2025-11-25", "capabilities": {} }));
                response.headers_mut().insert("mcp-session-id", "one".parse().expect("a value"));
                response
            }
            "notifications/initialized" => said(StatusCode::ACCEPTED, "text/plain", ""),
            "tools/list" => {
                right(&id, &json!({ "tools": [{ "name": "demo__echo" }], "resultType": "complete" }))
            }
            "subscriptions/listen" => self.held(),
            _ => {
                assert!(is_modern || head.headers.contains_key("mcp-session-id"), "{:?}", head.headers);
                self.call(&message, &id).await
            }
        }
    }

    /// An event stream that stays open.
    fn held(&self) -> Response<Said> {
        let is_first = self.streams.fetch_add(1, Ordering::Relaxed) == 0;
        let first = Bytes::from_static(b": open\n\n");
        let ends = is_first && self.manner == Manner::DropsStream;
        let after = if ends { After::End } else { After::Wait };
        response(StatusCode::OK, "text/event-stream", Said { bytes: Some(first), after, length: None })
    }

    async fn call(&self, message: &Value, id: &Value) -> Response<Said> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let text = message["params"]["arguments"]["text"].as_str().unwrap_or_default().to_owned();
        assert_eq!(message["params"]["name"], "demo__echo");
        let before = std::mem::replace(&mut *self.last.lock().expect("no panic"), text.clone());
        let result = |text: &str| {
            let content = json!([{ "type": "text", "text": text }]);
            json!({ "resultType": "complete", "content": content })
        };
        let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result(&text) });
        match self.manner {
            Manner::LosesSession if number % 5 == 4 => {
                self.sessions.fetch_sub(1, Ordering::Relaxed);
                said(StatusCode::NOT_FOUND, "text/plain", "no such session")
            }
            Manner::Right | Manner::DropsStream | Manner::LosesSession => right(id, &result(&text)),
            Manner::Closes => {
                let mut response = right(id, &result(&text));
                response.headers_mut().insert("connection", "close".parse().expect("a value"));
                response
            }
            Manner::Stream => said(StatusCode::OK, "text/event-stream", &stream(message, &[answer])),
            Manner::CutAt(at) => {
                let whole = stream(message, &[answer]);
                said(StatusCode::OK, "text/event-stream", &whole[..at.min(whole.len())])
            }
            Manner::Broken => {
                let body = Bytes::from_static(b"{\"jsonrpc\":");
                let body = Said { bytes: Some(body), after: After::Break, length: Some(500) };
                response(StatusCode::OK, "application/json", body)
            }
            Manner::Slow(time) => {
                tokio::time::sleep(time).await;
                right(id, &result(&text))
            }
            Manner::SlowOnce(which, time) => {
                if number == which {
                    tokio::time::sleep(time).await;
                }
                right(id, &result(&text))
            }
            Manner::Silent => std::future::pending().await,
            Manner::ForeignId => right(&json!(7_000_000), &result(&text)),
            Manner::ForeignCanary => right(id, &result(&before)),
            Manner::LostCanary => right(id, &result("nothing")),
            Manner::Twice => {
                said(StatusCode::OK, "text/event-stream", &stream(message, &[answer.clone(), answer]))
            }
            Manner::Busy => said(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "busy"),
            Manner::Refuse => {
                let error = json!({ "code": -32000, "message": "not with Bearer mcp_secret" });
                let error = json!({ "jsonrpc": "2.0", "id": id, "error": error });
                said(StatusCode::OK, "application/json", &error.to_string())
            }
            Manner::NotMcp => said(StatusCode::OK, "text/html", "<html></html>"),
        }
    }
}

fn stream(message: &Value, answers: &[Value]) -> String {
    let token = &message["params"]["_meta"]["progressToken"];
    let mut events = String::new();
    if !token.is_null() {
        for done in 1..=2 {
            let params = json!({ "progressToken": token, "progress": done });
            let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
            events.extend(["data: ", &progress.to_string(), "\n\n"]);
        }
    }
    for answer in answers {
        events.extend(["event: message\ndata: ", &answer.to_string(), "\n\n"]);
    }
    events
}

fn right(id: &Value, result: &Value) -> Response<Said> {
    let message = json!({ "jsonrpc": "2.0", "id": id, "result": result });
    said(StatusCode::OK, "application/json", &message.to_string())
}

fn said(status: StatusCode, kind: &str, body: &str) -> Response<Said> {
    let body = Said { bytes: Some(Bytes::from(body.to_owned())), after: After::End, length: None };
    response(status, kind, body)
}

fn response(status: StatusCode, kind: &str, body: Said) -> Response<Said> {
    let response = Response::builder().status(status).header("content-type", kind);
    let response = match body.length {
        Some(length) => response.header("content-length", length),
        None => response,
    };
    response.body(body).expect("it is right")
}

/// A body: some bytes, and what follows.
pub struct Said {
    bytes: Option<Bytes>,
    after: After,
    length: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    End,
    Wait,
    Break,
}

impl Body for Said {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match (self.bytes.take(), self.after) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, After::End) => Poll::Ready(None),
            (None, After::Wait) => Poll::Pending,
            (None, After::Break) => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
        }
    }
}

/// Connections that stay within the process, so that time can be paused.
#[allow(dead_code, reason = "one test file uses sockets instead")]
pub struct Within(pub Arc<Server>);

impl Connect for Within {
    fn connect(&self) -> Connecting {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(server.serve(theirs));
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}
