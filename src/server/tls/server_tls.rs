//! The configuration that the next handshake uses.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::client_rules::apply_rules;
use metamcp_config::certificates::{FilesDigest, PemFiles, TlsError, ValidityPeriod};
use metamcp_config::sections::TlsFiles;
use metamcp_store::auth::ClientCertificate;

/// TLS towards clients, shared by all workers.
pub struct ServerTls {
    current: ArcSwap<TlsSettings>,
    /// The files of `current`.
    files: watch::Sender<TlsFiles>,
    /// Held during a reload, so that an older one does not overwrite a newer one.
    reloading: Mutex<()>,
}

/// What one handshake uses.
pub struct TlsSettings {
    pub acceptor: TlsAcceptor,
    files: TlsFiles,
    digest: FilesDigest,
    clients_digest: FilesDigest,
    client_generation: ClientGeneration,
    validity_periods: Vec<ValidityPeriod>,
}

/// Counts the changes of what decides about certificates of clients: authorities, revocations and rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientGeneration(pub u64);

/// A client with a certificate that TLS has verified.
#[derive(Debug)]
pub struct VerifiedClient {
    /// What the certificate stands for. `None` if no rule matches it.
    pub certificate: Option<ClientCertificate>,
    pub accepted_by: ClientGeneration,
}

/// What a reload has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    Replace,
    /// As `Replace`, and what decides about certificates of clients has changed.
    ReplaceClients,
    /// The files have the same contents as before.
    Keep,
}

impl ServerTls {
    /// Reads the files. Blocks for the disk.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let settings = TlsSettings::new(&PemFiles::read(files)?, files, ClientGeneration::default())?;
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

    /// Reads the files, or others from now on, and uses them for the handshakes that follow. An error changes nothing. Blocks
    /// for the disk.
    pub fn reload(&self, others: Option<&TlsFiles>) -> Result<ReloadOutcome, TlsError> {
        // The lock guards no value that a panic could leave incomplete.
        let _lock = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let files = others.cloned().unwrap_or_else(|| self.files.borrow().clone());
        let contents = PemFiles::read(&files)?;
        let current = self.current.load();
        let keeps_clients = current.keeps_clients(&contents, &files);
        if current.files == files && current.digest == contents.digest() && keeps_clients {
            return Ok(ReloadOutcome::Keep);
        }
        let ClientGeneration(generation) = current.client_generation;
        let generation = ClientGeneration(generation + u64::from(!keeps_clients));
        self.current.store(Arc::new(TlsSettings::new(&contents, &files, generation)?));
        self.files.send_if_modified(|watched| {
            let differs = *watched != files;
            watched.clone_from(&files);
            differs
        });
        Ok(if keeps_clients { ReloadOutcome::Replace } else { ReloadOutcome::ReplaceClients })
    }
}

impl TlsSettings {
    fn new(
        contents: &PemFiles<'_>,
        files: &TlsFiles,
        client_generation: ClientGeneration,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let own = contents.certified_key(&provider)?;
        let verifier = contents.client_verifier(&provider)?;
        let asks_clients = verifier.is_some();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new("cert", &files.cert, error))?
            .with_client_cert_verifier(verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if asks_clients {
            // A resumed session would not verify the certificate again, which may have expired since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            files: files.clone(),
            digest: contents.digest(),
            clients_digest: contents.clients_digest(),
            client_generation,
            validity_periods: contents.validity_periods(),
        })
    }

    /// Whether these files accept the same certificates of clients, for the same keys.
    fn keeps_clients(&self, contents: &PemFiles<'_>, files: &TlsFiles) -> bool {
        let rules = |files: &TlsFiles| files.clients.as_ref().map(|clients| clients.rules.clone());
        self.clients_digest == contents.clients_digest() && rules(&self.files) == rules(files)
    }

    /// The client after its handshake. `None` without a certificate.
    pub fn identify_client(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<VerifiedClient> {
        let (clients, certificate) = (self.files.clients.as_ref()?, chain?.first()?);
        let certificate = apply_rules(&clients.rules, certificate);
        Some(VerifiedClient { certificate, accepted_by: self.client_generation })
    }

    pub fn client_generation(&self) -> ClientGeneration {
        self.client_generation
    }

    /// When the files are valid.
    pub fn validity_periods(&self) -> &[ValidityPeriod] {
        &self.validity_periods
    }
}
