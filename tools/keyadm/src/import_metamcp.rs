//! Imports the servers, namespaces, endpoints, tool overrides and API keys of a MetaMCP installation.
//!
//! Every item keeps its UUID, so that a second run skips what the first one imported. An item that cannot be imported
//! does not stop the others.

use std::collections::{BTreeMap, HashMap, HashSet};

use metamcp_config::sections::NAME_SEPARATOR;
use metamcp_config::server::tool_metadata::{
    check_annotations, check_description, check_listed_name, check_server_tool_name, check_title,
};
use metamcp_core::base::{EndpointName, Glob, ServerName};
use metamcp_store::auth::{ApiKey, CreateKeyError, KeyRequest, Sealer, import_key};
use metamcp_store::definition::{DefinitionRules, ServerDefinition};
use metamcp_store::store::{
    EndpointServer, EndpointSpec, Grants, MalformedColumn, MetaEndpoint, MetaKey, MetaMcp, MetaServer,
    MetaTool, PrefixMode, ServerKind, ServerSpec, Store, StoreError, ToolOverride, Uuid,
};
use serde_json::json;

use crate::actor;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::output::CommandOutput;
use crate::table::{line, table};

/// The outcome for one server, endpoint, namespace or key.
struct ImportItem {
    kind: &'static str,
    name: String,
    outcome: Outcome,
    note: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Create,
    Keep,
    Skip,
    Fail,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Keep => "there already",
            Self::Skip => "left out",
            Self::Fail => "failed",
        }
    }
}

/// Writes items to this installation. In a dry run it records what would exist instead.
struct Importer {
    /// `None` in a dry run if there is no database yet.
    store: Option<Store>,
    sealer: Sealer,
    dry_run: bool,
    /// The servers in the store, with their names.
    servers: HashMap<Uuid, String>,
    server_names: HashSet<String>,
    endpoints: HashSet<Uuid>,
    endpoint_names: HashSet<String>,
    key_ids: HashSet<String>,
    items: Vec<ImportItem>,
}

pub async fn run(
    from: &str,
    installation: &Installation,
    dry_run: bool,
    json: bool,
) -> Result<CommandOutput, Failure> {
    let source = MetaMcp::read(from).await?;
    // A dry run creates nothing.
    let (sealer, store) = if dry_run {
        (installation.sealer_for_dry_run()?, installation.store_if_exists().await?)
    } else {
        (installation.sealer().await?, Some(installation.store(MissingDatabase::Create).await?))
    };
    let store = store.map(|store| store.bound_by(sealer.clone()));
    let (servers, endpoints, keys) = match &store {
        Some(store) => (store.servers().await?.rows, store.endpoints().await?.rows, store.keys().await?.rows),
        None => (Vec::new(), Vec::new(), Vec::new()),
    };
    let mut importer = Importer {
        server_names: servers.iter().map(|row| row.name.clone()).collect(),
        servers: servers.into_iter().map(|row| (row.id, row.name)).collect(),
        endpoints: endpoints.iter().map(|row| row.id).collect(),
        endpoint_names: endpoints.into_iter().map(|row| row.name).collect(),
        key_ids: keys.into_iter().map(|row| row.key_id).collect(),
        store,
        sealer,
        dry_run,
        items: Vec::new(),
    };
    for server in &source.servers {
        importer.import_server(server).await;
    }
    for endpoint in &source.endpoints {
        importer.import_endpoint(endpoint, &source).await;
    }
    for namespace in &source.namespaces {
        if source.endpoints.iter().all(|endpoint| endpoint.namespace_uuid != namespace.uuid) {
            importer.note("namespace", &namespace.name, Outcome::Skip, "no endpoint uses it");
        }
    }
    for key in &source.keys {
        importer.import_key(key, &source.endpoints).await;
    }
    Ok(importer.report(json))
}

impl Importer {
    fn note(&mut self, kind: &'static str, name: &str, outcome: Outcome, note: impl Into<String>) {
        self.items.push(ImportItem { kind, name: name.into(), outcome, note: note.into() });
    }

