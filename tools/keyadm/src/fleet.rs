//! Servers and endpoints that are in the database: shown, switched and removed.

use std::collections::HashMap;

use metamcp::auth::Sealer;
use metamcp::store::{
    Binder, Bound, EndpointRow, EndpointServer, Match, Secrets, ServerRow, ServerSpec, Store, Uuid,
};
use serde_json::{Map, Value, json};

use crate::args::{Endpoints, NameRef, ThereServers};
use crate::failure::Failure;
use crate::place::{Absent, Installation};
use crate::table::{line, or_none, printable, table};
use crate::{approve, bound, time, who};

pub async fn servers(
    command: ThereServers,
    installation: &Installation,
    json: bool,
) -> Result<String, Failure> {
    let (store, sealer) = (bound::store_if_it_can(installation).await?, bound::sealer(installation));
    let looks = Looks(sealer.as_ref());
    match command {
        ThereServers::List => {
            let rows = store.servers().await?.rows;
            Ok(if json {
                line(&Value::Array(rows.iter().map(|row| server(row, looks)).collect()))
            } else {
                list_servers(&rows, looks)
            })
        }
        ThereServers::Show(NameRef { name }) => {
            let row = server_named(&store, &name).await?;
            Ok(if json { line(&server(&row, looks)) } else { pretty(&server(&row, looks)) })
        }
        ThereServers::Enable(NameRef { name }) => switch(&store, &name, true, json).await,
        ThereServers::Disable(NameRef { name }) => switch(&store, &name, false, json).await,
        ThereServers::Remove { server, confirm } => {
            let row = server_named(&store, &server.name).await?;
            confirmed(confirm, "the server leaves every endpoint, and its credentials are lost")?;
            let row = store.delete_server(row.id, Match::Version(row.version), who::audit()).await?;
            Ok(removed("server", row.id, &row.name, json))
        }
        ThereServers::Approve(asked) => approve::run(&asked, &store, sealer.as_ref(), json).await,
        ThereServers::Export { servers } => export(&store, &servers, looks).await,
    }
}

/// What rows are looked at with, if there is something.
#[derive(Clone, Copy)]
struct Looks<'a>(Option<&'a Sealer>);

impl Looks<'_> {
    /// `None`: it does not open, or there is nothing to open it with.
    fn has_secrets(self, row: &ServerRow) -> Option<bool> {
        let plain = self.0?.open_row(Bound::Server(row))?;
        Some(!plain.expose().is_empty())
    }

    /// About a row that does not open.
    fn todo(self, row: Bound<'_>) -> Option<String> {
        let sealer = self.0?;
        sealer.open_row(row).is_none().then(|| bound::closed(sealer, row))
    }

    /// Tells of rows that do not open.
    fn warn<'r>(self, rows: impl Iterator<Item = (&'r str, Bound<'r>)>) {
        for (name, row) in rows {
            if let Some(todo) = self.todo(row) {
                eprintln!("keyadm: {} is not served: {todo}", printable(name));
            }
        }
    }
}

/// A server without a word about it is on.
fn is_enabled(row: &ServerRow) -> bool {
    row.definition.get("enabled").and_then(Value::as_bool).unwrap_or(true)
}

async fn switch(store: &Store, name: &str, enabled: bool, json: bool) -> Result<String, Failure> {
    let row = server_named(store, name).await?;
    let changed = is_enabled(&row) != enabled;
    if changed {
        let mut definition = row.definition.clone();
        let Some(members) = definition.as_object_mut() else {
            return Err(Failure::Data(format!("the definition of the server {name} is no JSON object")));
        };
        members.insert("enabled".into(), enabled.into());
        let spec = ServerSpec { name: row.name.clone(), kind: row.kind, definition, secrets: Secrets::Keep };
        store.replace_server(row.id, Match::Version(row.version), spec, who::audit()).await?;
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

async fn export(store: &Store, names: &[String], looks: Looks<'_>) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for name in names {
        rows.push(server_named(store, name).await?);
    }
    if names.is_empty() {
        rows = store.servers().await?.rows;
    }
    // Somebody else may have written it: it is given out as it is there, and said.
    looks.warn(rows.iter().map(|row| (row.name.as_str(), Bound::Server(row))));
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
        .filter(|row| looks.has_secrets(row) != Some(false))
        .map(|row| row.name.as_str())
        .collect();
    if !sealed.is_empty() {
        eprintln!(
            "keyadm: secrets are left out: values of headers and variables and arguments are `(sealed)`, and parts of addresses \
             `...`. An import refuses those: write the values themselves into the file for {}",
            printable(&sealed.join(", "))
        );
    }
    Ok(pretty(&json!({ "mcpServers": servers })))
}

async fn server_named(store: &Store, name: &str) -> Result<ServerRow, Failure> {
    let row = store.server(name).await?;
    row.ok_or_else(|| {
        Failure::Data(format!("there is no server {name:?} in the database; see `keyadm servers list`"))
    })
}

fn server(row: &ServerRow, looks: Looks<'_>) -> Value {
    let opens = bound::opens(looks.0, Bound::Server(row));
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "kind": row.kind.as_str(),
        "enabled": is_enabled(row),
        "definition": row.definition,
        "has_secrets": looks.has_secrets(row),
        "opens": opens,
        "todo": looks.todo(Bound::Server(row)),
        "version": row.version,
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
    })
}

