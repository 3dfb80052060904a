//! Commands for servers and endpoints that are in the database.

use std::collections::HashMap;

use metamcp_store::auth::Sealer;
use metamcp_store::store::{
    EndpointRow, EndpointServer, RowSealer, SealedRow, Secrets, ServerRow, ServerSpec, Store, Uuid,
    VersionMatch,
};
use serde_json::{Map, Value, json};

use crate::args::{ExistingEndpoints, ExistingServers, NameArg};
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::table::{line, or_none, printable};
use crate::{actor, approve, sealed_rows, table, time};

pub async fn servers(
    command: ExistingServers,
    installation: &Installation,
    json: bool,
) -> Result<String, Failure> {
    let store = sealed_rows::optionally_sealing_store(installation).await?;
    let sealer = sealed_rows::find_sealer(installation);
    let seals = SealChecker(sealer.as_ref());
    match command {
        ExistingServers::List => {
            let rows = store.servers().await?.rows;
            Ok(if json {
                line(&Value::Array(rows.iter().map(|row| describe_server(row, seals)).collect()))
            } else {
                list_servers(&rows, seals)
            })
        }
        ExistingServers::Show(NameArg { name }) => {
            let row = find_server(&store, &name).await?;
            let value = describe_server(&row, seals);
            Ok(if json { line(&value) } else { pretty(&value) })
        }
        ExistingServers::Enable(NameArg { name }) => set_enabled(&store, &name, true, json).await,
        ExistingServers::Disable(NameArg { name }) => set_enabled(&store, &name, false, json).await,
        ExistingServers::Remove { server, confirm } => {
            let row = find_server(&store, &server.name).await?;
            require_confirmation(
                confirm,
                "this removes the server from every endpoint, and its credentials are lost",
            )?;
            let row = store.delete_server(row.id, VersionMatch::Version(row.version), actor::audit()).await?;
            Ok(removed("server", row.id, &row.name, json))
        }
        ExistingServers::Approve(args) => approve::run(&args, &store, sealer.as_ref(), json).await,
        ExistingServers::Export { servers } => export(&store, &servers, seals).await,
    }
}

/// Checks the seals of rows, if `ENCRYPTION_KEY` is available.
#[derive(Clone, Copy)]
struct SealChecker<'a>(Option<&'a Sealer>);

impl SealChecker<'_> {
    /// Whether a server has secrets; `None` if its seal does not open, or without a sealer.
    fn has_secrets(self, row: &ServerRow) -> Option<bool> {
        let plain = self.0?.open_row(SealedRow::Server(row))?;
        Some(!plain.expose().is_empty())
    }

    /// Explains what to do about a row whose seal does not open.
    fn todo(self, row: SealedRow<'_>) -> Option<String> {
        let sealer = self.0?;
        sealer.open_row(row).is_none().then(|| sealed_rows::explain_invalid(sealer, row))
    }

    /// Prints a warning for each row whose seal does not open.
    fn warn<'r>(self, rows: impl Iterator<Item = (&'r str, SealedRow<'r>)>) {
        for (name, row) in rows {
            if let Some(todo) = self.todo(row) {
                eprintln!("keyadm: {} is not served: {todo}", printable(name));
            }
        }
    }
}

/// A server is enabled unless its definition says otherwise.
fn is_enabled(row: &ServerRow) -> bool {
    row.definition.get("enabled").and_then(Value::as_bool).unwrap_or(true)
}

async fn set_enabled(store: &Store, name: &str, enabled: bool, json: bool) -> Result<String, Failure> {
    let row = find_server(store, name).await?;
    let changed = is_enabled(&row) != enabled;
    if changed {
        let mut definition = row.definition.clone();
        let Some(members) = definition.as_object_mut() else {
            return Err(Failure::Data(format!("the definition of the server {name} is not a JSON object")));
        };
        members.insert("enabled".into(), enabled.into());
        let spec = ServerSpec { name: row.name.clone(), kind: row.kind, definition, secrets: Secrets::Keep };
        store.replace_server(row.id, VersionMatch::Version(row.version), spec, actor::audit()).await?;
    }
    if json {
        let answer =
            json!({"id": row.id.to_string(), "name": row.name, "enabled": enabled, "changed": changed});
        return Ok(line(&answer));
    }
    let word = if enabled { "enabled" } else { "disabled" };
    let when = if changed { "now" } else { "already" };
    Ok(format!("The server {:?} is {word} {when}.\n", row.name))
}

async fn export(store: &Store, names: &[String], seals: SealChecker<'_>) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for name in names {
        rows.push(find_server(store, name).await?);
    }
    if names.is_empty() {
        rows = store.servers().await?.rows;
    }
    // Altered rows are exported as they are, with a warning.
    seals.warn(rows.iter().map(|row| (row.name.as_str(), SealedRow::Server(row))));
    let mut servers = Map::new();
    for row in &rows {
        let mut definition = row.definition.clone();
        if let Some(members) = definition.as_object_mut() {
            members.entry("type").or_insert_with(|| row.kind.as_str().into());
        }
        servers.insert(row.name.clone(), definition);
    }
    let sealed: Vec<&str> = rows
        .iter()
        .filter(|row| seals.has_secrets(row) != Some(false))
        .map(|row| row.name.as_str())
        .collect();
    if !sealed.is_empty() {
        eprintln!(
            "keyadm: secrets are left out: the values of headers, variables and arguments are `(sealed)`, and parts of \
             addresses are `...`. An import rejects those, so write the actual values into the file for {}",
            printable(&sealed.join(", "))
        );
    }
    Ok(pretty(&json!({ "mcpServers": servers })))
}

