//! Certificates made for a test, and a client that trusts and presents them.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{PATIENCE, Request, convert, http2_connection};

/// A certificate authority of a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pub pem: String,
}

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::make(name, CertificateParams::new(Vec::new()).unwrap())
    }

    /// One that is valid until the begin of 2025.
    pub fn expired(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2025, 1, 1));
        Self::make(name, params)
    }

    fn make(name: &str, mut params: CertificateParams) -> Self {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    /// A certificate with these names.
    pub fn issue(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A list of what it has revoked, in PEM: the certificate with this serial number.
    pub fn revoke(&self, serial: u64) -> String {
        self.revoke_until(serial, 2100)
    }

    /// The same, with the next update at the begin of that year.
    pub fn revoke_until(&self, serial: u64, next_year: i32) -> String {
        let now = rcgen::date_time_ymd(2024, 1, 1);
        let revoked = rcgen::RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(next_year, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A certificate for a server of that name.
    pub fn server(&self, name: &str) -> Leaf {
        self.issue(&CertificateParams::new([name.to_owned()]).unwrap())
    }
}

impl Leaf {
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A client that trusts one authority, and may have a certificate of its own.
#[derive(Clone)]
pub struct TlsClient {
    address: SocketAddr,
    config: ClientConfig,
}

impl TlsClient {
    pub fn new(address: SocketAddr, trusted: &Authority, own: Option<&Leaf>) -> Self {
        Self::trusting(address, trusted.certificate.clone(), own)
    }

    /// Trusts one certificate, of an authority or of a server.
    pub fn trusting(address: SocketAddr, trusted: CertificateDer<'static>, own: Option<&Leaf>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some(own) => builder.with_client_auth_cert(vec![own.der()], own.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        Self { address, config }
    }

    /// A new connection that offers one protocol.
    pub async fn connect(&self, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// The certificate that a new connection is shown.
    pub async fn shown_certificate(&self) -> CertificateDer<'static> {
        let stream = self.connect("http/1.1").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }

    /// Opens a connection and sends a request. The connection stays open as long as its sender. `None` if it is refused.
    pub async fn open(
        &self,
        protocol: &str,
        request: &Request,
    ) -> Option<(Sender, http::Response<Incoming>)> {
        let stream = self.connect(protocol).await.ok()?;
        let mut sender = if protocol == "h2" {
            Sender::Http2(http2_connection(stream).await)
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        let response = sender.ask_again(request).await?;
        Some((sender, response))
    }

    /// Sends a request on a connection of its own. `None` if the connection is refused.
    pub async fn ask(&self, protocol: &str, request: &Request) -> Option<(u16, String)> {
        let (_sender, response) = self.open(protocol, request).await?;
        Some(text(response).await)
    }
}

/// The sending side of an open connection.
pub enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// Sends one more request.
    pub async fn ask_again(&mut self, request: &Request) -> Option<http::Response<Incoming>> {
        let body = Full::new(Bytes::from(request.body.clone()));
        match self {
            Self::Http1(sender) => {
                sender.ready().await.ok()?;
                sender.send_request(convert(request, "", body)).await.ok()
            }
            Self::Http2(sender) => {
                sender.send_request(convert(request, "https://localhost", body)).await.ok()
            }
        }
    }
}

/// The status and the whole body.
pub async fn text(response: http::Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Runs the test's client; what does not end has failed.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, work).await.expect("the client waited in vain") })
}
