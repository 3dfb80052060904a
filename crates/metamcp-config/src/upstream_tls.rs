//! `ca`, `client_cert`, `client_key` and `server_name` of `[backend]` and `[servers]`: TLS towards servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metamcp_core::base::unix_seconds;
use rustls::Error;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use zeroize::Zeroizing;

use super::certificates::{DatedContent, ValidityPeriod, authorities as authorities_of};
use super::mistakes::{Diagnostics, WithLocation};
use super::raw::read_named;
use super::section::Section;
use crate::server::{ServerAddress, TlsClientIdentity, UpstreamTls};

/// What was written of one server, and what `[backend]` adds to it.
pub(super) struct Draft {
    tls: Option<Arc<UpstreamTls>>,
    /// The first key that the table itself has.
    own_key: Option<&'static str>,
}

/// The keys of a table.
const KEYS: [&str; 4] = ["ca", "client_cert", "client_key", "server_name"];

impl Draft {
    /// Reads a table. What it does not say is taken from `shared`.
    pub fn read(section: &Section<'_>, shared: &Self, report: &Diagnostics) -> Self {
        let own_key = KEYS.into_iter().find(|key| section.has(key));
        let authorities = section.text("ca").and_then(|written| authorities(section, &written, report));
        let client = client(section, report);
        let server_name = section.text("server_name").and_then(|written| server_name(&written, report));
        if own_key.is_none() {
            return Self { tls: shared.tls.clone(), own_key };
        }
        let base = shared.tls.as_deref().cloned().unwrap_or_default();
        let tls = UpstreamTls {
            authorities: authorities.or(base.authorities),
            client: client.or(base.client),
            server_name: server_name.or(base.server_name),
        };
        Self { tls: Some(Arc::new(tls)), own_key }
    }

    /// A table without any of the keys.
    pub fn empty() -> Self {
        Self { tls: None, own_key: None }
    }

    /// What of `[backend]` applies to a server without a table.
    pub fn inherited(&self) -> Self {
        Self { tls: self.tls.clone(), own_key: None }
    }

    /// What applies to a server at this address. The key is one that has no effect there.
    pub fn resolve(self, address: &ServerAddress) -> Result<Option<Arc<UpstreamTls>>, &'static str> {
        let is_https = match address {
            ServerAddress::Http(url) | ServerAddress::Sse(url) => url.scheme() == "https",
            ServerAddress::Unix { .. } | ServerAddress::Stdio(_) => false,
        };
        match self.own_key {
            _ if is_https => Ok(self.tls),
            Some(key) => Err(key),
            None => Ok(None),
        }
    }
}

fn authorities(
    section: &Section<'_>,
    written: &WithLocation<&str>,
    report: &Diagnostics,
) -> Option<Vec<CertificateDer<'static>>> {
    let list = certificates(section, written, report)?;
    let list =
        authorities_of(list).map_err(|error| report.mistake(&written.place, error.to_string())).ok()?;
    warn_of_dates(section, written, DatedContent::Authority, &list, report);
    Some(list)
}

fn client(section: &Section<'_>, report: &Diagnostics) -> Option<TlsClientIdentity> {
    let (cert, key) = match (section.text("client_cert"), section.text("client_key")) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return None,
        (Some(cert), None) => {
            report.mistake(&cert.place, "has no client_key; write both");
            return None;
        }
        (None, Some(key)) => {
            report.mistake(&key.place, "has no client_cert; write both");
            return None;
        }
    };
    let chain = certificates(section, &cert, report);
    let private = Zeroizing::new(read_beside(section, &key, report)?);
    let private = PrivateKeyDer::from_pem_slice(private.as_bytes())
        .map_err(|error| report.mistake(&key.place, format!("has no private key in PEM: {error}")))
        .ok()?;
    let chain = chain?;
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider) {
        Ok(_) => {
            warn_of_dates(section, &cert, DatedContent::Certificate, &chain, report);
            Some(TlsClientIdentity { chain, key: private })
        }
        Err(Error::InconsistentKeys(_)) => {
            report.mistake(&key.place, "does not belong to the certificate in client_cert");
            None
        }
        Err(error) => {
            report.mistake(&key.place, format!("cannot be used: {error}"));
            None
        }
    }
}

fn server_name(written: &WithLocation<&str>, report: &Diagnostics) -> Option<ServerName<'static>> {
    let name = ServerName::try_from(written.value.to_owned()).ok();
    if name.is_none() {
        report.mistake(&written.place, "is neither a host name nor an IP address; write server.example.com");
    }
    name
}

fn certificates(
    section: &Section<'_>,
    written: &WithLocation<&str>,
    report: &Diagnostics,
) -> Option<Vec<CertificateDer<'static>>> {
    let text = read_beside(section, written, report)?;
    match CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(list) if !list.is_empty() => Some(list),
        Ok(_) => {
            report.mistake(&written.place, "has no certificate in PEM");
            None
        }
        Err(error) => {
            report.mistake(&written.place, format!("is not PEM: {error}"));
            None
        }
    }
}

/// Certificates outside of their dates are used all the same: the clock may be wrong.
fn warn_of_dates(
    section: &Section<'_>,
    written: &WithLocation<&str>,
    content: DatedContent,
    list: &[CertificateDer<'_>],
    report: &Diagnostics,
) {
    let path = path_beside(section, written);
    let problem = ValidityPeriod::of_certificates(&path, content, list)
        .and_then(|period| period.problem(unix_seconds()));
    if let Some(problem) = problem {
        report.notice(&written.place, problem.describe(&path));
    }
}

/// Reads a file whose path may be relative to the configuration file.
fn read_beside(section: &Section<'_>, written: &WithLocation<&str>, report: &Diagnostics) -> Option<String> {
    read_named(&path_beside(section, written), &written.place, report)
}

fn path_beside(section: &Section<'_>, written: &WithLocation<&str>) -> PathBuf {
    section.directory().unwrap_or(Path::new("")).join(written.value)
}
