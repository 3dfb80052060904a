//! HTTP: accepts connections, checks what applies to every request, and passes it to its era.
//!
//! Invariants: everything runs on one thread; memory is bounded by the constants below, whatever clients send.

use std::{convert::Infallible, io, net::SocketAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    content::ServerContent,
    dispatch::Server,
    exchange::{Rejection, Reply, error_reply},
    headers, legacy,
    message::{Message, parse},
    modern,
    protocol::{Era, LEGACY, MODERN, RpcError, SupportedEras, meta},
};

/// The path of the endpoint.
pub const PATH: &str = "/mcp";

/// The body of one request. Large enough for load tests with bodies of several MiB.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the head of a request may take to arrive, and how long an idle connection is kept. The default of nginx.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Open connections; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 20_000;

/// The pause after a failed `accept`. It usually means "too many open files", and an immediate retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until it is dropped. Must run inside a `LocalSet`.
pub async fn accept<C: ServerContent>(
    listener: TcpListener,
    server: Rc<Server<C>>,
) -> io::Result<Infallible> {
    let address = listener.local_addr()?;
    let connections = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = std::sync::Arc::clone(&connections).acquire_owned().await.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((socket, _)) => {
                tokio::task::spawn_local(connection(socket, Rc::clone(&server), address, permit));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection<C: ServerContent>(
    socket: TcpStream,
    server: Rc<Server<C>>,
    address: SocketAddr,
    _permit: OwnedSemaphorePermit,
) {
    // Without it the last part of a response waits for the acknowledgement of the part before (Nagle's algorithm).
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let server = Rc::clone(&server);
        async move { Ok::<_, Infallible>(answer(&server, address, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // An error concerns this connection only.
    let _ = http.serve_connection(TokioIo::new(socket), service).await;
}

async fn answer<C: ServerContent>(
    server: &Rc<Server<C>>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Reply {
    let (head, body) = request.into_parts();
    if !is_local(address, &head.uri, &head.headers) {
        return Rejection(StatusCode::FORBIDDEN, "The Host or Origin header names another site").reply();
    }
    if head.uri.path() != PATH {
        return Rejection(StatusCode::NOT_FOUND, "Not found: the endpoint is /mcp").reply();
    }
    let sessions = server.options.eras != SupportedEras::Modern
        && header_text(&head.headers, headers::PROTOCOL_VERSION) != MODERN;
    match head.method {
        Method::POST => match read(&head.headers, body).await {
            Ok(body) => post(server, &head.headers, &body).await,
            Err(rejection) => rejection.reply(),
        },
        Method::GET if sessions && !accepts(&head.headers, "text/event-stream") => {
            Rejection(StatusCode::NOT_ACCEPTABLE, "Not acceptable: Accept must list text/event-stream")
                .reply()
        }
        Method::GET if sessions => legacy::get(server, &head.headers),
        Method::DELETE if sessions => legacy::delete(server, &head.headers),
        _ => {
            let allow = if sessions { "GET, POST, DELETE" } else { "POST" };
            let mut reply = Rejection(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed").reply();
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
            reply
        }
    }
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Bytes, Rejection> {
    let content_type =
        header_text(headers, header::CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default();
    if !content_type.trim().eq_ignore_ascii_case("application/json") {
        let hint = "Unsupported media type: Content-Type must be application/json";
        return Err(Rejection(StatusCode::UNSUPPORTED_MEDIA_TYPE, hint));
    }
    if !(accepts(headers, "application/json") && accepts(headers, "text/event-stream")) {
        let hint = "Not acceptable: Accept must list application/json and text/event-stream";
        return Err(Rejection(StatusCode::NOT_ACCEPTABLE, hint));
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect());
    match body.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Rejection(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 16 MiB"))
        }
        Ok(Err(_)) => Err(Rejection(StatusCode::BAD_REQUEST, "The body is incomplete")),
        Err(_) => Err(Rejection(StatusCode::REQUEST_TIMEOUT, "The body took too long")),
    }
}

async fn post<C: ServerContent>(server: &Rc<Server<C>>, headers: &HeaderMap, body: &[u8]) -> Reply {
    let message = match parse(body) {
        Ok(message) => message,
        Err(malformed) => return error_reply(StatusCode::BAD_REQUEST, &malformed.id, malformed.error),
    };
    match (server.options.eras, era(headers, &message)) {
        (SupportedEras::Dual | SupportedEras::Modern, Era::Modern) => {
            modern::post(server, headers, message).await
        }
        // A server from before 2026-07-28 does not know that revision, and rejects it in its own way.
        (SupportedEras::Dual, Era::Legacy) | (SupportedEras::Legacy, _) => {
            legacy::post(server, headers, message).await
        }
        (SupportedEras::Modern, Era::Legacy) => match &message {
            // Tell the client which revisions are supported.
            Message::Request { id, params, .. } => {
                let requested = params.get("protocolVersion").and_then(Value::as_str).unwrap_or("none");
                error_reply(StatusCode::BAD_REQUEST, id, RpcError::unsupported_version(requested))
            }
            _ => Rejection(StatusCode::BAD_REQUEST, "This server has no sessions").reply(),
        },
    }
}

/// Detects the era: a request is Modern if its `_meta` or its header says so; everything else is Legacy.
fn era(headers: &HeaderMap, message: &Message) -> Era {
    let has_modern_meta = match message {
        Message::Request { params, .. } | Message::Notification { params, .. } => {
            params.get("_meta").is_some_and(|meta| !meta[meta::PROTOCOL_VERSION].is_null())
        }
        Message::Response { .. } => false,
    };
    let version = header_text(headers, headers::PROTOCOL_VERSION);
    // Inside a session, an unknown revision is rejected by the session.
    let unknown =
        !version.is_empty() && !LEGACY.contains(&version) && !headers.contains_key(headers::SESSION_ID);
    if has_modern_meta || version == MODERN || unknown { Era::Modern } else { Era::Legacy }
}

/// Guards against DNS rebinding, where the name of another site is made to resolve to this machine. Only servers on loopback
/// addresses are affected, and for them only loopback names are legitimate.
fn is_local(address: SocketAddr, uri: &Uri, headers: &HeaderMap) -> bool {
    if !address.ip().is_loopback() {
        return true;
    }
    let host = uri.authority().map_or_else(|| header_text(headers, "host"), |authority| authority.as_str());
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    is_loopback_host(host)
        && origin.is_none_or(|origin| {
            let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            site.is_some_and(is_loopback_host)
        })
}

fn is_loopback_host(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        host.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
            && match host[name.len()..].strip_prefix(':') {
                Some(port) => port.parse::<u16>().is_ok(),
                None => host.len() == name.len(),
            }
    })
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').filter_map(|range| range.split(';').next()).any(|range| {
            let range = range.trim();
            range.eq_ignore_ascii_case(media_type) || range == "*/*"
        })
    })
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().unwrap());
        }
        let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(is_local(loopback, &Uri::from_static(PATH), &headers), expected, "{host} {origin:?}");
        let public = SocketAddr::from(([0, 0, 0, 0], 80));
        assert!(is_local(public, &Uri::from_static(PATH), &headers));
    }

    #[test]
    fn dns_rebinding() {
        check("127.0.0.1:3000", None, true);
        check("LocalHost", Some("http://localhost:3000"), true);
        check("[::1]:1", Some("https://[::1]"), true);
        check("evil.example.com", None, false);
        check("localhost.evil.example.com", None, false);
        check("127.0.0.1:80@evil.example.com", None, false);
        check("localhost:3000", Some("http://evil.example.com"), false);
        check("localhost:3000", Some("null"), false);
        check("localhost:3000", Some("http://localhost:3000.evil.example.com"), false);
        check("", None, false);
        check("lücke", None, false);
    }
}
