//! One connection to the target and, in the Legacy era, one session on it.
//!
//! Invariant: a connection on which anything went wrong is not used again, so that what is left on it cannot be
//! taken for the answer to a later request. Knows nothing of rates and counts.

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

use crate::answer::{Expected, Kind, Reader, Wrong};
use crate::message::{self, SESSION, Template};
use crate::net::Connect;
use crate::scenario::{Checks, Era, Ids};

/// Of an answer that is only looked at for what it says about an error.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// Of an answer to a question of our own: a page of a list.
const LIST_BYTES_MAX: usize = 16 << 20;

/// What every connection has to know of the target.
pub struct Target {
    /// Path and query.
    path: Uri,
    /// Goes with every request: host, credentials, what was asked for.
    headers: HeaderMap,
    /// Must not be in a report.
    key: Option<String>,
    /// For one answer, and for connecting.
    pub timeout: Duration,
    /// What requests are told apart by.
    pub ids: Ids,
    /// Makes the connections.
    pub connect: Arc<dyn Connect>,
}

impl Target {
    /// `headers`: what else goes with every request.
    pub fn new(
        url: &Uri,
        key: Option<String>,
        mut headers: HeaderMap,
        timeout: Duration,
        ids: Ids,
        connect: Arc<dyn Connect>,
    ) -> Result<Self, String> {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse().map_err(|error| format!("{url}: {error}"))?;
        let authority = url.authority().ok_or_else(|| format!("{url} names no host"))?;
        if authority.as_str().contains('@') {
            return Err("the URL has a user in it, which would be in every report; write --header".to_owned());
        }
        headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?);
        if let Some(key) = &key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| "the key has characters that no header can carry".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { path, headers, key, timeout, ids, connect })
    }

    /// A server may give back what it was sent, credentials included.
    pub fn without_key(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let secrets = self.headers.iter().filter(|(_, value)| value.is_sensitive());
        let secrets = secrets.filter_map(|(_, value)| value.to_str().ok()).chain(self.key.as_deref());
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "[credential]");
        }
        text
    }
}

/// A right answer.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// Of its body.
    pub bytes: u64,
    /// When its last byte was there.
    pub at: Instant,
}

/// One connection, opened when it is needed.
pub struct Client {
    target: Arc<Target>,
    /// What it speaks.
    pub era: Era,
    link: Option<SendRequest<Full<Bytes>>>,
    session: Option<HeaderValue>,
    is_ready: bool,
}

impl Client {
    /// Not connected yet.
    pub fn new(target: Arc<Target>, era: Era) -> Self {
        Self { target, era, link: None, session: None, is_ready: false }
    }

    /// Connected, and in the Legacy era initialised.
    pub fn is_open(&self) -> bool {
        self.is_ready && self.link.as_ref().is_some_and(|link| !link.is_closed())
    }

    /// Connects, and begins a session where there are such.
    pub async fn open(&mut self) -> Result<Answered, Wrong> {
        let deadline = Instant::now() + self.target.timeout;
        self.timed(deadline, async |client| client.open_now().await).await
    }

    /// Sends one request; gives its answer when it is right.
    pub async fn call(&mut self, template: &Template, expected: Expected) -> Result<Answered, Wrong> {
        let deadline = Instant::now() + self.target.timeout;
        let body = template.fill(expected.id, &expected.canary);
        self.timed(deadline, async |client| {
            client.open_now().await?;
            let response = client.send(template, body).await?;
            client.answer(response, expected).await
        })
        .await
    }

    /// As [`call`](Self::call), and gives the message too, for questions of our own.
    pub async fn ask(&mut self, template: &Template, id: u64) -> Result<Vec<u8>, Wrong> {
        let deadline = Instant::now() + self.target.timeout;
        let body = template.fill(id, "");
        self.timed(deadline, async |client| {
            client.open_now().await?;
            let response = client.send(template, body).await?;
            let body = whole(response.into_body(), LIST_BYTES_MAX).await?;
            Ok(body.to_vec())
        })
        .await
    }

    /// Ends the session and the connection.
    pub async fn close(&mut self) -> Result<Option<Answered>, Wrong> {
        let Some(session) = self.session.take() else {
            self.forget();
            return Ok(None);
        };
        let deadline = Instant::now() + self.target.timeout;
        let ended = self.timed(deadline, async |client| client.delete(session).await).await;
        self.forget();
        ended.map(Some)
    }

    /// An event stream: `subscriptions/listen`, or the session's GET. It is open until its body ends.
    pub async fn listen(&mut self) -> Result<Incoming, Wrong> {
        let deadline = Instant::now() + self.target.timeout;
        let response = self
            .timed(deadline, async |client| {
                client.open_now().await?;
                match client.era {
                    Era::Modern => {
                        let template = message::listen();
                        let body = template.fill(1, "");
                        client.send(&template, body).await
                    }
                    Era::Legacy => {
                        let mut request = client.request(Method::GET, Bytes::new());
                        let stream = HeaderValue::from_static("text/event-stream");
                        request.headers_mut().insert(ACCEPT, stream);
                        client.exchange(request).await
                    }
                }
            })
            .await?;
        let is_stream = content_type(&response).starts_with("text/event-stream");
        if !is_stream {
            return Err(Wrong::new(Kind::Malformed, "the answer is no event stream"));
        }
        Ok(response.into_body())
    }

