//! Alerts of TLS by which a server refuses a handshake after the client has completed its part.
//!
//! With TLS 1.3 a client may send its first request before the server has verified its certificate (RFC 8446, section 4.4.2.4
//! and appendix E.1). A server that refuses it has not read the request, so the call did not run.

use std::error::Error;
use std::io;

use rustls::AlertDescription;

use crate::error::FailureStage;

/// The stage of an error that was read in place of the first byte of a response.
#[cold]
pub fn stage_before_response(error: &(dyn Error + 'static)) -> FailureStage {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return if refuses_handshake(*alert) { FailureStage::Tls } else { FailureStage::NoResponse };
        }
        next = error.source();
    }
    FailureStage::NoResponse
}

/// Whether a server sends this alert only during a handshake.
fn refuses_handshake(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
            | AlertDescription::DecryptError
            | AlertDescription::InsufficientSecurity
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_of_a_handshake_are_told_from_others() {
        let check = |error: rustls::Error, expected| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(stage_before_response(&error), expected, "{error}");
        };
        let alert = rustls::Error::AlertReceived;
        check(alert(AlertDescription::CertificateRequired), FailureStage::Tls);
        check(alert(AlertDescription::UnknownCA), FailureStage::Tls);
        check(alert(AlertDescription::CertificateExpired), FailureStage::Tls);
        check(alert(AlertDescription::InternalError), FailureStage::NoResponse);
        check(alert(AlertDescription::BadRecordMac), FailureStage::NoResponse);
        check(rustls::Error::DecryptError, FailureStage::NoResponse);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(stage_before_response(&reset), FailureStage::NoResponse);
    }
}