    /// Records that an item was created, or why not; returns whether it was.
    fn record(
        &mut self,
        kind: &'static str,
        name: &str,
        created: Result<(), Failure>,
        notes: &[&str],
    ) -> bool {
        match created {
            Ok(()) => self.note(kind, name, Outcome::Create, notes.join("; ")),
            Err(failure) => self.note(kind, name, Outcome::Fail, failure.to_string()),
        }
        self.items.last().is_some_and(|item| item.outcome == Outcome::Create)
    }

    async fn import_server(&mut self, server: &MetaServer) {
        if self.servers.contains_key(&server.uuid) {
            return self.note("server", &server.name, Outcome::Keep, "");
        }
        let name = self.free_name(&server.name);
        let renamed = format!("renamed to {name}, also in the names of its tools");
        let mut notes: Vec<&str> = Vec::new();
        if name != server.name {
            notes.push(&renamed);
        }
        match server.command.as_ref().filter(|_| server.r#type == STDIO) {
            Some(command) if command.starts_with('/') => {
                notes.push("runs only if the gateway's `admin.stdio_commands` has its command, and `admin.stdio_env` its variables");
            }
            Some(_) => {
                notes.push(
                    "does not run until its command is an absolute path that is in `admin.stdio_commands`",
                );
            }
            None => {}
        }
        let created = match (server_spec(server, &name), self.target()) {
            (Ok(spec), Some(store)) => {
                let inserted = store.insert_server(server.uuid, spec, actor::audit()).await;
                inserted.map(drop).map_err(Failure::from)
            }
            (Ok(_), None) => Ok(()),
            (Err(why), _) => Err(Failure::Data(why)),
        };
        if self.record("server", &server.name, created, &notes) {
            self.server_names.insert(name.clone());
            self.servers.insert(server.uuid, name);
        }
    }

    /// Returns the store to write to; `None` in a dry run.
    fn target(&self) -> Option<&Store> {
        self.store.as_ref().filter(|_| !self.dry_run)
    }

    /// Derives a server name that is valid and not taken, the same as in MetaMCP where possible.
    fn free_name(&self, name: &str) -> String {
        let mut plain: String = name.trim_matches('_').chars().take(NAME_CHARS_MAX).collect();
        while plain.contains("__") {
            plain = plain.replace("__", "_");
        }
        let plain = if ServerName::new(&plain).is_ok() { plain } else { "server".to_owned() };
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        names.find(|name| !self.server_names.contains(name)).unwrap_or(plain)
    }

    async fn import_endpoint(&mut self, endpoint: &MetaEndpoint, source: &MetaMcp) {
        if self.endpoints.contains(&endpoint.uuid) {
            return self.note("endpoint", &endpoint.name, Outcome::Keep, "");
        }
        let members = source
            .members
            .iter()
            .filter(|member| member.namespace_uuid == endpoint.namespace_uuid && member.status == ACTIVE);
        let mut omissions = Vec::new();
        let servers = members.filter_map(|member| {
            let server = self.servers.get(&member.mcp_server_uuid)?;
            let is_of_server = |tool: &&MetaTool| {
                tool.namespace_uuid == endpoint.namespace_uuid
                    && tool.mcp_server_uuid == member.mcp_server_uuid
            };
            let tools = source.tools.iter().filter(is_of_server);
            Some(endpoint_server(member.mcp_server_uuid, server, tools, &mut omissions))
        });
        let servers: Result<Vec<_>, String> = servers.collect();
        let notes = [
            (!endpoint.enable_api_key_auth, "requires a key now, unlike before"),
            (endpoint.enable_oauth, "no longer accepts OAuth tokens of MetaMCP's users"),
            (endpoint.use_query_param_auth, "no longer accepts a key in the URL: send it as a header"),
            (endpoint.enable_max_rate, "has no rate limit: set one on the keys"),
            (
                endpoint.name == EndpointName::DEFAULT,
                "is served at /mcp now, with its own servers and no others",
            ),
        ];
        let notes = notes.iter().filter(|(applies, _)| *applies).map(|(_, note)| *note);
        let notes: Vec<&str> = notes.chain(omissions.iter().map(String::as_str)).collect();
        let name = EndpointName::new(&endpoint.name).map_err(|invalid| invalid.to_string());
        let created = match (name.and(servers), self.target()) {
            (Err(why), _) => Err(Failure::Data(why)),
            // Checked here so that a dry run reports it too.
            (Ok(_), _) if self.endpoint_names.contains(&endpoint.name) => Err(taken("name")),
            (Ok(_), None) => Ok(()),
            (Ok(servers), Some(store)) => {
                let spec = EndpointSpec { name: endpoint.name.clone(), prefix: PrefixMode::Always, servers };
                let inserted = store.insert_endpoint(endpoint.uuid, spec, actor::audit()).await;
                inserted.map(drop).map_err(Failure::from)
            }
        };
        if self.record("endpoint", &endpoint.name, created, &notes) {
            self.endpoints.insert(endpoint.uuid);
            self.endpoint_names.insert(endpoint.name.clone());
        }
    }

