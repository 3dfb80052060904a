//! An MCP server of both eras in the same process, which can misbehave in one way.

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
use mcpload::net::{ByteStream, ConnectFuture, Connector};
use serde_json::{Value, json};

/// How the server responds to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "each test file uses some of them")]
pub enum ServerBehavior {
    /// Correctly, as JSON.
    Correct,
    /// As an event stream with two progress notifications.
    Stream,
    /// As an event stream that ends after this many bytes.
    CutAt(usize),
    /// The connection ends before the announced length.
    Broken,
    /// Ends the body after a delay.
    Slow(Duration),
    /// One call, by its number, after a delay; the others at once.
    SlowOnce(u64, Duration),
    /// Never.
    Silent,
    /// With the id of another request.
    ForeignId,
    /// With the canary of the previous call.
    ForeignCanary,
    /// Without the canary of the request.
    LostCanary,
    /// Twice, as an event stream.
    Twice,
    /// With status 503.
    Busy,
    /// With a JSON-RPC error that repeats the credential.
    Refuse,
    /// With HTML.
    NotMcp,
    /// Correctly, and closes the connection after each response.
    Closes,
    /// Correctly, but every fifth call finds its session gone.
    LosesSession,
    /// Correctly, but the first idle event stream ends at once.
    DropsStream,
}

/// The server.
pub struct TestServer {
    behavior: ServerBehavior,
    /// The number of calls.
    pub calls: AtomicU64,
    /// Sessions that are open.
    pub sessions: AtomicU64,
    streams: AtomicU64,
    last: std::sync::Mutex<String>,
}

impl TestServer {
    pub fn new(behavior: ServerBehavior) -> Arc<Self> {
        Arc::new(Self {
            behavior,
            calls: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            last: std::sync::Mutex::default(),
        })
    }

