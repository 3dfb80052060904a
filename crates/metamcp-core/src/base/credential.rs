//! The end of a client's credential.

use std::future::Future;
use std::pin::Pin;

/// The credential of a client, for code that goes on after the client has its response, and does not know how credentials
/// are checked.
pub trait CredentialLifetime: Send + Sync {
    /// Completes when the credential is no longer valid. Cancel safe.
    fn ended(&self) -> Pin<Box<dyn Future<Output = ()>>>;
}
