//! Changes of keys, each in one transaction with its entry in the audit log.

use uuid::Uuid;

use super::row::{Grants, KeyRequest, KeyRow, KeyStatus, NewKey, find};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::error::StoreError;
use crate::store::row_sealer::{OptionalSealer, SealedRow};
use crate::store::sealed_value::{Plaintext, SealedValue};
use crate::store::transaction::Transaction;
use crate::store::value::{Value, json_list};

/// What happens to a key that gets a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKeyPolicy {
    /// It is disabled in the same transaction.
    Inactivate,
    /// It stays valid until this second since 1970.
    KeepUntil(u64),
}

/// A key and its successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The old key as it is now.
    pub old: KeyRow,
    pub new: KeyRow,
}

pub async fn insert<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    key: &NewKey,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let row = add(tx, binding, key, audit).await?;
    record_change(tx, audit, "key.create", None, Some(&row)).await?;
    Ok(row)
}

pub async fn insert_first<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    key: &NewKey,
    audit: &Audit,
) -> Result<Option<KeyRow>, StoreError> {
    if !tx.query("SELECT id FROM api_keys LIMIT 1", &[]).await?.is_empty() {
        return Ok(None);
    }
    insert(tx, binding, key, audit).await.map(Some)
}

pub async fn set_status<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    reference: &str,
    status: KeyStatus,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let before = require(tx, reference).await?;
    let hash = if status == KeyStatus::Active {
        Some(open_hash(binding, &before)?)
    } else {
        binding.open(SealedRow::Key(&before))
    };
    if before.status == status {
        return Ok(before);
    }
    let values = [status.as_str().into(), audit.at.into(), before.id.into()];
    tx.execute("UPDATE api_keys SET status = $1, changed_at = $2 WHERE id = $3", &values).await?;
    let action = match status {
        KeyStatus::Active => "key.activate",
        KeyStatus::Inactive => "key.inactivate",
    };
    let mut after = require(tx, reference).await?;
    if let Some(hash) = hash {
        seal(tx, binding, &mut after, &hash).await?;
    }
    record_change(tx, audit, action, Some(&before), Some(&after)).await?;
    Ok(after)
}

pub async fn update<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    reference: &str,
    expect: &KeyRequest,
    (request, audit): &(KeyRequest, Audit),
) -> Result<KeyRow, StoreError> {
    let before = require(tx, reference).await?;
    let hash = open_hash(binding, &before)?;
    if before.to_request() != *expect {
        return Err(StoreError::Conflict);
    }
    if expect == request {
        return Ok(before);
    }
    let KeyRequest { name, description, grants, expires_at } = request;
    let mut values = vec![before.id.into(), Value::from(name), description.into()];
    values.extend(grant_values(grants));
    values.extend([(*expires_at).into(), audit.at.into()]);
    tx.execute(UPDATE, &values).await?;
    let mut after = require(tx, reference).await?;
    seal(tx, binding, &mut after, &hash).await?;
    record_change(tx, audit, "key.update", Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Opens the sealed verifier of a key. A key that was disabled without a sealer still opens as the active key it was.
pub fn open_hash(binding: &OptionalSealer, row: &KeyRow) -> Result<Plaintext, StoreError> {
    let as_active = KeyRow { status: KeyStatus::Active, ..row.clone() };
    let opened = binding.open(SealedRow::Key(row));
    opened.map_or_else(|| binding.open_required(SealedRow::Key(&as_active), "key"), Ok)
}

async fn seal<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    row: &mut KeyRow,
    hash: &Plaintext,
) -> Result<(), StoreError> {
    let SealedValue { bytes, key_version } = binding.seal(tx, SealedRow::Key(row), hash).await?;
    (row.sealed_hash, row.key_version) = (bytes, key_version);
    Ok(())
}

pub async fn delete<T: Transaction>(
    tx: &mut T,
    reference: &str,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let before = require(tx, reference).await?;
    tx.execute("DELETE FROM api_keys WHERE id = $1", &[before.id.into()]).await?;
    record_change(tx, audit, "key.delete", Some(&before), None).await?;
    Ok(before)
}

pub async fn rotate<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    reference: &str,
    (new, old, audit): &(NewKey, OldKeyPolicy, Audit),
) -> Result<Rotation, StoreError> {
    let before = require(tx, reference).await?;
    if before.status != KeyStatus::Active || has_successor(tx, &before).await? {
        return Err(StoreError::Conflict);
    }
    let hash = binding.open_required(SealedRow::Key(&before), "key")?;
    let new = add(tx, binding, new, audit).await?;
    let values = |word: Value| [word, new.id.into(), audit.at.into(), before.id.into()];
    // Each statement names only the columns it changes: a new status revokes tokens, a grace period does not.
    match old {
        OldKeyPolicy::Inactivate => {
            let sql = "UPDATE api_keys SET status = $1, successor = $2, changed_at = $3 WHERE id = $4";
            tx.execute(sql, &values(KeyStatus::Inactive.as_str().into())).await?;
        }
        OldKeyPolicy::KeepUntil(end) => {
            let sql = "UPDATE api_keys SET grace_until = $1, successor = $2, changed_at = $3 WHERE id = $4";
            tx.execute(sql, &values((*end).into())).await?;
        }
    }
    let mut old = require(tx, reference).await?;
    seal(tx, binding, &mut old, &hash).await?;
    record_change(tx, audit, "key.create", None, Some(&new)).await?;
    record_change(tx, audit, "key.rotate", Some(&before), Some(&old)).await?;
    Ok(Rotation { old, new })
}