fn list_servers(rows: &[ServerRow], looks: Looks<'_>) -> String {
    looks.warn(rows.iter().map(|row| (row.name.as_str(), Bound::Server(row))));
    let head = ["NAME", "KIND", "STATUS", "SECRETS", "CHANGED", "WHERE"];
    table(
        &head,
        rows.iter().map(|row| {
            let place = row.definition.get("url").or(row.definition.get("command")).and_then(Value::as_str);
            vec![
                row.name.clone(),
                row.kind.as_str().into(),
                if is_enabled(row) { "enabled" } else { "disabled" }.into(),
                looks.has_secrets(row).map_or("?", |some| if some { "sealed" } else { "none" }).into(),
                time::format(row.changed_at),
                or_none(place.unwrap_or_default().to_owned()),
            ]
        }),
    )
}

pub async fn endpoints(
    command: Endpoints,
    installation: &Installation,
    json: bool,
) -> Result<String, Failure> {
    let store = installation.store(Absent::Refuse).await?;
    let sealer = bound::sealer(installation);
    let looks = Looks(sealer.as_ref());
    let names: HashMap<Uuid, String> =
        store.servers().await?.rows.into_iter().map(|row| (row.id, row.name)).collect();
    match command {
        Endpoints::List => {
            let rows = store.endpoints().await?.rows;
            Ok(if json {
                line(&Value::Array(rows.iter().map(|row| endpoint(row, &names, looks)).collect()))
            } else {
                looks.warn(rows.iter().map(|row| (row.name.as_str(), Bound::Endpoint(row))));
                list_endpoints(&rows, &names)
            })
        }
        Endpoints::Show(NameRef { name }) => {
            let row = endpoint_named(&store, &name).await?;
            let shown = endpoint(&row, &names, looks);
            Ok(if json { line(&shown) } else { pretty(&shown) })
        }
        Endpoints::Remove { endpoint, confirm } => {
            let row = endpoint_named(&store, &endpoint.name).await?;
            confirmed(confirm, "the endpoint's filters and overrides are lost")?;
            let row = store.delete_endpoint(row.id, Match::Version(row.version), who::audit()).await?;
            Ok(removed("endpoint", row.id, &row.name, json))
        }
    }
}

async fn endpoint_named(store: &Store, name: &str) -> Result<EndpointRow, Failure> {
    let row = store.endpoint(name).await?;
    row.ok_or_else(|| {
        Failure::Data(format!("there is no endpoint {name:?} in the database; see `keyadm endpoints list`"))
    })
}

fn endpoint(row: &EndpointRow, names: &HashMap<Uuid, String>, looks: Looks<'_>) -> Value {
    let server = |of: &EndpointServer| {
        json!({
            "server": names.get(&of.server_id),
            "server_id": of.server_id.to_string(),
            "allow": of.allow,
            "deny": of.deny,
            "overrides": of.overrides,
        })
    };
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "prefix": row.prefix.as_str(),
        "servers": row.servers.iter().map(server).collect::<Vec<_>>(),
        "opens": bound::opens(looks.0, Bound::Endpoint(row)),
        "todo": looks.todo(Bound::Endpoint(row)),
        "version": row.version,
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
    })
}

fn list_endpoints(rows: &[EndpointRow], names: &HashMap<Uuid, String>) -> String {
    let name =
        |of: &EndpointServer| names.get(&of.server_id).cloned().unwrap_or_else(|| of.server_id.to_string());
    let cells = rows.iter().map(|row| {
        let filters: usize = row.servers.iter().map(|of| of.allow.len() + of.deny.len()).sum();
        let overrides: usize = row.servers.iter().map(|of| of.overrides.len()).sum();
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
    table(&["NAME", "PREFIX", "FILTERS", "OVERRIDES", "CHANGED", "SERVERS"], cells)
}

fn confirmed(confirm: bool, loss: &str) -> Result<(), Failure> {
    if confirm { Ok(()) } else { Err(Failure::Usage(format!("{loss}: say --confirm"))) }
}

fn removed(kind: &str, id: Uuid, name: &str, json: bool) -> String {
    if json {
        return line(&json!({"id": id.to_string(), "name": name, "removed": true}));
    }
    format!("The {kind} {name:?} is removed.\n")
}

/// For people, and still JSON: every control character is escaped in it.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
