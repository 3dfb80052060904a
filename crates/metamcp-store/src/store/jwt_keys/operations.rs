//! Reads and changes of token signing keys, each in one transaction; changes with their entry in the audit log.

use super::row::{self, JwtKeyRow, JwtKeys, JwtPhase, NewJwtKey, find};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::error::StoreError;
use crate::store::handle::{Store, transact};
use crate::store::row_sealer::{OptionalSealer, SealedRow};
use crate::store::transaction::{AccessMode, Transaction};
use crate::store::value::Value;

impl Store {
    /// All signing keys and their epoch, read in one transaction. Cancel safe.
    pub async fn jwt_keys(&self) -> Result<JwtKeys, StoreError> {
        transact!(self, AccessMode::Read, |tx| row::all(tx))
    }

    /// Adds a signing key. [`StoreError::Exists`] when its kid is taken (`kid`), or another key is in that phase (`phase`);
    /// [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn insert_jwt_key(&self, key: NewJwtKey, audit: Audit) -> Result<JwtKeyRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| insert(tx, &binding, &key, &audit))
    }

    /// Promotes the next key to active and retires the active one, in one transaction. Returns the new active key.
    /// [`StoreError::NotFound`] when there is no next key; [`StoreError::Closed`] when it does not open;
    /// [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn promote_jwt_key(&self, audit: Audit) -> Result<JwtKeyRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| promote(tx, &binding, &audit))
    }

    /// Deletes a signing key. [`StoreError::NotFound`]; [`StoreError::Conflict`] when it is the active one.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn delete_jwt_key(&self, kid: &str, audit: Audit) -> Result<JwtKeyRow, StoreError> {
        let kid = kid.to_owned();
        transact!(self, AccessMode::Administer, |tx| delete(tx, &kid, &audit))
    }
}

async fn insert<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    key: &NewJwtKey,
    audit: &Audit,
) -> Result<JwtKeyRow, StoreError> {
    let values = [
        Value::from(&key.kid),
        key.algorithm.as_str().into(),
        // Sealed below, together with the columns as the table stores them.
        Value::Blob(Vec::new()),
        key.phase.as_str().into(),
        audit.at.into(),
    ];
    tx.execute(INSERT, &values).await?;
    let mut row = require(tx, &key.kid).await?;
    row.secret = binding.seal(tx, SealedRow::JwtKey(&row), &key.secret).await?;
    record_change(tx, audit, "jwt_key.create", None, Some(&row)).await?;
    Ok(row)
}

async fn require<T: Transaction>(tx: &mut T, kid: &str) -> Result<JwtKeyRow, StoreError> {
    find(tx, "kid", kid).await?.ok_or(StoreError::NotFound("token key"))
}

async fn promote<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    audit: &Audit,
) -> Result<JwtKeyRow, StoreError> {
    let next = find(tx, "phase", JwtPhase::Next.as_str()).await?;
    let next = next.ok_or(StoreError::NotFound("token key in the phase `next`"))?;
    let secret = binding.open_required(SealedRow::JwtKey(&next), "token key in the phase `next`")?;
    // The old key first: there is never more than one active key. If it does not open, it retires without being resealed.
    if let Some(active) = find(tx, "phase", JwtPhase::Active.as_str()).await? {
        let secret = binding.open(SealedRow::JwtKey(&active));
        let old = set_phase(tx, &active, JwtPhase::Retiring, audit).await?;
        if let Some(secret) = secret {
            binding.seal(tx, SealedRow::JwtKey(&old), &secret).await?;
        }
    }
    let mut new = set_phase(tx, &next, JwtPhase::Active, audit).await?;
    new.secret = binding.seal(tx, SealedRow::JwtKey(&new), &secret).await?;
    Ok(new)
}

async fn set_phase<T: Transaction>(
    tx: &mut T,
    before: &JwtKeyRow,
    phase: JwtPhase,
    audit: &Audit,
) -> Result<JwtKeyRow, StoreError> {
    let values = [phase.as_str().into(), audit.at.into(), (&before.kid).into()];
    tx.execute("UPDATE jwt_keys SET phase = $1, changed_at = $2 WHERE kid = $3", &values).await?;
    let after = require(tx, &before.kid).await?;
    let action = if phase == JwtPhase::Active { "jwt_key.promote" } else { "jwt_key.retire" };
    record_change(tx, audit, action, Some(before), Some(&after)).await?;
    Ok(after)
}

async fn delete<T: Transaction>(tx: &mut T, kid: &str, audit: &Audit) -> Result<JwtKeyRow, StoreError> {
    let before = require(tx, kid).await?;
    if before.phase == JwtPhase::Active {
        return Err(StoreError::Conflict);
    }
    tx.execute("DELETE FROM jwt_keys WHERE kid = $1", &[kid.into()]).await?;
    record_change(tx, audit, "jwt_key.delete", Some(&before), None).await?;
    Ok(before)
}

async fn record_change<T: Transaction>(
    tx: &mut T,
    audit: &Audit,
    action: &'static str,
    before: Option<&JwtKeyRow>,
    after: Option<&JwtKeyRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.kid.clone()).unwrap_or_default();
    let (before, after) = (before.map(JwtKeyRow::describe), after.map(JwtKeyRow::describe));
    record(tx, audit, Change { action, kind: ObjectKind::JwtKey, id, before, after }).await
}

const INSERT: &str = "INSERT INTO jwt_keys (kid, algorithm, sealed_secret, key_version, phase, created_at, changed_at) \
                      VALUES ($1, $2, $3, 0, $4, $5, $5)";
