//! Moving from MetaMCP: its servers, namespaces and endpoints, overrides of tools, and API keys.
//!
//! Everything keeps the UUID it had, so that a second run finds what the first one did. One item that cannot be
//! taken over keeps none of the others.

use std::collections::{BTreeMap, HashMap, HashSet};

use metamcp::admin::definition::endpoint::{
    check_annotations, check_description, check_listed_name, check_own_name, check_title,
};
use metamcp::admin::definition::{Rules, Server};
use metamcp::auth::{ApiKey, CreateError, KeyRequest, Sealer, imported_key};
use metamcp::base::{EndpointName, Glob, ServerName};
use metamcp::route::SEPARATOR;
use metamcp::store::{
    Audit, EndpointServer, EndpointSpec, Grants, MetaEndpoint, MetaKey, MetaMcp, MetaServer, MetaTool,
    OddColumn, PrefixMode, ServerKind, ServerSpec, Store, StoreError, ToolOverride, Uuid,
};
use serde_json::json;

use crate::Done;
use crate::failure::Failure;
use crate::place::{Absent, Installation};
use crate::table::{line, table};
use crate::who;

/// What became of one thing.
struct Item {
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

/// Where things go.
struct Target {
    /// `None`: nothing is there yet, and nothing is to be made.
    store: Option<Store>,
    sealer: Sealer,
    dry_run: bool,
    /// Servers that are there, or would be, and what they are called here.
    servers: HashMap<Uuid, String>,
    names: HashSet<String>,
    /// Endpoints that are there, or would be.
    endpoints: HashSet<Uuid>,
    /// What these are called.
    endpoint_names: HashSet<String>,
    /// Keys that are there, or would be, by what they begin with.
    key_ids: HashSet<String>,
    items: Vec<Item>,
}

pub async fn run(
    from: &str,
    installation: &Installation,
    dry_run: bool,
    json: bool,
) -> Result<Done, Failure> {
    let found = MetaMcp::read(from).await?;
    // Of what is only looked at, nothing is made.
    let (sealer, store) = if dry_run {
        (installation.sealer_as_it_is()?, installation.store_if_there().await?)
    } else {
        (installation.sealer()?, Some(installation.store(Absent::Create).await?))
    };
    let store = store.map(|store| store.bound_by(sealer.clone()));
    let (servers, endpoints, keys) = match &store {
        Some(store) => (store.servers().await?.rows, store.endpoints().await?.rows, store.keys().await?.rows),
        None => (Vec::new(), Vec::new(), Vec::new()),
    };
    let mut target = Target {
        names: servers.iter().map(|row| row.name.clone()).collect(),
        servers: servers.into_iter().map(|row| (row.id, row.name)).collect(),
        endpoints: endpoints.iter().map(|row| row.id).collect(),
        endpoint_names: endpoints.into_iter().map(|row| row.name).collect(),
        key_ids: keys.into_iter().map(|row| row.key_id).collect(),
        store,
        sealer,
        dry_run,
        items: Vec::new(),
    };
    for server in &found.servers {
        target.server(server).await;
    }
    for endpoint in &found.endpoints {
        target.endpoint(endpoint, &found).await;
    }
    for namespace in &found.namespaces {
        if found.endpoints.iter().all(|endpoint| endpoint.namespace_uuid != namespace.uuid) {
            target.note("namespace", &namespace.name, Outcome::Skip, "no endpoint leads to it");
        }
    }
    for key in &found.keys {
        target.key(key, &found.endpoints).await;
    }
    Ok(target.report(json))
}

impl Target {
    fn note(&mut self, kind: &'static str, name: &str, outcome: Outcome, note: impl Into<String>) {
        self.items.push(Item { kind, name: name.into(), outcome, note: note.into() });
    }

    /// What was created, or why it was not.
    fn told(&mut self, kind: &'static str, name: &str, done: Result<(), Failure>, notes: &[&str]) -> bool {
        match done {
            Ok(()) => self.note(kind, name, Outcome::Create, notes.join("; ")),
            Err(failure) => self.note(kind, name, Outcome::Fail, failure.to_string()),
        }
        self.items.last().is_some_and(|item| item.outcome == Outcome::Create)
    }

