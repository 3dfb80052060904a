//! Reads the files of TLS.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::server_tls::TlsError;
use metamcp_config::sections::TlsFiles;

/// The largest file: a revocation list of a hundred thousand certificates has 4 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The contents of all files, read at one time.
pub struct PemFiles<'a> {
    files: &'a TlsFiles,
    cert: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

/// Tells the contents of files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesDigest([u8; 32]);

impl<'a> PemFiles<'a> {
    pub fn read(files: &'a TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { files, cert: read(&files.cert)?, key: read(&files.key)? })
    }

    pub fn digest(&self) -> FilesDigest {
        let mut digest = Sha256::new();
        for content in [&self.cert, &self.key] {
            digest.update(content.len().to_le_bytes());
            digest.update(content);
        }
        FilesDigest(digest.finalize().into())
    }

    /// The certificate chain, leaf first.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.files.cert, &self.cert)
    }

    pub fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| unusable(&self.files.key, &error))
    }
}

/// The error of a file whose content is wrong.
pub fn unusable(path: &Path, error: &dyn Display) -> TlsError {
    TlsError::new(format!("{}: {error}", path.display()))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, &error))?;
    if list.is_empty() {
        return Err(unusable(path, &"it has no certificate in PEM"));
    }
    Ok(list)
}

/// Not kept in memory after it was used: it may be the key.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content))
        .map_err(|error| unusable(path, &format!("cannot be read: {error}")))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(unusable(path, &"is longer than 16 MiB"));
    }
    Ok(content)
}
