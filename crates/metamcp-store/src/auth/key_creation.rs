//! Creation of API keys: on request, on the first start, and by import.

use zeroize::Zeroizing;

use crate::store::{
    Audit, KeyRequest, KeyRow, KeyStatus, NewKey, Plaintext, RowSealer, SealedRow, Store, StoreError, Uuid,
    new_id,
};

use super::grants::{self, GrantsError};
use super::key::{ApiKey, MalformedApiKey, ParsedApiKey};
use super::seal::Sealer;
use super::secret_verifier::SecretVerifier;

impl KeyRequest {
    /// Checks that a key can be created, or changed to this, at `now` (seconds since 1970).
    pub fn check(&self, now: u64) -> Result<(), CreateKeyError> {
        let unfit = |text: &str, max| text.chars().count() > max || text.chars().any(char::is_control);
        if self.name.trim().is_empty() || unfit(&self.name, NAME_CHARS_MAX) {
            return Err(CreateKeyError::Name);
        }
        if unfit(&self.description, DESCRIPTION_CHARS_MAX) {
            return Err(CreateKeyError::Description);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(CreateKeyError::Past);
        }
        grants::validate(&self.grants)?;
        Ok(())
    }
}

/// Creates a key and stores what is needed to verify it. The returned [`ApiKey`] is the only copy of the raw
/// key.
///
/// Cancel safe: a dropped call leaves at worst a row for a key that was never returned.
pub async fn create_key(
    store: &Store,
    sealer: &Sealer,
    request: KeyRequest,
    audit: Audit,
) -> Result<(ApiKey, KeyRow), CreateKeyError> {
    let (key, new) = generate_key(store, sealer, request, audit.at).await?;
    let row = store.bound_by(sealer.clone()).insert_key(new, audit).await?;
    Ok((key, row))
}

/// Generates a key and the row to store for it, to be inserted at `now` (seconds since 1970) or to replace
/// another key. Stores nothing.
///
/// Cancel safe.
pub async fn generate_key(
    store: &Store,
    sealer: &Sealer,
    request: KeyRequest,
    now: u64,
) -> Result<(ApiKey, NewKey), CreateKeyError> {
    request.check(now)?;
    check_sealer(store, sealer).await?;
    let key = ApiKey::generate();
    let new = hash_key(key.parsed(), new_id(), request).await?;
    Ok((key, new))
}

/// The row to store for a key that MetaMCP created, under the UUID it had there.
///
/// Cancel safe.
pub async fn import_key(
    store: &Store,
    sealer: &Sealer,
    (id, text): (Uuid, &str),
    request: KeyRequest,
    now: u64,
) -> Result<NewKey, CreateKeyError> {
    request.check(now)?;
    let key = ApiKey::parse(text)?;
    check_sealer(store, sealer).await?;
    hash_key(key, id, request).await
}

async fn hash_key(key: ParsedApiKey<'_>, id: Uuid, request: KeyRequest) -> Result<NewKey, CreateKeyError> {
    let secret = Zeroizing::new(key.secret().to_vec());
    let verifier = tokio::task::spawn_blocking(move || SecretVerifier::from_secret(&secret)).await;
    let verifier = verifier.map_err(|_| CreateKeyError::Hash)?.map_err(|_| CreateKeyError::Hash)?;
    let key_id = key.key_id();
    Ok(NewKey {
        id,
        key_id: key_id.to_string(),
        name: request.name,
        description: request.description,
        grants: request.grants,
        hash: Plaintext::new(verifier.to_bytes().to_vec()),
        expires_at: request.expires_at,
    })
}

/// Refuses an `ENCRYPTION_KEY` that is not the gateway's: a key sealed with it would never open.
async fn check_sealer(store: &Store, sealer: &Sealer) -> Result<(), CreateKeyError> {
    let rows = store.keys().await?.rows;
    let opens = |row: &KeyRow| sealer.open_row(SealedRow::Key(row)).is_some();
    let mut active = rows.iter().filter(|row| row.status == KeyStatus::Active).peekable();
    if active.peek().is_some() && !active.any(opens) {
        return Err(CreateKeyError::OtherEncryptionKey);
    }
    Ok(())
}

/// Why a key was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateKeyError {
    /// The name is empty, too long, or has control characters, which could forge lines in logs and tables.
    #[error("a key's name has 1 to {NAME_CHARS_MAX} characters, none of them a control character")]
    Name,
    /// The description is too long or has control characters.
    #[error(
        "a key's description has at most {DESCRIPTION_CHARS_MAX} characters, none of them a control character"
    )]
    Description,
    /// The key would be expired from the start.
    #[error("the key would expire in the past")]
    Past,
    #[error(transparent)]
    Malformed(#[from] MalformedApiKey),
    #[error(transparent)]
    Grants(#[from] GrantsError),
    /// The given `ENCRYPTION_KEY` opens none of the active keys.
    #[error(
        "the given ENCRYPTION_KEY opens none of the active keys in the database: either it is not the gateway's, or the \
         keys were altered outside of keyadm or created before rows were sealed; use the ENCRYPTION_KEY that the gateway \
         was started with, or delete those keys (`keyadm keys delete ID --confirm`) and create new ones"
    )]
    OtherEncryptionKey,
    /// argon2 failed: only a lack of memory causes that.
    #[error("the key could not be hashed; argon2 needs 19 MiB of memory")]
    Hash,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fits into a table column, and into a metric label.
const NAME_CHARS_MAX: usize = 128;

/// Enough for a few sentences.
const DESCRIPTION_CHARS_MAX: usize = 1024;