    async fn server(&mut self, server: &MetaServer) {
        if self.servers.contains_key(&server.uuid) {
            return self.note("server", &server.name, Outcome::Keep, "");
        }
        let name = self.free_name(&server.name);
        let renamed = format!("called {name} here, and so are its tools");
        let mut notes: Vec<&str> = Vec::new();
        if name != server.name {
            notes.push(&renamed);
        }
        match server.command.as_ref().filter(|_| server.r#type == STDIO) {
            Some(command) if command.starts_with('/') => {
                notes.push("it runs where the gateway's `admin.stdio_commands` has its command, and `admin.stdio_env` its variables");
            }
            Some(_) => {
                notes
                    .push("it does not run until its command is an absolute path, of `admin.stdio_commands`");
            }
            None => {}
        }
        let done = match (spec(server, &name), self.written()) {
            (Ok(spec), Some(store)) => {
                let inserted = store.insert_server(server.uuid, spec, audit()).await;
                inserted.map(drop).map_err(Failure::from)
            }
            (Ok(_), None) => Ok(()),
            (Err(why), _) => Err(Failure::Data(why)),
        };
        if self.told("server", &server.name, done, &notes) {
            self.names.insert(name.clone());
            self.servers.insert(server.uuid, name);
        }
    }

    /// What is written to, unless nothing is.
    fn written(&self) -> Option<&Store> {
        self.store.as_ref().filter(|_| !self.dry_run)
    }

    /// As it was there, unless that is no name here or another server has it.
    fn free_name(&self, name: &str) -> String {
        let mut plain: String = name.trim_matches('_').chars().take(NAME_CHARS_MAX).collect();
        while plain.contains("__") {
            plain = plain.replace("__", "_");
        }
        let plain = if ServerName::new(&plain).is_ok() { plain } else { "server".to_owned() };
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        names.find(|name| !self.names.contains(name)).unwrap_or(plain)
    }

    async fn endpoint(&mut self, endpoint: &MetaEndpoint, found: &MetaMcp) {
        if self.endpoints.contains(&endpoint.uuid) {
            return self.note("endpoint", &endpoint.name, Outcome::Keep, "");
        }
        let members = found
            .members
            .iter()
            .filter(|member| member.namespace_uuid == endpoint.namespace_uuid && member.status == ACTIVE);
        let mut unfit = Vec::new();
        let servers = members.filter_map(|member| {
            let server = self.servers.get(&member.mcp_server_uuid)?;
            let of = |tool: &&MetaTool| {
                tool.namespace_uuid == endpoint.namespace_uuid
                    && tool.mcp_server_uuid == member.mcp_server_uuid
            };
            Some(shown(member.mcp_server_uuid, server, found.tools.iter().filter(of), &mut unfit))
        });
        let servers: Result<Vec<_>, String> = servers.collect();
        let notes = [
            (!endpoint.enable_api_key_auth, "it asks for a key now, and did not before"),
            (endpoint.enable_oauth, "tokens of MetaMCP's users open it no more"),
            (endpoint.use_query_param_auth, "a key in the URL opens it no more: send it as a header"),
            (endpoint.enable_max_rate, "its rate is not limited: limit that of keys"),
            (
                endpoint.name == EndpointName::DEFAULT,
                "it is what /mcp leads to now, with its servers and no others",
            ),
        ];
        let notes = notes.iter().filter(|(said, _)| *said).map(|(_, note)| *note);
        let notes: Vec<&str> = notes.chain(unfit.iter().map(String::as_str)).collect();
        let name = EndpointName::new(&endpoint.name).map_err(|invalid| invalid.to_string());
        let done = match (name.and(servers), self.written()) {
            (Err(why), _) => Err(Failure::Data(why)),
            // A look tells of it as well.
            (Ok(_), _) if self.endpoint_names.contains(&endpoint.name) => Err(taken("name")),
            (Ok(_), None) => Ok(()),
            (Ok(servers), Some(store)) => {
                let spec = EndpointSpec { name: endpoint.name.clone(), prefix: PrefixMode::Always, servers };
                let inserted = store.insert_endpoint(endpoint.uuid, spec, audit()).await;
                inserted.map(drop).map_err(Failure::from)
            }
        };
        if self.told("endpoint", &endpoint.name, done, &notes) {
            self.endpoints.insert(endpoint.uuid);
            self.endpoint_names.insert(endpoint.name.clone());
        }
    }

