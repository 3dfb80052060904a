//! What is done to keys, each in one transaction with its entry in the audit log.

use uuid::Uuid;

use super::row::{KeyRow, KeyStatus, NewKey, find};
use super::{Predecessor, Rotation};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::bound::Binding;
use crate::store::session::Session;
use crate::store::value::{Value, list};
use crate::store::{Bound, Plain, Sealed, StoreError};

pub async fn insert<S: Session>(
    session: &mut S,
    binding: &Binding,
    key: &NewKey,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let row = add(session, binding, key, audit).await?;
    note(session, audit, "key.create", None, Some(&row)).await?;
    Ok(row)
}

pub async fn insert_first<S: Session>(
    session: &mut S,
    binding: &Binding,
    key: &NewKey,
    audit: &Audit,
) -> Result<Option<KeyRow>, StoreError> {
    if !session.query("SELECT id FROM api_keys LIMIT 1", &[]).await?.is_empty() {
        return Ok(None);
    }
    insert(session, binding, key, audit).await.map(Some)
}

pub async fn set_status<S: Session>(
    session: &mut S,
    binding: &Binding,
    reference: &str,
    status: KeyStatus,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let before = known(session, reference).await?;
    let hash =
        if status == KeyStatus::Active { Some(hash(binding, &before)?) } else { open(binding, &before) };
    if before.status == status {
        return Ok(before);
    }
    let values = [status.as_str().into(), audit.at.into(), before.id.into()];
    session.execute("UPDATE api_keys SET status = $1, changed_at = $2 WHERE id = $3", &values).await?;
    let action = match status {
        KeyStatus::Active => "key.activate",
        KeyStatus::Inactive => "key.inactivate",
    };
    let mut after = known(session, reference).await?;
    if let Some(hash) = hash {
        bind(session, binding, &mut after, &hash).await?;
    }
    note(session, audit, action, Some(&before), Some(&after)).await?;
    Ok(after)
}

fn open(binding: &Binding, row: &KeyRow) -> Option<Plain> {
    binding.open(Bound::Key(row))
}

/// One that was switched off without a binder is what it was before that.
pub fn hash(binding: &Binding, row: &KeyRow) -> Result<Plain, StoreError> {
    let on = KeyRow { status: KeyStatus::Active, ..row.clone() };
    open(binding, row).map_or_else(|| binding.opened(Bound::Key(&on), "key"), Ok)
}

async fn bind<S: Session>(
    session: &mut S,
    binding: &Binding,
    row: &mut KeyRow,
    hash: &Plain,
) -> Result<(), StoreError> {
    let Sealed { bytes, key_version } = binding.bind(session, Bound::Key(row), hash).await?;
    (row.sealed_hash, row.key_version) = (bytes, key_version);
    Ok(())
}

pub async fn delete<S: Session>(
    session: &mut S,
    reference: &str,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let before = known(session, reference).await?;
    session.execute("DELETE FROM api_keys WHERE id = $1", &[before.id.into()]).await?;
    note(session, audit, "key.delete", Some(&before), None).await?;
    Ok(before)
}

pub async fn rotate<S: Session>(
    session: &mut S,
    binding: &Binding,
    reference: &str,
    (new, old, audit): &(NewKey, Predecessor, Audit),
) -> Result<Rotation, StoreError> {
    let before = known(session, reference).await?;
    if before.status != KeyStatus::Active || has_successor(session, &before).await? {
        return Err(StoreError::Conflict);
    }
    let hash = binding.opened(Bound::Key(&before), "key")?;
    let new = add(session, binding, new, audit).await?;
    let values = |word: Value| [word, new.id.into(), audit.at.into(), before.id.into()];
    // Each names the columns it changes and no other: the status takes back what was proven, the grace does not.
    match old {
        Predecessor::Inactivate => {
            let sql = "UPDATE api_keys SET status = $1, successor = $2, changed_at = $3 WHERE id = $4";
            session.execute(sql, &values(KeyStatus::Inactive.as_str().into())).await?;
        }
        Predecessor::KeepUntil(end) => {
            let sql = "UPDATE api_keys SET grace_until = $1, successor = $2, changed_at = $3 WHERE id = $4";
            session.execute(sql, &values((*end).into())).await?;
        }
    }
    let mut old = known(session, reference).await?;
    bind(session, binding, &mut old, &hash).await?;
    note(session, audit, "key.create", None, Some(&new)).await?;
    note(session, audit, "key.rotate", Some(&before), Some(&old)).await?;
    Ok(Rotation { old, new })
}

/// One that was deleted again is none.
async fn has_successor<S: Session>(session: &mut S, row: &KeyRow) -> Result<bool, StoreError> {
    match row.successor {
        Some(id) => Ok(find(session, &id.to_string()).await?.is_some()),
        None => Ok(false),
    }
}

/// The rotated keys that are still on though their grace was over at `at`.
pub async fn over<S: Session>(session: &mut S, at: u64) -> Result<Vec<Uuid>, StoreError> {
    let sql = "SELECT id FROM api_keys WHERE status = 'active' AND grace_until <= $1 ORDER BY key_id";
    session.query(sql, &[at.into()]).await?.into_iter().map(|mut row| row.uuid()).collect()
}

pub async fn end_grace<S: Session>(
    session: &mut S,
    binding: &Binding,
    audit: &Audit,
) -> Result<Vec<Uuid>, StoreError> {
    let over = over(session, audit.at).await?;
    for id in &over {
        set_status(session, binding, &id.to_string(), KeyStatus::Inactive, audit).await?;
    }
    Ok(over)
}

async fn add<S: Session>(
    session: &mut S,
    binding: &Binding,
    key: &NewKey,
    audit: &Audit,
) -> Result<KeyRow, StoreError> {
    let grants = &key.grants;
    let values = [
        key.id.into(),
        Value::from(&key.key_id),
        (&key.name).into(),
        (&key.description).into(),
        grants.role.as_str().into(),
        list(grants.endpoints.as_ref()),
        list(grants.tools.as_ref()),
        grants.rate.map(|rate| rate.per_second).into(),
        grants.rate.map(|rate| rate.burst).into(),
        grants.concurrency.into(),
        // Sealed below, with what the table makes of all this.
        Value::Blob(Vec::new()),
        key.expires_at.into(),
        audit.at.into(),
    ];
    session.execute(INSERT, &values).await?;
    // Read back within the transaction: the epoch was set by a trigger.
    let mut row = known(session, &key.key_id).await?;
    bind(session, binding, &mut row, &key.hash).await?;
    Ok(row)
}

async fn known<S: Session>(session: &mut S, reference: &str) -> Result<KeyRow, StoreError> {
    find(session, reference).await?.ok_or(StoreError::NotFound("key"))
}

async fn note<S: Session>(
    session: &mut S,
    audit: &Audit,
    action: &'static str,
    before: Option<&KeyRow>,
    after: Option<&KeyRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.key_id.clone()).unwrap_or_default();
    let (before, after) = (before.map(KeyRow::describe), after.map(KeyRow::describe));
    record(session, audit, Change { action, kind: ObjectKind::Key, id, before, after }).await
}

const INSERT: &str = "INSERT INTO api_keys (id, key_id, name, description, role, endpoints, tools, rate_per_second, \
                      rate_burst, concurrency, status, sealed_hash, key_version, expires_at, created_at, changed_at) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'active', $11, 0, $12, $13, $13)";
