//! Making a key: for the command line, and for the first start.

use zeroize::Zeroizing;

use crate::store::{
    Audit, Binder, Bound, Grants, KeyRow, KeyStatus, NewKey, Plain, Store, StoreError, Uuid, new_id,
};

use super::grants::{self, GrantsError};
use super::imprint::Imprint;
use super::key::{ApiKey, Malformed, Parsed};
use super::seal::Sealer;

/// What whoever makes a key may choose.
#[derive(Debug, Clone)]
pub struct KeyRequest {
    /// For people: in lists, logs and traces.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// What the key may do.
    pub grants: Grants,
    /// Seconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
}

impl KeyRequest {
    /// Whether such a key can be made at `now`, in seconds since 1970.
    pub fn check(&self, now: u64) -> Result<(), CreateError> {
        let unfit = |text: &str, max| text.chars().count() > max || text.chars().any(char::is_control);
        if self.name.trim().is_empty() || unfit(&self.name, NAME_CHARS_MAX) {
            return Err(CreateError::Name);
        }
        if unfit(&self.description, DESCRIPTION_CHARS_MAX) {
            return Err(CreateError::Description);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(CreateError::Past);
        }
        grants::check(&self.grants)?;
        Ok(())
    }
}

/// Makes a key and stores what is needed to recognise it. The key itself is in the first part and nowhere else.
///
/// Cancel safe: dropped, it leaves at worst a row for a key that nobody has.
pub async fn create_key(
    store: &Store,
    sealer: &Sealer,
    request: KeyRequest,
    audit: Audit,
) -> Result<(ApiKey, KeyRow), CreateError> {
    let (key, new) = new_key(store, sealer, request, audit.at).await?;
    let row = store.bound_by(sealer.clone()).insert_key(new, audit).await?;
    Ok((key, row))
}

/// Makes a key and what is to be stored of it, to be inserted at `now` (seconds since 1970), or to be the successor
/// of another.
///
/// Cancel safe.
pub async fn new_key(
    store: &Store,
    sealer: &Sealer,
    request: KeyRequest,
    now: u64,
) -> Result<(ApiKey, NewKey), CreateError> {
    request.check(now)?;
    check_sealer(store, sealer).await?;
    let key = ApiKey::generate();
    let new = hashed(key.parsed(), new_id(), request).await?;
    Ok((key, new))
}

/// Makes the first key of an installation; `None`: it has one by now.
///
/// Cancel safe.
pub async fn create_first_key(
    store: &Store,
    sealer: &Sealer,
    request: KeyRequest,
    audit: Audit,
) -> Result<Option<ApiKey>, CreateError> {
    let (key, new) = new_key(store, sealer, request, audit.at).await?;
    let store = store.bound_by(sealer.clone());
    Ok(store.insert_first_key(new, audit).await?.map(|_| key))
}

/// What is to be stored of a key that MetaMCP made, under the id it had there.
///
/// Cancel safe.
pub async fn imported_key(
    store: &Store,
    sealer: &Sealer,
    (id, text): (Uuid, &str),
    request: KeyRequest,
    now: u64,
) -> Result<NewKey, CreateError> {
    request.check(now)?;
    let key = ApiKey::parse(text)?;
    check_sealer(store, sealer).await?;
    hashed(key, id, request).await
}

async fn hashed(key: Parsed<'_>, id: Uuid, request: KeyRequest) -> Result<NewKey, CreateError> {
    let secret = Zeroizing::new(key.secret().to_vec());
    let imprint = tokio::task::spawn_blocking(move || Imprint::of(&secret)).await;
    let imprint = imprint.map_err(|_| CreateError::Hash)?.map_err(|_| CreateError::Hash)?;
    let key_id = key.key_id();
    Ok(NewKey {
        id,
        key_id: key_id.to_string(),
        name: request.name,
        description: request.description,
        grants: request.grants,
        hash: Plain::new(imprint.to_bytes().to_vec()),
        expires_at: request.expires_at,
    })
}

/// A key sealed with an `ENCRYPTION_KEY` other than the gateway's would never open.
async fn check_sealer(store: &Store, sealer: &Sealer) -> Result<(), CreateError> {
    let rows = store.keys().await?.rows;
    let opens = |row: &KeyRow| sealer.open_row(Bound::Key(row)).is_some();
    let mut active = rows.iter().filter(|row| row.status == KeyStatus::Active).peekable();
    if active.peek().is_some() && !active.any(opens) {
        return Err(CreateError::OtherEncryptionKey);
    }
    Ok(())
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Empty, too long, or holding control characters, which would forge lines of logs and tables.
    #[error("a key's name has 1 to {NAME_CHARS_MAX} characters, none of them a control character")]
    Name,
    /// Too long, or holding control characters.
    #[error(
        "a key's description has at most {DESCRIPTION_CHARS_MAX} characters, none of them a control character"
    )]
    Description,
    /// It would be dead on arrival.
    #[error("the key would expire in the past")]
    Past,
    /// Not a key at all.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A key for nothing, or for what cannot be.
    #[error(transparent)]
    Grants(#[from] GrantsError),
    /// None of the keys that are there open with it.
    #[error(
        "the given ENCRYPTION_KEY opens none of the active keys in the database, so it is not the gateway's, or they were \
         altered outside of keyadm or made before rows were bound to it; take the one the gateway was started with, or \
         delete those keys (`keyadm keys delete ID --confirm`) and make new ones"
    )]
    OtherEncryptionKey,
    /// argon2 failed, which takes a lack of memory.
    #[error("the key could not be hashed; argon2 needs 19 MiB of memory")]
    Hash,
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fits a table column, and any metric label made of it.
const NAME_CHARS_MAX: usize = 128;

/// A few sentences.
const DESCRIPTION_CHARS_MAX: usize = 1024;
