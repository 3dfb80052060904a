//! The ring of keys that sign tokens.

use serde_json::{Value as Json, json};

use super::audit::{Audit, Change, ObjectKind, record};
use super::bound::{Binding, Bound, Plain};
use super::epochs::{self, Kind};
use super::session::{Access, Session, query_one, transact};
use super::value::{Row, Value, words};
use super::{Sealed, Store, StoreError};

words! {
    /// How a key signs.
    JwtAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

words! {
    /// What a key does.
    JwtPhase {
        /// Verifies, and will sign. At most one.
        Next = "next",
        /// Signs and verifies. At most one.
        Active = "active",
        /// Verifies what it has signed.
        Retiring = "retiring",
    }
}

/// One key of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKeyRow {
    /// As in a token's header.
    pub kid: String,
    /// How it signs.
    pub algorithm: JwtAlgorithm,
    /// Opaque here, and bound to all the rest.
    pub secret: Sealed,
    /// What it does.
    pub phase: JwtPhase,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970: when the phase began.
    pub changed_at: u64,
}

/// A key to be added.
#[derive(Debug, Clone)]
pub struct NewJwtKey {
    /// Unique; not empty.
    pub kid: String,
    /// How it signs.
    pub algorithm: JwtAlgorithm,
    /// Opaque here, and sealed when it is stored.
    pub secret: Plain,
    /// `Active` for the first one, `Next` for every other.
    pub phase: JwtPhase,
}

/// The ring at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKeys {
    /// The ring's epoch at that moment.
    pub epoch: u64,
    /// Oldest first.
    pub rows: Vec<JwtKeyRow>,
}

impl Store {
    /// The ring, and the epoch it shows, read in one transaction. Cancel safe.
    pub async fn jwt_keys(&self) -> Result<JwtKeys, StoreError> {
        transact!(self, Access::Read, |session| all(session))
    }

    /// Adds a key. [`StoreError::Exists`]: the kid is taken (`kid`), or there is one of that phase (`phase`);
    /// [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_jwt_key(&self, key: NewJwtKey, audit: Audit) -> Result<JwtKeyRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| insert(session, &binding, &key, &audit))
    }

    /// The next key signs from now on, and the one that did so retires, in one transaction. Gives the new active
    /// one. [`StoreError::NotFound`]: none is next; [`StoreError::Closed`]: it does not open; [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn promote_jwt_key(&self, audit: Audit) -> Result<JwtKeyRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| promote(session, &binding, &audit))
    }

    /// Takes a key out. [`StoreError::NotFound`]; [`StoreError::Conflict`]: it is the one that signs.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn delete_jwt_key(&self, kid: &str, audit: Audit) -> Result<JwtKeyRow, StoreError> {
        let kid = kid.to_owned();
        transact!(self, Access::Administer, |session| delete(session, &kid, &audit))
    }
}

impl JwtKeyRow {
    fn describe(&self) -> Json {
        json!({"kid": self.kid, "algorithm": self.algorithm.as_str(), "phase": self.phase.as_str()})
    }
}

async fn all<S: Session>(session: &mut S) -> Result<JwtKeys, StoreError> {
    let epoch = epochs::of(session, Kind::JwtKeys).await?;
    let sql = format!("SELECT {COLUMNS} FROM jwt_keys ORDER BY created_at, kid");
    let rows = session.query(&sql, &[]).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(JwtKeys { epoch, rows })
}

pub(super) async fn find<S: Session>(
    session: &mut S,
    column: &str,
    value: &str,
) -> Result<Option<JwtKeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM jwt_keys WHERE {column} = $1");
    query_one(session, &sql, &[value.into()]).await?.map(read).transpose()
}

async fn insert<S: Session>(
    session: &mut S,
    binding: &Binding,
    key: &NewJwtKey,
    audit: &Audit,
) -> Result<JwtKeyRow, StoreError> {
    let values = [
        Value::from(&key.kid),
        key.algorithm.as_str().into(),
        // Sealed below, with what the table makes of all this.
        Value::Blob(Vec::new()),
        key.phase.as_str().into(),
        audit.at.into(),
    ];
    session.execute(INSERT, &values).await?;
    let mut row = known(session, &key.kid).await?;
    row.secret = binding.bind(session, Bound::JwtKey(&row), &key.secret).await?;
    note(session, audit, "jwt_key.create", None, Some(&row)).await?;
    Ok(row)
}

