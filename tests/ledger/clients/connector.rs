//! Connections of clients, over TCP or TLS, with HTTP/1.1 or HTTP/2.
//!
//! The flows speak HTTP/1.1. A client of HTTP/2 has one connection, and a task for each of its wires, which translates:
//! a request becomes a stream of that connection, and a wire that is dropped resets its stream.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::http::{Socket, Wire};
use crate::support::Transport;

/// How a client connects.
pub struct Connector {
    transport: Transport,
    tls: Option<TlsConnector>,
    /// The connection of HTTP/2, and the epoch that it was opened in.
    shared: Mutex<Option<(SendRequest<RequestBody>, u32)>>,
}

/// A request body whose parts come over a channel; an error resets the stream.
struct RequestBody(mpsc::Receiver<io::Result<Bytes>>);

/// Parts of a body that wait to be sent.
const PARTS_MAX: usize = 16;

/// Bytes in a pipe between a flow and its translation.
const PIPE_BYTES: usize = 64 << 10;

impl Connector {
    /// `certificate` is that of the gateway, if the transport has TLS.
    pub fn new(transport: Transport, certificate: Option<&CertificateDer<'static>>) -> Self {
        let tls = certificate.filter(|_| transport.is_tls()).map(|certificate| {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).expect("a certificate of the suite");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder =
                builder.with_safe_default_protocol_versions().expect("the versions of the provider");
            let mut config = builder.with_root_certificates(roots).with_no_client_auth();
            let protocol = if transport == Transport::Http2Tls { "h2" } else { "http/1.1" };
            config.alpn_protocols = vec![protocol.into()];
            TlsConnector::from(Arc::new(config))
        });
        Self { transport, tls, shared: Mutex::default() }
    }

    /// A connection; over HTTP/2 a pipe to the translation of what is sent there.
    pub async fn connect(&self, address: SocketAddr, epoch: u32) -> io::Result<Wire> {
        if !matches!(self.transport, Transport::Http2 | Transport::Http2Tls) {
            return self.open(address).await.map(Wire::new);
        }
        let shared = self.shared.lock().unwrap().take();
        let sender = match shared {
            Some((sender, opened)) if opened == epoch && !sender.is_closed() => sender,
            _ => match self.open(address).await? {
                Socket::Tls(stream) => handshake(stream).await?,
                Socket::Tcp(stream) => handshake(stream).await?,
                Socket::Unix(_) | Socket::Pipe(_) => return Err(io::ErrorKind::Unsupported.into()),
            },
        };
        *self.shared.lock().unwrap() = Some((sender.clone(), epoch));
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let authority = if self.tls.is_some() { "https://localhost" } else { "http://localhost" };
        tokio::spawn(translate(Wire::new(Socket::Pipe(far)), sender, authority));
        Ok(Wire::new(Socket::Pipe(near)))
    }

    async fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Socket::Tcp(stream)) };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        Ok(Socket::Tls(Box::new(tls.connect(name, stream).await?)))
    }
}

async fn handshake<S>(stream: S) -> io::Result<SendRequest<RequestBody>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends what comes over the wire, request by request, until either side ends it.
async fn translate(mut wire: Wire, mut sender: SendRequest<RequestBody>, authority: &'static str) {
    while let Ok(Some(head)) = wire.raw_head().await {
        let (parts, body) = mpsc::channel(PARTS_MAX);
        let Some(request) = convert(&head, authority, RequestBody(body)) else { return };
        let is_whole = head.to_ascii_lowercase().contains("content-length: ");
        let exchanged = exchange(&mut wire, &mut sender, request, (parts, is_whole)).await;
        if !exchanged.unwrap_or_default() {
            return;
        }
    }
}

/// One request and its response. True if both came to their end.
async fn exchange(
    wire: &mut Wire,
    sender: &mut SendRequest<RequestBody>,
    request: http::Request<RequestBody>,
    (parts, is_whole): (mpsc::Sender<io::Result<Bytes>>, bool),
) -> io::Result<bool> {
    let mut parts = Some(parts);
    let mut response = pin!(sender.send_request(request));
    let mut incoming: Option<Incoming> = None;
    loop {
        tokio::select! {
            part = read(wire, parts.is_some(), is_whole) => match (part, &parts) {
                (Ok(Some(bytes)), Some(sender)) => {
                    // The stream may have ended.
                    drop(sender.send(Ok(bytes)).await);
                    if is_whole {
                        parts = None;
                    }
                }
                (Ok(None), Some(_)) => parts = None,
                (Err(error), Some(sender)) => {
                    drop(sender.send(Err(error)).await);
                    return Ok(false);
                }
                (_, None) => return Ok(false),
            },
            head = &mut response, if incoming.is_none() => {
                let (head, body) = head.map_err(io::Error::other)?.into_parts();
                wire.send(head_text(&head).as_bytes()).await?;
                incoming = Some(body);
            }
            frame = next(&mut incoming), if incoming.is_some() => {
                let Some(frame) = frame else {
                    wire.send(b"0\r\n\r\n").await?;
                    return Ok(parts.is_none());
                };
                let data = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
                if !data.is_empty() {
                    let size = format!("{:x}\r\n", data.len());
                    wire.send(&[size.as_bytes(), &data, b"\r\n"].concat()).await?;
                }
            }
        }
    }
}

/// The next part of the body, or all of it at once: thousands of small DATA frames would end the connection
/// (docs/FRAMES.md). After the body, waits until the wire is dropped. Cancel safe.
async fn read(wire: &mut Wire, has_more: bool, is_whole: bool) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    if !has_more {
        wire.gone().await;
        return Ok(None);
    }
    if is_whole {
        return wire.whole().await.map(|bytes| Some(bytes.into()));
    }
    Ok(wire.chunk(&mut bytes).await?.then(|| bytes.into()))
}

async fn next(incoming: &mut Option<Incoming>) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    match incoming {
        Some(body) => body.frame().await,
        None => std::future::pending().await,
    }
}

fn convert(head: &str, authority: &str, body: RequestBody) -> Option<http::Request<RequestBody>> {
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ');
    let mut builder =
        http::Request::builder().method(words.next()?).uri(format!("{authority}{}", words.next()?));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let is_hop = ["host", "transfer-encoding"].iter().any(|hop| name.eq_ignore_ascii_case(hop));
        if !is_hop {
            builder = builder.header(name, value);
        }
    }
    builder.body(body).ok()
}

fn head_text(head: &http::response::Parts) -> String {
    let mut text = format!("HTTP/1.1 {}\r\nTransfer-Encoding: chunked\r\n", head.status.as_u16());
    for (name, value) in &head.headers {
        if name != "content-length" {
            text.extend([name.as_str(), ": ", value.to_str().unwrap_or_default(), "\r\n"]);
        }
    }
    text + "\r\n"
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data)))
    }
}
