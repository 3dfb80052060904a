//! The servers behind the gateway, as administration defines them.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::audit::{Audit, Change, ObjectKind, record};
use super::bound::{Binding, Bound, Plain};
use super::epochs::{self, Kind};
use super::page::{Paged, fetched, limit, paged};
use super::session::{Access, Session, query_one, transact};
use super::value::{Row, Value, words};
use super::{Match, Sealed, Store, StoreError};
use super::{endpoints, tool_pins};

words! {
    /// How a server is spoken to.
    ServerKind {
        /// Streamable HTTP.
        Http = "http",
        /// The transport of 2024-11-05.
        Sse = "sse",
        /// A child process.
        Stdio = "stdio",
    }
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerRow {
    /// Never changes.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// How it is spoken to.
    pub kind: ServerKind,
    /// Opaque here: address, command, limits. No secret is in it: it stands in the clear, in the audit log too.
    pub definition: Json,
    /// Opaque here: headers, environment, or nothing; bound to all of the above.
    pub secrets: Sealed,
    /// Moves with every change: the `ETag`.
    pub version: u64,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970.
    pub changed_at: u64,
}

/// What a server is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSpec {
    /// Unique; not empty.
    pub name: String,
    /// How it is spoken to.
    pub kind: ServerKind,
    /// See [`ServerRow::definition`].
    pub definition: Json,
    /// What becomes of the secrets.
    pub secrets: Secrets,
}

/// What a change does to sealed secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secrets {
    /// Those that are there, or none.
    Keep,
    /// These and no others, which may be none.
    Set(Plain),
}

/// All servers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Servers {
    /// The servers' epoch at that moment.
    pub epoch: u64,
    /// By name.
    pub rows: Vec<ServerRow>,
}

impl Store {
    /// All servers, and the epoch they show, read in one transaction. Cancel safe.
    pub async fn servers(&self) -> Result<Servers, StoreError> {
        transact!(self, Access::Read, |session| all(session))
    }

    /// Servers by name, beginning behind the one named `after`. Cancel safe.
    pub async fn server_page(
        &self,
        after: Option<String>,
        items: usize,
    ) -> Result<Paged<ServerRow, String>, StoreError> {
        let limit = limit(items);
        let rows = transact!(self, Access::Read, |session| page(session, after.as_deref(), limit))?;
        Ok(paged(rows, limit, |row| row.name.clone()))
    }

    /// One server, by its UUID or its name. Cancel safe.
    pub async fn server(&self, reference: &str) -> Result<Option<ServerRow>, StoreError> {
        let reference = reference.to_owned();
        transact!(self, Access::Read, |session| find(session, &reference))
    }

    /// Adds a server. [`StoreError::Exists`]: the name or the id is taken; [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_server(
        &self,
        id: Uuid,
        spec: ServerSpec,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| insert(session, &binding, id, &spec, &audit))
    }

    /// Makes a server what `spec` says; one that is so already keeps its version. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`], [`StoreError::Exists`], [`StoreError::Unbound`]; [`StoreError::Closed`]: its secrets are to be
    /// kept, and it does not open.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn replace_server(
        &self,
        id: Uuid,
        expect: Match,
        spec: ServerSpec,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        let (binding, by) = (self.binding.clone(), (spec, audit));
        transact!(self, Access::Administer, |session| replace(session, &binding, id, expect, &by))
    }

    /// Takes a server out, also of every endpoint, and gives what it was. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`]; [`StoreError::Unbound`], [`StoreError::Closed`]: an endpoint that has it cannot be sealed
    /// anew here.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn delete_server(
        &self,
        id: Uuid,
        expect: Match,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| delete(session, &binding, id, expect, &audit))
    }
}

impl ServerRow {
    /// Whether it is already what `spec` would make of it. `plain`: what is sealed in it; `None`: it does not open.
    pub fn is(&self, spec: &ServerSpec, plain: Option<&Plain>) -> bool {
        let secrets = match &spec.secrets {
            Secrets::Keep => plain.is_some(),
            Secrets::Set(wanted) => plain == Some(wanted),
        };
        secrets && (&self.name, self.kind, &self.definition) == (&spec.name, spec.kind, &spec.definition)
    }

    /// For the audit log: that there are secrets, not which.
    fn describe(&self, plain: Option<&Plain>) -> Json {
        json!({
            "name": self.name,
            "kind": self.kind.as_str(),
            "definition": self.definition,
            "secrets": plain.map(|plain| !plain.expose().is_empty()),
            "version": self.version,
        })
    }
}

async fn all<S: Session>(session: &mut S) -> Result<Servers, StoreError> {
    let epoch = epochs::of(session, Kind::Servers).await?;
    let sql = format!("SELECT {COLUMNS} FROM mcp_servers ORDER BY name");
    let rows = session.query(&sql, &[]).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Servers { epoch, rows })
}

async fn page<S: Session>(
    session: &mut S,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ServerRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM mcp_servers WHERE name > $1 ORDER BY name LIMIT $2");
    let values = [after.unwrap_or_default().into(), fetched(limit)];
    session.query(&sql, &values).await?.into_iter().map(read).collect()
}