    /// A key keeps its access: to public endpoints, and to those of its user.
    async fn import_key(&mut self, key: &MetaKey, endpoints: &[MetaEndpoint]) {
        if !key.is_active {
            return self.note("key", &key.name, Outcome::Skip, "it is inactive");
        }
        let existing = match &self.store {
            Some(store) => store.key(&key.uuid.to_string()).await,
            None => Ok(None),
        };
        match existing {
            Ok(None) => {}
            Ok(Some(_)) => return self.note("key", &key.name, Outcome::Keep, ""),
            Err(error) => return self.note("key", &key.name, Outcome::Fail, error.to_string()),
        }
        let accessible = endpoints.iter().filter(|endpoint| {
            (endpoint.user_id.is_none() || endpoint.user_id == key.user_id)
                && self.endpoints.contains(&endpoint.uuid)
        });
        let accessible: Vec<String> = accessible.map(|endpoint| endpoint.name.clone()).collect();
        if accessible.is_empty() {
            return self.note("key", &key.name, Outcome::Skip, "it has access to no endpoint");
        }
        let note = format!("has access to {}", accessible.join(", "));
        let request = KeyRequest {
            name: key.name.clone(),
            description: "imported from MetaMCP".into(),
            grants: Grants { endpoints: Some(accessible), ..Grants::everything() },
            expires_at: None,
        };
        let created = self.insert_key(key, request).await;
        self.record("key", &key.name, created, &[&note]);
    }

    async fn insert_key(&mut self, key: &MetaKey, request: KeyRequest) -> Result<(), Failure> {
        let (audit, whole) = (actor::audit(), (key.uuid, key.key.as_str()));
        let id = ApiKey::parse(&key.key).map_err(CreateKeyError::from)?.key_id().to_string();
        if self.key_ids.contains(&id) {
            return Err(taken("key_id"));
        }
        if let Some(store) = &self.store {
            let new = import_key(store, &self.sealer, whole, request, audit.at).await?;
            if let Some(store) = self.target() {
                store.insert_key(new, audit).await?;
            }
        } else {
            request.check(audit.at)?;
        }
        self.key_ids.insert(id);
        Ok(())
    }

    fn report(self, json: bool) -> CommandOutput {
        let failed = self.items.iter().any(|item| item.outcome == Outcome::Fail);
        let text = if json {
            let items = self.items.iter().map(|item| {
                json!({"kind": item.kind, "name": item.name, "outcome": item.outcome.word(), "note": item.note})
            });
            line(&json!({"dry_run": self.dry_run, "items": items.collect::<Vec<_>>()}))
        } else {
            if self.dry_run {
                eprintln!("Nothing was written. Without --dry-run, this would be done:");
            }
            let rows = self.items.iter().map(|item| {
                vec![item.kind.into(), item.name.clone(), item.outcome.word().into(), item.note.clone()]
            });
            table(&["KIND", "NAME", "OUTCOME", "NOTE"], rows)
        };
        CommandOutput { text, code: if failed { 65 } else { 0 } }
    }
}

/// The error that the store returns for a duplicate.
fn taken(field: &str) -> Failure {
    StoreError::Exists { field: field.to_owned() }.into()
}

