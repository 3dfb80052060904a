//! Rows of endpoints: the endpoint, its servers in order, and the filters and overrides of their tools.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::store::epochs::{self, EpochKind};
use crate::store::error::StoreError;
use crate::store::page::fetch_limit;
use crate::store::sealed_value::SealedValue;
use crate::store::transaction::Transaction;
use crate::store::value::{Row, Value, column_enum};

column_enum! {
    /// How an endpoint names the tools of its servers.
    PrefixMode {
        /// Every name is prefixed: `{server}__{tool}`.
        Always = "always",
        /// As the server names them.
        Never = "never",
    }
}

column_enum! {
    /// The kinds of rows in `endpoint_tools`.
    ToolRule {
        /// Shows only tools that match one of these patterns.
        Allow = "allow",
        /// Hides tools that match one of these patterns.
        Deny = "deny",
        /// Replaces the name, title, description or annotations of a tool.
        Override = "override",
    }
}

/// One endpoint with its servers, filters and overrides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointRow {
    pub id: Uuid,
    pub name: String,
    pub prefix: PrefixMode,
    /// In the order in condition their tools are listed.
    pub servers: Vec<EndpointServer>,
    /// Rises with every change of the endpoint; used as its `ETag`.
    pub version: u64,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds.
    pub changed_at: u64,
    /// An empty plaintext, sealed together with all of the above except version and times.
    pub seal: SealedValue,
}

/// The definition of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    pub name: String,
    pub prefix: PrefixMode,
    /// In the order in condition their tools are listed, each server once.
    pub servers: Vec<EndpointServer>,
}

/// A server of an endpoint, and how the endpoint shows its tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointServer {
    pub server_id: Uuid,
    /// Globs over the server's own tool names; empty allows every tool.
    pub allow: Vec<String>,
    /// Globs over the server's own tool names. They take precedence over `allow`.
    pub deny: Vec<String>,
    /// At most one for each tool.
    pub overrides: Vec<ToolOverride>,
}

/// Replaces properties of a tool. `None` leaves the server's own value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolOverride {
    /// The server's own name of the tool.
    pub tool: String,
    pub name: Option<String>,
    pub title: Option<String>,
    pub description: Option<String>,
    pub annotations: Option<Json>,
}

/// All endpoints at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoints {
    /// The epoch of the endpoints at that moment.
    pub epoch: u64,
    pub rows: Vec<EndpointRow>,
}

impl EndpointServer {
    /// A server with all its tools, unchanged.
    pub fn unfiltered(server_id: Uuid) -> Self {
        Self { server_id, allow: Vec::new(), deny: Vec::new(), overrides: Vec::new() }
    }
}

impl EndpointRow {
    /// Whether the endpoint is defined by `spec` already.
    pub(super) fn matches(&self, spec: &EndpointSpec) -> bool {
        (&self.name, self.prefix, &self.servers) == (&spec.name, spec.prefix, &spec.servers)
    }

    /// The row for the audit log.
    pub(super) fn describe(&self) -> Json {
        json!({
            "name": self.name,
            "prefix": self.prefix.as_str(),
            "servers": self.servers,
            "version": self.version,
        })
    }
}

pub async fn all<T: Transaction>(tx: &mut T) -> Result<Endpoints, StoreError> {
    let epoch = epochs::read_one(tx, EpochKind::Endpoints).await?;
    Ok(Endpoints { epoch, rows: load(tx, "name >= '' ORDER BY name", &[]).await? })
}

