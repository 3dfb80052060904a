//! What a client certificate stands for.

use metamcp_core::base::KeyId;

/// What the configuration says of a client certificate. Only for a certificate that TLS has verified: its chain, its time,
/// its revocation, and that the client has its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Requests without a credential of their own have that of an API key.
    Key {
        key_id: KeyId,
        /// When the certificate ends: the first second, in Unix time, in which it is not valid.
        expires_at: u64,
    },
    /// Every request is refused.
    Deny,
}
