//! Authenticates requests, and admits them within the limits of their keys.
//!
//! Does not know: what a key may use.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde_json::json;
use zeroize::Zeroizing;

use super::clock::Clock;
use crate::limits::{AdmissionError, KeyUsage, Limits, Permit, PermitKind, QuotaExceeded, ReservedCall};
use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::cached_credential::CachedCredential;
use crate::server::http1::fields::{Field, Fields};
use metamcp_config::sections::AuthMode;
use metamcp_core::base::{Fault, FaultKind, KeyId, unix_seconds};
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_store::auth::{
    AuthDenial, Authenticator, ClientCertificate, Credential, CredentialCheck, Identity,
};

/// Authenticates the clients of one worker. The result for a credential is cached on its connection.
pub struct CredentialCache {
    auth: Arc<Authenticator>,
    limits: Arc<Limits>,
    usages: RefCell<HashMap<KeyId, Arc<KeyUsage>, RandomState>>,
}

/// Keys whose usage a worker caches. When it is exceeded, all are evicted.
const USAGES_MAX: usize = 4096;

impl CredentialCache {
    pub fn new(auth: Arc<Authenticator>, limits: Arc<Limits>) -> Self {
        Self { auth, limits, usages: RefCell::default() }
    }

    /// Resolves the identity of a request. No await and no lock in the common case.
    async fn identify(
        &self,
        fields: &Fields,
        certificate: Option<ClientCertificate>,
    ) -> Result<Identity, Fault> {
        let auth = &self.auth;
        if auth.mode() == AuthMode::Open {
            return Ok(auth.anonymous_identity());
        }
        let (authorization, x_api_key) = (fields.get(Field::Authorization), fields.get(Field::XApiKey));
        let credential = match (Credential::from_headers(authorization, x_api_key), certificate) {
            (Ok(Some(credential)), _) => credential,
            (Ok(None), Some(certificate)) => return auth.identify_certificate(certificate).map_err(denied),
            (Ok(None), None) => return Err(denied(AuthDenial::Missing)),
            (Err(reason), _) => return Err(denied(reason)),
        };
        match auth.check(&credential) {
            CredentialCheck::Granted(identity) => Ok(identity),
            CredentialCheck::Denied(reason) => Err(denied(reason)),
            // Boxed, as all uncommon cases are, so that it does not enlarge every request's future.
            CredentialCheck::Undecided => Box::pin(auth.authenticate(&credential)).await.map_err(denied),
        }
    }

    /// Authenticates a request, and admits it among its key's requests in flight or event streams.
    ///
    /// A client sends the same credential with every request of a connection. The cached result is valid
    /// until the next second or the next change of a key, whichever comes first.
    pub async fn authenticate_and_admit(
        &self,
        clock: &Clock,
        activity: &ConnectionActivity,
        fields: &Fields,
        kind: PermitKind,
    ) -> Result<(Identity, Permit), Fault> {
        Self::check_certificate(activity)?;
        if fields.is_doubled(Field::Authorization) || fields.is_doubled(Field::XApiKey) {
            // A proxy in front may have checked the other one.
            return Err(denied(AuthDenial::Invalid));
        }
        let value = fields.get(Field::Authorization).unwrap_or_default();
        let certificate = activity.certificate.get();
        // Only a credential from `Authorization` alone is cached, and the certificate of the connection: as an empty value.
        let is_bare = certificate.is_some() && !fields.has(Field::Authorization);
        let other = fields.has(Field::XApiKey) || (value.is_empty() && !is_bare);
        let known = activity
            .credential
            .borrow()
            .as_ref()
            .filter(|known| !other && known.matches(value, clock.credential_epoch()))
            .map(|known| (known.identity.clone(), Arc::clone(&known.usage)));
        if let Some((identity, usage)) = known {
            let permit = usage.admit(&identity, kind).map_err(refused)?;
            return Ok((identity, permit));
        }
        // Take the epoch before authenticating, so that a change meanwhile invalidates the result.
        let epoch = clock.credential_epoch();
        let identity = self.identify(fields, certificate).await?;
        let usage = self.usage(&identity);
        *activity.credential.borrow_mut() = (!other).then(|| CachedCredential {
            value: Zeroizing::new(value.to_vec()),
            identity: identity.clone(),
            usage: Arc::clone(&usage),
            epoch,
        });
        let permit = usage.admit(&identity, kind).map_err(refused)?;
        Ok((identity, permit))
    }

    /// Refuses a request on a connection whose certificate is excluded, whatever its credential.
    pub fn check_certificate(activity: &ConnectionActivity) -> Result<(), Fault> {
        match activity.certificate.get() {
            Some(ClientCertificate::Deny) => Err(denied(AuthDenial::CertificateExcluded)),
            Some(ClientCertificate::Key { .. }) | None => Ok(()),
        }
    }

    /// Admits one more message for an identity: for batches and framed streams.
    pub fn admit(&self, identity: &Identity, message: &Envelope) -> Result<Permit, Fault> {
        let is_request = message.kind == MessageKind::Request;
        let kind = if is_request { PermitKind::Call } else { PermitKind::Message };
        self.usage(identity).admit(identity, kind).map_err(refused)
    }

    /// Counts a call against the quotas of its key. `None` if it has none.
    #[inline]
    pub fn reserve_call(&self, identity: &Identity) -> Result<Option<ReservedCall>, Fault> {
        let Some(quotas) = identity.quotas() else { return Ok(None) };
        ReservedCall::reserve(self.usage(identity), quotas, unix_seconds()).map(Some).map_err(quota_exceeded)
    }

    /// How many requests of an identity can be admitted at once.
    pub fn at_once_max(&self, identity: &Identity) -> usize {
        self.usage(identity).at_once_max(identity)
    }

    fn usage(&self, identity: &Identity) -> Arc<KeyUsage> {
        let mut usages = self.usages.borrow_mut();
        if usages.len() > USAGES_MAX {
            usages.clear();
        }
        let usage = usages.entry(identity.key_id()).or_insert_with(|| self.limits.usage(identity));
        Arc::clone(usage)
    }
}

/// The fault of a request that its key's limits refuse.
#[cold]
pub fn refused(refusal: AdmissionError) -> Fault {
    Fault::client(FaultKind::TooManyInFlight, refusal.to_string())
}

/// The fault of a call over a quota.
#[cold]
fn quota_exceeded(exceeded: QuotaExceeded) -> Fault {
    let data = json!({
        "quota": exceeded.kind.as_str(),
        "limit": exceeded.limit,
        "resetsAt": exceeded.reset_text(),
        "retryAfter": exceeded.retry_after_s,
    });
    Fault::client(FaultKind::QuotaExceeded, exceeded.to_string())
        .with_data(data.to_string())
        .with_retry_after(exceeded.retry_after_s)
}

#[cold]
fn denied(reason: AuthDenial) -> Fault {
    let kind = match reason {
        AuthDenial::Busy | AuthDenial::Unsigned => FaultKind::Overloaded,
        AuthDenial::CertificateExcluded => FaultKind::Forbidden,
        _ => FaultKind::Unauthenticated,
    };
    Fault::client(kind, reason.to_string())
}
