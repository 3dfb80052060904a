//! TLS towards one MCP server.

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// How the connections to one server differ from the usual: verified by the authorities of the system, without a client
/// certificate, for the host name of the URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The only authorities that are trusted for the server.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// What the gateway presents if the server asks for a certificate.
    pub client: Option<TlsClientIdentity>,
    /// The name to send and to expect in the certificate of the server.
    pub server_name: Option<ServerName<'static>>,
}

/// A certificate of the gateway as a client, and its key.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsClientIdentity {
    /// The certificate chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for UpstreamTls {
    fn clone(&self) -> Self {
        let client = self.client.as_ref();
        Self {
            authorities: self.authorities.clone(),
            client: client
                .map(|own| TlsClientIdentity { chain: own.chain.clone(), key: own.key.clone_key() }),
            server_name: self.server_name.clone(),
        }
    }
}
