//! hyper's client, over both versions of HTTP, with TLS and without: its requests stay open while a test goes on.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::task::{Context, Poll};
use std::thread;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{PATIENCE, Request, Setup};

/// How a client reaches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Http1,
    Http1Tls,
    Http2,
    Http2Tls,
}

impl Transport {
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::Http2Tls)
    }

    fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }

    /// What precedes the path in a request. HTTP/2 has the host there.
    fn authority(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http1Tls => "",
            Self::Http2 => "http://localhost",
            Self::Http2Tls => "https://localhost",
        }
    }
}

/// Makes the gateway serve TLS with a new certificate for `localhost`, and returns the certificate.
pub fn with_certificate(setup: Setup) -> (Setup, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let setup = setup.file("cert.pem", &pem).file("key.pem", &made.signing_key.serialize_pem());
    let setup = setup.with("[server.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"");
    (setup, CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

/// Opens a TLS connection that offers these protocols.
pub async fn connect_tls(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

/// The request in the form of hyper's client. `authority` precedes the path; it is empty for HTTP/1.1.
pub fn convert<B>(request: &Request, authority: &str, body: B) -> http::Request<B> {
    let uri = format!("{authority}{}", request.path);
    let mut builder = http::Request::builder().method(request.method.as_str()).uri(uri);
    for (name, value) in &request.headers {
        // HTTP/2 has it in the URI.
        if authority.is_empty() || !name.eq_ignore_ascii_case("host") {
            builder = builder.header(name, value);
        }
    }
    builder.body(body).unwrap()
}

/// A request body that is sent at once, and then ends or stays open.
pub struct RequestBody {
    data: Option<Bytes>,
    stays_open: bool,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.data.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.stays_open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    /// Known, so that the request has a `Content-Length` as most requests do, unless the body stays open.
    fn size_hint(&self) -> SizeHint {
        let left = self.data.as_ref().map_or(0, |data| data.len() as u64);
        if self.stays_open { SizeHint::default() } else { SizeHint::with_exact(left) }
    }
}

/// A client whose requests run on a thread of its own. Over HTTP/2 they share a connection; over HTTP/1.1 each has one.
pub struct HyperClient {
    transport: Transport,
    address: SocketAddr,
    certificate: Option<CertificateDer<'static>>,
    runtime: Handle,
    shared: Option<http2::SendRequest<RequestBody>>,
    _stop: oneshot::Sender<()>,
}

/// A request that was sent.
pub struct OpenResponse {
    /// The status and the session id.
    head: Receiver<(u16, Option<String>)>,
    /// Everything that arrived of the body, sent when it ends.
    end: Receiver<String>,
}

impl HyperClient {
    /// For a gateway at this address, with its certificate if the transport is TLS.
    pub fn new(
        transport: Transport,
        address: SocketAddr,
        certificate: Option<CertificateDer<'static>>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        // An error means that the client was dropped.
        thread::spawn(move || runtime.block_on(async { drop(stopped.await) }));
        let mut client = Self { transport, address, certificate, runtime: handle, shared: None, _stop: stop };
        client.shared = transport.is_http2().then(|| client.connect_http2());
        client
    }

    fn connect_http2(&self) -> http2::SendRequest<RequestBody> {
        let (sender, opened) = mpsc::channel();
        let (address, certificate) = (self.address, self.certificate.clone());
        self.runtime.spawn(async move {
            let connection = match certificate {
                Some(certificate) => {
                    http2_connection(connect_tls(address, &certificate, &["h2"]).await).await
                }
                None => http2_connection(TcpStream::connect(address).await.unwrap()).await,
            };
            sender.send(connection).unwrap();
        });
        opened.recv_timeout(PATIENCE).expect("a connection")
    }

    /// Sends a request. If its body stays open, `request.body` is only its beginning.
    pub fn open(&self, request: &Request, stays_open: bool) -> OpenResponse {
        self.send(request, stays_open, self.shared.clone())
    }

    fn send(
        &self,
        request: &Request,
        stays_open: bool,
        shared: Option<http2::SendRequest<RequestBody>>,
    ) -> OpenResponse {
        let body = RequestBody { data: Some(request.body.clone().into()), stays_open };
        let request = convert(request, self.transport.authority(), body);
        let (address, certificate) = (self.address, self.certificate.clone());
        let (head_sender, head) = mpsc::channel();
        let (end_sender, end) = mpsc::channel();
        self.runtime.spawn(async move {
            let sent = match (shared, certificate) {
                (Some(mut shared), _) => shared.send_request(request).await,
                (None, Some(certificate)) => {
                    let stream = connect_tls(address, &certificate, &["http/1.1"]).await;
                    http1_connection(stream).await.send_request(request).await
                }
                (None, None) => {
                    let stream = TcpStream::connect(address).await.unwrap();
                    http1_connection(stream).await.send_request(request).await
                }
            };
            let mut bytes = Vec::new();
            if let Ok(response) = sent {
                // The test may not wait for what it does not need.
                let session = response.headers().get("mcp-session-id");
                let session = session.map(|session| session.to_str().unwrap().to_owned());
                drop(head_sender.send((response.status().as_u16(), session)));
                let mut body = response.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    bytes.extend(frame.into_data().unwrap_or_default());
                }
            }
            drop(end_sender.send(String::from_utf8(bytes).unwrap()));
        });
        OpenResponse { head, end }
    }

    /// Sends a request on a connection of its own, and waits for the whole response: its status and its text.
    #[track_caller]
    pub fn once(&self, request: &Request) -> (u16, String) {
        let shared = self.transport.is_http2().then(|| self.connect_http2());
        let response = self.send(request, false, shared);
        let status = response.status();
        (status, response.end())
    }
}

impl OpenResponse {
    /// Waits for the head, once, and returns its status.
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.head().0
    }

    /// Waits for the head, once, and returns its status and its session id.
    #[track_caller]
    pub fn head(&self) -> (u16, Option<String>) {
        self.head.recv_timeout(PATIENCE).expect("the head of a response")
    }

    /// Waits for the end of the body, whether it is whole or not. Empty if there was no response.
    #[track_caller]
    pub fn end(&self) -> String {
        self.end.recv_timeout(PATIENCE).expect("the end of a response")
    }
}

async fn http1_connection<S>(stream: S) -> http1::SendRequest<RequestBody>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Opens a connection for any kind of request body.
pub async fn http2_connection<S, B>(stream: S) -> http2::SendRequest<B>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
