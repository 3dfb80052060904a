//! Commands for the keys that sign tokens.

use std::time::Duration;

use metamcp_store::auth::{Sealer, generate_jwt_key};
use metamcp_store::store::{JwtKeyRow, JwtPhase, RowSealer, SealedRow, Store, StoreError};
use serde_json::{Value, json};

use crate::args::Jwt;
use crate::clock::now;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::table::line;
use crate::{actor, sealed_rows, table, time};

pub async fn run(command: Jwt, installation: &Installation, json: bool) -> Result<String, Failure> {
    match command {
        Jwt::List => {
            let rows = installation.store(MissingDatabase::Refuse).await?.jwt_keys().await?.rows;
            Ok(if json { line(&Value::Array(rows.iter().map(describe).collect())) } else { list(&rows) })
        }
        Jwt::Rotate { wait } => {
            let wait = time::parse_duration(&wait).ok_or_else(|| {
                Failure::Usage(format!("--wait: {wait:?} is not a duration; write 10s or 2m"))
            })?;
            rotate(installation, wait, json).await
        }
        Jwt::Delete { kid, confirm } => delete(installation, &kid, confirm, json).await,
    }
}

/// Inserts a new key, waits until replicas know it, promotes it to sign, and removes keys whose tokens have all expired.
/// The command can be run again after an interruption: steps that are done are skipped.
async fn rotate(installation: &Installation, wait_s: u64, json: bool) -> Result<String, Failure> {
    let store = installation.store(MissingDatabase::Refuse).await?;
    let sealer = installation.sealer().await?;
    let rows = store.jwt_keys().await?.rows;
    if rows.is_empty() {
        return Err(Failure::Data(
            "no key signs tokens yet: start the gateway once, which adds its JWT_SECRET to the database"
                .into(),
        ));
    }
    let keys = store.keys().await?.rows;
    let mut is_ours = rows.iter().map(SealedRow::JwtKey).chain(keys.iter().map(SealedRow::Key));
    if !is_ours.any(|row| sealer.open_row(row).is_some()) {
        return Err(Failure::Data(
            "this ENCRYPTION_KEY opens none of the keys in the database, so it is not the gateway's: use the one that the \
             gateway was started with. If it is that one, the keys were altered outside of keyadm, or created before rows \
             were sealed: create an API key first (`keyadm keys create`), then run this again"
                .into(),
        ));
    }
    let retired = rows.into_iter().find(|row| row.phase == JwtPhase::Active).map(|row| row.kid);
    let store = store.bound_by(sealer.clone());
    let next = next_key(&store, &sealer).await?;
    let left_s = next.changed_at.saturating_add(wait_s).saturating_sub(now()).min(wait_s);
    if left_s > 0 {
        eprintln!("Added the key {}. It will sign in {left_s} s, when every replica knows it.", next.kid);
        tokio::time::sleep(Duration::from_secs(left_s)).await;
    }
    let promoted = match store.promote_jwt_key(actor::audit()).await {
        Err(StoreError::NotFound(_)) => {
            return Err(Failure::Data(
                "another rotation has finished in the meantime; see `keyadm jwt list`".into(),
            ));
        }
        other => other?,
    };
    let removed = remove_expired_keys(&store).await?;
    if json {
        return Ok(line(&json!({"kid": promoted.kid, "retired": retired, "removed": removed})));
    }
    let old = retired.map_or_else(String::new, |kid| {
        format!(
            " Tokens signed by {kid} stay valid; a rotation a day from now or later removes that key. If it may be \
             compromised: keyadm jwt delete {kid} --confirm"
        )
    });
    Ok(format!("The key {} signs tokens now.{old}\n", promoted.kid))
}

/// Returns the key that waits to sign; inserts one if there is none.
async fn next_key(store: &Store, sealer: &Sealer) -> Result<JwtKeyRow, Failure> {
    match store.insert_jwt_key(generate_jwt_key(), actor::audit()).await {
        Err(StoreError::Exists { .. }) => {}
        other => return Ok(other?),
    }
    let rows = store.jwt_keys().await?.rows;
    let next = rows.into_iter().find(|row| row.phase == JwtPhase::Next);
    if let Some(next) = next.as_ref().filter(|row| !has_valid_seal(row, sealer)) {
        let why = sealed_rows::explain_invalid(sealer, SealedRow::JwtKey(next));
        return Err(Failure::Data(format!(
            "the key {0} that waits to sign does not open: it is {why}; run `keyadm jwt delete {0} --confirm` first",
            next.kid
        )));
    }
    next.ok_or_else(|| {
        Failure::Data("another rotation has finished in the meantime; see `keyadm jwt list`".into())
    })
}

/// Removes keys that retired so long ago that all their tokens have expired.
async fn remove_expired_keys(store: &Store) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    for row in store.jwt_keys().await?.rows {
        let has_expired = row.changed_at.saturating_add(RETIRED_S) < now();
        if row.phase == JwtPhase::Retiring && has_expired {
            store.delete_jwt_key(&row.kid, actor::audit()).await?;
            removed.push(row.kid);
        }
    }
    Ok(removed)
}

async fn delete(
    installation: &Installation,
    kid: &str,
    confirm: bool,
    json: bool,
) -> Result<String, Failure> {
    if !confirm {
        return Err(Failure::Usage("this revokes every token of that key: add --confirm".into()));
    }
    let store = installation.store(MissingDatabase::Refuse).await?;
    let row = match store.delete_jwt_key(kid, actor::audit()).await {
        Err(StoreError::Conflict) => {
            return Err(Failure::Data(
                "that key signs tokens: run `keyadm jwt rotate` first, then delete it".into(),
            ));
        }
        other => other?,
    };
    Ok(if json {
        line(&json!({"kid": row.kid, "deleted": true}))
    } else {
        format!("Deleted the key {}; its tokens are refused from now on.\n", row.kid)
    })
}

fn has_valid_seal(row: &JwtKeyRow, sealer: &Sealer) -> bool {
    sealer.open_row(SealedRow::JwtKey(row)).is_some()
}

fn describe(row: &JwtKeyRow) -> Value {
    json!({
        "kid": row.kid,
        "algorithm": row.algorithm.as_str(),
        "phase": row.phase.as_str(),
        "created_at": time::format(row.created_at),
        "phase_since": time::format(row.changed_at),
    })
}

fn list(rows: &[JwtKeyRow]) -> String {
    table::list(
        "keys that sign tokens",
        &["KID", "ALGORITHM", "PHASE", "SINCE", "CREATED"],
        rows.iter().map(|row| {
            let since = time::format(row.changed_at);
            let created = time::format(row.created_at);
            vec![row.kid.clone(), row.algorithm.as_str().into(), row.phase.as_str().into(), since, created]
        }),
    )
}

/// A token is valid for a day at most (`auth.token_lifetime`). The hour covers replicas that cannot reach the database and
/// still sign with the old key.
const RETIRED_S: u64 = 25 * 3600;
