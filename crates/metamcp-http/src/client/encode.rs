//! Requests as they are written to a connection, and as hyper takes them.

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use super::request_body::RequestBody;
use crate::request::{LINE_END, UpstreamRequest};
use metamcp_core::base::write_decimal;
use metamcp_core::protocol::header;

/// The part of the head that all requests of one method to a server share, per method.
pub struct RequestHeads {
    path: PathAndQuery,
    get: RequestHead,
    delete: RequestHead,
    post: RequestHead,
}

/// The shared part of a head, encoded and as hyper takes it.
struct RequestHead {
    /// The request line and the fields.
    lines: Bytes,
    /// Length of the request line.
    request_line_bytes: usize,
    fields: HeaderMap,
}

/// `content-length: ` with the largest number, and the end of the head.
const LENGTH_LINE_BYTES_MAX: usize = 16 + 20 + 4;

impl RequestHeads {
    /// Encodes the heads of requests to `path`. `headers` are the configured fields, which every request
    /// carries.
    pub fn new(path: PathAndQuery, host: HeaderValue, headers: &[(HeaderName, HeaderValue)]) -> Self {
        let mut fields = HeaderMap::with_capacity(16);
        fields.insert(http::header::HOST, host);
        fields.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(concat!("metamcp/", env!("CARGO_PKG_VERSION"))),
        );
        for (name, value) in headers {
            fields.append(name.clone(), value.clone());
        }
        let mut get = fields.clone();
        get.insert(http::header::ACCEPT, HeaderValue::from_static(header::EVENT_STREAM));
        let mut post = fields.clone();
        post.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(header::JSON));
        post.insert(http::header::ACCEPT, HeaderValue::from_static(header::ACCEPT_BOTH));
        Self {
            get: RequestHead::new(&Method::GET, &path, get),
            delete: RequestHead::new(&Method::DELETE, &path, fields),
            post: RequestHead::new(&Method::POST, &path, post),
            path,
        }
    }

    fn of_method(&self, method: &Method) -> &RequestHead {
        match *method {
            Method::GET => &self.get,
            Method::DELETE => &self.delete,
            _ => &self.post,
        }
    }
}

impl RequestHead {
    fn new(method: &Method, path: &PathAndQuery, fields: HeaderMap) -> Self {
        let mut lines = BytesMut::new();
        put_request_line(&mut lines, method, path);
        let request_line_bytes = lines.len();
        for (name, value) in &fields {
            lines.put_slice(name.as_str().as_bytes());
            lines.put_slice(b": ");
            lines.put_slice(value.as_bytes());
            lines.put_slice(LINE_END);
        }
        Self { lines: lines.freeze(), request_line_bytes, fields }
    }
}

/// Encodes a request as it goes over the wire (RFC 9112, sections 3 to 6).
pub fn encode(request: &UpstreamRequest, heads: &RequestHeads) -> Vec<u8> {
    let head = heads.of_method(request.method());
    let path_bytes = request.path().map_or(0, |path| path.as_str().len());
    let body_bytes = request.body_bytes();
    let mut out = Vec::with_capacity(
        head.lines.len() + path_bytes + request.header_block().len() + LENGTH_LINE_BYTES_MAX + body_bytes,
    );
    match request.path() {
        None => out.put_slice(&head.lines),
        Some(path) => {
            put_request_line(&mut out, request.method(), path);
            out.put_slice(&head.lines[head.request_line_bytes..]);
        }
    }
    out.put_slice(request.header_block());
    if *request.method() == Method::POST {
        out.put_slice(b"content-length: ");
        write_decimal(&mut out, body_bytes as u64);
        out.put_slice(LINE_END);
    }
    out.put_slice(LINE_END);
    for slice in request.body().parts() {
        out.put_slice(slice);
    }
    out
}

/// Converts a request into hyper's form.
pub fn to_hyper(request: &UpstreamRequest, heads: &RequestHeads) -> Request<RequestBody> {
    let mut headers: HeaderMap = heads.of_method(request.method()).fields.clone();
    for (name, value) in request.headers() {
        headers.append(name, value);
    }
    let mut converted = Request::new(RequestBody::new(request.body().clone()));
    *converted.method_mut() = request.method().clone();
    *converted.uri_mut() = request.path().unwrap_or(&heads.path).clone().into();
    *converted.headers_mut() = headers;
    converted
}

/// Writes a request line (RFC 9112, section 3).
fn put_request_line(out: &mut impl BufMut, method: &Method, path: &PathAndQuery) {
    for part in [method.as_str(), " ", path.as_str(), " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
}
