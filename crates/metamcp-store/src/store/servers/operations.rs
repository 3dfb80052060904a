//! Reads and changes of servers, each in one transaction; changes with their entry in the audit log.

use serde_json::Value as Json;
use uuid::Uuid;

use super::row::{self, Secrets, ServerRow, ServerSpec, Servers, find, find_by};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::error::StoreError;
use crate::store::handle::{Store, transact};
use crate::store::page::{PagedRows, page_size, to_page};
use crate::store::row_sealer::{OptionalSealer, SealedRow};
use crate::store::sealed_value::Plaintext;
use crate::store::transaction::{AccessMode, Transaction};
use crate::store::value::Value;
use crate::store::version::VersionMatch;
use crate::store::{endpoints, tool_pins};

impl Store {
    /// All servers and their epoch, read in one transaction. Cancel safe.
    pub async fn servers(&self) -> Result<Servers, StoreError> {
        transact!(self, AccessMode::Read, |tx| row::all(tx))
    }

    /// A page of servers by name, starting after the one named `after`. Cancel safe.
    pub async fn server_page(
        &self,
        after: Option<String>,
        items: usize,
    ) -> Result<PagedRows<ServerRow, String>, StoreError> {
        let limit = page_size(items);
        let rows = transact!(self, AccessMode::Read, |tx| row::page(tx, after.as_deref(), limit))?;
        Ok(to_page(rows, limit, |row| row.name.clone()))
    }

    /// One server, by its UUID or its name. Cancel safe.
    pub async fn server(&self, reference: &str) -> Result<Option<ServerRow>, StoreError> {
        let reference = reference.to_owned();
        transact!(self, AccessMode::Read, |tx| find(tx, &reference))
    }

    /// Adds a server. [`StoreError::Exists`] when its name or id is taken; [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn insert_server(
        &self,
        id: Uuid,
        spec: ServerSpec,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| insert(tx, &binding, id, &spec, &audit))
    }

    /// Replaces a server by `spec`. A server that is the same already keeps its version.
    /// [`StoreError::NotFound`], [`StoreError::Conflict`], [`StoreError::Exists`], [`StoreError::Unbound`];
    /// [`StoreError::Closed`] when its secrets must be kept and the row does not open.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn replace_server(
        &self,
        id: Uuid,
        expect: VersionMatch,
        spec: ServerSpec,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        let (binding, change) = (self.binding.clone(), (spec, audit));
        transact!(self, AccessMode::Administer, |tx| replace(tx, &binding, id, expect, &change))
    }

    /// Deletes a server, also from every endpoint, and returns its last row. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`]; [`StoreError::Unbound`] or [`StoreError::Closed`] when an endpoint that
    /// contains the server cannot be sealed again.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn delete_server(
        &self,
        id: Uuid,
        expect: VersionMatch,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| delete(tx, &binding, id, expect, &audit))
    }
}

async fn require<T: Transaction>(tx: &mut T, id: Uuid) -> Result<ServerRow, StoreError> {
    find_by(tx, "id", id.into()).await?.ok_or(StoreError::NotFound("server"))
}

async fn insert<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    id: Uuid,
    spec: &ServerSpec,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let plain = match &spec.secrets {
        Secrets::Set(plain) => plain.clone(),
        Secrets::Keep => Plaintext::nothing(),
    };
    let values = [
        id.into(),
        Value::from(&spec.name),
        spec.kind.as_str().into(),
        (&spec.definition).into(),
        // Sealed below, together with the columns as the table stores them.
        Value::Blob(Vec::new()),
        audit.at.into(),
    ];
    tx.execute(INSERT, &values).await?;
    let mut row = require(tx, id).await?;
    row.secrets = binding.seal(tx, SealedRow::Server(&row), &plain).await?;
    record_change(tx, audit, "server.create", None, Some(row.describe(Some(&plain))), id).await?;
    Ok(row)
}

async fn replace<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    id: Uuid,
    expect: VersionMatch,
    (spec, audit): &(ServerSpec, Audit),
) -> Result<ServerRow, StoreError> {
    let before = require(tx, id).await?;
    expect.check(before.version)?;
    let old_plain = binding.open(SealedRow::Server(&before));
    if before.matches(spec, old_plain.as_ref()) {
        return Ok(before);
    }
    let plain = match &spec.secrets {
        Secrets::Keep => binding.open_required(SealedRow::Server(&before), "server")?,
        Secrets::Set(plain) => plain.clone(),
    };
    let values = [
        Value::from(&spec.name),
        spec.kind.as_str().into(),
        (&spec.definition).into(),
        audit.at.into(),
        id.into(),
        before.version.into(),
    ];
    // Compares the version again, because a database shell does not take the lock.
    if tx.execute(UPDATE, &values).await? == 0 {
        return Err(StoreError::Conflict);
    }
    if before.name != spec.name {
        tool_pins::delete(tx, &before.name).await?;
    }
    let mut after = require(tx, id).await?;
    after.secrets = binding.seal(tx, SealedRow::Server(&after), &plain).await?;
    let (old, new) = (before.describe(old_plain.as_ref()), after.describe(Some(&plain)));
    record_change(tx, audit, "server.replace", Some(old), Some(new), id).await?;
    Ok(after)
}

async fn delete<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    id: Uuid,
    expect: VersionMatch,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let before = require(tx, id).await?;
    expect.check(before.version)?;
    // The endpoints lose a server: their version must change.
    let affected = endpoints::with_server(tx, binding, id).await?;
    tx.execute(TOUCH_ENDPOINTS, &[audit.at.into(), id.into()]).await?;
    tx.execute("DELETE FROM mcp_servers WHERE id = $1", &[id.into()]).await?;
    tool_pins::delete(tx, &before.name).await?;
    endpoints::reseal_all(tx, binding, affected).await?;
    let old_plain = binding.open(SealedRow::Server(&before));
    record_change(tx, audit, "server.delete", Some(before.describe(old_plain.as_ref())), None, id).await?;
    Ok(before)
}

async fn record_change<T: Transaction>(
    tx: &mut T,
    audit: &Audit,
    action: &'static str,
    before: Option<Json>,
    after: Option<Json>,
    id: Uuid,
) -> Result<(), StoreError> {
    let id = id.to_string();
    record(tx, audit, Change { action, kind: ObjectKind::Server, id, before, after }).await
}

const INSERT: &str = "INSERT INTO mcp_servers (id, name, kind, definition, sealed_secrets, key_version, version, \
                      created_at, changed_at) VALUES ($1, $2, $3, $4, $5, 0, 1, $6, $6)";

const UPDATE: &str = "UPDATE mcp_servers SET name = $1, kind = $2, definition = $3, version = version + 1, \
                      changed_at = $4 WHERE id = $5 AND version = $6";

const TOUCH_ENDPOINTS: &str = "UPDATE endpoints SET version = version + 1, changed_at = $1 \
                               WHERE id IN (SELECT endpoint_id FROM endpoint_servers WHERE server_id = $2)";
