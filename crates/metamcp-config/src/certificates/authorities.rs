//! Which certificates of a file may be trusted as authorities.

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

/// Why a file has no authority that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum NoAuthority {
    #[error("has a certificate that is no authority: {0}")]
    Invalid(rustls::Error),
    #[error(
        "is no authority: each certificate in it was issued by another one and may issue none (basicConstraints without \
         CA:TRUE), so it verifies nobody; write the certificate of the authority that issued it"
    )]
    Issued,
}

/// Returns the certificates of a file to trust as authorities.
///
/// Certificates that were issued by others and may issue none are left out, so that a file may be a whole chain: as trust
/// anchors they would let their keys issue certificates. Fails if no other certificate is there.
pub fn authorities(
    certificates: Vec<CertificateDer<'static>>,
) -> Result<Vec<CertificateDer<'static>>, NoAuthority> {
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(NoAuthority::Invalid)?;
    }
    let list: Vec<_> = certificates.into_iter().filter(|certificate| !is_issued_leaf(certificate)).collect();
    if list.is_empty() { Err(NoAuthority::Issued) } else { Ok(list) }
}

/// Whether another certificate issued this one, and it must not issue any itself (RFC 5280, section 4.2.1.9).
///
/// A self-signed certificate verifies the server or client that presents it, whatever its extensions. Certificates of
/// version 1 have none and may be authorities.
fn is_issued_leaf(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let is_issued = parsed.subject().as_raw() != parsed.issuer().as_raw();
    is_issued
        && parsed.version() == X509Version::V3
        && parsed
            .basic_constraints()
            .is_ok_and(|constraints| constraints.is_none_or(|constraints| !constraints.value.ca))
}