    /// A key opens what it opened: endpoints of everybody, and those of its user.
    async fn key(&mut self, key: &MetaKey, endpoints: &[MetaEndpoint]) {
        if !key.is_active {
            return self.note("key", &key.name, Outcome::Skip, "it is off");
        }
        let found = match &self.store {
            Some(store) => store.key(&key.uuid.to_string()).await,
            None => Ok(None),
        };
        match found {
            Ok(None) => {}
            Ok(Some(_)) => return self.note("key", &key.name, Outcome::Keep, ""),
            Err(error) => return self.note("key", &key.name, Outcome::Fail, error.to_string()),
        }
        let opened = endpoints.iter().filter(|endpoint| {
            (endpoint.user_id.is_none() || endpoint.user_id == key.user_id)
                && self.endpoints.contains(&endpoint.uuid)
        });
        let opened: Vec<String> = opened.map(|endpoint| endpoint.name.clone()).collect();
        if opened.is_empty() {
            return self.note("key", &key.name, Outcome::Skip, "it opens no endpoint");
        }
        let note = format!("opens {}", opened.join(", "));
        let request = KeyRequest {
            name: key.name.clone(),
            description: "imported from MetaMCP".into(),
            grants: Grants { endpoints: Some(opened), ..Grants::everything() },
            expires_at: None,
        };
        let done = self.insert_key(key, request).await;
        self.told("key", &key.name, done, &[&note]);
    }

    async fn insert_key(&mut self, key: &MetaKey, request: KeyRequest) -> Result<(), Failure> {
        let (audit, whole) = (audit(), (key.uuid, key.key.as_str()));
        let id = ApiKey::parse(&key.key).map_err(CreateError::from)?.key_id().to_string();
        if self.key_ids.contains(&id) {
            return Err(taken("key_id"));
        }
        if let Some(store) = &self.store {
            let new = imported_key(store, &self.sealer, whole, request, audit.at).await?;
            if let Some(store) = self.written() {
                store.insert_key(new, audit).await?;
            }
        } else {
            request.check(audit.at)?;
        }
        self.key_ids.insert(id);
        Ok(())
    }

