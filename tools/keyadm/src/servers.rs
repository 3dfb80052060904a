//! Adds servers to the database, one by one or from a file. Definitions are checked by the same code as in the REST API.

use std::path::Path;

use metamcp_config::{Env, ProcessEnv};
use metamcp_store::auth::Sealer;
use metamcp_store::definition::import::{
    ImportAction, overlay_definition, plan_import, prefix_pointers, read_entries,
};
use metamcp_store::definition::{
    CommandPolicy, DefinitionRules, FieldErrors, SERVED_KINDS, ServerDefinition, check_prefixes,
    server_document,
};
use metamcp_store::store::{RowSealer, SealedRow, Store, StoreError, Uuid, VersionMatch, new_id};
use serde_json::{Value, json};

use crate::args::{AddServerArgs, EraArg, HeaderArgs, ImportServersArgs};
use crate::failure::Failure;
use crate::input::{join_errors, read_file};
use crate::installation::{Installation, MissingDatabase};
use crate::output::CommandOutput;
use crate::table::{line, table};
use crate::{actor, program_search};

pub async fn add(args: AddServerArgs, installation: &Installation, json: bool) -> Result<String, Failure> {
    let value = definition(&args)?;
    let rules = rules(args.allow_private);
    let server = ServerDefinition::read(&value, None, &rules)
        .map_err(|errors| Failure::Usage(join_errors(&errors)))?;
    let (sealer, store) = (installation.sealer().await?, installation.store(MissingDatabase::Create).await?);
    check_prefixes(&server, None, &store.servers().await?.rows, std::iter::empty())
        .map_err(|error| Failure::Data(join_errors(&[error])))?;
    let row = store.bound_by(sealer).insert_server(new_id(), server.to_spec(), actor::audit()).await;
    let row = row.map_err(|error| match error {
        StoreError::Exists { .. } => Failure::Data(format!("there is already a server {:?}", args.name)),
        other => other.into(),
    })?;
    if json {
        return Ok(line(&json!({"id": row.id.to_string(), "name": row.name, "created": true})));
    }
    if let Some(command) = &args.command {
        eprintln!("{}", allowlist_hint(command));
    }
    Ok(format!("Added the server {:?}.\n", row.name))
}

/// Names the settings that let a gateway run the command; keyadm does not know the gateways' configurations.
fn allowlist_hint(command: &str) -> String {
    format!(
        "A gateway runs it if `admin.stdio_commands` in metamcp.toml has {command:?}, `admin.stdio_env` its variables, and \
         `admin.stdio_dirs` its working directory."
    )
}

fn definition(args: &AddServerArgs) -> Result<Value, Failure> {
    // `ServerDefinition::read` rejects combinations that do not fit.
    let mut value = json!({
        "name": args.name,
        "kind": if args.command.is_some() { "stdio" } else { "http" },
        "url": args.url,
        "command": args.command,
        "args": Some(&args.args).filter(|args| !args.is_empty()),
        "env": args.env_file.as_deref().map(read_variables).transpose()?,
        "cwd": args.cwd,
    });
    let headers = read_headers(&args.headers)?;
    if !headers.is_empty() {
        value["headers"] = headers.into();
    }
    if let Some(era) = args.era {
        value["era"] = era.word().into();
    }
    if args.allow_private {
        value["allow_private"] = true.into();
    }
    Ok(value)
}

/// Reads the headers of flags and of a file, one on each line.
pub fn read_headers(args: &HeaderArgs) -> Result<serde_json::Map<String, Value>, Failure> {
    let mut headers = serde_json::Map::new();
    let file = args.header_file.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let lines = file.lines().filter(|line| !line.trim().is_empty());
    for header in args.header.iter().map(String::as_str).chain(lines) {
        // The text itself is not repeated, since it may be a secret.
        let malformed = || {
            let text = "a header is written as in `X-Team: a`, in --header or on a line of --header-file";
            Failure::Usage(text.into())
        };
        let (name, text) = header.split_once(':').ok_or_else(malformed)?;
        if headers.insert(name.trim().to_ascii_lowercase(), text.trim().into()).is_some() {
            return Err(Failure::Usage(format!("the header {:?} is given twice", name.trim())));
        }
    }
    Ok(headers)
}

/// Reads variables, one `NAME=value` on each line.
fn read_variables(path: &Path) -> Result<serde_json::Map<String, Value>, Failure> {
    let mut variables = serde_json::Map::new();
    for line in read_file(path)?.lines().filter(|line| !line.trim().is_empty()) {
        // The text itself is not repeated, since it may be a secret.
        let malformed =
            || Failure::Usage("a variable is written as in `TOKEN=…`, on a line of --env-file".into());
        let (name, value) = line.split_once('=').ok_or_else(malformed)?;
        if variables.insert(name.trim().to_owned(), value.into()).is_some() {
            return Err(Failure::Usage(format!("the variable {:?} is given twice", name.trim())));
        }
    }
    Ok(variables)
}

/// Accepts any absolute path as a command: which programs a gateway runs is in its own configuration. Private addresses
/// need `--allow-private`, since keyadm does not know whether the gateway serves the network.
pub fn rules(allow_private: bool) -> DefinitionRules {
    DefinitionRules { served_kinds: SERVED_KINDS.to_vec(), commands: CommandPolicy::Absolute, allow_private }
}

/// Replaces a program's name by its absolute path, as `PATH` has it here: files of MCP clients name programs as a shell
/// does. Returns what to tell about it.
fn resolve_command(value: &mut Value) -> Option<String> {
    let name = value["command"].as_str().filter(|name| !name.contains('/'))?.to_owned();
    let path = ProcessEnv.var("PATH").unwrap_or_default();
    let Some(found) = program_search::find(&name, &path) else {
        return Some(format!("no directory of PATH has the program {name:?}; write its absolute path"));
    };
    let found = found.to_str()?;
    value["command"] = found.into();
    Some(format!("PATH has {name:?} at {found}"))
}

