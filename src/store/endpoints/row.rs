//! What an endpoint is at rest: a row, its servers in order, and what it says of their tools.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::store::epochs::{self, Kind};
use crate::store::page::fetched;
use crate::store::session::Session;
use crate::store::value::{Row, Value, words};
use crate::store::{Sealed, StoreError};

words! {
    /// How an endpoint names the tools of its servers.
    PrefixMode {
        /// `{server}__{tool}`.
        Always = "always",
        /// The server's own name.
        Never = "never",
    }
}

words! {
    /// What a row of `endpoint_tools` says.
    ToolRule {
        /// Only tools that match one of these.
        Allow = "allow",
        /// No tool that matches one of these.
        Deny = "deny",
        /// Another name, title, description or annotations for one tool.
        Override = "override",
    }
}

/// One endpoint with everything that hangs on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Never changes.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// How tools are named.
    pub prefix: PrefixMode,
    /// In the order in which their tools are listed.
    pub servers: Vec<EndpointServer>,
    /// Moves with every change to any of this: the `ETag`.
    pub version: u64,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970.
    pub changed_at: u64,
    /// Nothing, bound to all of the above but version and times.
    pub seal: Sealed,
}

/// What an endpoint is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    /// Unique; not empty.
    pub name: String,
    /// How tools are named.
    pub prefix: PrefixMode,
    /// In the order in which their tools are listed; none twice.
    pub servers: Vec<EndpointServer>,
}

/// A server of an endpoint, and what the endpoint shows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointServer {
    /// Which.
    pub server_id: Uuid,
    /// Globs over the server's own names; none: every tool.
    pub allow: Vec<String>,
    /// Globs over the server's own names; they win over `allow`.
    pub deny: Vec<String>,
    /// None twice for a tool.
    pub overrides: Vec<ToolOverride>,
}

/// What an endpoint says of a tool instead of what its server says. `None` leaves that as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolOverride {
    /// The server's own name of it.
    pub tool: String,
    /// Shown instead.
    pub name: Option<String>,
    /// Shown instead.
    pub title: Option<String>,
    /// Shown instead.
    pub description: Option<String>,
    /// Shown instead.
    pub annotations: Option<Json>,
}

/// All endpoints at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoints {
    /// The endpoints' epoch at that moment.
    pub epoch: u64,
    /// By name.
    pub rows: Vec<EndpointRow>,
}

impl EndpointServer {
    /// Everything that the server has.
    pub fn unfiltered(server_id: Uuid) -> Self {
        Self { server_id, allow: Vec::new(), deny: Vec::new(), overrides: Vec::new() }
    }
}

impl EndpointRow {
    pub(super) fn is(&self, spec: &EndpointSpec) -> bool {
        (&self.name, self.prefix, &self.servers) == (&spec.name, spec.prefix, &spec.servers)
    }

    /// For the audit log.
    pub(super) fn describe(&self) -> Json {
        json!({
            "name": self.name,
            "prefix": self.prefix.as_str(),
            "servers": self.servers,
            "version": self.version,
        })
    }
}

pub async fn all<S: Session>(session: &mut S) -> Result<Endpoints, StoreError> {
    let epoch = epochs::of(session, Kind::Endpoints).await?;
    Ok(Endpoints { epoch, rows: load(session, "name >= '' ORDER BY name", &[]).await? })
}

