//! Servers on their way into the database. What a definition must be is said where the REST API has it from.

use std::io::{ErrorKind, Read};
use std::path::Path;

use metamcp::admin::definition::import::{Wanted, entries, under, upsert, wanted};
use metamcp::admin::definition::{Commands, Errors, FieldError, Rules, SERVED, Server, server_document};
use metamcp::auth::Sealer;
use metamcp::store::{Binder, Bound, Match, Store, StoreError, Uuid, new_id};
use serde_json::{Value, json};

use crate::Done;
use crate::args::{AddServer, Era, ImportServers};
use crate::failure::Failure;
use crate::place::{Absent, Installation};
use crate::table::{line, table};
use crate::who;

pub async fn add(asked: AddServer, installation: &Installation, json: bool) -> Result<String, Failure> {
    let value = definition(&asked)?;
    let rules = rules(asked.allow_private);
    let server = Server::read(&value, None, &rules).map_err(|errors| Failure::Usage(told(&errors)))?;
    let (sealer, store) = (installation.sealer()?, installation.store(Absent::Create).await?);
    let row = store.bound_by(sealer).insert_server(new_id(), server.spec(), who::audit()).await;
    let row = row.map_err(|error| match error {
        StoreError::Exists { .. } => Failure::Data(format!("there is a server {:?} already", asked.name)),
        other => other.into(),
    })?;
    if json {
        return Ok(line(&json!({"id": row.id.to_string(), "name": row.name, "created": true})));
    }
    if let Some(command) = &asked.command {
        eprintln!("{}", told_of_list(command));
    }
    Ok(format!("The server {:?} is added.\n", row.name))
}

/// Which gateways there are is not known here, nor what their configurations say.
fn told_of_list(command: &str) -> String {
    format!(
        "It runs where the gateway's `admin.stdio_commands` in metamcp.toml has {command:?}, `admin.stdio_env` its \
         variables, and `admin.stdio_dirs` its working directory."
    )
}

fn definition(asked: &AddServer) -> Result<Value, Failure> {
    // What does not belong together is told where the definition is read.
    let mut value = json!({
        "name": asked.name,
        "kind": if asked.command.is_some() { "stdio" } else { "http" },
        "url": asked.url,
        "command": asked.command,
        "args": Some(&asked.args).filter(|args| !args.is_empty()),
        "env": asked.env_file.as_deref().map(variables).transpose()?,
        "cwd": asked.cwd,
    });
    let mut headers = serde_json::Map::new();
    let file = asked.header_file.as_deref().map(read).transpose()?.unwrap_or_default();
    let lines = file.lines().filter(|line| !line.trim().is_empty());
    for header in asked.header.iter().map(String::as_str).chain(lines) {
        // Without what was written, which may be a secret.
        let form = || {
            let text = "a header is written as in `X-Team: a`, in --header or in a line of --header-file";
            Failure::Usage(text.into())
        };
        let (name, text) = header.split_once(':').ok_or_else(form)?;
        if headers.insert(name.trim().to_ascii_lowercase(), text.trim().into()).is_some() {
            return Err(Failure::Usage(format!("the header {:?} is there twice", name.trim())));
        }
    }
    if !headers.is_empty() {
        value["headers"] = headers.into();
    }
    if let Some(era) = asked.era {
        value["era"] = era.word().into();
    }
    if asked.allow_private {
        value["allow_private"] = true.into();
    }
    Ok(value)
}

/// `NAME=value`, one in a line.
fn variables(path: &Path) -> Result<serde_json::Map<String, Value>, Failure> {
    let mut variables = serde_json::Map::new();
    for line in read(path)?.lines().filter(|line| !line.trim().is_empty()) {
        // Without what was written, which may be a secret.
        let form = || Failure::Usage("a variable is written as in `TOKEN=…`, in a line of --env-file".into());
        let (name, value) = line.split_once('=').ok_or_else(form)?;
        if variables.insert(name.trim().to_owned(), value.into()).is_some() {
            return Err(Failure::Usage(format!("the variable {:?} is there twice", name.trim())));
        }
    }
    Ok(variables)
}

/// Whoever writes here has a shell on the machine; that the gateway takes no strangers is not known here, nor which
/// programs it runs.
fn rules(allow_private: bool) -> Rules {
    Rules { served: SERVED.to_vec(), commands: Commands::Absolute, allow_private }
}

impl Era {
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Modern => "modern",
            Self::Legacy => "legacy",
        }
    }
}

/// What became of one entry of a file.
struct Item {
    /// As written.
    name: String,
    outcome: &'static str,
    id: Option<Uuid>,
    detail: Option<String>,
    errors: Errors,
}

/// Where servers go.
struct Target<'a> {
    asked: &'a ImportServers,
    store: Store,
    sealer: Sealer,
}

