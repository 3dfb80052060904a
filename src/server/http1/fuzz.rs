//! The body of the fuzz target for requests of HTTP/1.1, as the fast lane, the strict grammar and hyper read them. It
//! panics if an invariant does not hold.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::codec::{ParseOutcome, read_request};
use super::fields::{Field, Fields};
use super::receive::RequestBody;
use super::request::EndpointRequest;
use crate::route::RouteTable;
use metamcp_config::sections::{EndpointConfig, EndpointMembers, HttpConfig, NamePrefix};
use metamcp_core::base::{EndpointName, ServerName};
use metamcp_core::http1::{ChunkPart, RequestPart, RequestReader};

/// Reads the first request in all three ways. What the fast lane accepts, the strict grammar and hyper accept alike; what
/// these two accept, they frame alike.
pub fn request_head(bytes: &[u8]) {
    let strict = StrictRequest::read(bytes);
    let theirs = HyperRequest::read(bytes);
    if let (Some(strict), Some(theirs)) = (&strict, &theirs) {
        assert_eq!(strict.body.escape_ascii().to_string(), theirs.body.escape_ascii().to_string());
    }
    let ParseOutcome::Usual(request, length) = read_request(config(), table(), bytes) else { return };
    let strict = strict.expect("the strict grammar accepts what the fast lane accepts");
    let theirs = theirs.expect("hyper accepts what the fast lane accepts");
    assert_eq!(length, strict.length, "where the request ends");
    theirs.check(&request);
    let outcome = |bytes: &[u8]| read_request(config(), table(), bytes);
    assert!(matches!(outcome(&bytes[..length]), ParseOutcome::Usual(_, bytes) if bytes == length));
    for cut in [length - 1, length / 2] {
        assert!(matches!(outcome(&bytes[..cut]), ParseOutcome::Partial), "cut at {cut}");
    }
}

/// The first request as the strict grammar reads it.
struct StrictRequest {
    body: Vec<u8>,
    /// The bytes that it takes.
    length: usize,
}

impl StrictRequest {
    /// `None` if the request is refused or incomplete.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (mut reader, mut body) = (RequestReader::default(), Vec::new());
        let (mut length, _) = reader.next(bytes).ok()?;
        while !reader.is_between() {
            let rest = bytes.get(length..).filter(|rest| !rest.is_empty())?;
            let (count, part) = reader.next(rest).ok()?;
            if matches!(part, RequestPart::Plain | RequestPart::Chunked(ChunkPart::Data)) {
                body.extend_from_slice(&rest[..count]);
            }
            length += count;
        }
        Some(Self { body, length })
    }
}

/// The first request as hyper reads it.
struct HyperRequest {
    head: http::request::Parts,
    body: Bytes,
}

impl HyperRequest {
    /// `None` if the request is refused or incomplete.
    fn read(bytes: &[u8]) -> Option<Self> {
        let seen = RefCell::new(None);
        let service = service_fn(async |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                seen.borrow_mut().get_or_insert(Self { head, body: body.to_bytes() });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let stream = TokioIo::new(ScriptedStream(Bytes::copy_from_slice(bytes)));
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                .half_close(false)
                .max_headers(config().header_count_max)
                .max_header_size(config().header_bytes_max)
                .serve_connection(stream, service)
        );
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..POLLS_MAX {
            if seen.borrow().is_some() || connection.as_mut().poll(cx).is_ready() {
                break;
            }
        }
        seen.take()
    }

    /// It is the same request.
    fn check(&self, request: &EndpointRequest) {
        assert_eq!(self.head.method, request.method);
        let endpoint = table().find_by_path(self.head.uri.path()).expect("the path is that of an endpoint");
        assert_eq!(endpoint.scope, request.endpoint.scope);
        assert_eq!((self.head.uri.query(), self.head.uri.authority()), (None, request.authority.as_ref()));
        let fields = Fields::from_map(&self.head.headers);
        for field in Field::ALL {
            assert_eq!(fields.get(field), request.fields.get(field), "{field:?}");
        }
        let forwarded = |fields: &Fields| {
            let mut all: Vec<_> = fields
                .forwarded()
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect();
            all.sort();
            all
        };
        assert_eq!(forwarded(&fields), forwarded(&request.fields));
        let RequestBody::Whole(body) = &request.body else { panic!("the fast lane has the whole body") };
        assert_eq!(self.body.escape_ascii().to_string(), body.escape_ascii().to_string());
    }
}

/// A head, and a body in a few reads.
const POLLS_MAX: usize = 8;

/// A connection from which these bytes are read, and that takes what is written.
struct ScriptedStream(Bytes);

impl AsyncRead for ScriptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let count = self.0.len().min(buffer.remaining());
        buffer.put_slice(&self.0.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn table() -> &'static RouteTable {
    static TABLE: OnceLock<RouteTable> = OnceLock::new();
    TABLE.get_or_init(|| {
        let servers = [ServerName::new("a").expect("it is a name")];
        let name = EndpointName::new("default").expect("it is a name");
        let endpoint = EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Always };
        RouteTable::build(&servers, &[endpoint]).expect("all servers exist")
    })
}

fn config() -> &'static HttpConfig {
    static CONFIG: OnceLock<HttpConfig> = OnceLock::new();
    CONFIG.get_or_init(|| HttpConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        workers: 1,
        tls: None,
        header_timeout: Duration::ZERO,
        body_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        body_bytes_max: 64 << 10,
        header_bytes_max: 16 << 10,
        header_count_max: 64,
        connections_max: 0,
        origins: Vec::new(),
        hosts: Vec::new(),
        drain_delay: Duration::ZERO,
        drain_deadline: Duration::ZERO,
        watch: false,
        handover_deadline: Duration::ZERO,
        keep_alive: Duration::ZERO,
        fast_lane: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus() {
        metamcp_core::fuzz::run_corpus("request_head", request_head);
    }

    /// Otherwise the target would compare nothing.
    #[test]
    fn all_three_read_a_common_request() {
        let bytes = b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}GET";
        assert_eq!(StrictRequest::read(bytes).map(|request| request.length), Some(bytes.len() - 3));
        assert_eq!(HyperRequest::read(bytes).map(|request| request.body), Some(Bytes::from_static(b"{}")));
        assert!(matches!(read_request(config(), table(), bytes), ParseOutcome::Usual(..)));
        request_head(bytes);
    }
}
