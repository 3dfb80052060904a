//! Changes servers. Definitions are checked by the same code as in the REST API.

use metamcp_store::definition::{
    FieldErrors, ServerDefinition, check_prefixes, merge_patch, normalize_patch, server_document,
};
use metamcp_store::store::{RowSealer, SealedRow, StoreError, VersionMatch};
use serde_json::{Map, Value, json};

use crate::args::EditServerArgs;
use crate::failure::Failure;
use crate::input::{join_errors, read_object};
use crate::installation::{Installation, MissingDatabase};
use crate::table::line;
use crate::{actor, inventory, sealed_rows, servers};

pub async fn edit(args: EditServerArgs, installation: &Installation, json: bool) -> Result<String, Failure> {
    let patch = patch(&args)?;
    let store = sealed_rows::sealing_store(installation, MissingDatabase::Refuse).await?;
    let rows = store.servers().await?.rows;
    let row = inventory::find_server(&store, &args.server.name).await?;
    let sealer = installation.sealer().await?;
    // Nothing of an altered row is taken over.
    if sealer.open_row(SealedRow::Server(&row)).is_none() {
        return Err(Failure::Data(sealed_rows::explain_invalid(&sealer, SealedRow::Server(&row))));
    }
    let before = ServerDefinition::from_row(&row, &sealer).ok();
    let mut value = server_document(&row);
    merge_patch(&mut value, &patch);
    let invalid = |errors: FieldErrors| {
        let text = join_errors(&errors);
        if args.file.is_some() { Failure::Data(text) } else { Failure::Usage(text) }
    };
    let is_private = value["allow_private"] == json!(true);
    let server =
        ServerDefinition::read(&value, before.as_ref(), &servers::rules(is_private)).map_err(invalid)?;
    check_prefixes(&server, Some(&row), &rows, std::iter::empty())
        .map_err(|error| Failure::Data(join_errors(&[error])))?;
    let expect = VersionMatch::Version(row.version);
    let after = store.replace_server(row.id, expect, server.to_spec(), actor::audit()).await;
    let after = after.map_err(|error| match error {
        StoreError::Exists { .. } => Failure::Data(format!(
            "there is already a server {:?}; choose another name",
            server.name().as_str()
        )),
        other => other.into(),
    })?;
    let changed = after.version != row.version;
    if json {
        return Ok(line(&json!({"id": after.id.to_string(), "name": after.name, "changed": changed})));
    }
    let word = if changed { "is changed now" } else { "is the same already" };
    Ok(format!("The server {:?} {word}.\n", after.name))
}

/// Returns the members that the user gives.
fn patch(args: &EditServerArgs) -> Result<Value, Failure> {
    if let Some(path) = &args.file {
        let mut patch = read_object(path)?;
        normalize_patch(&mut patch);
        return Ok(patch);
    }
    let mut patch = Map::new();
    let texts = [("name", &args.rename), ("url", &args.url)];
    patch.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?.into()))));
    if let Some(era) = args.era {
        patch.insert("era".into(), era.word().into());
    }
    let headers = servers::read_headers(&args.headers)?;
    if !headers.is_empty() {
        patch.insert("headers".into(), headers.into());
    }
    if args.allow_private {
        patch.insert("allow_private".into(), true.into());
    }
    if patch.is_empty() {
        return Err(Failure::Usage("name what to change; see `keyadm servers edit --help`".into()));
    }
    Ok(patch.into())
}
