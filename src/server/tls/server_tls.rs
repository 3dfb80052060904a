//! The configuration that the next handshake uses.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::client_rules::apply_rules;
use super::error::TlsError;
use super::pem_files::{FilesDigest, PemFiles};
use metamcp_config::sections::TlsFiles;
use metamcp_store::auth::ClientCertificate;

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
        let verifier = contents.client_verifier(&provider)?;
        let asks_clients = verifier.is_some();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(&files.cert, error))?
            .with_client_cert_verifier(verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    TlsError::new(&files.key, "the key does not belong to the certificate")
                }
                error => TlsError::new(&files.cert, error),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if asks_clients {
            // A resumed session would not verify the certificate again, which may have expired since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let digest = contents.digest();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), files: files.clone(), digest })
    }

    /// What the certificate of a client stands for, after its handshake. `None` if it has none, or no rule matches it.
    pub fn identify_client(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<ClientCertificate> {
        let (clients, certificate) = (self.files.clients.as_ref()?, chain?.first()?);
        apply_rules(&clients.rules, certificate)
    }
}