    /// Serves one connection until it ends.
    pub async fn serve(self: Arc<Self>, stream: impl ByteStream + 'static) {
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.respond(request).await) }
        });
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<ScriptedBody> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("the client sends whole requests").to_bytes();
        match head.method {
            Method::GET => return self.open_stream(),
            Method::DELETE => {
                self.sessions.fetch_sub(1, Ordering::Relaxed);
                return text_response(StatusCode::OK, "text/plain", "");
            }
            _ => {}
        }
        let message: Value = serde_json::from_slice(&body).expect("the client sends JSON");
        let id = message["id"].clone();
        let is_modern = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string();
        assert_eq!(head.headers.contains_key("mcp-method"), is_modern, "{:?}", head.headers);
        match message["method"].as_str().expect("a method") {
            "initialize" => {
                self.sessions.fetch_add(1, Ordering::Relaxed);
                let mut response =
                    result_response(&id, &json!({ "protocolVersion": "2025-11-25", "capabilities": {} }));
                response.headers_mut().insert("mcp-session-id", "one".parse().expect("a value"));
                response
            }
            "notifications/initialized" => text_response(StatusCode::ACCEPTED, "text/plain", ""),
            "tools/list" => result_response(
                &id,
                &json!({ "tools": [{ "name": "demo__echo" }], "resultType": "complete" }),
            ),
            "subscriptions/listen" => self.open_stream(),
            _ => {
                assert!(is_modern || head.headers.contains_key("mcp-session-id"), "{:?}", head.headers);
                self.call(&message, &id).await
            }
        }
    }

    /// An event stream that stays open.
    fn open_stream(&self) -> Response<ScriptedBody> {
        let is_first = self.streams.fetch_add(1, Ordering::Relaxed) == 0;
        let first = Bytes::from_static(b": open\n\n");
        let ends = is_first && self.behavior == ServerBehavior::DropsStream;
        let end = if ends { BodyEnd::Complete } else { BodyEnd::Wait };
        response(StatusCode::OK, "text/event-stream", ScriptedBody { bytes: Some(first), end, length: None })
    }

    async fn call(&self, message: &Value, id: &Value) -> Response<ScriptedBody> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let text = message["params"]["arguments"]["text"].as_str().unwrap_or_default().to_owned();
        assert_eq!(message["params"]["name"], "demo__echo");
        let previous = std::mem::replace(&mut *self.last.lock().expect("no panic"), text.clone());
        let result = |text: &str| {
            let content = json!([{ "type": "text", "text": text }]);
            json!({ "resultType": "complete", "content": content })
        };
        let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result(&text) });
        match self.behavior {
            ServerBehavior::LosesSession if number % 5 == 4 => {
                self.sessions.fetch_sub(1, Ordering::Relaxed);
                text_response(StatusCode::NOT_FOUND, "text/plain", "no such session")
            }
            ServerBehavior::Correct | ServerBehavior::DropsStream | ServerBehavior::LosesSession => {
                result_response(id, &result(&text))
            }
            ServerBehavior::Closes => {
                let mut response = result_response(id, &result(&text));
                response.headers_mut().insert("connection", "close".parse().expect("a value"));
                response
            }
            ServerBehavior::Stream => {
                text_response(StatusCode::OK, "text/event-stream", &stream(message, &[answer]))
            }
            ServerBehavior::CutAt(at) => {
                let whole = stream(message, &[answer]);
                text_response(StatusCode::OK, "text/event-stream", &whole[..at.min(whole.len())])
            }
            ServerBehavior::Broken => {
                let body = Bytes::from_static(b"{\"jsonrpc\":");
                let body = ScriptedBody { bytes: Some(body), end: BodyEnd::Break, length: Some(500) };
                response(StatusCode::OK, "application/json", body)
            }
            ServerBehavior::Slow(time) => {
                tokio::time::sleep(time).await;
                result_response(id, &result(&text))
            }
            ServerBehavior::SlowOnce(which, time) => {
                if number == which {
                    tokio::time::sleep(time).await;
                }
                result_response(id, &result(&text))
            }
            ServerBehavior::Silent => std::future::pending().await,
            ServerBehavior::ForeignId => result_response(&json!(7_000_000), &result(&text)),
            ServerBehavior::ForeignCanary => result_response(id, &result(&previous)),
            ServerBehavior::LostCanary => result_response(id, &result("nothing")),
            ServerBehavior::Twice => text_response(
                StatusCode::OK,
                "text/event-stream",
                &stream(message, &[answer.clone(), answer]),
            ),
            ServerBehavior::Busy => text_response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "busy"),
            ServerBehavior::Refuse => {
                let error = json!({ "code": -32000, "message": "not with Bearer mcp_secret" });
                let error = json!({ "jsonrpc": "2.0", "id": id, "error": error });
                text_response(StatusCode::OK, "application/json", &error.to_string())
            }
            ServerBehavior::NotMcp => text_response(StatusCode::OK, "text/html", "<html></html>"),
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

fn result_response(id: &Value, result: &Value) -> Response<ScriptedBody> {
    let message = json!({ "jsonrpc": "2.0", "id": id, "result": result });
    text_response(StatusCode::OK, "application/json", &message.to_string())
}

fn text_response(status: StatusCode, kind: &str, body: &str) -> Response<ScriptedBody> {
    let body =
        ScriptedBody { bytes: Some(Bytes::from(body.to_owned())), end: BodyEnd::Complete, length: None };
    response(status, kind, body)
}

fn response(status: StatusCode, kind: &str, body: ScriptedBody) -> Response<ScriptedBody> {
    let response = Response::builder().status(status).header("content-type", kind);
    let response = match body.length {
        Some(length) => response.header("content-length", length),
        None => response,
    };
    response.body(body).expect("the response is valid")
}

/// A body: some bytes, and how it ends.
pub struct ScriptedBody {
    bytes: Option<Bytes>,
    end: BodyEnd,
    length: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum BodyEnd {
    Complete,
    Wait,
    Break,
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match (self.bytes.take(), self.end) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, BodyEnd::Complete) => Poll::Ready(None),
            (None, BodyEnd::Wait) => Poll::Pending,
            (None, BodyEnd::Break) => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
        }
    }
}

/// Connections within the process, so that time can be paused.
#[allow(dead_code, reason = "one test file uses sockets instead")]
pub struct InProcessConnector(pub Arc<TestServer>);

impl Connector for InProcessConnector {
    fn connect(&self) -> ConnectFuture {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(server.serve(theirs));
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}
