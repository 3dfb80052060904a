//! What is done with the keys that sign tokens.

use std::time::Duration;

use metamcp::auth::{Sealer, new_jwt_key};
use metamcp::store::{Binder, Bound, JwtKeyRow, JwtPhase, Store, StoreError};
use serde_json::{Value, json};

use crate::args::Jwt;
use crate::failure::Failure;
use crate::place::{Absent, Installation};
use crate::table::{line, table};
use crate::{bound, now, time, who};

pub async fn run(command: Jwt, installation: &Installation, json: bool) -> Result<String, Failure> {
    match command {
        Jwt::List => {
            let rows = installation.store(Absent::Refuse).await?.jwt_keys().await?.rows;
            Ok(if json { line(&Value::Array(rows.iter().map(describe).collect())) } else { list(&rows) })
        }
        Jwt::Rotate { wait } => {
            let wait = time::span(&wait)
                .ok_or_else(|| Failure::Usage(format!("--wait: {wait:?} is no duration; write 10s or 2m")))?;
            rotate(installation, wait, json).await
        }
        Jwt::Delete { kid, confirm } => delete(installation, &kid, confirm, json).await,
    }
}

/// New key in the ring, a wait, the change of who signs, and the end of keys whose tokens are long dead. Each step
/// is found done when the command is run again.
async fn rotate(installation: &Installation, wait_s: u64, json: bool) -> Result<String, Failure> {
    let store = installation.store(Absent::Refuse).await?;
    let sealer = installation.sealer()?;
    let rows = store.jwt_keys().await?.rows;
    if rows.is_empty() {
        return Err(Failure::Data(
            "no key signs tokens yet: start the gateway once, which puts its JWT_SECRET into the ring".into(),
        ));
    }
    let keys = store.keys().await?.rows;
    let mut is_ours = rows.iter().map(Bound::JwtKey).chain(keys.iter().map(Bound::Key));
    if !is_ours.any(|row| sealer.open_row(row).is_some()) {
        return Err(Failure::Data(
            "the given ENCRYPTION_KEY opens none of the keys in the database, so it is not the gateway's: take the one the \
             gateway was started with. If it is, they were altered outside of keyadm, or made before rows were bound to it: \
             make an API key first (`keyadm keys create`), then run this again"
                .into(),
        ));
    }
    let retired = rows.into_iter().find(|row| row.phase == JwtPhase::Active).map(|row| row.kid);
    let store = store.bound_by(sealer.clone());
    let next = next(&store, &sealer).await?;
    let left_s = next.changed_at.saturating_add(wait_s).saturating_sub(now()).min(wait_s);
    if left_s > 0 {
        eprintln!(
            "The key {} is in the ring; it signs in {left_s} s, when every replica knows it.",
            next.kid
        );
        tokio::time::sleep(Duration::from_secs(left_s)).await;
    }
    let promoted = match store.promote_jwt_key(who::audit()).await {
        Err(StoreError::NotFound(_)) => {
            return Err(Failure::Data(
                "somebody else has rotated in the meantime; see `keyadm jwt list`".into(),
            ));
        }
        other => other?,
    };
    let removed = prune(&store).await?;
    if json {
        return Ok(line(&json!({"kid": promoted.kid, "retired": retired, "removed": removed})));
    }
    let old = retired.map_or_else(String::new, |kid| {
        format!(
            " What {kid} has signed stays good; it is taken out by a rotation a day from now or later. If it may be \
             known to others: keyadm jwt delete {kid} --confirm"
        )
    });
    Ok(format!("The key {} signs tokens now.{old}\n", promoted.kid))
}

/// The one that waits, or a new one.
async fn next(store: &Store, sealer: &Sealer) -> Result<JwtKeyRow, Failure> {
    match store.insert_jwt_key(new_jwt_key(), who::audit()).await {
        Err(StoreError::Exists { .. }) => {}
        other => return Ok(other?),
    }
    let rows = store.jwt_keys().await?.rows;
    let next = rows.into_iter().find(|row| row.phase == JwtPhase::Next);
    if let Some(next) = next.as_ref().filter(|row| !opens(row, sealer)) {
        let why = bound::closed(sealer, Bound::JwtKey(next));
        return Err(Failure::Data(format!(
            "the key {0} waits to sign, and does not open: it is {why}; `keyadm jwt delete {0} --confirm` first",
            next.kid
        )));
    }
    next.ok_or_else(|| {
        Failure::Data("somebody else has rotated in the meantime; see `keyadm jwt list`".into())
    })
}

/// Takes out what retired so long ago that no token of it lives.
async fn prune(store: &Store) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    for row in store.jwt_keys().await?.rows {
        let over = row.changed_at.saturating_add(RETIRED_S) < now();
        if row.phase == JwtPhase::Retiring && over {
            store.delete_jwt_key(&row.kid, who::audit()).await?;
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
        return Err(Failure::Usage("every token of that key is refused at once: say --confirm".into()));
    }
    let store = installation.store(Absent::Refuse).await?;
    let row = match store.delete_jwt_key(kid, who::audit()).await {
        Err(StoreError::Conflict) => {
            return Err(Failure::Data(
                "that key signs: run `keyadm jwt rotate` first, then delete it".into(),
            ));
        }
        other => other?,
    };
    Ok(if json {
        line(&json!({"kid": row.kid, "deleted": true}))
    } else {
        format!("The key {} is taken out; the tokens it has signed are refused from now on.\n", row.kid)
    })
}

pub fn opens(row: &JwtKeyRow, sealer: &Sealer) -> bool {
    sealer.open_row(Bound::JwtKey(row)).is_some()
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
    table(
        &["KID", "ALGORITHM", "PHASE", "SINCE", "CREATED"],
        rows.iter().map(|row| {
            let since = time::format(row.changed_at);
            let created = time::format(row.created_at);
            vec![row.kid.clone(), row.algorithm.as_str().into(), row.phase.as_str().into(), since, created]
        }),
    )
}

/// A token lives a day at most (`auth.token_lifetime`), and a replica that cannot reach the database goes on signing
/// with what it knows; an hour is for that.
const RETIRED_S: u64 = 25 * 3600;
