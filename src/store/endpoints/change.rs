//! What is done to endpoints, each in one transaction with its entry in the audit log.

use uuid::Uuid;

use super::row::{EndpointRow, EndpointServer, EndpointSpec, ToolOverride, ToolRule, find_by_id};
use crate::store::audit::{Audit, Change, ObjectKind, record};
use crate::store::bound::Binding;
use crate::store::session::Session;
use crate::store::value::Value;
use crate::store::{Bound, Match, Plain, StoreError};

pub async fn insert<S: Session>(
    session: &mut S,
    binding: &Binding,
    id: Uuid,
    spec: &EndpointSpec,
    audit: &Audit,
) -> Result<EndpointRow, StoreError> {
    // Sealed below, with what the tables make of all this.
    let unsealed = Value::Blob(Vec::new());
    let values = [id.into(), Value::from(&spec.name), spec.prefix.as_str().into(), audit.at.into(), unsealed];
    session.execute(INSERT, &values).await?;
    add_servers(session, id, spec).await?;
    let row = bound(session, binding, id).await?;
    note(session, audit, "endpoint.create", None, Some(&row)).await?;
    Ok(row)
}

pub async fn replace<S: Session>(
    session: &mut S,
    binding: &Binding,
    id: Uuid,
    expect: Match,
    (spec, audit): &(EndpointSpec, Audit),
) -> Result<EndpointRow, StoreError> {
    let before = known(session, id).await?;
    expect.check(before.version)?;
    if before.is(spec) && binding.open(Bound::Endpoint(&before)).is_some() {
        return Ok(before);
    }
    let values = [
        Value::from(&spec.name),
        spec.prefix.as_str().into(),
        audit.at.into(),
        id.into(),
        before.version.into(),
    ];
    // The version once more: a person with a shell takes part in no lock of ours.
    if session.execute(UPDATE, &values).await? == 0 {
        return Err(StoreError::Conflict);
    }
    // Their tools go with them.
    session.execute("DELETE FROM endpoint_servers WHERE endpoint_id = $1", &[id.into()]).await?;
    add_servers(session, id, spec).await?;
    let after = bound(session, binding, id).await?;
    note(session, audit, "endpoint.replace", Some(&before), Some(&after)).await?;
    Ok(after)
}

pub async fn delete<S: Session>(
    session: &mut S,
    id: Uuid,
    expect: Match,
    audit: &Audit,
) -> Result<EndpointRow, StoreError> {
    let before = known(session, id).await?;
    expect.check(before.version)?;
    session.execute("DELETE FROM endpoints WHERE id = $1", &[id.into()]).await?;
    note(session, audit, "endpoint.delete", Some(&before), None).await?;
    Ok(before)
}

async fn known<S: Session>(session: &mut S, id: Uuid) -> Result<EndpointRow, StoreError> {
    find_by_id(session, id).await?.ok_or(StoreError::NotFound("endpoint"))
}

/// Sealed as the tables have it.
async fn bound<S: Session>(session: &mut S, binding: &Binding, id: Uuid) -> Result<EndpointRow, StoreError> {
    let mut row = known(session, id).await?;
    row.seal = binding.bind(session, Bound::Endpoint(&row), &Plain::nothing()).await?;
    Ok(row)
}

/// The endpoints that have a server and are what was sealed: to be sealed anew once it is gone. One that was altered stays
/// so; where one cannot be told from the other, the server stays.
pub async fn with_server<S: Session>(
    session: &mut S,
    binding: &Binding,
    server: Uuid,
) -> Result<Vec<Uuid>, StoreError> {
    let mut whole = Vec::new();
    for row in super::row::with_server(session, server).await? {
        let binder = binding.binder()?;
        match binder.open_row(Bound::Endpoint(&row)) {
            Some(_) => whole.push(row.id),
            None if binder.has_version(row.seal.key_version) || row.seal.bytes.is_empty() => {}
            None => return Err(StoreError::Closed("endpoint of that server")),
        }
    }
    Ok(whole)
}

/// What [`with_server`] gave, once that has gone.
pub async fn bind_anew<S: Session>(
    session: &mut S,
    binding: &Binding,
    endpoints: Vec<Uuid>,
) -> Result<(), StoreError> {
    for id in endpoints {
        bound(session, binding, id).await?;
    }
    Ok(())
}

async fn add_servers<S: Session>(session: &mut S, id: Uuid, spec: &EndpointSpec) -> Result<(), StoreError> {
    for (position, server) in spec.servers.iter().enumerate() {
        let values = [id.into(), server.server_id.into(), Value::from(position as u64)];
        session.execute(INSERT_SERVER, &values).await?;
        add_tools(session, id, server).await?;
    }
    Ok(())
}

async fn add_tools<S: Session>(session: &mut S, id: Uuid, server: &EndpointServer) -> Result<(), StoreError> {
    let globs = |rule, globs: &'_ [String]| -> Vec<_> {
        globs.iter().map(|glob| (rule, ToolOverride::none(glob))).collect()
    };
    let rules = globs(ToolRule::Allow, &server.allow)
        .into_iter()
        .chain(globs(ToolRule::Deny, &server.deny))
        .chain(server.overrides.iter().map(|instead| (ToolRule::Override, instead.clone())));
    for (position, (rule, instead)) in rules.enumerate() {
        let values = [
            id.into(),
            server.server_id.into(),
            rule.as_str().into(),
            Value::from(&instead.tool),
            Value::from(position as u64),
            instead.name.as_ref().into(),
            instead.title.as_ref().into(),
            instead.description.as_ref().into(),
            instead.annotations.as_ref().into(),
        ];
        session.execute(INSERT_TOOL, &values).await?;
    }
    Ok(())
}

impl ToolOverride {
    /// Nothing instead: the pattern of a filter.
    fn none(pattern: &str) -> Self {
        Self { tool: pattern.to_owned(), name: None, title: None, description: None, annotations: None }
    }
}

async fn note<S: Session>(
    session: &mut S,
    audit: &Audit,
    action: &'static str,
    before: Option<&EndpointRow>,
    after: Option<&EndpointRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.id.to_string()).unwrap_or_default();
    let (before, after) = (before.map(EndpointRow::describe), after.map(EndpointRow::describe));
    record(session, audit, Change { action, kind: ObjectKind::Endpoint, id, before, after }).await
}

const INSERT: &str = "INSERT INTO endpoints (id, name, prefix_mode, version, created_at, changed_at, seal, key_version) \
                      VALUES ($1, $2, $3, 1, $4, $4, $5, 0)";

const UPDATE: &str = "UPDATE endpoints SET name = $1, prefix_mode = $2, version = version + 1, changed_at = $3 \
                      WHERE id = $4 AND version = $5";

const INSERT_SERVER: &str =
    "INSERT INTO endpoint_servers (endpoint_id, server_id, position) VALUES ($1, $2, $3)";

const INSERT_TOOL: &str = "INSERT INTO endpoint_tools (endpoint_id, server_id, kind, pattern, position, name, title, \
                           description, annotations) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
