//! Reads the files of TLS.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use metamcp_core::base::unix_seconds;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::authorities::authorities;
use super::error::TlsError;
use super::validity::{DatedContent, ValidityPeriod};
use crate::sections::{ClientCertificates, TlsFiles};

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
            let crl = clients.crl.as_deref().map(|path| read("client_crl", path)).transpose()?;
            Ok(ClientFiles { ca: read("client_ca", &clients.ca)?, crl })
        };
        let clients = files.clients.as_ref().map(of_clients).transpose()?;
        Ok(Self { files, cert: read("cert", &files.cert)?, key: read("key", &files.key)?, clients })
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

    /// Fails if the files cannot be used for a handshake.
    pub fn check(&self) -> Result<(), TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        self.certified_key(&provider)?;
        self.client_verifier(&provider).map(drop)
    }

    /// The certificate chain, leaf first, and its key.
    pub fn certified_key(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let (cert, key) = (&self.files.cert, &self.files.key);
        let chain = certificates("cert", cert, &self.cert)?;
        let private =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsError::new("key", key, error))?;
        CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::new("key", key, "the key does not belong to the certificate")
            }
            error => TlsError::new("cert", cert, error),
        })
    }

    /// What verifies the certificates of clients. `None` if they are asked for none.
    pub fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let clients = self.files.clients.as_ref().zip(self.clients.as_ref());
        clients.map(|(files, contents)| client_verifier(files, contents, provider)).transpose()
    }

    /// When the files are valid. Leaves out what cannot be read, which `check` refuses.
    pub fn validity_periods(&self) -> Vec<ValidityPeriod> {
        let period = |path: &Path, content, pem: &[u8]| {
            let list: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
            ValidityPeriod::of_certificates(path, content, &list)
        };
        let own = period(&self.files.cert, DatedContent::Certificate, &self.cert);
        let clients = self.files.clients.as_ref().zip(self.clients.as_ref());
        let (authority, revocations) = clients.map_or((None, None), |(files, contents)| {
            let revocations = files.crl.as_deref().zip(contents.crl.as_ref()).and_then(|(path, pem)| {
                let lists = CertificateRevocationListDer::pem_slice_iter(pem).filter_map(Result::ok);
                ValidityPeriod::of_revocation_lists(path, &lists.collect::<Vec<_>>())
            });
            (period(&files.ca, DatedContent::Authority, &contents.ca), revocations)
        });
        [own, authority, revocations].into_iter().flatten().collect()
    }

    /// What the dates of the files need attention for now, one line for each file.
    pub fn date_warnings(&self) -> Vec<String> {
        let now_s = unix_seconds();
        let periods = self.validity_periods();
        periods.iter().filter_map(|period| Some(period.problem(now_s)?.describe(&period.file))).collect()
    }
}

fn certificates(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(setting, path, error))?;
    if list.is_empty() {
        return Err(TlsError::new(setting, path, "has no certificate in PEM"));
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
    let list = certificates("client_ca", &files.ca, &contents.ca)?;
    for certificate in authorities(list).map_err(|error| TlsError::new("client_ca", &files.ca, error))? {
        roots.add(certificate).map_err(|error| TlsError::new("client_ca", &files.ca, error))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let (Some(path), Some(crl)) = (&files.crl, &contents.crl) {
        let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(crl)
            .collect::<Result<_, _>>()
            .map_err(|error| TlsError::new("client_crl", path, error))?;
        if lists.is_empty() {
            return Err(TlsError::new("client_crl", path, "has no revocation list in PEM"));
        }
        builder = builder.with_crls(lists);
    }
    if !files.is_required {
        builder = builder.allow_unauthenticated();
    }
    let (setting, path) = files.crl.as_ref().map_or(("client_ca", &files.ca), |path| ("client_crl", path));
    builder.build().map_err(|error| TlsError::new(setting, path, error))
}

/// Not kept in memory after it was used: it may be the key.
fn read(setting: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content))
        .map_err(|error| TlsError::new(setting, path, format!("cannot be read: {error}")))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::new(setting, path, "is longer than 16 MiB"));
    }
    Ok(content)
}