async fn known<S: Session>(session: &mut S, kid: &str) -> Result<JwtKeyRow, StoreError> {
    find(session, "kid", kid).await?.ok_or(StoreError::NotFound("token key"))
}

async fn promote<S: Session>(
    session: &mut S,
    binding: &Binding,
    audit: &Audit,
) -> Result<JwtKeyRow, StoreError> {
    let next = find(session, "phase", JwtPhase::Next.as_str()).await?;
    let next = next.ok_or(StoreError::NotFound("token key in the phase `next`"))?;
    let secret = binding.opened(Bound::JwtKey(&next), "token key in the phase `next`")?;
    // First the old one: there is never a second that signs. One that does not open retires as it is.
    if let Some(active) = find(session, "phase", JwtPhase::Active.as_str()).await? {
        let secret = binding.open(Bound::JwtKey(&active));
        let old = move_on(session, &active, JwtPhase::Retiring, audit).await?;
        if let Some(secret) = secret {
            binding.bind(session, Bound::JwtKey(&old), &secret).await?;
        }
    }
    let mut new = move_on(session, &next, JwtPhase::Active, audit).await?;
    new.secret = binding.bind(session, Bound::JwtKey(&new), &secret).await?;
    Ok(new)
}

async fn move_on<S: Session>(
    session: &mut S,
    before: &JwtKeyRow,
    phase: JwtPhase,
    audit: &Audit,
) -> Result<JwtKeyRow, StoreError> {
    let values = [phase.as_str().into(), audit.at.into(), (&before.kid).into()];
    session.execute("UPDATE jwt_keys SET phase = $1, changed_at = $2 WHERE kid = $3", &values).await?;
    let after = known(session, &before.kid).await?;
    let action = if phase == JwtPhase::Active { "jwt_key.promote" } else { "jwt_key.retire" };
    note(session, audit, action, Some(before), Some(&after)).await?;
    Ok(after)
}

async fn delete<S: Session>(session: &mut S, kid: &str, audit: &Audit) -> Result<JwtKeyRow, StoreError> {
    let before = known(session, kid).await?;
    if before.phase == JwtPhase::Active {
        return Err(StoreError::Conflict);
    }
    session.execute("DELETE FROM jwt_keys WHERE kid = $1", &[kid.into()]).await?;
    note(session, audit, "jwt_key.delete", Some(&before), None).await?;
    Ok(before)
}

async fn note<S: Session>(
    session: &mut S,
    audit: &Audit,
    action: &'static str,
    before: Option<&JwtKeyRow>,
    after: Option<&JwtKeyRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.kid.clone()).unwrap_or_default();
    let (before, after) = (before.map(JwtKeyRow::describe), after.map(JwtKeyRow::describe));
    record(session, audit, Change { action, kind: ObjectKind::JwtKey, id, before, after }).await
}

fn read(mut row: Row) -> Result<JwtKeyRow, StoreError> {
    let mut key = JwtKeyRow {
        kid: row.text()?,
        algorithm: row.or(JwtAlgorithm::Hs256, |row| row.word(JwtAlgorithm::parse)),
        secret: Sealed { bytes: row.blob()?, key_version: row.or(0, Row::int) },
        phase: row.or(JwtPhase::Retiring, |row| row.word(JwtPhase::parse)),
        created_at: row.or(0, Row::int),
        changed_at: row.or(0, Row::int),
    };
    key.secret = row.sealed(key.secret);
    Ok(key)
}

const COLUMNS: &str = "kid, algorithm, sealed_secret, key_version, phase, created_at, changed_at";

const INSERT: &str = "INSERT INTO jwt_keys (kid, algorithm, sealed_secret, key_version, phase, created_at, changed_at) \
                      VALUES ($1, $2, $3, 0, $4, $5, $5)";