pub async fn find_server(store: &Store, name: &str) -> Result<ServerRow, Failure> {
    let row = store.server(name).await?;
    row.ok_or_else(|| {
        Failure::Data(format!("there is no server {name:?} in the database; see `keyadm servers list`"))
    })
}

fn describe_server(row: &ServerRow, seals: SealChecker<'_>) -> Value {
    let opens = sealed_rows::is_valid(seals.0, SealedRow::Server(row));
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "kind": row.kind.as_str(),
        "enabled": is_enabled(row),
        "definition": row.definition,
        "has_secrets": seals.has_secrets(row),
        "opens": opens,
        "todo": seals.todo(SealedRow::Server(row)),
        "version": row.version,
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
    })
}

fn list_servers(rows: &[ServerRow], seals: SealChecker<'_>) -> String {
    seals.warn(rows.iter().map(|row| (row.name.as_str(), SealedRow::Server(row))));
    let head = ["NAME", "KIND", "STATUS", "SECRETS", "CHANGED", "WHERE"];
    table::list(
        "servers in the database",
        &head,
        rows.iter().map(|row| {
            let address = row.definition.get("url").or(row.definition.get("command")).and_then(Value::as_str);
            vec![
                row.name.clone(),
                row.kind.as_str().into(),
                if is_enabled(row) { "enabled" } else { "disabled" }.into(),
                seals.has_secrets(row).map_or("?", |some| if some { "sealed" } else { "none" }).into(),
                time::format(row.changed_at),
                or_none(address.unwrap_or_default().to_owned()),
            ]
        }),
    )
}

pub async fn endpoints(
    command: ExistingEndpoints,
    installation: &Installation,
    json: bool,
) -> Result<String, Failure> {
    let store = installation.store(MissingDatabase::Refuse).await?;
    let sealer = sealed_rows::find_sealer(installation);
    let seals = SealChecker(sealer.as_ref());
    let names: HashMap<Uuid, String> =
        store.servers().await?.rows.into_iter().map(|row| (row.id, row.name)).collect();
    match command {
        ExistingEndpoints::List => {
            let rows = store.endpoints().await?.rows;
            Ok(if json {
                line(&Value::Array(rows.iter().map(|row| describe_endpoint(row, &names, seals)).collect()))
            } else {
                seals.warn(rows.iter().map(|row| (row.name.as_str(), SealedRow::Endpoint(row))));
                list_endpoints(&rows, &names)
            })
        }
        ExistingEndpoints::Show(NameArg { name }) => {
            let row = find_endpoint(&store, &name).await?;
            let value = describe_endpoint(&row, &names, seals);
            Ok(if json { line(&value) } else { pretty(&value) })
        }
        ExistingEndpoints::Remove { endpoint, confirm } => {
            let row = find_endpoint(&store, &endpoint.name).await?;
            require_confirmation(confirm, "the endpoint's filters and overrides will be lost")?;
            let row =
                store.delete_endpoint(row.id, VersionMatch::Version(row.version), actor::audit()).await?;
            Ok(removed("endpoint", row.id, &row.name, json))
        }
    }
}

pub async fn find_endpoint(store: &Store, name: &str) -> Result<EndpointRow, Failure> {
    let row = store.endpoint(name).await?;
    row.ok_or_else(|| {
        Failure::Data(format!("there is no endpoint {name:?} in the database; see `keyadm endpoints list`"))
    })
}

fn describe_endpoint(row: &EndpointRow, names: &HashMap<Uuid, String>, seals: SealChecker<'_>) -> Value {
    let server = |member: &EndpointServer| {
        json!({
            "server": names.get(&member.server_id),
            "server_id": member.server_id.to_string(),
            "allow": member.allow,
            "deny": member.deny,
            "overrides": member.overrides,
        })
    };
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "prefix": row.prefix.as_str(),
        "servers": row.servers.iter().map(server).collect::<Vec<_>>(),
        "opens": sealed_rows::is_valid(seals.0, SealedRow::Endpoint(row)),
        "todo": seals.todo(SealedRow::Endpoint(row)),
        "version": row.version,
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
    })
}

fn list_endpoints(rows: &[EndpointRow], names: &HashMap<Uuid, String>) -> String {
    let name = |member: &EndpointServer| {
        names.get(&member.server_id).cloned().unwrap_or_else(|| member.server_id.to_string())
    };
    let cells = rows.iter().map(|row| {
        let filters: usize = row.servers.iter().map(|member| member.allow.len() + member.deny.len()).sum();
        let overrides: usize = row.servers.iter().map(|member| member.overrides.len()).sum();
        let servers: Vec<String> = row.servers.iter().map(name).collect();
        vec![
            row.name.clone(),
            row.prefix.as_str().into(),
            filters.to_string(),
            overrides.to_string(),
            time::format(row.changed_at),
            or_none(servers.join(",")),
        ]
    });
    let head = ["NAME", "PREFIX", "FILTERS", "OVERRIDES", "CHANGED", "SERVERS"];
    table::list("endpoints in the database", &head, cells)
}

fn require_confirmation(confirm: bool, consequence: &str) -> Result<(), Failure> {
    if confirm { Ok(()) } else { Err(Failure::Usage(format!("{consequence}: add --confirm"))) }
}

fn removed(kind: &str, id: Uuid, name: &str, json: bool) -> String {
    if json {
        return line(&json!({"id": id.to_string(), "name": name, "removed": true}));
    }
    format!("The {kind} {name:?} is removed.\n")
}

/// Renders indented JSON, in which control characters are escaped.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
