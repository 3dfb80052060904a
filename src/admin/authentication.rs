//! Authenticates the caller of a request.

use http::{HeaderMap, HeaderValue};

use super::control_plane::ControlPlane;
use metamcp_config::sections::AuthMode;
use metamcp_store::auth::{AuthDenial, ClientCertificate, Credential, CredentialCheck, Identity};

impl ControlPlane {
    /// Returns the identity of a request's own credential, or else of its connection's certificate.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<ClientCertificate>,
    ) -> Result<Identity, AuthDenial> {
        match self.check_credential(headers, certificate)? {
            CredentialCheck::Granted(identity) => Ok(identity),
            CredentialCheck::Denied(denied) => Err(denied),
            CredentialCheck::Undecided => match credential(headers)? {
                Some(credential) => self.parts.auth.authenticate(&credential).await,
                None => Err(AuthDenial::Missing),
            },
        }
    }

    /// Checks a credential without asking the store.
    fn check_credential(
        &self,
        headers: &HeaderMap,
        certificate: Option<ClientCertificate>,
    ) -> Result<CredentialCheck, AuthDenial> {
        if self.parts.auth.mode() == AuthMode::Open {
            return Ok(CredentialCheck::Granted(self.parts.auth.anonymous_identity()));
        }
        match (credential(headers)?, certificate) {
            (Some(credential), _) => Ok(self.parts.auth.check(&credential)),
            (None, Some(certificate)) => {
                self.parts.auth.identify_certificate(certificate).map(CredentialCheck::Granted)
            }
            (None, None) => Err(AuthDenial::Missing),
        }
    }

    pub(super) async fn verify(&self, credential: &Credential<'_>) -> Result<Identity, AuthDenial> {
        match self.parts.auth.check(credential) {
            CredentialCheck::Granted(identity) => Ok(identity),
            CredentialCheck::Denied(denied) => Err(denied),
            CredentialCheck::Undecided => self.parts.auth.authenticate(credential).await,
        }
    }
}

/// Returns the credential of a request. Two values of one header are rejected, as on the data plane: a proxy
/// in front may have checked the other one.
fn credential(headers: &HeaderMap) -> Result<Option<Credential<'_>>, AuthDenial> {
    let value = |name: &str| {
        let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let first = values.next();
        if values.next().is_some() { Err(AuthDenial::Invalid) } else { Ok(first) }
    };
    Credential::from_headers(value("authorization")?, value("x-api-key")?)
}