    /// Within the time; and nothing is used again after a failure.
    async fn timed<T>(
        &mut self,
        deadline: Instant,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, Wrong>,
    ) -> Result<T, Wrong> {
        let timeout = self.target.timeout;
        let done = timeout_at(deadline, work(self)).await;
        let done =
            done.unwrap_or_else(|_| Err(Wrong::new(Kind::Timeout, format!("not done in {timeout:?}"))));
        if let Err(wrong) = &done {
            match wrong.kind {
                // The session is gone; the connection is not.
                Kind::Status(404) => (self.session, self.is_ready) = (None, false),
                // A whole answer; what may be left of it, hyper does not mix with the next.
                Kind::Rpc(_) | Kind::Result | Kind::Status(_) => {}
                _ => self.forget(),
            }
        }
        done
    }

    fn forget(&mut self) {
        self.link = None;
        self.session = None;
        self.is_ready = false;
    }

    async fn open_now(&mut self) -> Result<Answered, Wrong> {
        if !self.is_open() {
            if self.link.as_ref().is_none_or(SendRequest::is_closed) {
                self.link().await?;
            }
            if self.era == Era::Legacy && self.session.is_none() {
                self.initialize().await?;
            }
            self.is_ready = true;
        }
        Ok(Answered { bytes: 0, at: Instant::now() })
    }

    async fn link(&mut self) -> Result<(), Wrong> {
        let failed = |error: &dyn std::fmt::Display| Wrong::new(Kind::Connect, error.to_string());
        let stream = self.target.connect.connect().await.map_err(|error| failed(&error))?;
        let (link, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // How it ends is seen by the request that is on it.
        tokio::spawn(async move { drop(connection.await) });
        self.link = Some(link);
        Ok(())
    }

    async fn initialize(&mut self) -> Result<(), Wrong> {
        let template = message::initialize();
        let expected = Expected { id: 1, canary: String::new(), checks: Checks::default(), era: Era::Legacy };
        let response = self.send(&template, template.fill(1, "")).await?;
        self.session = response.headers().get(SESSION).cloned();
        self.answer(response, expected).await?;
        let mut request = self.request(Method::POST, Bytes::from_static(message::INITIALIZED));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let both = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(ACCEPT, both);
        let response = self.exchange(request).await?;
        whole(response.into_body(), REFUSAL_BYTES_MAX).await?;
        Ok(())
    }

    async fn delete(&mut self, session: HeaderValue) -> Result<Answered, Wrong> {
        let mut request = self.request(Method::DELETE, Bytes::new());
        request.headers_mut().insert(SESSION, session);
        let response = self.exchange(request).await?;
        whole(response.into_body(), REFUSAL_BYTES_MAX).await?;
        Ok(Answered { bytes: 0, at: Instant::now() })
    }

    fn request(&self, method: Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.path.clone();
        let headers = request.headers_mut();
        headers.extend(self.target.headers.clone());
        if self.era == Era::Legacy {
            headers.insert(message::REVISION, HeaderValue::from_static(message::LEGACY));
            if let Some(session) = &self.session {
                headers.insert(SESSION, session.clone());
            }
        }
        request
    }

    async fn send(&mut self, template: &Template, body: Bytes) -> Result<Response<Incoming>, Wrong> {
        let mut request = self.request(Method::POST, body);
        if !template.headers.contains_key(message::REVISION) {
            request.headers_mut().remove(message::REVISION);
        }
        // `extend` of a map replaces what is there.
        request.headers_mut().extend(template.headers.clone());
        self.exchange(request).await
    }

    /// Gives an answer that is no refusal.
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Wrong> {
        let response = self.try_exchange(request).await?;
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::ACCEPTED {
            return Ok(response);
        }
        let said = match whole(response.into_body(), REFUSAL_BYTES_MAX).await {
            Ok(body) => String::from_utf8_lossy(&body).into_owned(),
            Err(wrong) => wrong.detail,
        };
        Err(Wrong::new(Kind::Status(status.as_u16()), said))
    }

    /// A connection that the other side closed while nothing was on it is no failure of anybody: what was not
    /// sent is sent on another, once.
    async fn try_exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Wrong> {
        let lost = || Wrong::new(Kind::Cut, "the connection is gone");
        let cut = |error: hyper::Error| Wrong::new(Kind::Cut, chain(&error));
        if self.link.as_mut().ok_or_else(lost)?.ready().await.is_err() {
            self.link().await?;
        }
        let link = self.link.as_mut().ok_or_else(lost)?;
        let unsent = match link.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut error) => match error.take_message() {
                Some(request) => request,
                None => return Err(cut(error.into_error())),
            },
        };
        self.link().await?;
        let link = self.link.as_mut().ok_or_else(lost)?;
        link.send_request(unsent).await.map_err(cut)
    }

    async fn answer(&mut self, response: Response<Incoming>, expected: Expected) -> Result<Answered, Wrong> {
        let kind = content_type(&response).to_owned();
        let mut body = response.into_body();
        let Some(mut reader) = Reader::new(&kind, expected) else {
            return Err(Wrong::new(Kind::Malformed, format!("the Content-Type is {kind:?}")));
        };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Wrong::new(Kind::Cut, chain(&error)))?;
            if let Some(data) = frame.data_ref() {
                reader.feed(data)?;
            }
        }
        Ok(Answered { bytes: reader.end()?, at: Instant::now() })
    }
}

fn content_type(response: &Response<Incoming>) -> &str {
    let value = response.headers().get(CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn whole(body: Incoming, bytes_max: usize) -> Result<Bytes, Wrong> {
    let body = Limited::new(body, bytes_max).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| Wrong::new(Kind::Cut, error.to_string()))
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
