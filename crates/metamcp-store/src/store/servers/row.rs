//! Rows of servers, and reading them.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::store::epochs::{self, EpochKind};
use crate::store::error::StoreError;
use crate::store::page::fetch_limit;
use crate::store::sealed_value::{Plaintext, SealedValue};
use crate::store::transaction::{Transaction, query_one};
use crate::store::value::{Row, Value, column_enum};

column_enum! {
    /// The transport of a server.
    ServerKind {
        Http = "http",
        /// HTTP with SSE, the transport of revision 2024-11-05.
        Sse = "sse",
        Stdio = "stdio",
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerRow {
    pub id: Uuid,
    pub name: String,
    pub kind: ServerKind,
    /// Opaque to the store: address, command, limits. Holds no secrets: it is stored in the clear, and copied to the audit log.
    pub definition: Json,
    /// Headers and environment, or nothing, sealed together with all of the above.
    pub secrets: SealedValue,
    /// Rises with every change; used as the `ETag`.
    pub version: u64,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds.
    pub changed_at: u64,
}

/// The definition of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSpec {
    pub name: String,
    pub kind: ServerKind,
    pub definition: Json,
    pub secrets: Secrets,
}

/// What a change does to the secrets of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secrets {
    /// Keeps the present ones, if any.
    Keep,
    /// Replaces them by these, which may be empty.
    Set(Plaintext),
}

/// All servers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Servers {
    /// The epoch of the servers at that moment.
    pub epoch: u64,
    pub rows: Vec<ServerRow>,
}

impl ServerRow {
    /// Whether the server is defined by `spec` already. `plain` is its opened plaintext; `None` when it does not open.
    pub fn matches(&self, spec: &ServerSpec, plain: Option<&Plaintext>) -> bool {
        let secrets = match &spec.secrets {
            Secrets::Keep => plain.is_some(),
            Secrets::Set(new) => plain == Some(new),
        };
        secrets && (&self.name, self.kind, &self.definition) == (&spec.name, spec.kind, &spec.definition)
    }

    /// The row for the audit log: whether there are secrets, but not which.
    pub(super) fn describe(&self, plain: Option<&Plaintext>) -> Json {
        json!({
            "name": self.name,
            "kind": self.kind.as_str(),
            "definition": self.definition,
            "secrets": plain.map(|plain| !plain.expose().is_empty()),
            "version": self.version,
        })
    }
}

pub async fn all<T: Transaction>(tx: &mut T) -> Result<Servers, StoreError> {
    let epoch = epochs::read_one(tx, EpochKind::Servers).await?;
    let sql = format!("SELECT {COLUMNS} FROM mcp_servers ORDER BY name");
    let rows = tx.query(&sql, &[]).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Servers { epoch, rows })
}

pub async fn page<T: Transaction>(
    tx: &mut T,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ServerRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM mcp_servers WHERE name > $1 ORDER BY name LIMIT $2");
    let values = [after.unwrap_or_default().into(), fetch_limit(limit)];
    tx.query(&sql, &values).await?.into_iter().map(read).collect()
}

/// Finds a server by id or name. A name may look like an id: the id takes precedence.
pub async fn find<T: Transaction>(tx: &mut T, reference: &str) -> Result<Option<ServerRow>, StoreError> {
    if let Ok(id) = Uuid::parse_str(reference)
        && let Some(row) = find_by(tx, "id", id.into()).await?
    {
        return Ok(Some(row));
    }
    find_by(tx, "name", reference.into()).await
}

pub async fn find_by<T: Transaction>(
    tx: &mut T,
    column: &str,
    value: Value,
) -> Result<Option<ServerRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM mcp_servers WHERE {column} = $1");
    query_one(tx, &sql, &[value]).await?.map(read).transpose()
}

fn read(mut row: Row) -> Result<ServerRow, StoreError> {
    let mut server = ServerRow {
        id: row.field_or(Uuid::nil(), Row::uuid),
        name: row.text()?,
        kind: row.field_or(ServerKind::Http, |row| row.word(ServerKind::parse)),
        definition: row.field_or(Json::Null, Row::json),
        secrets: SealedValue { bytes: row.blob()?, key_version: row.field_or(0, Row::int) },
        version: row.field_or(0, Row::int),
        created_at: row.field_or(0, Row::int),
        changed_at: row.field_or(0, Row::int),
    };
    server.secrets = row.seal_if_intact(server.secrets);
    Ok(server)
}

const COLUMNS: &str =
    "id, name, kind, definition, sealed_secrets, key_version, version, created_at, changed_at";
