//! Authentication: API keys, access tokens, and sealing. The only module that creates an [`Identity`].
//!
//! Invariants:
//! - A request with a known credential is decided from in-memory snapshots: no lock, no await, no store access.
//! - The raw API key is shown once, at creation, and stored nowhere.
//! - A change to a key discards everything verified for it, its access tokens included.
//!
//! Does not know: HTTP statuses, sessions, which tools and endpoints exist, or SQL.

mod authenticator;
mod client_certificate;
mod clock;
mod config;
mod credential;
mod denial;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod grants;
mod hasher;
mod health;
mod identity;
mod initial_keys;
mod jwt_keyring;
mod key;
mod key_creation;
mod keyring;
mod keyring_snapshot;
mod kid_digest;
mod live_keys;
mod mac;
mod rejection_cache;
mod rekey;
mod row_sealing;
mod seal;
mod secret_verifier;
mod secrets;
mod snapshot;
mod token;
mod token_cache;
mod unseal_failure;

pub use crate::store::KeyRequest;
pub use crate::store::{DAY_S, KeyTotals, Period, QuotaKind, Quotas, Rate, Role, UsedAmount};
pub use authenticator::{Authenticator, CredentialCheck};
pub use client_certificate::ClientCertificate;
pub use config::{Config, EncryptionKey};
pub use credential::Credential;
pub use denial::AuthDenial;
pub use error::AuthError;
pub use grants::{GrantsError, QUOTA_MAX};
pub use health::{AuthHealth, KeySource};
pub use identity::Identity;
pub use jwt_keyring::generate_jwt_key;
pub use key::{ApiKey, MalformedApiKey, ParsedApiKey};
pub use key_creation::{CreateKeyError, create_key, generate_key, import_key};
pub use keyring::KeyState;
pub use mac::hmac_sha256;
pub use metamcp_config::format_time;
pub use rekey::{RekeyReport, rekey};
pub use seal::{Purpose, Sealer, SealerError, UnsealError};
pub use secrets::{
    EncryptionKeyError, FirstStartError, InstallationSecrets, RotateError, SecretsError, SecretsOrigin,
    WeakJwtSecret, WrongEncryptionKey, check_first_start, encryption_key_place, generate_encryption_key,
    generate_jwt_secret, jwt_secret_place, parse_encryption_key, parse_jwt_secret, prepare_data_dir,
};
pub use snapshot::{SnapshotError, SnapshotFile, SnapshotWriter};
pub use token::AccessToken;
