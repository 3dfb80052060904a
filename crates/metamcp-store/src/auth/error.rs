//! What keeps authentication from starting, or makes stored keys unusable.

use crate::store::StoreError;

use super::seal::SealerError;
use super::secrets::WeakJwtSecret;
use super::snapshot::SnapshotError;

/// Why API keys or tokens cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The given encryption keys contradict each other, or there are none.
    #[error(transparent)]
    Sealer(#[from] SealerError),
    #[error("JWT_SECRET {0}")]
    JwtSecret(#[from] WeakJwtSecret),
    /// No key in the database opens, neither for clients nor for tokens.
    #[error("the given ENCRYPTION_KEY opens no key in the database: it is not the one that sealed them")]
    WrongEncryptionKey,
    /// Active API keys were sealed by a version of `ENCRYPTION_KEY` that was not given, or were altered.
    #[error(
        "{unsealable} of {active} active API keys cannot be opened with the given ENCRYPTION_KEY ({examples}); \
         give the version that sealed them too, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; replace keys that were \
         altered outside of keyadm, or created before rows were sealed: `keyadm keys delete ID --confirm`, then \
         `keyadm keys create`"
    )]
    UnsealableKeys {
        unsealable: usize,
        /// All active keys, the unsealable ones included.
        active: usize,
        /// Some of their ids, each with the reason.
        examples: String,
    },
    /// Token signing keys were sealed by a version of `ENCRYPTION_KEY` that was not given, or were altered; or no key
    /// is in the phase that signs.
    #[error(
        "{unsealable} of {keys} token signing keys cannot be opened with the given ENCRYPTION_KEY ({examples}), or \
         none of them signs; give the version that sealed them too, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; remove \
         keys that were altered outside of keyadm, or created before rows were sealed: `keyadm jwt rotate`, then \
         `keyadm jwt delete KID --confirm`"
    )]
    UnusableJwtKeys {
        unsealable: usize,
        /// All signing keys, the unsealable ones included.
        keys: usize,
        /// Some of their kids, each with the reason.
        examples: String,
    },
    /// The database is unavailable, and so is the keyring snapshot on disk.
    #[error("{outage}, and there is no keyring snapshot on disk to start with: {snapshot}")]
    NoKeyring {
        /// Why the store cannot be read.
        outage: StoreError,
        /// Why the snapshot cannot be read either.
        snapshot: SnapshotError,
    },
    /// The operating system refused to create a thread.
    #[error("cannot start a thread for verifying keys: {0}")]
    Thread(#[from] std::io::Error),
}

impl AuthError {
    /// Whether the same start may succeed later, once the store is available again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(outage) | Self::NoKeyring { outage, .. } => outage.is_away(),
            Self::Sealer(_)
            | Self::JwtSecret(_)
            | Self::WrongEncryptionKey
            | Self::UnsealableKeys { .. }
            | Self::UnusableJwtKeys { .. }
            | Self::Thread(_) => false,
        }
    }
}
