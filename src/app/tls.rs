//! The certificate authorities that upstreams are verified with.

use rustls::RootCertStore;

use crate::upstream::TlsRoots;

/// Loads the system's certificate authorities.
pub fn system_roots() -> TlsRoots {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
        let errors = errors.join("; ");
        tracing::warn!(errors, "no certificate authorities found; https servers cannot be reached");
    }
    TlsRoots::from_roots(roots)
}
