//! Adds and changes endpoints. Definitions are checked by the same code as in the REST API.

use metamcp_store::definition::{EndpointDefinition, FieldErrors, endpoint_document, merge_patch};
use metamcp_store::store::{
    EndpointRow, EndpointSpec, RowSealer, SealedRow, ServerRow, StoreError, Uuid, VersionMatch, new_id,
};
use serde_json::{Map, Value, json};

use crate::args::{EndpointSettings, PrefixArg};
use crate::failure::Failure;
use crate::input::{join_errors, read_object};
use crate::installation::{Installation, MissingDatabase};
use crate::table::line;
use crate::{actor, inventory, sealed_rows};

pub async fn add(
    name: &str,
    settings: &EndpointSettings,
    installation: &Installation,
    json: bool,
) -> Result<String, Failure> {
    let mut value = patch(settings, &[])?;
    if value.get("name").is_some_and(|of_file| of_file != name) {
        return Err(Failure::Usage(format!("the file names the endpoint differently than {name:?}")));
    }
    value["name"] = name.into();
    // Of the definition alone, so that a wrong one creates no database.
    EndpointDefinition::read(&value).map_err(|errors| invalid(settings, &errors))?;
    let store = sealed_rows::sealing_store(installation, MissingDatabase::Create).await?;
    let spec = read(&value, &store.servers().await?.rows, settings)?;
    let row = store.insert_endpoint(new_id(), spec, actor::audit()).await.map_err(name_is_taken(name))?;
    if json {
        return Ok(line(&json!({"id": row.id.to_string(), "name": row.name, "created": true})));
    }
    Ok(format!("Added the endpoint {:?}.\n", row.name))
}

pub async fn edit(
    reference: &str,
    rename: Option<String>,
    settings: &EndpointSettings,
    installation: &Installation,
    json: bool,
) -> Result<String, Failure> {
    if rename.is_none() && settings.file.is_none() && settings.prefix.is_none() && settings.server.is_empty()
    {
        return Err(Failure::Usage("name what to change; see `keyadm endpoints edit --help`".into()));
    }
    let store = sealed_rows::sealing_store(installation, MissingDatabase::Refuse).await?;
    let row = inventory::find_endpoint(&store, reference).await?;
    let sealer = installation.sealer().await?;
    // Filters of an altered row are never taken over.
    if sealer.open_row(SealedRow::Endpoint(&row)).is_none() {
        return Err(Failure::Data(sealed_rows::explain_invalid(&sealer, SealedRow::Endpoint(&row))));
    }
    let servers = store.servers().await?.rows;
    let mut value = document(&row, &servers);
    let members = value["servers"].as_array().cloned().unwrap_or_default();
    let mut patch = patch(settings, &with_ids(members, &row))?;
    if let Some(name) = rename {
        patch["name"] = name.into();
    }
    merge_patch(&mut value, &patch);
    let spec = read(&value, &servers, settings)?;
    let name = spec.name.clone();
    let expect = VersionMatch::Version(row.version);
    let after = store.replace_endpoint(row.id, expect, spec, actor::audit()).await;
    let after = after.map_err(name_is_taken(&name))?;
    let changed = after.version != row.version;
    if json {
        return Ok(line(&json!({"id": after.id.to_string(), "name": after.name, "changed": changed})));
    }
    let word = if changed { "is changed now" } else { "is the same already" };
    Ok(format!("The endpoint {:?} {word}.\n", after.name))
}

/// Pairs the members of a document with the ids of their servers.
fn with_ids(members: Vec<Value>, row: &EndpointRow) -> Vec<(Uuid, Value)> {
    row.servers.iter().map(|member| member.server_id).zip(members).collect()
}

/// Returns the members that the user gives. Servers that are among `members` keep their filters and overrides.
fn patch(settings: &EndpointSettings, members: &[(Uuid, Value)]) -> Result<Value, Failure> {
    if let Some(path) = &settings.file {
        return read_object(path);
    }
    let mut patch = Map::new();
    if let Some(prefix) = settings.prefix {
        patch.insert("prefix".into(), prefix.word().into());
    }
    if !settings.server.is_empty() {
        let member = |reference: &String| {
            let id = Uuid::parse_str(reference).ok();
            let found =
                members.iter().find(|(of, member)| Some(*of) == id || member["server"] == reference.as_str());
            found.map_or_else(|| json!({ "server": reference }), |(_, member)| member.clone())
        };
        patch.insert("servers".into(), settings.server.iter().map(member).collect());
    }
    Ok(patch.into())
}

fn read(value: &Value, servers: &[ServerRow], settings: &EndpointSettings) -> Result<EndpointSpec, Failure> {
    EndpointDefinition::read(value)
        .and_then(|endpoint| endpoint.into_spec(servers))
        .map_err(|errors| invalid(settings, &errors))
}

fn invalid(settings: &EndpointSettings, errors: &FieldErrors) -> Failure {
    let text = join_errors(errors);
    if settings.file.is_some() { Failure::Data(text) } else { Failure::Usage(text) }
}

fn name_is_taken(name: &str) -> impl FnOnce(StoreError) -> Failure {
    move |error| match error {
        StoreError::Exists { .. } => Failure::Data(format!(
            "there is already an endpoint {name:?}; change it with `keyadm endpoints edit`"
        )),
        other => other.into(),
    }
}

fn document(row: &EndpointRow, servers: &[ServerRow]) -> Value {
    endpoint_document(row, |id| {
        servers.iter().find(|server| server.id == id).map(|server| server.name.clone())
    })
}

impl PrefixArg {
    fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}