    fn report(self, json: bool) -> Done {
        let failed = self.items.iter().any(|item| item.outcome == Outcome::Fail);
        let text = if json {
            let items = self.items.iter().map(|item| {
                json!({"kind": item.kind, "name": item.name, "outcome": item.outcome.word(), "note": item.note})
            });
            line(&json!({"dry_run": self.dry_run, "items": items.collect::<Vec<_>>()}))
        } else {
            if self.dry_run {
                eprintln!("Nothing is written; without --dry-run this would be done:");
            }
            let rows = self.items.iter().map(|item| {
                vec![item.kind.into(), item.name.clone(), item.outcome.word().into(), item.note.clone()]
            });
            table(&["KIND", "NAME", "OUTCOME", "NOTE"], rows)
        };
        Done { text, code: if failed { 65 } else { 0 } }
    }
}

/// What a database says that has one already.
fn taken(field: &str) -> Failure {
    StoreError::Exists { field: field.to_owned() }.into()
}

/// Tools that were off are denied; the others are shown as they were, under the names they had: there the server's
/// stood before the one that was given, and no name was none. What of it the REST API would refuse is left out and told:
/// an endpoint with it would not be served. An error where a tool that was off cannot be denied.
fn shown<'a>(
    server_id: Uuid,
    name: &str,
    tools: impl Iterator<Item = &'a MetaTool>,
    unfit: &mut Vec<String>,
) -> Result<EndpointServer, String> {
    let mut server = EndpointServer::whole(server_id);
    for tool in tools {
        if tool.status != ACTIVE {
            let pattern = pattern(&tool.tool_name);
            let wrong =
                |invalid| format!("it cannot hide the tool {:?} of {name}: {invalid}", tool.tool_name);
            Glob::new(&pattern).map_err(wrong)?;
            server.deny.push(pattern);
            continue;
        }
        let mut note = |part: &str, why: String| {
            unfit.push(format!(
                "without the {part} it gave the tool {:?} of {name}, which {why}",
                tool.tool_name
            ));
        };
        let given = tool.override_name.as_ref().filter(|given| !given.trim().is_empty());
        let instead = ToolOverride {
            tool: tool.tool_name.clone(),
            name: given
                .map(|given| format!("{name}{SEPARATOR}{given}"))
                .filter(|given| is_fit(check_listed_name(given), "name", &mut note)),
            title: tool.override_title.clone().filter(|title| is_fit(check_title(title), "title", &mut note)),
            description: tool
                .override_description
                .clone()
                .filter(|text| is_fit(check_description(text), "description", &mut note)),
            annotations: tool
                .override_annotations
                .clone()
                .filter(|value| is_fit(check_annotations(value), "annotations", &mut note)),
        };
        let said = instead.name.is_some() || instead.title.is_some() || instead.description.is_some();
        if (said || instead.annotations.is_some())
            && is_fit(check_own_name(&tool.tool_name), "override", &mut note)
        {
            server.overrides.push(instead);
        }
    }
    Ok(server)
}

fn is_fit(checked: Result<(), String>, part: &str, note: &mut impl FnMut(&str, String)) -> bool {
    checked.map_err(|why| note(part, why)).is_ok()
}

/// For a name alone, and for one that no pattern can spell, for as little more as may be.
fn pattern(tool: &str) -> String {
    tool.chars().map(|c| if c.is_whitespace() || c.is_control() { '?' } else { c }).collect()
}

/// As the gateway keeps a server: what may be seen of it, and the rest sealed.
fn spec(server: &MetaServer, name: &str) -> Result<ServerSpec, String> {
    let kind = match server.r#type.as_str() {
        "STREAMABLE_HTTP" => ServerKind::Http,
        "SSE" => ServerKind::Sse,
        STDIO => ServerKind::Stdio,
        _ => return Err("of a kind that is not known here".into()),
    };
    let value = if kind == ServerKind::Stdio {
        let command = server.command.as_ref().ok_or("it has no command")?;
        let (args, env) = (server.args().map_err(odd)?, server.env().map_err(odd)?);
        json!({"name": name, "kind": kind.as_str(), "command": command, "args": args, "env": env})
    } else {
        let url = server.url.as_ref().ok_or("it has no address")?;
        json!({"name": name, "kind": kind.as_str(), "url": url, "headers": headers(server).map_err(odd)?})
    };
    // Checked as whoever adds a server is: what is stored is served, but for programs that no list has.
    let read = Server::read(&value, None, &Rules::stored()).map_err(|errors| {
        let told = errors.iter().map(|error| format!("its {} {}", &error.pointer[1..], error.detail));
        told.collect::<Vec<_>>().join("; ")
    })?;
    Ok(read.spec())
}

fn odd(column: OddColumn) -> String {
    column.to_string()
}

fn headers(server: &MetaServer) -> Result<BTreeMap<String, String>, OddColumn> {
    let mut headers = server.headers()?;
    let has_authorization = headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
    if let Some(token) = server.bearer_token.as_ref().filter(|token| !token.is_empty() && !has_authorization)
    {
        headers.insert("Authorization".into(), format!("Bearer {token}"));
    }
    Ok(headers)
}

fn audit() -> Audit {
    who::audit()
}

const ACTIVE: &str = "ACTIVE";

const STDIO: &str = "STDIO";

/// 64, with room for a number behind it.
const NAME_CHARS_MAX: usize = 56;
