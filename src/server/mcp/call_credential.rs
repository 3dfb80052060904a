//! The credential of a call, for era adapters that hold the call after its response.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::server::worker::SharedState;
use metamcp_core::base::CredentialLifetime;
use metamcp_store::auth::Identity;

/// The credential that a call was sent with.
pub struct CallCredential {
    shared: Arc<SharedState>,
    identity: Identity,
}

impl CallCredential {
    pub fn new(shared: &Arc<SharedState>, identity: &Identity) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(shared), identity: identity.clone() })
    }
}

impl CredentialLifetime for CallCredential {
    fn ended(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        let (shared, identity) = (Arc::clone(&self.shared), self.identity.clone());
        Box::pin(async move { shared.auth.wait_for_revocation(&identity, shared.keys.clone()).await })
    }
}
