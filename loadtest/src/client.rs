//! One connection to the target and, in the Legacy era, the session on it.
//!
//! Invariant: after a failure a connection is not reused, so that leftover bytes cannot be taken for the response to a later
//! request. Does not know rates or counters.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::error::{ErrorKind, RequestError};
use crate::message::{self, RequestTemplate, SESSION_ID};
use crate::net::Connector;
use crate::response::{ExpectedResponse, ResponseReader};
use crate::scenario::{Era, RequestIds, ResponseChecks};

/// Bytes of a response that is read only for its error text.
const ERROR_BODY_BYTES_MAX: usize = 4 << 10;

/// Bytes of a response to a request of the preflight: a page of a list.
const LIST_BYTES_MAX: usize = 16 << 20;

/// What all connections to the target share.
pub struct Target {
    /// The path and the query of the URL.
    path: Uri,
    /// Headers of every request: host, credentials, and those of `--header`.
    headers: HeaderMap,
    /// Kept to redact it from reports.
    key: Option<String>,
    /// Time for one response, and for connecting.
    pub timeout: Duration,
    pub ids: RequestIds,
    pub connector: Arc<dyn Connector>,
}

impl Target {
    /// `headers` are added to every request.
    pub fn new(
        url: &Uri,
        key: Option<String>,
        mut headers: HeaderMap,
        timeout: Duration,
        ids: RequestIds,
        connector: Arc<dyn Connector>,
    ) -> Result<Self, String> {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse().map_err(|error| format!("{url}: {error}"))?;
        let authority = url.authority().ok_or_else(|| format!("{url} has no host"))?;
        if authority.as_str().contains('@') {
            return Err("the URL has a user in it, which would be in every report; use --header".to_owned());
        }
        headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?);
        if let Some(key) = &key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| "the key has characters that a header cannot carry".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { path, headers, key, timeout, ids, connector })
    }

    /// Replaces the credentials in a text. A server may echo what it was sent.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let secrets = self.headers.iter().filter(|(_, value)| value.is_sensitive());
        let secrets = secrets.filter_map(|(_, value)| value.to_str().ok()).chain(self.key.as_deref());
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "[credential]");
        }
        text
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// The length of its body.
    pub bytes: u64,
    /// When its last byte arrived.
    pub at: Instant,
}

/// A connection that is established on first use.
pub struct Client {
    target: Arc<Target>,
    pub era: Era,
    sender: Option<SendRequest<Full<Bytes>>>,
    session: Option<HeaderValue>,
    is_ready: bool,
}

impl Client {
    /// Creates a client without a connection.
    pub fn new(target: Arc<Target>, era: Era) -> Self {
        Self { target, era, sender: None, session: None, is_ready: false }
    }