/// A name may look like an id: the id counts first.
pub(super) async fn find<S: Session>(
    session: &mut S,
    reference: &str,
) -> Result<Option<ServerRow>, StoreError> {
    if let Ok(id) = Uuid::parse_str(reference)
        && let Some(row) = find_by(session, "id", id.into()).await?
    {
        return Ok(Some(row));
    }
    find_by(session, "name", reference.into()).await
}

async fn find_by<S: Session>(
    session: &mut S,
    column: &str,
    value: Value,
) -> Result<Option<ServerRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM mcp_servers WHERE {column} = $1");
    query_one(session, &sql, &[value]).await?.map(read).transpose()
}

async fn known<S: Session>(session: &mut S, id: Uuid) -> Result<ServerRow, StoreError> {
    find_by(session, "id", id.into()).await?.ok_or(StoreError::NotFound("server"))
}

async fn insert<S: Session>(
    session: &mut S,
    binding: &Binding,
    id: Uuid,
    spec: &ServerSpec,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let plain = match &spec.secrets {
        Secrets::Set(plain) => plain.clone(),
        Secrets::Keep => Plain::nothing(),
    };
    let values = [
        id.into(),
        Value::from(&spec.name),
        spec.kind.as_str().into(),
        (&spec.definition).into(),
        // Sealed below, with what the table makes of all this.
        Value::Blob(Vec::new()),
        audit.at.into(),
    ];
    session.execute(INSERT, &values).await?;
    let mut row = known(session, id).await?;
    row.secrets = binding.bind(session, Bound::Server(&row), &plain).await?;
    note(session, audit, "server.create", None, Some(row.describe(Some(&plain))), id).await?;
    Ok(row)
}

async fn replace<S: Session>(
    session: &mut S,
    binding: &Binding,
    id: Uuid,
    expect: Match,
    (spec, audit): &(ServerSpec, Audit),
) -> Result<ServerRow, StoreError> {
    let before = known(session, id).await?;
    expect.check(before.version)?;
    let was = binding.open(Bound::Server(&before));
    if before.is(spec, was.as_ref()) {
        return Ok(before);
    }
    let plain = match &spec.secrets {
        Secrets::Keep => binding.opened(Bound::Server(&before), "server")?,
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
    // The version once more: a person with a shell takes part in no lock of ours.
    if session.execute(UPDATE, &values).await? == 0 {
        return Err(StoreError::Conflict);
    }
    if before.name != spec.name {
        tool_pins::forget(session, &before.name).await?;
    }
    let mut after = known(session, id).await?;
    after.secrets = binding.bind(session, Bound::Server(&after), &plain).await?;
    let (told, now) = (before.describe(was.as_ref()), after.describe(Some(&plain)));
    note(session, audit, "server.replace", Some(told), Some(now), id).await?;
    Ok(after)
}

async fn delete<S: Session>(
    session: &mut S,
    binding: &Binding,
    id: Uuid,
    expect: Match,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let before = known(session, id).await?;
    expect.check(before.version)?;
    // They lose a server, and whoever has read them has to notice.
    let losing = endpoints::with_server(session, binding, id).await?;
    session.execute(TOUCH_ENDPOINTS, &[audit.at.into(), id.into()]).await?;
    session.execute("DELETE FROM mcp_servers WHERE id = $1", &[id.into()]).await?;
    tool_pins::forget(session, &before.name).await?;
    endpoints::bind_anew(session, binding, losing).await?;
    let was = binding.open(Bound::Server(&before));
    note(session, audit, "server.delete", Some(before.describe(was.as_ref())), None, id).await?;
    Ok(before)
}

async fn note<S: Session>(
    session: &mut S,
    audit: &Audit,
    action: &'static str,
    before: Option<Json>,
    after: Option<Json>,
    id: Uuid,
) -> Result<(), StoreError> {
    let id = id.to_string();
    record(session, audit, Change { action, kind: ObjectKind::Server, id, before, after }).await
}

fn read(mut row: Row) -> Result<ServerRow, StoreError> {
    let mut server = ServerRow {
        id: row.or(Uuid::nil(), Row::uuid),
        name: row.text()?,
        kind: row.or(ServerKind::Http, |row| row.word(ServerKind::parse)),
        definition: row.or(Json::Null, Row::json),
        secrets: Sealed { bytes: row.blob()?, key_version: row.or(0, Row::int) },
        version: row.or(0, Row::int),
        created_at: row.or(0, Row::int),
        changed_at: row.or(0, Row::int),
    };
    server.secrets = row.sealed(server.secrets);
    Ok(server)
}

const COLUMNS: &str =
    "id, name, kind, definition, sealed_secrets, key_version, version, created_at, changed_at";

const INSERT: &str = "INSERT INTO mcp_servers (id, name, kind, definition, sealed_secrets, key_version, version, \
                      created_at, changed_at) VALUES ($1, $2, $3, $4, $5, 0, 1, $6, $6)";

const UPDATE: &str = "UPDATE mcp_servers SET name = $1, kind = $2, definition = $3, version = version + 1, \
                      changed_at = $4 WHERE id = $5 AND version = $6";

const TOUCH_ENDPOINTS: &str = "UPDATE endpoints SET version = version + 1, changed_at = $1 \
                               WHERE id IN (SELECT endpoint_id FROM endpoint_servers WHERE server_id = $2)";