/// Converts the tool settings of one server in an endpoint. Inactive tools are denied. Overrides are kept, with the
/// server's name in front of an overridden tool name, as MetaMCP lists it. A part that the REST API would reject is left
/// out and noted in `omissions`, since an endpoint with it would not be served. Fails if an inactive tool cannot be denied.
fn endpoint_server<'a>(
    server_id: Uuid,
    name: &str,
    tools: impl Iterator<Item = &'a MetaTool>,
    omissions: &mut Vec<String>,
) -> Result<EndpointServer, String> {
    let mut server = EndpointServer::unfiltered(server_id);
    for tool in tools {
        if tool.status != ACTIVE {
            let pattern = deny_pattern(&tool.tool_name);
            let undeniable =
                |invalid| format!("cannot deny the tool {:?} of {name}: {invalid}", tool.tool_name);
            Glob::new(&pattern).map_err(undeniable)?;
            server.deny.push(pattern);
            continue;
        }
        let mut note = |part: &str, why: String| {
            omissions.push(format!(
                "without the overridden {part} of the tool {:?} of {name}, which {why}",
                tool.tool_name
            ));
        };
        let new_name = tool.override_name.as_ref().filter(|new_name| !new_name.trim().is_empty());
        let tool_override = ToolOverride {
            tool: tool.tool_name.clone(),
            name: new_name
                .map(|new_name| format!("{name}{NAME_SEPARATOR}{new_name}"))
                .filter(|new_name| is_valid(check_listed_name(new_name), "name", &mut note)),
            title: tool
                .override_title
                .clone()
                .filter(|title| is_valid(check_title(title), "title", &mut note)),
            description: tool
                .override_description
                .clone()
                .filter(|text| is_valid(check_description(text), "description", &mut note)),
            annotations: tool
                .override_annotations
                .clone()
                .filter(|value| is_valid(check_annotations(value), "annotations", &mut note)),
        };
        let ToolOverride { name: new_name, title, description, annotations, .. } = &tool_override;
        let has_parts =
            new_name.is_some() || title.is_some() || description.is_some() || annotations.is_some();
        if has_parts && is_valid(check_server_tool_name(&tool.tool_name), "override", &mut note) {
            server.overrides.push(tool_override);
        }
    }
    Ok(server)
}

/// Whether a part passed its check; notes why not.
fn is_valid(checked: Result<(), String>, part: &str, note: &mut impl FnMut(&str, String)) -> bool {
    checked.map_err(|why| note(part, why)).is_ok()
}

/// Builds a pattern for one tool name. Characters that a pattern cannot contain become `?`, which matches any character.
fn deny_pattern(tool: &str) -> String {
    tool.chars().map(|c| if c.is_whitespace() || c.is_control() { '?' } else { c }).collect()
}

/// Converts a server to the stored form: a public definition and sealed secrets.
fn server_spec(server: &MetaServer, name: &str) -> Result<ServerSpec, String> {
    let kind = match server.r#type.as_str() {
        "STREAMABLE_HTTP" => ServerKind::Http,
        "SSE" => ServerKind::Sse,
        STDIO => ServerKind::Stdio,
        _ => return Err("its type is not supported".into()),
    };
    let value = if kind == ServerKind::Stdio {
        let command = server.command.as_ref().ok_or("it has no command")?;
        let (args, env) = (server.args().map_err(column_error)?, server.env().map_err(column_error)?);
        json!({"name": name, "kind": kind.as_str(), "command": command, "args": args, "env": env})
    } else {
        let url = server.url.as_ref().ok_or("it has no address")?;
        json!({"name": name, "kind": kind.as_str(), "url": url, "headers": headers(server).map_err(column_error)?})
    };
    // Checked like every server that is added, since stored servers are served.
    let read = ServerDefinition::read(&value, None, &DefinitionRules::stored()).map_err(|errors| {
        let texts = errors.iter().map(|error| format!("its {} {}", &error.pointer[1..], error.detail));
        texts.collect::<Vec<_>>().join("; ")
    })?;
    Ok(read.to_spec())
}

fn column_error(column: MalformedColumn) -> String {
    column.to_string()
}

fn headers(server: &MetaServer) -> Result<BTreeMap<String, String>, MalformedColumn> {
    let mut headers = server.headers()?;
    let has_authorization = headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
    if let Some(token) = server.bearer_token.as_ref().filter(|token| !token.is_empty() && !has_authorization)
    {
        headers.insert("Authorization".into(), format!("Bearer {token}"));
    }
    Ok(headers)
}

const ACTIVE: &str = "ACTIVE";

const STDIO: &str = "STDIO";

/// The limit of 64, less room for a number at the end.
const NAME_CHARS_MAX: usize = 56;
