//! The configuration that the next handshake uses.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::pem_files::{FilesDigest, PemFiles, unusable};
use metamcp_config::sections::TlsFiles;

/// TLS towards clients, shared by all workers.
pub struct ServerTls {
    current: ArcSwap<TlsSettings>,
    /// The files to use, as last told. Those of `current` differ while these cannot be used.
    files: watch::Sender<TlsFiles>,
    /// Held during a reload, so that an older one does not overwrite a newer one.
    reloading: Mutex<()>,
}

/// What one handshake uses.
pub struct TlsSettings {
    pub acceptor: TlsAcceptor,
    files: TlsFiles,
    digest: FilesDigest,
}

/// The files cannot be used. The text names the file and says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the TLS certificate: {0}")]
pub struct TlsError(String);

/// What a reload has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    Replace,
    /// The files have the same contents as before.
    Keep,
}

impl ServerTls {
    /// Reads the files. Blocks for the disk.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let settings = TlsSettings::new(&PemFiles::read(files)?, files)?;
        let files = watch::Sender::new(files.clone());
        Ok(Self { current: ArcSwap::from_pointee(settings), files, reloading: Mutex::new(()) })
    }

    /// The settings for one handshake.
    pub fn current(&self) -> Arc<TlsSettings> {
        self.current.load_full()
    }

    /// The files to use. Changes when `reload` gets others.
    pub fn files(&self) -> watch::Receiver<TlsFiles> {
        self.files.subscribe()
    }

    /// Reads the files, or others from now on, and uses them for the handshakes that follow. After an error, these use what
    /// they used before. Blocks for the disk.
    pub fn reload(&self, others: Option<&TlsFiles>) -> Result<ReloadOutcome, TlsError> {
        // The lock guards no value that a panic could leave incomplete.
        let _lock = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = others {
            self.files.send_if_modified(|files| {
                let differs = files != others;
                files.clone_from(others);
                differs
            });
        }
        let files = self.files.borrow().clone();
        let contents = PemFiles::read(&files)?;
        let current = self.current.load();
        if current.files == files && current.digest == contents.digest() {
            return Ok(ReloadOutcome::Keep);
        }
        self.current.store(Arc::new(TlsSettings::new(&contents, &files)?));
        Ok(ReloadOutcome::Replace)
    }
}

impl TlsSettings {
    fn new(contents: &PemFiles<'_>, files: &TlsFiles) -> Result<Self, TlsError> {
        let (chain, key) = (contents.chain()?, contents.key()?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&files.cert, &error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    unusable(&files.key, &"the key does not belong to the certificate")
                }
                error => unusable(&files.cert, &error),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let digest = contents.digest();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), files: files.clone(), digest })
    }
}

impl TlsError {
    pub fn new(text: String) -> Self {
        Self(text)
    }
}
