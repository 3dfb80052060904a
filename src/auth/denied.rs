//! Refusals, and what keeps the module from starting.

use crate::store::StoreError;

use super::seal::SealerError;
use super::secrets::WeakJwtSecret;
use super::snapshot::SnapshotError;

/// Why a request was not let in. The text is what the client may see: an unknown key, a wrong secret and a
/// revoked key are the same to it, so that nobody can learn which keys exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credential at all.
    #[error("send `Authorization: Bearer` with an API key or a token, or `X-API-Key` with an API key")]
    Missing,
    /// A credential that opens nothing.
    #[error("the credential is not valid: it is mistyped, unknown, expired or was revoked")]
    Invalid,
    /// A token of ours whose time is over.
    #[error("the token has expired; ask for a new one with your API key")]
    Expired,
    /// It could not be found out now. The client may try again.
    #[error("too many credentials wait to be verified; try again in a moment")]
    Busy,
    /// No key signs tokens here, so none are given. The client can go on with its API key.
    #[error(
        "no key for tokens can be used here at present, so no token is given: use the API key itself, and have an \
         administrator look at /ready"
    )]
    Unsigned,
}

impl Denied {
    /// As a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Busy => "busy",
            Self::Unsigned => "unsigned",
        }
    }
}

impl AuthError {
    /// Whether it may help to wait for the store.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Store(away) | Self::NoKeyring { away, .. } => away.is_away(),
            Self::Sealer(_)
            | Self::JwtSecret(_)
            | Self::Unopened { .. }
            | Self::Ring { .. }
            | Self::Thread(_) => false,
        }
    }
}

/// Why keys cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The keys could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The encryption keys cannot be used together.
    #[error(transparent)]
    Sealer(#[from] SealerError),
    /// A secret that could be guessed.
    #[error(transparent)]
    JwtSecret(#[from] WeakJwtSecret),
    /// Active keys were sealed by an `ENCRYPTION_KEY` that was not given, or were altered.
    #[error(
        "{unopened} of {active} active API keys cannot be opened with the given ENCRYPTION_KEY ({which}); \
         give the version that sealed them too, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; what was altered outside of \
         keyadm, or made before rows were bound to it, is made anew: `keyadm keys delete ID --confirm`, then \
         `keyadm keys create`"
    )]
    Unopened {
        /// Rows that do not open.
        unopened: usize,
        /// All rows that should.
        active: usize,
        /// Some of their ids, with the version that sealed each.
        which: String,
    },
    /// Keys that sign tokens were sealed by an `ENCRYPTION_KEY` that was not given, or were altered; or none signs.
    #[error(
        "{unopened} of {keys} keys for tokens cannot be opened with the given ENCRYPTION_KEY ({which}), or none of \
         them signs; give the version that sealed them too, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; what was altered \
         outside of keyadm, or made before rows were bound to it, is taken out: `keyadm jwt rotate`, then \
         `keyadm jwt delete KID --confirm`"
    )]
    Ring {
        /// Rows that do not open.
        unopened: usize,
        /// All rows.
        keys: usize,
        /// Their kids.
        which: String,
    },
    /// The database is away, and so is the last keyring on disk.
    #[error("{away}, and there is no keyring on disk to start with: {snapshot}")]
    NoKeyring {
        /// Why the keys cannot be read.
        away: StoreError,
        /// Why not from there either.
        snapshot: SnapshotError,
    },
    /// The operating system gave no thread.
    #[error("no thread for verifying keys: {0}")]
    Thread(#[from] std::io::Error),
}
