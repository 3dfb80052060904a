//! Reads the database of MetaMCP (github.com/metatool-ai/metamcp), for a migration to this program.
//!
//! Whole rows are read as JSON, so that columns that only some versions of MetaMCP have do no harm.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::error::StoreError;
use super::postgres::Postgres;
use super::transaction::Transaction;

/// The contents of a MetaMCP installation, as far as this program has an equivalent.
#[derive(Debug)]
pub struct MetaMcp {
    /// Oldest first; public servers before those of a user.
    pub servers: Vec<MetaServer>,
    /// Named sets of servers.
    pub namespaces: Vec<MetaNamespace>,
    /// The servers of each namespace, in the order in which they were added.
    pub members: Vec<MetaMember>,
    /// Overrides of tools in namespaces.
    pub tools: Vec<MetaTool>,
    /// The endpoints at which namespaces are reached.
    pub endpoints: Vec<MetaEndpoint>,
    pub keys: Vec<MetaKey>,
}

/// A row of `mcp_servers`. Holds credentials.
#[derive(Deserialize)]
pub struct MetaServer {
    pub uuid: Uuid,
    /// Unique among the servers of one user.
    pub name: String,
    /// `STDIO`, `SSE` or `STREAMABLE_HTTP`.
    pub r#type: String,
    /// For a child process.
    pub command: Option<String>,
    /// For a child process: an array of strings.
    #[serde(default)]
    args: Json,
    /// For a child process: an object of strings.
    #[serde(default)]
    env: Json,
    /// For a remote server.
    pub url: Option<String>,
    /// For a remote server.
    pub bearer_token: Option<String>,
    /// For a remote server: an object of strings. Missing in early versions.
    #[serde(default)]
    headers: Json,
}

