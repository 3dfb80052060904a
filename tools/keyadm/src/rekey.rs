//! Sealing everything anew.

use metamcp::auth::{Rekeyed, Secrets, rekey};
use metamcp::store::{SealedKind, Store};
use serde_json::{Value, json};

use crate::Done;
use crate::failure::Failure;
use crate::place::{Absent, Installation};
use crate::table::{line, table};
use crate::who;

/// Everything, in batches.
pub async fn run(installation: &Installation, json: bool) -> Result<Done, Failure> {
    let store = installation.store(Absent::Refuse).await?;
    let sealer = installation.sealer()?;
    let mut found = Vec::new();
    for kind in SealedKind::ALL {
        found.push(rekey(&store, &sealer, kind, &who::actor()).await?);
    }
    let left: u64 = found.iter().map(|kind| kind.left).sum();
    let version = sealer.version();
    let text = if json {
        line(&json!({
            "version": version,
            "left": left,
            "kinds": found.iter().map(describe).collect::<Vec<_>>(),
        }))
    } else {
        let rows = found.iter().map(|kind| {
            let numbers = [kind.rewrapped, kind.current, kind.left].map(|number| number.to_string());
            std::iter::once(word(kind.kind).to_owned()).chain(numbers).collect()
        });
        table(&["KIND", "SEALED ANEW", &format!("VERSION {version}"), "OTHER VERSIONS"], rows)
    };
    if left == 0 {
        return Ok(text.into());
    }
    let names: Vec<&str> = found.iter().flat_map(|kind| &kind.unopened).map(String::as_str).collect();
    eprintln!(
        "keyadm: {left} values were left as they are ({}): no given version of ENCRYPTION_KEY opens them. \
         Give the version that sealed them too; `keyadm doctor` says which of them were altered, and what to do",
        names.join(", ")
    );
    Ok(Done { text, code: 65 })
}

pub fn add_version(installation: &Installation, json: bool) -> Result<String, Failure> {
    let version = Secrets::add_encryption_key(installation.own_secrets()?)?;
    if json {
        return Ok(line(&json!({ "version": version })));
    }
    Ok(format!(
        "Version {version} is in secrets.toml, and the old one still is. Now restart every gateway of this \
         installation, then run `keyadm rekey`. Keep a copy of the file.\n"
    ))
}

pub async fn drop_old(installation: &Installation, json: bool) -> Result<String, Failure> {
    let data_dir = installation.own_secrets()?;
    let store = installation.store(Absent::Refuse).await?;
    let version = installation.sealer()?.version();
    let left = left(&store, version).await?;
    if left > 0 {
        return Err(Failure::Data(format!(
            "{left} values in the database are not sealed by version {version} yet: run `keyadm rekey` first"
        )));
    }
    let dropped = Secrets::drop_old_encryption_keys(data_dir)?;
    if json {
        return Ok(line(&json!({ "version": version, "dropped": dropped })));
    }
    Ok(if dropped.is_empty() {
        format!("There is no version but {version} in secrets.toml.\n")
    } else {
        format!(
            "Version {version} alone is in secrets.toml now. Restart every gateway of this installation.\n"
        )
    })
}

/// Values sealed by other versions.
pub async fn left(store: &Store, version: u8) -> Result<u64, Failure> {
    let mut left = 0;
    for kind in SealedKind::ALL {
        let versions = store.sealed_versions(kind).await?;
        left += versions.iter().filter(|(other, _)| *other != version).map(|(_, count)| count).sum::<u64>();
    }
    Ok(left)
}

pub fn word(kind: SealedKind) -> &'static str {
    match kind {
        SealedKind::Keys => "keys",
        SealedKind::Servers => "servers",
        SealedKind::Endpoints => "endpoints",
        SealedKind::JwtKeys => "jwt_keys",
        SealedKind::ToolPins => "tool_pins",
    }
}

fn describe(kind: &Rekeyed) -> Value {
    json!({
        "kind": word(kind.kind),
        "sealed_anew": kind.rewrapped,
        "current": kind.current,
        "left": kind.left,
        "unopened": kind.unopened,
    })
}