/// Whether the successor of a key exists. A successor that was deleted does not count.
async fn has_successor<T: Transaction>(tx: &mut T, row: &KeyRow) -> Result<bool, StoreError> {
    match row.successor {
        Some(id) => Ok(find(tx, &id.to_string()).await?.is_some()),
        None => Ok(false),
    }
}

/// The active keys whose grace period after a rotation was over at `at`.
pub async fn expired_grace<T: Transaction>(tx: &mut T, at: u64) -> Result<Vec<Uuid>, StoreError> {
    let sql = "SELECT id FROM api_keys WHERE status = 'active' AND grace_until <= $1 ORDER BY key_id";
    tx.query(sql, &[at.into()]).await?.into_iter().map(|mut row| row.uuid()).collect()
}

pub async fn end_grace<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    audit: &Audit,
) -> Result<Vec<Uuid>, StoreError> {
    let expired = expired_grace(tx, audit.at).await?;
    for id in &expired {
        set_status(tx, binding, &id.to_string(), KeyStatus::Inactive, audit).await?;
    }
    Ok(expired)
}

async fn add<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    key: &NewKey,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let mut values =
        vec![key.id.into(), Value::from(&key.key_id), (&key.name).into(), (&key.description).into()];
    values.extend(grant_values(&key.grants));
    // Sealed below, together with the columns as the table stores them.
    values.extend([Value::Blob(Vec::new()), key.expires_at.into(), audit.at.into()]);
    tx.execute(INSERT, &values).await?;
    // Read back within the transaction: a trigger sets the epoch.
    let mut row = require(tx, &key.key_id).await?;
    seal(tx, binding, &mut row, &key.hash).await?;
    Ok(row)
}

/// The columns from `role` to `quotas`.
fn grant_values(grants: &Grants) -> [Value; 7] {
    [
        grants.role.as_str().into(),
        json_list(grants.endpoints.as_ref()),
        json_list(grants.tools.as_ref()),
        grants.rate.map(|rate| rate.per_second).into(),
        grants.rate.map(|rate| rate.burst).into(),
        grants.concurrency.into(),
        grants.quotas.to_column(),
    ]
}

async fn require<T: Transaction>(tx: &mut T, reference: &str) -> Result<KeyRow, StoreError> {
    find(tx, reference).await?.ok_or(StoreError::NotFound("key"))
}

async fn record_change<T: Transaction>(
    tx: &mut T,
    audit: &Audit,
    action: &'static str,
    before: Option<&KeyRow>,
    after: Option<&KeyRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.key_id.clone()).unwrap_or_default();
    let (before, after) = (before.map(KeyRow::describe), after.map(KeyRow::describe));
    record(tx, audit, Change { action, kind: ObjectKind::Key, id, before, after }).await
}

const INSERT: &str = "INSERT INTO api_keys (id, key_id, name, description, role, endpoints, tools, rate_per_second, rate_burst, concurrency, \
     quotas, status, sealed_hash, key_version, expires_at, created_at, changed_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'active', $12, 0, $13, $14, $14)";

const UPDATE: &str = "UPDATE api_keys SET name = $2, description = $3, role = $4, endpoints = $5, tools = $6, rate_per_second = $7, \
     rate_burst = $8, concurrency = $9, quotas = $10, expires_at = $11, changed_at = $12 WHERE id = $1";