    /// Whether it is connected and, in the Legacy era, initialized.
    pub fn is_open(&self) -> bool {
        self.is_ready && self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Connects and, in the Legacy era, opens a session.
    pub async fn open(&mut self) -> Result<Completion, RequestError> {
        let deadline = Instant::now() + self.target.timeout;
        self.with_deadline(deadline, async |client| client.ensure_open().await).await
    }

    /// Sends one request, and validates its response.
    pub async fn call(
        &mut self,
        template: &RequestTemplate,
        expected: ExpectedResponse,
    ) -> Result<Completion, RequestError> {
        let deadline = Instant::now() + self.target.timeout;
        let body = template.fill(expected.id, &expected.canary);
        self.with_deadline(deadline, async |client| {
            client.ensure_open().await?;
            let response = client.send(template, body).await?;
            client.read_response(response, expected).await
        })
        .await
    }

    /// Sends one request, and returns the body of its response without validation.
    pub async fn fetch(&mut self, template: &RequestTemplate, id: u64) -> Result<Vec<u8>, RequestError> {
        let deadline = Instant::now() + self.target.timeout;
        let body = template.fill(id, "");
        self.with_deadline(deadline, async |client| {
            client.ensure_open().await?;
            let response = client.send(template, body).await?;
            let body = read_body(response.into_body(), LIST_BYTES_MAX).await?;
            Ok(body.to_vec())
        })
        .await
    }

    /// Closes the session, if there is one, and the connection.
    pub async fn close(&mut self) -> Result<Option<Completion>, RequestError> {
        let Some(session) = self.session.take() else {
            self.discard();
            return Ok(None);
        };
        let deadline = Instant::now() + self.target.timeout;
        let closed = self.with_deadline(deadline, async |client| client.delete(session).await).await;
        self.discard();
        closed.map(Some)
    }

    /// Opens an event stream: `subscriptions/listen`, or GET in a Legacy session.
    pub async fn open_event_stream(&mut self) -> Result<Incoming, RequestError> {
        let deadline = Instant::now() + self.target.timeout;
        let response = self
            .with_deadline(deadline, async |client| {
                client.ensure_open().await?;
                match client.era {
                    Era::Modern => {
                        let template = message::listen_template();
                        let body = template.fill(1, "");
                        client.send(&template, body).await
                    }
                    Era::Legacy => {
                        let mut request = client.build_request(Method::GET, Bytes::new());
                        let stream = HeaderValue::from_static("text/event-stream");
                        request.headers_mut().insert(ACCEPT, stream);
                        client.send_checked(request).await
                    }
                }
            })
            .await?;
        let is_stream = content_type(&response).starts_with("text/event-stream");
        if !is_stream {
            return Err(RequestError::new(ErrorKind::Malformed, "the response is not an event stream"));
        }
        Ok(response.into_body())
    }

    /// Runs `work` until the deadline, and discards the connection after a failure.
    async fn with_deadline<T>(
        &mut self,
        deadline: Instant,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, RequestError>,
    ) -> Result<T, RequestError> {
        let timeout = self.target.timeout;
        let result = timeout_at(deadline, work(self)).await;
        let result = result.unwrap_or_else(|_| {
            Err(RequestError::new(ErrorKind::Timeout, format!("no response within {timeout:?}")))
        });
        if let Err(error) = &result {
            match error.kind {
                // The session is gone, but the connection is usable.
                ErrorKind::Status(404) => (self.session, self.is_ready) = (None, false),
                // The response is complete, or hyper will not reuse the connection.
                ErrorKind::Rpc(_) | ErrorKind::ErrorResult | ErrorKind::Status(_) => {}
                _ => self.discard(),
            }
        }
        result
    }

    fn discard(&mut self) {
        self.sender = None;
        self.session = None;
        self.is_ready = false;
    }

    async fn ensure_open(&mut self) -> Result<Completion, RequestError> {
        if !self.is_open() {
            if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
                self.connect().await?;
            }
            if self.era == Era::Legacy && self.session.is_none() {
                self.initialize().await?;
            }
            self.is_ready = true;
        }
        Ok(Completion { bytes: 0, at: Instant::now() })
    }

