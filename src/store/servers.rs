//! The servers behind the gateway, as administration defines them.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::audit::{Audit, Change, ObjectKind, record};
use super::epochs::{self, Kind};
use super::page::{Paged, fetched, limit, paged};
use super::session::{Access, Session, query_one, transact};
use super::value::{Row, Value, words};
use super::{Match, Sealed, Store, StoreError};

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
    /// Opaque here: headers, environment.
    pub secrets: Option<Sealed>,
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
    /// These and no others.
    Set(Sealed),
    /// None.
    Clear,
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

    /// Adds a server. [`StoreError::Exists`]: the name or the id is taken.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_server(
        &self,
        id: Uuid,
        spec: ServerSpec,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        transact!(self, Access::Administer, |session| insert(session, id, &spec, &audit))
    }

    /// Makes a server what `spec` says; one that is so already keeps its version. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`], [`StoreError::Exists`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn replace_server(
        &self,
        id: Uuid,
        expect: Match,
        spec: ServerSpec,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        transact!(self, Access::Administer, |session| replace(session, id, expect, &spec, &audit))
    }

    /// Takes a server out, also of every endpoint, and gives what it was. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn delete_server(
        &self,
        id: Uuid,
        expect: Match,
        audit: Audit,
    ) -> Result<ServerRow, StoreError> {
        transact!(self, Access::Administer, |session| delete(session, id, expect, &audit))
    }
}

impl ServerRow {
    /// Whether it is already what `spec` would make of it.
    pub fn is(&self, spec: &ServerSpec) -> bool {
        let secrets = match &spec.secrets {
            Secrets::Keep => true,
            Secrets::Clear => self.secrets.is_none(),
            // Sealed anew it looks different even where it is the same.
            Secrets::Set(sealed) => self.secrets.as_ref() == Some(sealed),
        };
        secrets && (&self.name, self.kind, &self.definition) == (&spec.name, spec.kind, &spec.definition)
    }

    /// For the audit log: that there are secrets, not which.
    fn describe(&self) -> Json {
        json!({
            "name": self.name,
            "kind": self.kind.as_str(),
            "definition": self.definition,
            "secrets": self.secrets.is_some(),
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
async fn find<S: Session>(session: &mut S, reference: &str) -> Result<Option<ServerRow>, StoreError> {
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
    id: Uuid,
    spec: &ServerSpec,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let secrets = match &spec.secrets {
        Secrets::Set(sealed) => Some(sealed),
        Secrets::Keep | Secrets::Clear => None,
    };
    let values = [
        id.into(),
        Value::from(&spec.name),
        spec.kind.as_str().into(),
        (&spec.definition).into(),
        secrets.map(|sealed| sealed.bytes.as_slice()).into(),
        secrets.map(|sealed| sealed.key_version).into(),
        audit.at.into(),
    ];
    session.execute(INSERT, &values).await?;
    let row = known(session, id).await?;
    note(session, audit, "server.create", None, Some(&row)).await?;
    Ok(row)
}

async fn replace<S: Session>(
    session: &mut S,
    id: Uuid,
    expect: Match,
    spec: &ServerSpec,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let before = known(session, id).await?;
    expect.check(before.version)?;
    if before.is(spec) {
        return Ok(before);
    }
    let secrets = match &spec.secrets {
        Secrets::Keep => before.secrets.as_ref(),
        Secrets::Set(sealed) => Some(sealed),
        Secrets::Clear => None,
    };
    let values = [
        Value::from(&spec.name),
        spec.kind.as_str().into(),
        (&spec.definition).into(),
        secrets.map(|sealed| sealed.bytes.as_slice()).into(),
        secrets.map(|sealed| sealed.key_version).into(),
        audit.at.into(),
        id.into(),
        before.version.into(),
    ];
    // The version once more: a person with a shell takes part in no lock of ours.
    if session.execute(UPDATE, &values).await? == 0 {
        return Err(StoreError::Conflict);
    }
    let after = known(session, id).await?;
    note(session, audit, "server.replace", Some(&before), Some(&after)).await?;
    Ok(after)
}

async fn delete<S: Session>(
    session: &mut S,
    id: Uuid,
    expect: Match,
    audit: &Audit,
) -> Result<ServerRow, StoreError> {
    let before = known(session, id).await?;
    expect.check(before.version)?;
    // They lose a server, and whoever has read them has to notice.
    session.execute(TOUCH_ENDPOINTS, &[audit.at.into(), id.into()]).await?;
    session.execute("DELETE FROM mcp_servers WHERE id = $1", &[id.into()]).await?;
    note(session, audit, "server.delete", Some(&before), None).await?;
    Ok(before)
}

async fn note<S: Session>(
    session: &mut S,
    audit: &Audit,
    action: &'static str,
    before: Option<&ServerRow>,
    after: Option<&ServerRow>,
) -> Result<(), StoreError> {
    let id = after.or(before).map(|row| row.id.to_string()).unwrap_or_default();
    let (before, after) = (before.map(ServerRow::describe), after.map(ServerRow::describe));
    record(session, audit, Change { action, kind: ObjectKind::Server, id, before, after }).await
}

fn read(mut row: Row) -> Result<ServerRow, StoreError> {
    Ok(ServerRow {
        id: row.uuid()?,
        name: row.text()?,
        kind: row.word(ServerKind::parse)?,
        definition: row.json()?,
        secrets: match (row.optional_blob()?, row.optional_int()?) {
            (Some(bytes), Some(key_version)) => Some(Sealed { bytes, key_version }),
            _ => None,
        },
        version: row.int()?,
        created_at: row.int()?,
        changed_at: row.int()?,
    })
}

const COLUMNS: &str =
    "id, name, kind, definition, sealed_secrets, key_version, version, created_at, changed_at";

const INSERT: &str = "INSERT INTO mcp_servers (id, name, kind, definition, sealed_secrets, key_version, version, \
                      created_at, changed_at) VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $7)";

const UPDATE: &str = "UPDATE mcp_servers SET name = $1, kind = $2, definition = $3, sealed_secrets = $4, \
                      key_version = $5, version = version + 1, changed_at = $6 WHERE id = $7 AND version = $8";

const TOUCH_ENDPOINTS: &str = "UPDATE endpoints SET version = version + 1, changed_at = $1 \
                               WHERE id IN (SELECT endpoint_id FROM endpoint_servers WHERE server_id = $2)";
