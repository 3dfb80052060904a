//! Keys, tokens, sealing: the only maker of an `Identity`.
//!
//! Invariants: the usual request is answered from snapshots, without a lock, an await or the store. A raw key
//! is shown once and stored nowhere. A change of a key takes back what was proven about it, its tokens included.
//! Does not know: HTTP statuses, sessions, what a key may reach, or SQL.

mod binding;
mod closed;
mod create;
mod credential;
mod denied;
mod grants;
mod hasher;
mod health;
mod identity;
mod imprint;
mod key;
mod keyring;
mod refusals;
mod rekey;
mod ring;
mod seal;
mod secrets;
mod snapshot;
mod tag;
mod token;
mod verify;

use std::time::Duration;

use zeroize::Zeroizing;

/// What a key may do, in the words of the store.
pub use crate::store::{Rate, Role};
pub use create::{CreateError, KeyRequest, create_first_key, create_key, imported_key, new_key};
pub use credential::Credential;
pub use denied::{AuthError, Denied};
pub use grants::GrantsError;
pub use health::{Health, KeysFrom};
pub use identity::{Identity, KeyId};
pub use key::{ApiKey, Malformed, Parsed};
pub use rekey::{Rekeyed, rekey};
pub use ring::new_jwt_key;
pub use seal::{Purpose, Sealer, SealerError, Unsealable};
pub use secrets::{
    EncryptionKeyError, Origin, RotateError, Secrets, SecretsError, WeakJwtSecret, generate_encryption_key,
    generate_jwt_secret, parse_encryption_key, parse_jwt_secret, prepare_data_dir,
};
pub use snapshot::{Keeper, Snapshot, SnapshotError};
pub use token::Token;
pub use verify::{Authenticator, Check};

/// How requests are authenticated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether a credential is asked for at all.
    pub mode: Mode,
    /// Encrypts at rest and seals ids: the versions of `ENCRYPTION_KEY`, newest first. The first one seals.
    pub encryption_keys: Vec<EncryptionKey>,
    /// The first key of the ring that signs tokens (HS256); put there when the ring is empty.
    pub jwt_secret: Zeroizing<Vec<u8>>,
    /// Lifetime of a token.
    pub token_lifetime: Duration,
    /// argon2 runs at once; each takes one core for some 50 ms and 19 MiB.
    pub hash_permits: usize,
    /// What each thread that runs argon2 does first: to make way for those that answer.
    pub hash_thread: fn(),
    /// Verifications that may wait for a permit; one more is refused with 503.
    pub hash_queue_max: usize,
    /// How long a key once verified by argon2 is believed without it.
    pub verified_for: Duration,
}

/// Whether a credential is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// API keys and tokens.
    Keys,
    /// Everyone is the same anonymous client. Only on loopback.
    Open,
}

/// One version of `ENCRYPTION_KEY`.
#[derive(Debug, Clone)]
pub struct EncryptionKey {
    /// Stored beside what it sealed.
    pub version: u8,
    /// 256 bits.
    pub key: Zeroizing<[u8; 32]>,
}