    async fn connect(&mut self) -> Result<(), RequestError> {
        let failed = |error: &dyn std::fmt::Display| RequestError::new(ErrorKind::Connect, error.to_string());
        let stream = self.target.connector.connect().await.map_err(|error| failed(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // An error is reported by the request in flight.
        tokio::spawn(async move { drop(connection.await) });
        self.sender = Some(sender);
        Ok(())
    }

    async fn initialize(&mut self) -> Result<(), RequestError> {
        let template = message::initialize_template();
        let expected = ExpectedResponse {
            id: 1,
            canary: String::new(),
            checks: ResponseChecks::default(),
            era: Era::Legacy,
        };
        let response = self.send(&template, template.fill(1, "")).await?;
        self.session = response.headers().get(SESSION_ID).cloned();
        self.read_response(response, expected).await?;
        let mut request = self.build_request(Method::POST, Bytes::from_static(message::INITIALIZED));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let both = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(ACCEPT, both);
        let response = self.send_checked(request).await?;
        read_body(response.into_body(), ERROR_BODY_BYTES_MAX).await?;
        Ok(())
    }

    async fn delete(&mut self, session: HeaderValue) -> Result<Completion, RequestError> {
        let mut request = self.build_request(Method::DELETE, Bytes::new());
        request.headers_mut().insert(SESSION_ID, session);
        let response = self.send_checked(request).await?;
        read_body(response.into_body(), ERROR_BODY_BYTES_MAX).await?;
        Ok(Completion { bytes: 0, at: Instant::now() })
    }

    fn build_request(&self, method: Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.path.clone();
        let headers = request.headers_mut();
        headers.extend(self.target.headers.clone());
        if self.era == Era::Legacy {
            headers.insert(message::PROTOCOL_VERSION, HeaderValue::from_static(message::LEGACY_REVISION));
            if let Some(session) = &self.session {
                headers.insert(SESSION_ID, session.clone());
            }
        }
        request
    }

    async fn send(
        &mut self,
        template: &RequestTemplate,
        body: Bytes,
    ) -> Result<Response<Incoming>, RequestError> {
        let mut request = self.build_request(Method::POST, body);
        if !template.headers.contains_key(message::PROTOCOL_VERSION) {
            request.headers_mut().remove(message::PROTOCOL_VERSION);
        }
        // `extend` of a header map replaces existing values.
        request.headers_mut().extend(template.headers.clone());
        self.send_checked(request).await
    }

    /// Sends a request. A status other than 200 and 202 is an error.
    async fn send_checked(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RequestError> {
        let response = self.send_with_reconnect(request).await?;
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::ACCEPTED {
            return Ok(response);
        }
        let detail = match read_body(response.into_body(), ERROR_BODY_BYTES_MAX).await {
            Ok(body) => String::from_utf8_lossy(&body).into_owned(),
            Err(error) => error.detail,
        };
        Err(RequestError::new(ErrorKind::Status(status.as_u16()), detail))
    }

    /// Sends a request, once more over a new connection if the server had closed the idle one. That a server closes an idle
    /// connection is no failure.
    async fn send_with_reconnect(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RequestError> {
        let lost = || RequestError::new(ErrorKind::Truncated, "the connection was closed");
        let truncated = |error: hyper::Error| RequestError::new(ErrorKind::Truncated, format_chain(&error));
        if self.sender.as_mut().ok_or_else(lost)?.ready().await.is_err() {
            self.connect().await?;
        }
        let sender = self.sender.as_mut().ok_or_else(lost)?;
        let unsent = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut error) => match error.take_message() {
                Some(request) => request,
                None => return Err(truncated(error.into_error())),
            },
        };
        self.connect().await?;
        let sender = self.sender.as_mut().ok_or_else(lost)?;
        sender.send_request(unsent).await.map_err(truncated)
    }

    async fn read_response(
        &mut self,
        response: Response<Incoming>,
        expected: ExpectedResponse,
    ) -> Result<Completion, RequestError> {
        let content_type = content_type(&response).to_owned();
        let mut body = response.into_body();
        let Some(mut reader) = ResponseReader::new(&content_type, expected) else {
            return Err(RequestError::new(
                ErrorKind::Malformed,
                format!("the Content-Type is {content_type:?}"),
            ));
        };
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| RequestError::new(ErrorKind::Truncated, format_chain(&error)))?;
            if let Some(data) = frame.data_ref() {
                reader.feed(data)?;
            }
        }
        Ok(Completion { bytes: reader.finish()?, at: Instant::now() })
    }
}

fn content_type(response: &Response<Incoming>) -> &str {
    let value = response.headers().get(CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn read_body(body: Incoming, bytes_max: usize) -> Result<Bytes, RequestError> {
    let body = Limited::new(body, bytes_max).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| RequestError::new(ErrorKind::Truncated, error.to_string()))
}

/// Formats an error with its sources.
fn format_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
