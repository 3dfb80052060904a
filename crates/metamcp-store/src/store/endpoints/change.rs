//! Changes of endpoints, each in one transaction with its entry in the audit log.

use uuid::Uuid;

use super::row::{EndpointRow, EndpointServer, EndpointSpec, ToolOverride, ToolRule, find_by_id};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::error::StoreError;
use crate::store::row_sealer::{OptionalSealer, SealedRow};
use crate::store::sealed_value::Plaintext;
use crate::store::transaction::Transaction;
use crate::store::value::Value;
use crate::store::version::VersionMatch;

pub async fn insert<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    id: Uuid,
    spec: &EndpointSpec,
    audit: &Audit,
) -> Result<EndpointRow, StoreError> {
    // Sealed below, together with the columns as the table stores them.
    let unsealed = Value::Blob(Vec::new());
    let values = [id.into(), Value::from(&spec.name), spec.prefix.as_str().into(), audit.at.into(), unsealed];
    tx.execute(INSERT, &values).await?;
    add_servers(tx, id, spec).await?;
    let row = seal(tx, binding, id).await?;
    record_change(tx, audit, "endpoint.create", None, Some(&row)).await?;
    Ok(row)
}

pub async fn replace<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    id: Uuid,
    expect: VersionMatch,
    (spec, audit): &(EndpointSpec, Audit),
) -> Result<EndpointRow, StoreError> {
    let before = require(tx, id).await?;
    expect.check(before.version)?;
    if before.matches(spec) && binding.open(SealedRow::Endpoint(&before)).is_some() {
        return Ok(before);
    }
    let values = [
        Value::from(&spec.name),
        spec.prefix.as_str().into(),
        audit.at.into(),
        id.into(),
        before.version.into(),
    ];
    // Compares the version again, because a database shell does not take the lock.
    if tx.execute(UPDATE, &values).await? == 0 {
        return Err(StoreError::Conflict);
    }
    // Deletes their tools as well.
    tx.execute("DELETE FROM endpoint_servers WHERE endpoint_id = $1", &[id.into()]).await?;
    add_servers(tx, id, spec).await?;
    let after = seal(tx, binding, id).await?;
    record_change(tx, audit, "endpoint.replace", Some(&before), Some(&after)).await?;
    Ok(after)
}

pub async fn delete<T: Transaction>(
    tx: &mut T,
    id: Uuid,
    expect: VersionMatch,
    audit: &Audit,
) -> Result<EndpointRow, StoreError> {
    let before = require(tx, id).await?;
    expect.check(before.version)?;
    tx.execute("DELETE FROM endpoints WHERE id = $1", &[id.into()]).await?;
    record_change(tx, audit, "endpoint.delete", Some(&before), None).await?;
    Ok(before)
}

async fn require<T: Transaction>(tx: &mut T, id: Uuid) -> Result<EndpointRow, StoreError> {
    find_by_id(tx, id).await?.ok_or(StoreError::NotFound("endpoint"))
}

/// Seals an endpoint as the tables have it, and returns the row.
async fn seal<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    id: Uuid,
) -> Result<EndpointRow, StoreError> {
    let mut row = require(tx, id).await?;
    row.seal = binding.seal(tx, SealedRow::Endpoint(&row), &Plaintext::nothing()).await?;
    Ok(row)
}

/// The endpoints that contain a server and open, to be sealed again once the server is deleted. An altered
/// endpoint stays altered. Fails if it is unknown whether one was altered, so that the server is not deleted.
pub async fn with_server<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    server: Uuid,
) -> Result<Vec<Uuid>, StoreError> {
    let mut intact = Vec::new();
    for row in super::row::with_server(tx, server).await? {
        let binder = binding.binder()?;
        match binder.open_row(SealedRow::Endpoint(&row)) {
            Some(_) => intact.push(row.id),
            None if binder.has_version(row.seal.key_version) || row.seal.bytes.is_empty() => {}
            None => return Err(StoreError::Closed("endpoint of that server")),
        }
    }
    Ok(intact)
}

/// Seals endpoints again after a change of their tables.
pub async fn reseal_all<T: Transaction>(
    tx: &mut T,
    binding: &OptionalSealer,
    endpoints: Vec<Uuid>,
) -> Result<(), StoreError> {
    for id in endpoints {
        seal(tx, binding, id).await?;
    }
    Ok(())
}

async fn add_servers<T: Transaction>(tx: &mut T, id: Uuid, spec: &EndpointSpec) -> Result<(), StoreError> {
    for (position, server) in spec.servers.iter().enumerate() {
        let values = [id.into(), server.server_id.into(), Value::from(position as u64)];
        tx.execute(INSERT_SERVER, &values).await?;
        add_tools(tx, id, server).await?;
    }
    Ok(())
}

async fn add_tools<T: Transaction>(tx: &mut T, id: Uuid, server: &EndpointServer) -> Result<(), StoreError> {
    let globs = |rule, globs: &'_ [String]| -> Vec<_> {
        globs.iter().map(|glob| (rule, ToolOverride::pattern_only(glob))).collect()
    };
    let rules = globs(ToolRule::Allow, &server.allow)
        .into_iter()
        .chain(globs(ToolRule::Deny, &server.deny))
        .chain(server.overrides.iter().map(|rule_override| (ToolRule::Override, rule_override.clone())));
    for (position, (rule, rule_override)) in rules.enumerate() {
        let values = [
            id.into(),
            server.server_id.into(),
            rule.as_str().into(),
            Value::from(&rule_override.tool),
            Value::from(position as u64),
            rule_override.name.as_ref().into(),
            rule_override.title.as_ref().into(),
            rule_override.description.as_ref().into(),
            rule_override.annotations.as_ref().into(),
        ];
        tx.execute(INSERT_TOOL, &values).await?;
    }
    Ok(())
}

impl ToolOverride {
    /// An entry that overrides nothing: the pattern of a filter.
    fn pattern_only(pattern: &str) -> Self {
        Self { tool: pattern.to_owned(), name: None, title: None, description: None, annotations: None }
    }
}

async fn record_change<T: Transaction>(
    tx: &mut T,
    audit: &Audit,
    action: &'static str,
    before: Option<&EndpointRow>,
    after: Option<&EndpointRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.id.to_string()).unwrap_or_default();
    let (before, after) = (before.map(EndpointRow::describe), after.map(EndpointRow::describe));
    record(tx, audit, Change { action, kind: ObjectKind::Endpoint, id, before, after }).await
}

const INSERT: &str = "INSERT INTO endpoints (id, name, prefix_mode, version, created_at, changed_at, seal, key_version) \
                      VALUES ($1, $2, $3, 1, $4, $4, $5, 0)";

const UPDATE: &str = "UPDATE endpoints SET name = $1, prefix_mode = $2, version = version + 1, changed_at = $3 \
                      WHERE id = $4 AND version = $5";

const INSERT_SERVER: &str =
    "INSERT INTO endpoint_servers (endpoint_id, server_id, position) VALUES ($1, $2, $3)";

const INSERT_TOOL: &str = "INSERT INTO endpoint_tools (endpoint_id, server_id, kind, pattern, position, name, title, \
                           description, annotations) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
