//! Seals all rows again with the newest version of `ENCRYPTION_KEY`.

use metamcp_store::auth::{InstallationSecrets, RekeyReport, rekey};
use metamcp_store::store::{SealedKind, Store};
use serde_json::{Value, json};

use crate::actor;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::output::CommandOutput;
use crate::table::{line, table};

/// Seals all rows, in batches.
pub async fn run(installation: &Installation, json: bool) -> Result<CommandOutput, Failure> {
    let store = installation.store(MissingDatabase::Refuse).await?;
    let sealer = installation.sealer().await?;
    let mut reports = Vec::new();
    for kind in SealedKind::ALL {
        reports.push(rekey(&store, &sealer, kind, &actor::actor()).await?);
    }
    let left: u64 = reports.iter().map(|kind| kind.left).sum();
    let version = sealer.current_version();
    let text = if json {
        line(&json!({
            "version": version,
            "left": left,
            "kinds": reports.iter().map(describe).collect::<Vec<_>>(),
        }))
    } else {
        let rows = reports.iter().map(|kind| {
            let numbers = [kind.resealed, kind.current, kind.left].map(|number| number.to_string());
            std::iter::once(kind_name(kind.kind).to_owned()).chain(numbers).collect()
        });
        table(&["KIND", "RESEALED", &format!("VERSION {version}"), "OTHER VERSIONS"], rows)
    };
    if left == 0 {
        return Ok(text.into());
    }
    let names: Vec<&str> = reports.iter().flat_map(|kind| &kind.unsealable).map(String::as_str).collect();
    eprintln!(
        "keyadm: {left} values were left unchanged ({}): no provided version of ENCRYPTION_KEY opens them. \
         Provide the version that sealed them too; `keyadm doctor` shows which of them were altered, and what to do",
        names.join(", ")
    );
    Ok(CommandOutput { text, code: 65 })
}

/// Adds a new version of `ENCRYPTION_KEY` to `secrets.toml`.
pub fn add_version(installation: &Installation, json: bool) -> Result<String, Failure> {
    let version = InstallationSecrets::add_encryption_key(installation.secrets_dir()?)?;
    if json {
        return Ok(line(&json!({ "version": version })));
    }
    Ok(format!(
        "Added version {version} to secrets.toml; the old version is still in it. Now restart every gateway of this \
         installation, then run `keyadm rekey`. Keep a copy of the file.\n"
    ))
}

/// Removes the old versions from `secrets.toml` once nothing is sealed with them.
pub async fn drop_old(installation: &Installation, json: bool) -> Result<String, Failure> {
    let data_dir = installation.secrets_dir()?;
    let store = installation.store(MissingDatabase::Refuse).await?;
    let version = installation.sealer().await?.current_version();
    let left = count_other_versions(&store, version).await?;
    if left > 0 {
        return Err(Failure::Data(format!(
            "{left} values in the database are not sealed with version {version} yet: run `keyadm rekey` first"
        )));
    }
    let dropped = InstallationSecrets::drop_old_encryption_keys(data_dir, version)?;
    if json {
        return Ok(line(&json!({ "version": version, "dropped": dropped })));
    }
    Ok(if dropped.is_empty() {
        format!("secrets.toml has no version other than {version}.\n")
    } else {
        format!(
            "Removed the old versions from secrets.toml; version {version} remains. Restart every gateway of this \
             installation.\n"
        )
    })
}

/// Counts the values that are sealed with other versions.
pub async fn count_other_versions(store: &Store, version: u8) -> Result<u64, Failure> {
    let mut left = 0;
    for kind in SealedKind::ALL {
        let versions = store.sealed_versions(kind).await?;
        left += versions.iter().filter(|(other, _)| *other != version).map(|(_, count)| count).sum::<u64>();
    }
    Ok(left)
}

fn kind_name(kind: SealedKind) -> &'static str {
    match kind {
        SealedKind::Keys => "keys",
        SealedKind::Servers => "servers",
        SealedKind::Endpoints => "endpoints",
        SealedKind::JwtKeys => "jwt_keys",
        SealedKind::ToolPins => "tool_pins",
    }
}

fn describe(kind: &RekeyReport) -> Value {
    json!({
        "kind": kind_name(kind.kind),
        "sealed_anew": kind.resealed,
        "current": kind.current,
        "left": kind.left,
        "unopened": kind.unsealable,
    })
}