/// A column that holds something MetaMCP does not write. Such a row is skipped; the others are imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its column `{0}` does not have the form that MetaMCP writes: correct it there, or define the server anew"
)]
pub struct MalformedColumn(&'static str);

/// A row of `namespaces`.
#[derive(Debug, Deserialize)]
pub struct MetaNamespace {
    pub uuid: Uuid,
    pub name: String,
}

/// A row of `namespace_server_mappings`.
#[derive(Debug, Deserialize)]
pub struct MetaMember {
    pub namespace_uuid: Uuid,
    pub mcp_server_uuid: Uuid,
    /// Either `ACTIVE` or `INACTIVE`.
    pub status: String,
}

/// A row of `namespace_tool_mappings`, with the tool's name.
#[derive(Debug, Deserialize)]
pub struct MetaTool {
    pub namespace_uuid: Uuid,
    pub mcp_server_uuid: Uuid,
    /// The server's own name of the tool.
    pub tool_name: String,
    /// Either `ACTIVE` or `INACTIVE`.
    pub status: String,
    pub override_name: Option<String>,
    pub override_title: Option<String>,
    pub override_description: Option<String>,
    pub override_annotations: Option<Json>,
}

/// A row of `endpoints`.
#[derive(Debug, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the columns of a table that is not ours")]
pub struct MetaEndpoint {
    pub uuid: Uuid,
    pub name: String,
    pub namespace_uuid: Uuid,
    /// `None` for a public endpoint.
    pub user_id: Option<String>,
    /// Whether clients need an API key.
    #[serde(default)]
    pub enable_api_key_auth: bool,
    /// Whether it accepts OAuth tokens of MetaMCP's own users.
    #[serde(default)]
    pub enable_oauth: bool,
    /// Whether the API key may be in the URL.
    #[serde(default)]
    pub use_query_param_auth: bool,
    /// Whether calls are rate limited.
    #[serde(default)]
    pub enable_max_rate: bool,
}

/// A row of `api_keys`. Holds the key.
#[derive(Deserialize)]
pub struct MetaKey {
    pub uuid: Uuid,
    pub name: String,
    /// The raw key, which MetaMCP stores in the clear.
    pub key: String,
    /// `None` for a public key.
    pub user_id: Option<String>,
    pub is_active: bool,
}

impl fmt::Debug for MetaServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetaServer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for MetaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetaKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MetaServer {
    /// The arguments of a child process.
    pub fn args(&self) -> Result<Vec<String>, MalformedColumn> {
        column("args", &self.args)
    }

    /// The environment of a child process.
    pub fn env(&self) -> Result<BTreeMap<String, String>, MalformedColumn> {
        column("env", &self.env)
    }

    /// The request headers for a remote server.
    pub fn headers(&self) -> Result<BTreeMap<String, String>, MalformedColumn> {
        column("headers", &self.headers)
    }
}

/// Parses a JSON column; NULL counts as empty.
fn column<T: DeserializeOwned + Default>(name: &'static str, value: &Json) -> Result<T, MalformedColumn> {
    if value.is_null() { Ok(T::default()) } else { T::deserialize(value).map_err(|_| MalformedColumn(name)) }
}

impl MetaMcp {
    /// Reads everything at one moment, and changes nothing. [`StoreError::Failed`] when it is not a database of MetaMCP, or
    /// of a version with another schema.
    ///
    /// Cancel safe.
    pub async fn read(url: &str) -> Result<Self, StoreError> {
        let mut tx = Postgres::new(url)?.begin_read_only().await?;
        let outcome = read(&mut tx).await;
        tx.end(outcome).await
    }
}

async fn read<T: Transaction>(tx: &mut T) -> Result<MetaMcp, StoreError> {
    Ok(MetaMcp {
        servers: rows(tx, "mcp_servers", SERVERS).await?,
        namespaces: rows(tx, "namespaces", NAMESPACES).await?,
        members: rows(tx, "namespace_server_mappings", MEMBERS).await?,
        tools: rows(tx, "namespace_tool_mappings", TOOLS).await?,
        endpoints: rows(tx, "endpoints", ENDPOINTS).await?,
        keys: rows(tx, "api_keys", KEYS).await?,
    })
}

async fn rows<T: Transaction, R: DeserializeOwned>(
    tx: &mut T,
    table: &str,
    sql: &str,
) -> Result<Vec<R>, StoreError> {
    let malformed = || {
        StoreError::Failed(format!(
            "its table `{table}` does not have the schema of MetaMCP: is it the database of MetaMCP?"
        ))
    };
    let found =
        tx.query(sql, &[]).await.map_err(|error| if error.is_away() { error } else { malformed() })?;
    if found.len() > ROWS_MAX {
        return Err(StoreError::Failed(format!("its table `{table}` has more than {ROWS_MAX} rows")));
    }
    found
        .into_iter()
        .map(|mut row| {
            let text = Zeroizing::new(row.text()?);
            serde_json::from_str(&text).map_err(|_| malformed())
        })
        .collect()
}

const SERVERS: &str = "SELECT CAST(to_jsonb(t) AS TEXT) FROM mcp_servers t \
                       ORDER BY t.user_id IS NOT NULL, t.created_at, t.uuid LIMIT 100001";
const NAMESPACES: &str =
    "SELECT CAST(to_jsonb(t) AS TEXT) FROM namespaces t ORDER BY t.name, t.uuid LIMIT 100001";
const MEMBERS: &str = "SELECT CAST(to_jsonb(t) AS TEXT) FROM namespace_server_mappings t \
                       ORDER BY t.created_at, t.uuid LIMIT 100001";
const TOOLS: &str = "SELECT CAST(to_jsonb(t) || jsonb_build_object('tool_name', tools.name) AS TEXT) \
                     FROM namespace_tool_mappings t JOIN tools ON tools.uuid = t.tool_uuid \
                     ORDER BY tools.name, t.uuid LIMIT 100001";
const ENDPOINTS: &str = "SELECT CAST(to_jsonb(t) AS TEXT) FROM endpoints t ORDER BY t.name LIMIT 100001";
const KEYS: &str =
    "SELECT CAST(to_jsonb(t) AS TEXT) FROM api_keys t ORDER BY t.created_at, t.uuid LIMIT 100001";

/// The limit for one table. No installation has so many rows, and all of them are held in memory.
const ROWS_MAX: usize = 100_000;
