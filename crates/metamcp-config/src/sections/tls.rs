//! `[server.tls]`: the certificate of the gateway, and those of its clients.

use std::path::{Path, PathBuf};

use metamcp_core::base::{Glob, KeyId};

/// The files of the TLS certificate, and which certificates of clients are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, leaf certificate first.
    pub cert: PathBuf,
    /// PEM, PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// `None` asks clients for no certificate.
    pub clients: Option<ClientCertificates>,
}

/// Which certificates of clients are accepted, and what they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM: the authorities that issue them.
    pub ca: PathBuf,
    /// PEM: the certificates that the authorities have revoked.
    pub crl: Option<PathBuf>,
    /// Whether a connection without a certificate is refused.
    pub is_required: bool,
    /// The first that matches a certificate applies.
    pub rules: Vec<ClientRule>,
}

/// What certificates with a name stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRule {
    pub field: CertificateField,
    pub pattern: Glob,
    pub action: ClientAction,
}

/// A name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateField {
    /// The common name of the subject.
    CommonName,
    /// A DNS name among the subject alternative names, in lower case.
    Dns,
    /// A URI among the subject alternative names, such as a SPIFFE id.
    Uri,
    /// An e-mail address among the subject alternative names.
    Email,
}

/// What a certificate stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAction {
    /// Requests without a credential of their own have that of this API key.
    UseKey(KeyId),
    /// Every request is refused.
    Deny,
}

impl TlsFiles {
    /// All files, which a watch follows.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let clients = self.clients.iter().flat_map(|clients| [Some(&*clients.ca), clients.crl.as_deref()]);
        [&*self.cert, &*self.key].into_iter().chain(clients.flatten())
    }
}
