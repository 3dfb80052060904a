//! Reads the files of TLS.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
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

/// The revocation lists of one file.
#[derive(Debug, Clone)]
pub struct RevocationLists {
    pub file: PathBuf,
    /// The earliest time at which a newer list was announced, in Unix seconds.
    pub next_update_s: u64,
}

impl FilesDigest {
    fn new<'a>(contents: impl IntoIterator<Item = &'a Zeroizing<Vec<u8>>>) -> Self {
        let mut digest = Sha256::new();
        for content in contents {
            digest.update(content.len().to_le_bytes());
            digest.update(content);
        }
        Self(digest.finalize().into())
    }
}

impl<'a> PemFiles<'a> {
    pub fn read(files: &'a TlsFiles) -> Result<Self, TlsError> {
        let of_clients = |clients: &ClientCertificates| {
            Ok(ClientFiles { ca: read(&clients.ca)?, crl: clients.crl.as_deref().map(read).transpose()? })
        };
        let clients = files.clients.as_ref().map(of_clients).transpose()?;
        Ok(Self { files, cert: read(&files.cert)?, key: read(&files.key)?, clients })
    }

    /// Of the own certificate.
    pub fn digest(&self) -> FilesDigest {
        FilesDigest::new([&self.cert, &self.key])
    }

    /// Of what decides about certificates of clients.
    pub fn clients_digest(&self) -> FilesDigest {
        let clients = self.clients.iter().flat_map(|clients| [Some(&clients.ca), clients.crl.as_ref()]);
        FilesDigest::new(clients.flatten())
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

    /// The revocation lists. `None` if there are none, or if none of them says when the next one comes.
    pub fn revocation_lists(&self) -> Option<RevocationLists> {
        let file = self.files.clients.as_ref()?.crl.as_ref()?;
        let lists = CertificateRevocationListDer::pem_slice_iter(self.clients.as_ref()?.crl.as_ref()?);
        // What cannot be read is refused where the verifier is built.
        let next_updates = lists.filter_map(|list| {
            let list = list.ok()?;
            let (_, parsed) = CertificateRevocationList::from_der(&list).ok()?;
            u64::try_from(parsed.next_update()?.timestamp()).ok()
        });
        Some(RevocationLists { file: file.clone(), next_update_s: next_updates.min()? })
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