pub async fn page<T: Transaction>(
    tx: &mut T,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<EndpointRow>, StoreError> {
    let values = [after.unwrap_or_default().into(), fetch_limit(limit)];
    load(tx, "name > $1 ORDER BY name LIMIT $2", &values).await
}

/// Finds an endpoint by id or name. A name may look like an id: the id takes precedence.
pub async fn find<T: Transaction>(tx: &mut T, reference: &str) -> Result<Option<EndpointRow>, StoreError> {
    if let Ok(id) = Uuid::parse_str(reference)
        && let Some(row) = find_by_id(tx, id).await?
    {
        return Ok(Some(row));
    }
    find_by_name(tx, reference).await
}

pub async fn find_by_id<T: Transaction>(tx: &mut T, id: Uuid) -> Result<Option<EndpointRow>, StoreError> {
    Ok(load(tx, "id = $1", &[id.into()]).await?.into_iter().next())
}

/// The endpoints that contain a server.
pub async fn with_server<T: Transaction>(tx: &mut T, id: Uuid) -> Result<Vec<EndpointRow>, StoreError> {
    load(tx, "id IN (SELECT endpoint_id FROM endpoint_servers WHERE server_id = $1)", &[id.into()]).await
}

async fn find_by_name<T: Transaction>(tx: &mut T, name: &str) -> Result<Option<EndpointRow>, StoreError> {
    Ok(load(tx, "name = $1", &[name.into()]).await?.into_iter().next())
}

/// Loads the endpoints that match `condition`, a constant of this module and never a text from elsewhere. Each is assembled
/// from three tables.
async fn load<T: Transaction>(
    tx: &mut T,
    condition: &str,
    values: &[Value],
) -> Result<Vec<EndpointRow>, StoreError> {
    let endpoints = format!(
        "SELECT id, name, prefix_mode, version, created_at, changed_at, seal, key_version FROM endpoints WHERE {condition}"
    );
    let mut found =
        tx.query(&endpoints, values).await?.into_iter().map(read).collect::<Result<Vec<EndpointRow>, _>>()?;
    let index: HashMap<Uuid, usize> = found.iter().enumerate().map(|(at, row)| (row.id, at)).collect();

    let servers = format!(
        "SELECT endpoint_id, server_id FROM endpoint_servers \
         WHERE endpoint_id IN (SELECT id FROM endpoints WHERE {condition}) ORDER BY endpoint_id, position"
    );
    for mut row in tx.query(&servers, values).await? {
        let (endpoint, server) = (row.field_or(Uuid::nil(), Row::uuid), row.field_or(Uuid::nil(), Row::uuid));
        if let Some(&at) = index.get(&endpoint) {
            found[at].servers.push(EndpointServer::unfiltered(server));
            found[at].seal = row.seal_if_intact(std::mem::take(&mut found[at].seal));
        }
    }

    let tools = format!(
        "SELECT endpoint_id, server_id, kind, pattern, name, title, description, annotations FROM endpoint_tools \
         WHERE endpoint_id IN (SELECT id FROM endpoints WHERE {condition}) ORDER BY endpoint_id, server_id, position"
    );
    for mut row in tx.query(&tools, values).await? {
        let (endpoint, server) = (row.field_or(Uuid::nil(), Row::uuid), row.field_or(Uuid::nil(), Row::uuid));
        let Some(&at) = index.get(&endpoint) else { continue };
        if let Some(entry) = found[at].servers.iter_mut().find(|entry| entry.server_id == server) {
            read_tool(&mut row, entry)?;
        }
        found[at].seal = row.seal_if_intact(std::mem::take(&mut found[at].seal));
    }
    Ok(found)
}

fn read(mut row: Row) -> Result<EndpointRow, StoreError> {
    let mut endpoint = EndpointRow {
        id: row.field_or(Uuid::nil(), Row::uuid),
        name: row.text()?,
        prefix: row.field_or(PrefixMode::Always, |row| row.word(PrefixMode::parse)),
        servers: Vec::new(),
        version: row.field_or(0, Row::int),
        created_at: row.field_or(0, Row::int),
        changed_at: row.field_or(0, Row::int),
        seal: SealedValue { bytes: row.blob()?, key_version: row.field_or(0, Row::int) },
    };
    endpoint.seal = row.seal_if_intact(endpoint.seal);
    Ok(endpoint)
}

fn read_tool(row: &mut Row, server: &mut EndpointServer) -> Result<(), StoreError> {
    let (rule, pattern) = (row.field_or(ToolRule::Deny, |row| row.word(ToolRule::parse)), row.text()?);
    match rule {
        ToolRule::Allow => server.allow.push(pattern),
        ToolRule::Deny => server.deny.push(pattern),
        ToolRule::Override => server.overrides.push(ToolOverride {
            tool: pattern,
            name: row.optional_text()?,
            title: row.optional_text()?,
            description: row.optional_text()?,
            annotations: row.field_or(None, Row::optional_json),
        }),
    }
    Ok(())
}
