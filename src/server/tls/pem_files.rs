//! Reads the files of TLS.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::error::TlsError;
use metamcp_config::sections::{ClientCertificates, TlsFiles};

/// The largest file: a revocation list of a hundred thousand certificates has 4 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The contents of all files, read at one time.
pub struct PemFiles<'a> {
    files: &'a TlsFiles,
    cert: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    clients: Option<ClientFiles>,
}

/// The authorities of clients, and what they have revoked.
struct ClientFiles {
    ca: Zeroizing<Vec<u8>>,
    crl: Option<Zeroizing<Vec<u8>>>,
}

/// Tells the contents of files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesDigest([u8; 32]);

impl<'a> PemFiles<'a> {
    pub fn read(files: &'a TlsFiles) -> Result<Self, TlsError> {
        let of_clients = |clients: &ClientCertificates| {
            Ok(ClientFiles { ca: read(&clients.ca)?, crl: clients.crl.as_deref().map(read).transpose()? })
        };
        let clients = files.clients.as_ref().map(of_clients).transpose()?;
        Ok(Self { files, cert: read(&files.cert)?, key: read(&files.key)?, clients })
    }

    pub fn digest(&self) -> FilesDigest {
        let mut digest = Sha256::new();
        let clients =
            self.clients.iter().flat_map(|clients| [Some(&clients.ca), clients.crl.as_ref()]).flatten();
        for content in [&self.cert, &self.key].into_iter().chain(clients) {
            digest.update(content.len().to_le_bytes());
            digest.update(content);
        }
        FilesDigest(digest.finalize().into())
    }

    /// The certificate chain, leaf first.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.files.cert, &self.cert)
    }

    /// What verifies the certificates of clients. `None` if they are asked for none.
    pub fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let clients = self.files.clients.as_ref().zip(self.clients.as_ref());
        clients.map(|(files, contents)| client_verifier(files, contents, provider)).transpose()
    }

    /// The key of the certificate.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsError::new(&self.files.key, error))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(path, error))?;
    if list.is_empty() {
        return Err(TlsError::new(path, "it has no certificate in PEM"));
    }
    Ok(list)
}

/// Builds what verifies the certificates of clients.
fn client_verifier(
    files: &ClientCertificates,
    contents: &ClientFiles,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca, &contents.ca)? {
        roots.add(certificate).map_err(|error| TlsError::new(&files.ca, error))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let (Some(path), Some(crl)) = (&files.crl, &contents.crl) {
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(crl)
            .collect::<Result<_, _>>()
            .map_err(|error| TlsError::new(path, error))?;
        if lists.is_empty() {
            return Err(TlsError::new(path, "it has no revocation list in PEM"));
        }
        builder = builder.with_crls(lists);
    }
    if !files.is_required {
        builder = builder.allow_unauthenticated();
    }
    let path = files.crl.as_ref().unwrap_or(&files.ca);
    builder.build().map_err(|error| TlsError::new(path, error))
}

/// Not kept in memory after it was used: it may be the key.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content))
        .map_err(|error| TlsError::new(path, format!("cannot be read: {error}")))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::new(path, "is longer than 16 MiB"));
    }
    Ok(content)
}