impl EraArg {
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Modern => "modern",
            Self::Legacy => "legacy",
        }
    }
}

/// The outcome for one entry of a file.
struct ImportItem {
    /// The name in the file.
    name: String,
    outcome: &'static str,
    id: Option<Uuid>,
    detail: Option<String>,
    errors: FieldErrors,
}

/// Writes entries to the store.
struct Importer<'a> {
    args: &'a ImportServersArgs,
    store: Store,
    sealer: Sealer,
}

pub async fn import(
    args: ImportServersArgs,
    installation: &Installation,
    json: bool,
) -> Result<CommandOutput, Failure> {
    let text = read_file(&args.file)?;
    let entries = read_entries(&text).map_err(|errors| Failure::Data(join_errors(&errors)))?;
    // A dry run creates nothing.
    let (sealer, store) = if args.dry_run {
        (installation.sealer_for_dry_run()?, installation.existing_store().await?)
    } else {
        (installation.sealer().await?, installation.store(MissingDatabase::Create).await?)
    };
    let importer = Importer { args: &args, store: store.bound_by(sealer.clone()), sealer };
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        let item = ImportItem::new(&entry.name);
        items.push(match plan_import(&entry) {
            ImportAction::Skip(why) => ImportItem { outcome: "skip", detail: Some(why.into()), ..item },
            ImportAction::Reject(errors) => ImportItem { errors, ..item },
            ImportAction::Define { value, pointer } => importer.write(item, value, &pointer).await?,
        });
    }
    Ok(report(&items, args.dry_run, json))
}

impl Importer<'_> {
    /// Writes one server. Fails only if the other entries would fail as well.
    async fn write(&self, item: ImportItem, mut value: Value, pointer: &str) -> Result<ImportItem, Failure> {
        if self.args.allow_private {
            value["allow_private"] = true.into();
        }
        let program = resolve_command(&mut value);
        let item = ImportItem { detail: program.clone(), ..item };
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let renamed = (name != item.name).then(|| format!("stored as {name}, which is a valid server name"));
        let hint = value["command"].as_str().map(allowlist_hint);
        let detail = renamed.into_iter().chain(program).chain(hint).collect::<Vec<_>>().join("; ");
        let detail = (!detail.is_empty()).then_some(detail);
        let found = self.store.server(&name).await?;
        if found.is_some() && !self.args.replace {
            let detail = "there is already a server of that name; --replace replaces it";
            return Ok(ImportItem { detail: Some(detail.into()), ..item });
        }
        // An unreadable row is replaced as a whole, and nothing is taken from an altered one.
        let before = found.as_ref().and_then(|row| ServerDefinition::from_row(row, &self.sealer).ok());
        let plain = found.as_ref().and_then(|row| self.sealer.open_row(SealedRow::Server(row)));
        let value = match &found {
            Some(row) if plain.is_some() => overlay_definition(server_document(row), &value),
            _ => value,
        };
        let server = match ServerDefinition::read(&value, before.as_ref(), &rules(self.args.allow_private)) {
            Ok(server) => server,
            Err(errors) => return Ok(ImportItem { errors: prefix_pointers(pointer, errors), ..item }),
        };
        let rows = self.store.servers().await?.rows;
        if let Err(error) = check_prefixes(&server, found.as_ref(), &rows, std::iter::empty()) {
            return Ok(ImportItem { errors: prefix_pointers(pointer, vec![error]), ..item });
        }
        let id = found.as_ref().map_or_else(new_id, |row| row.id);
        let spec = server.to_spec();
        let outcome = if self.args.dry_run {
            match &found {
                Some(row) if row.matches(&spec, plain.as_ref()) => "keep",
                Some(_) => "replace",
                None => "create",
            }
        } else if let Some(row) = &found {
            let now =
                self.store.replace_server(id, VersionMatch::Version(row.version), spec, actor::audit()).await;
            match now {
                Ok(now) if now.version == row.version => "keep",
                Ok(_) => "replace",
                Err(error) => return item.failed(error),
            }
        } else {
            match self.store.insert_server(id, spec, actor::audit()).await {
                Ok(_) => "create",
                Err(error) => return item.failed(error),
            }
        };
        Ok(ImportItem { outcome, id: Some(id), detail, ..item })
    }
}

impl ImportItem {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), outcome: "fail", id: None, detail: None, errors: Vec::new() }
    }

    /// Records a conflict with another writer as this item's failure; any other error ends the import.
    fn failed(self, error: StoreError) -> Result<Self, Failure> {
        match error {
            StoreError::Conflict | StoreError::Exists { .. } | StoreError::NotFound(_) => {
                Ok(Self { detail: Some(error.to_string()), ..self })
            }
            other => Err(other.into()),
        }
    }

    fn note(&self) -> String {
        let errors = (!self.errors.is_empty()).then(|| join_errors(&self.errors));
        self.detail.iter().cloned().chain(errors).collect::<Vec<_>>().join("; ")
    }
}

fn report(items: &[ImportItem], dry_run: bool, json: bool) -> CommandOutput {
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
            eprintln!("Nothing was written. Without --dry-run, this would be done:");
        }
        let rows = items.iter().map(|item| vec![item.name.clone(), item.outcome.into(), item.note()]);
        table(&["NAME", "OUTCOME", "NOTE"], rows)
    };
    CommandOutput { text, code: if failed { 65 } else { 0 } }
}