pub async fn import(asked: ImportServers, installation: &Installation, json: bool) -> Result<Done, Failure> {
    let text = read(&asked.file)?;
    let entries = entries(&text).map_err(|errors| Failure::Data(told(&errors)))?;
    // Of what is only looked at, nothing is made.
    let (sealer, store) = if asked.dry_run {
        (installation.sealer_as_it_is()?, installation.store_as_it_is().await?)
    } else {
        (installation.sealer()?, installation.store(Absent::Create).await?)
    };
    let target = Target { asked: &asked, store: store.bound_by(sealer.clone()), sealer };
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        let item = Item::new(&entry.name);
        items.push(match wanted(&entry) {
            Wanted::Skip(why) => Item { outcome: "skip", detail: Some(why.into()), ..item },
            Wanted::Wrong(errors) => Item { errors, ..item },
            Wanted::Define { value, pointer } => target.write(item, value, &pointer).await?,
        });
    }
    Ok(report(&items, asked.dry_run, json))
}

impl Target<'_> {
    /// One server; an error only when the others would fail as well.
    async fn write(&self, item: Item, mut value: Value, pointer: &str) -> Result<Item, Failure> {
        if self.asked.allow_private {
            value["allow_private"] = true.into();
        }
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let renamed = (name != item.name).then(|| format!("is stored as {name}, which is a server name"));
        let listed = value["command"].as_str().map(told_of_list);
        let detail = renamed.into_iter().chain(listed).collect::<Vec<_>>().join("; ");
        let detail = (!detail.is_empty()).then_some(detail);
        let found = self.store.server(&name).await?;
        if found.is_some() && !self.asked.replace {
            let detail = "there is a server of that name; --replace puts this one in its place";
            return Ok(Item { detail: Some(detail.into()), ..item });
        }
        // What cannot be read any more is written anew, and nothing is built on what was altered.
        let before = found.as_ref().and_then(|row| Server::from_row(row, &self.sealer).ok());
        let plain = found.as_ref().and_then(|row| self.sealer.open_row(Bound::Server(row)));
        let value = match &found {
            Some(row) if plain.is_some() => upsert(server_document(row), &value),
            _ => value,
        };
        let server = match Server::read(&value, before.as_ref(), &rules(self.asked.allow_private)) {
            Ok(server) => server,
            Err(errors) => return Ok(Item { errors: under(pointer, errors), ..item }),
        };
        let id = found.as_ref().map_or_else(new_id, |row| row.id);
        let spec = server.spec();
        let outcome = if self.asked.dry_run {
            match &found {
                Some(row) if row.is(&spec, plain.as_ref()) => "keep",
                Some(_) => "replace",
                None => "create",
            }
        } else if let Some(row) = &found {
            let now = self.store.replace_server(id, Match::Version(row.version), spec, who::audit()).await;
            match now {
                Ok(now) if now.version == row.version => "keep",
                Ok(_) => "replace",
                Err(error) => return item.failed(error),
            }
        } else {
            match self.store.insert_server(id, spec, who::audit()).await {
                Ok(_) => "create",
                Err(error) => return item.failed(error),
            }
        };
        Ok(Item { outcome, id: Some(id), detail, ..item })
    }
}

impl Item {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), outcome: "fail", id: None, detail: None, errors: Vec::new() }
    }

    /// Somebody else was there first; anything else stops the others too.
    fn failed(self, error: StoreError) -> Result<Self, Failure> {
        match error {
            StoreError::Conflict | StoreError::Exists { .. } | StoreError::NotFound(_) => {
                Ok(Self { detail: Some(error.to_string()), ..self })
            }
            other => Err(other.into()),
        }
    }

    fn note(&self) -> String {
        let errors = (!self.errors.is_empty()).then(|| told(&self.errors));
        self.detail.iter().cloned().chain(errors).collect::<Vec<_>>().join("; ")
    }
}

fn report(items: &[Item], dry_run: bool, json: bool) -> Done {
    let failed = items.iter().any(|item| item.outcome == "fail");
    let text = if json {
        let items = items.iter().map(|item| {
            let id = item.id.filter(|_| !dry_run).map(|id| id.to_string());
            json!({
                "name": item.name, "outcome": item.outcome, "id": id, "detail": item.detail, "errors": item.errors,
            })
        });
        line(&json!({"dry_run": dry_run, "items": items.collect::<Vec<_>>()}))
    } else {
        if dry_run {
            eprintln!("Nothing is written; without --dry-run this would be done:");
        }
        let rows = items.iter().map(|item| vec![item.name.clone(), item.outcome.into(), item.note()]);
        table(&["NAME", "OUTCOME", "NOTE"], rows)
    };
    Done { text, code: if failed { 65 } else { 0 } }
}

/// Every mistake, with its place.
fn told(errors: &[FieldError]) -> String {
    let told: Vec<String> = errors
        .iter()
        .map(|error| format!("{} {}", error.pointer.trim_start_matches('/'), error.detail).trim().to_owned())
        .collect();
    told.join("; ")
}

fn read(path: &Path) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| {
        let text = format!("{} cannot be read: {error}", path.display());
        if error.kind() == ErrorKind::InvalidData { Failure::Data(text) } else { Failure::Unavailable(text) }
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    };
    read.map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Data(format!("{} is longer than 4 MiB", path.display())));
    }
    Ok(text)
}

/// As much as the REST API takes.
const FILE_BYTES_MAX: u64 = 4 << 20;
