//! A look into the database of MetaMCP (github.com/metatool-ai/metamcp), for whoever moves from it.
//!
//! Whole rows are read as JSON, so that a column which one of its versions has and another has not is no hindrance.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::StoreError;
use super::postgres::Postgres;
use super::session::Session;

/// What an installation of MetaMCP holds, as far as there is something like it here.
#[derive(Debug)]
pub struct MetaMcp {
    /// Oldest first, those of everybody before those of a user.
    pub servers: Vec<MetaServer>,
    /// Sets of servers.
    pub namespaces: Vec<MetaNamespace>,
    /// Which servers are in which set, in the order in which they came.
    pub members: Vec<MetaMember>,
    /// What sets say of tools.
    pub tools: Vec<MetaTool>,
    /// Where sets are reached.
    pub endpoints: Vec<MetaEndpoint>,
    /// API keys.
    pub keys: Vec<MetaKey>,
}

/// A row of `mcp_servers`. Holds credentials.
#[derive(Deserialize)]
pub struct MetaServer {
    /// Kept.
    pub uuid: Uuid,
    /// Unique for one user.
    pub name: String,
    /// `STDIO`, `SSE` or `STREAMABLE_HTTP`.
    pub r#type: String,
    /// Of a child process.
    pub command: Option<String>,
    /// Of a child process: texts.
    #[serde(default)]
    args: Json,
    /// Of a child process: texts by name.
    #[serde(default)]
    env: Json,
    /// Of a server elsewhere.
    pub url: Option<String>,
    /// Of a server elsewhere.
    pub bearer_token: Option<String>,
    /// Of a server elsewhere: texts by name; not in its first versions.
    #[serde(default)]
    headers: Json,
}

/// A column that holds something else than MetaMCP puts there. One such row is no reason to take none of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its column `{0}` is not as MetaMCP's is: mend it there, or define the server anew")]
pub struct OddColumn(&'static str);

/// A row of `namespaces`.
#[derive(Debug, Deserialize)]
pub struct MetaNamespace {
    /// What the others name it by.
    pub uuid: Uuid,
    /// For people.
    pub name: String,
}

/// A row of `namespace_server_mappings`.
#[derive(Debug, Deserialize)]
pub struct MetaMember {
    /// The set.
    pub namespace_uuid: Uuid,
    /// The server.
    pub mcp_server_uuid: Uuid,
    /// `ACTIVE` or `INACTIVE`.
    pub status: String,
}

/// A row of `namespace_tool_mappings`, with the tool's name.
#[derive(Debug, Deserialize)]
pub struct MetaTool {
    /// The set.
    pub namespace_uuid: Uuid,
    /// The server.
    pub mcp_server_uuid: Uuid,
    /// The server's own name of it.
    pub tool_name: String,
    /// `ACTIVE` or `INACTIVE`.
    pub status: String,
    /// Shown instead.
    pub override_name: Option<String>,
    /// Shown instead.
    pub override_title: Option<String>,
    /// Shown instead.
    pub override_description: Option<String>,
    /// Shown instead.
    pub override_annotations: Option<Json>,
}

/// A row of `endpoints`.
#[derive(Debug, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the columns of a table that is not ours")]
pub struct MetaEndpoint {
    /// Kept.
    pub uuid: Uuid,
    /// Unique.
    pub name: String,
    /// What is behind it.
    pub namespace_uuid: Uuid,
    /// `None`: everybody's.
    pub user_id: Option<String>,
    /// Whether it asks for a key.
    #[serde(default)]
    pub enable_api_key_auth: bool,
    /// Whether it takes tokens of MetaMCP's own users.
    #[serde(default)]
    pub enable_oauth: bool,
    /// Whether a key may stand in the URL.
    #[serde(default)]
    pub use_query_param_auth: bool,
    /// Whether calls are limited.
    #[serde(default)]
    pub enable_max_rate: bool,
}

/// A row of `api_keys`. Holds the key.
#[derive(Deserialize)]
pub struct MetaKey {
    /// Kept.
    pub uuid: Uuid,
    /// For people.
    pub name: String,
    /// In the clear, as MetaMCP keeps it.
    pub key: String,
    /// `None`: everybody's.
    pub user_id: Option<String>,
    /// Whether it may be used.
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
    /// Of a child process.
    pub fn args(&self) -> Result<Vec<String>, OddColumn> {
        column("args", &self.args)
    }

    /// Of a child process.
    pub fn env(&self) -> Result<BTreeMap<String, String>, OddColumn> {
        column("env", &self.env)
    }

    /// Of a server elsewhere.
    pub fn headers(&self) -> Result<BTreeMap<String, String>, OddColumn> {
        column("headers", &self.headers)
    }
}

/// Nothing is as good as an empty one.
fn column<T: DeserializeOwned + Default>(name: &'static str, value: &Json) -> Result<T, OddColumn> {
    if value.is_null() { Ok(T::default()) } else { T::deserialize(value).map_err(|_| OddColumn(name)) }
}

impl MetaMcp {
    /// Reads all of it at one moment, and changes nothing. [`StoreError::Failed`]: it is no database of MetaMCP's, or
    /// of a version that keeps things otherwise.
    ///
    /// Cancel safe.
    pub async fn read(url: &str) -> Result<Self, StoreError> {
        let mut session = Postgres::new(url)?.look().await?;
        let outcome = read(&mut session).await;
        session.end(outcome).await
    }
}

async fn read<S: Session>(session: &mut S) -> Result<MetaMcp, StoreError> {
    Ok(MetaMcp {
        servers: rows(session, "mcp_servers", SERVERS).await?,
        namespaces: rows(session, "namespaces", NAMESPACES).await?,
        members: rows(session, "namespace_server_mappings", MEMBERS).await?,
        tools: rows(session, "namespace_tool_mappings", TOOLS).await?,
        endpoints: rows(session, "endpoints", ENDPOINTS).await?,
        keys: rows(session, "api_keys", KEYS).await?,
    })
}

async fn rows<S: Session, T: DeserializeOwned>(
    session: &mut S,
    table: &str,
    sql: &str,
) -> Result<Vec<T>, StoreError> {
    let unfit = || {
        StoreError::Failed(format!(
            "its table `{table}` is not as MetaMCP's is: is it the database of MetaMCP?"
        ))
    };
    let found =
        session.query(sql, &[]).await.map_err(|error| if error.is_away() { error } else { unfit() })?;
    if found.len() > ROWS_MAX {
        return Err(StoreError::Failed(format!("its table `{table}` has more than {ROWS_MAX} rows")));
    }
    found
        .into_iter()
        .map(|mut row| {
            let text = Zeroizing::new(row.text()?);
            serde_json::from_str(&text).map_err(|_| unfit())
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

/// Of one table. Nobody has so many, and they are all held in memory.
const ROWS_MAX: usize = 100_000;
