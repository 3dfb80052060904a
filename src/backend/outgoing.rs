//! A request to a backend, before it is written.

use std::io::Write as _;

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use super::Backend;
use super::body::RequestBody;
use super::stdio::Verb;
use crate::auth::KeyId;
use crate::frame::Slices;
use crate::protocol::header;

/// A request to the MCP path of a backend: its body, and the fields it carries beside those that every
/// request to that backend carries.
#[derive(Clone)]
pub struct Outgoing {
    method: Method,
    fields: Vec<(HeaderName, HeaderValue)>,
    /// Boxed: a request is moved a dozen times on its way, and nine slices are 300 bytes.
    body: Box<Slices>,
    owner: Option<KeyId>,
}

/// Revision, method, name, session id and the trace: what a usual message carries.
const FIELDS_USUAL: usize = 7;

impl Outgoing {
    /// A message.
    pub fn post(body: Slices) -> Self {
        Self {
            method: Method::POST,
            fields: Vec::with_capacity(FIELDS_USUAL),
            body: Box::new(body),
            owner: None,
        }
    }

    /// A message of one piece.
    pub fn whole(body: Bytes) -> Self {
        Self::post(Slices::whole(body))
    }

    /// For the event stream of a session.
    pub fn get() -> Self {
        Self { method: Method::GET, ..Self::whole(Bytes::new()) }
    }

    /// For the end of a session.
    pub fn delete() -> Self {
        Self { method: Method::DELETE, ..Self::whole(Bytes::new()) }
    }

    /// With the key on whose behalf it is sent, for a server whose processes are apart by key.
    #[must_use]
    pub fn on_behalf_of(self, owner: Option<KeyId>) -> Self {
        Self { owner, ..self }
    }

    /// Adds a field, beside others of its name.
    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.fields.push((name, value));
    }

    /// Adds a field in place of others of its name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.fields.retain(|(other, _)| *other != name);
        self.add(name, value);
    }

    /// As a server that is a process is asked.
    pub(super) fn to_process(&self) -> (Verb, Option<HeaderValue>, Option<KeyId>) {
        let verb = match self.method {
            Method::GET => Verb::Get,
            Method::DELETE => Verb::Delete,
            _ => Verb::Post(match self.body.parts() {
                [whole] => whole.clone(),
                parts => parts.concat().into(),
            }),
        };
        let session = self.fields.iter().find(|(name, _)| *name == header::SESSION_ID);
        (verb, session.map(|(_, value)| value.clone()), self.owner)
    }

    /// Bytes of the body.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len_bytes()
    }

    /// As it goes over the wire (RFC 9112, sections 3 to 6).
    pub(super) fn render(&self, backend: &Backend) -> Vec<u8> {
        let head = &backend.head(&self.method).lines;
        let fields: usize =
            self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + b": \r\n".len()).sum();
        let body_bytes = self.body_bytes();
        let mut out = Vec::with_capacity(head.len() + fields + LENGTH_LINE_BYTES_MAX + body_bytes);
        out.put_slice(head);
        for (name, value) in &self.fields {
            out.put_slice(name.as_str().as_bytes());
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
        if self.method == Method::POST {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "content-length: {body_bytes}\r\n");
        }
        out.put_slice(b"\r\n");
        for slice in self.body.parts() {
            out.put_slice(slice);
        }
        out
    }

    /// As hyper takes it.
    pub(super) fn to_http(&self, backend: &Backend) -> Request<RequestBody> {
        let mut headers: HeaderMap = backend.head(&self.method).fields.clone();
        for (name, value) in &self.fields {
            headers.append(name.clone(), value.clone());
        }
        let mut request = Request::new(RequestBody::new((*self.body).clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = backend.path.clone().into();
        *request.headers_mut() = headers;
        request
    }
}

/// `content-length: ` with the largest number, and the end of the head.
const LENGTH_LINE_BYTES_MAX: usize = 16 + 20 + 4;