pub async fn page<S: Session>(
    session: &mut S,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<EndpointRow>, StoreError> {
    let values = [after.unwrap_or_default().into(), fetched(limit)];
    load(session, "name > $1 ORDER BY name LIMIT $2", &values).await
}

/// A name may look like an id: the id counts first.
pub async fn find<S: Session>(session: &mut S, reference: &str) -> Result<Option<EndpointRow>, StoreError> {
    if let Ok(id) = Uuid::parse_str(reference)
        && let Some(row) = find_by_id(session, id).await?
    {
        return Ok(Some(row));
    }
    find_by_name(session, reference).await
}

pub async fn find_by_id<S: Session>(session: &mut S, id: Uuid) -> Result<Option<EndpointRow>, StoreError> {
    Ok(load(session, "id = $1", &[id.into()]).await?.into_iter().next())
}

/// Those that have a server.
pub async fn with_server<S: Session>(session: &mut S, id: Uuid) -> Result<Vec<EndpointRow>, StoreError> {
    load(session, "id IN (SELECT endpoint_id FROM endpoint_servers WHERE server_id = $1)", &[id.into()]).await
}

async fn find_by_name<S: Session>(session: &mut S, name: &str) -> Result<Option<EndpointRow>, StoreError> {
    Ok(load(session, "name = $1", &[name.into()]).await?.into_iter().next())
}

/// The endpoints that `which` (a condition of ours, never anybody's text) finds, each put together from three
/// tables.
async fn load<S: Session>(
    session: &mut S,
    which: &str,
    values: &[Value],
) -> Result<Vec<EndpointRow>, StoreError> {
    let endpoints = format!(
        "SELECT id, name, prefix_mode, version, created_at, changed_at, seal, key_version FROM endpoints WHERE {which}"
    );
    let mut found = session
        .query(&endpoints, values)
        .await?
        .into_iter()
        .map(read)
        .collect::<Result<Vec<EndpointRow>, _>>()?;
    let place: HashMap<Uuid, usize> = found.iter().enumerate().map(|(at, row)| (row.id, at)).collect();

    let servers = format!(
        "SELECT endpoint_id, server_id FROM endpoint_servers \
         WHERE endpoint_id IN (SELECT id FROM endpoints WHERE {which}) ORDER BY endpoint_id, position"
    );
    for mut row in session.query(&servers, values).await? {
        let (endpoint, server) = (row.or(Uuid::nil(), Row::uuid), row.or(Uuid::nil(), Row::uuid));
        if let Some(&at) = place.get(&endpoint) {
            found[at].servers.push(EndpointServer::unfiltered(server));
            found[at].seal = row.sealed(std::mem::take(&mut found[at].seal));
        }
    }

    let tools = format!(
        "SELECT endpoint_id, server_id, kind, pattern, name, title, description, annotations FROM endpoint_tools \
         WHERE endpoint_id IN (SELECT id FROM endpoints WHERE {which}) ORDER BY endpoint_id, server_id, position"
    );
    for mut row in session.query(&tools, values).await? {
        let (endpoint, server) = (row.or(Uuid::nil(), Row::uuid), row.or(Uuid::nil(), Row::uuid));
        let Some(&at) = place.get(&endpoint) else { continue };
        if let Some(of) = found[at].servers.iter_mut().find(|of| of.server_id == server) {
            read_tool(&mut row, of)?;
        }
        found[at].seal = row.sealed(std::mem::take(&mut found[at].seal));
    }
    Ok(found)
}

fn read(mut row: Row) -> Result<EndpointRow, StoreError> {
    let mut endpoint = EndpointRow {
        id: row.or(Uuid::nil(), Row::uuid),
        name: row.text()?,
        prefix: row.or(PrefixMode::Always, |row| row.word(PrefixMode::parse)),
        servers: Vec::new(),
        version: row.or(0, Row::int),
        created_at: row.or(0, Row::int),
        changed_at: row.or(0, Row::int),
        seal: Sealed { bytes: row.blob()?, key_version: row.or(0, Row::int) },
    };
    endpoint.seal = row.sealed(endpoint.seal);
    Ok(endpoint)
}

fn read_tool(row: &mut Row, of: &mut EndpointServer) -> Result<(), StoreError> {
    let (rule, pattern) = (row.or(ToolRule::Deny, |row| row.word(ToolRule::parse)), row.text()?);
    match rule {
        ToolRule::Allow => of.allow.push(pattern),
        ToolRule::Deny => of.deny.push(pattern),
        ToolRule::Override => of.overrides.push(ToolOverride {
            tool: pattern,
            name: row.optional_text()?,
            title: row.optional_text()?,
            description: row.optional_text()?,
            annotations: row.or(None, Row::optional_json),
        }),
    }
    Ok(())
}
