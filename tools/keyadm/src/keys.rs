//! Commands for API keys.

use metamcp_store::auth::{ApiKey, KeyRequest, generate_key};
use metamcp_store::store::{Audit, KeyRow, KeyStatus, OldKeyPolicy, Rotation, Store, StoreError};
use serde_json::json;

use crate::args::Keys;
use crate::clock::now;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::key_request::{new_key_request, not_found, parse_key_reference};
use crate::key_view::KeyUses;
use crate::table::line;
use crate::{actor, key_endpoints, key_set, key_view, sealed_rows, time};

pub async fn run(command: Keys, installation: &Installation, json: bool) -> Result<String, Failure> {
    match command {
        Keys::Create(args) => create(installation, new_key_request(args)?, json).await,
        Keys::List { include_inactive } => {
            let store = installation.store(MissingDatabase::Refuse).await?;
            let mut rows = store.keys().await?.rows;
            rows.retain(|row| include_inactive || row.status == KeyStatus::Active);
            let sealer = sealed_rows::find_sealer(installation);
            let uses = KeyUses::read(&store).await?;
            if json {
                return Ok(key_view::list_json(&rows, sealer.as_ref(), &uses));
            }
            let items = if include_inactive {
                "keys"
            } else {
                "active keys; --include-inactive lists the others too"
            };
            Ok(key_view::list(items, &rows, sealer.as_ref(), &uses))
        }
        Keys::Show(key) => {
            let (store, row) = find(installation, &key.id).await?;
            let sealer = sealed_rows::find_sealer(installation);
            let uses = KeyUses::read(&store).await?;
            Ok(if json {
                line(&key_view::describe_stored(&row, sealer.as_ref(), &uses))
            } else {
                key_view::show(&row, sealer.as_ref(), &uses)
            })
        }
        Keys::Set(args) => key_set::set(args, installation, json).await,
        Keys::Activate(key) => set_status(installation, &key.id, KeyStatus::Active, json).await,
        Keys::Inactivate(key) => set_status(installation, &key.id, KeyStatus::Inactive, json).await,
        Keys::Delete { key, confirm } => delete(installation, &key.id, confirm, json).await,
        Keys::Rotate { key, grace, expires } => rotate(installation, &key.id, grace, expires, json).await,
    }
}

async fn create(installation: &Installation, request: KeyRequest, json: bool) -> Result<String, Failure> {
    request.check(now())?;
    let sealer = installation.sealer().await?;
    let store = installation.store(MissingDatabase::Create).await?;
    let audit = actor::audit();
    let (key, new) = generate_key(&store, &sealer, request, audit.at).await?;
    let (store, id) = (store.bound_by(sealer), new.key_id.clone());
    let row = match store.insert_key(new, audit).await {
        Err(StoreError::Unsure(why)) => confirm_created(&store, &id, why, "").await?,
        other => other?,
    };
    let end = row.expires_at.map(|end| format!(" It expires at {}.", time::format_relative(end, now())));
    let message =
        format!("Created the key {:?} with the id {}.{}", row.name, row.key_id, end.unwrap_or_default());
    render_created(&store, (&key, &row), json, &message).await
}

/// Looks up a key whose creation the database did not confirm. `note` says what would have happened to another key.
async fn confirm_created(store: &Store, id: &str, why: String, note: &str) -> Result<KeyRow, Failure> {
    if let Ok(Some(row)) = store.key(id).await {
        return Ok(row);
    }
    // A missing row proves nothing: the database may still be committing it.
    Err(Failure::Unavailable(format!(
        "{}. Check whether `keyadm keys list` has the key {id}: its secret is lost, so if it exists, run `keyadm keys \
         delete {id} --confirm`, and create another one{note}",
        StoreError::Unsure(why)
    )))
}

/// Renders a new key. Standard output has nothing but the key, so that a script can read it.
async fn render_created(
    store: &Store,
    (key, row): (&ApiKey, &KeyRow),
    json: bool,
    message: &str,
) -> Result<String, Failure> {
    // The key is created and must be printed, even if the database fails now.
    let unknown = key_endpoints::find_unknown(store, &row.grants).await.unwrap_or_default();
    if json {
        let mut answer = key_view::describe(row);
        answer["key"] = key.expose().into();
        answer["unknown_endpoints"] = unknown.into();
        return Ok(line(&answer));
    }
    key_endpoints::warn(&unknown);
    eprintln!("{message} It is shown only once and stored nowhere:");
    Ok(format!("{}\n", key.expose()))
}

async fn set_status(
    installation: &Installation,
    id: &str,
    status: KeyStatus,
    json: bool,
) -> Result<String, Failure> {
    let id = &parse_key_reference(id)?;
    let store = match status {
        KeyStatus::Active => sealed_rows::sealing_store(installation, MissingDatabase::Refuse).await?,
        KeyStatus::Inactive => sealed_rows::optionally_sealing_store(installation).await?,
    };
    let row = store.key(id).await?.ok_or_else(|| not_found(id))?;
    let changed = row.status != status;
    // An active key is written too: its row may have been altered, and then it is not accepted.
    if (changed || status == KeyStatus::Active)
        && !store.set_key_status(&row.key_id, status, actor::audit()).await?
    {
        return Err(not_found(id));
    }
    if json {
        let answer = json!({
            "id": row.key_id, "uuid": row.id.to_string(), "name": row.name, "status": status.as_str(),
            "expired": key_view::has_ended(&row), "changed": changed,
        });
        return Ok(line(&answer));
    }
    let word = if status == KeyStatus::Active { "active" } else { "inactive" };
    let change = if changed { format!("is {word} now") } else { format!("was {word} already") };
    let ended = row.ends_at().filter(|end| status == KeyStatus::Active && *end <= now());
    let caveat = if ended.is_some() { ", but it has expired: create another one" } else { "" };
    Ok(format!("The key {:?} with the id {} {change}{caveat}.\n", row.name, row.key_id))
}

async fn delete(installation: &Installation, id: &str, confirm: bool, json: bool) -> Result<String, Failure> {
    let id = parse_key_reference(id)?;
    if !confirm {
        return Err(Failure::Usage(
            "a deleted key cannot be restored: add --confirm, or use `keyadm keys inactivate`".into(),
        ));
    }
    let store = installation.store(MissingDatabase::Refuse).await?;
    let row = store.key(&id).await?.ok_or_else(|| not_found(&id))?;
    let row = store.delete_key(&row.key_id, actor::audit()).await?;
    if json {
        return Ok(line(
            &json!({"id": row.key_id, "uuid": row.id.to_string(), "name": row.name, "deleted": true}),
        ));
    }
    Ok(format!("The key {:?} with the id {} is deleted.\n", row.name, row.key_id))
}

async fn rotate(
    installation: &Installation,
    id: &str,
    grace: Option<String>,
    expires: Option<String>,
    json: bool,
) -> Result<String, Failure> {
    let grace = grace.map(|text| time::parse_end(&text, now())).transpose();
    let grace = grace.map_err(|error| error.for_flag("--grace"))?;
    if grace.is_some_and(|end| end <= now()) {
        return Err(Failure::Usage(
            "--grace: that time is over already; leave it out to end the old key now".into(),
        ));
    }
    let expires = expires.map(|text| time::parse_end(&text, now())).transpose();
    let expires = expires.map_err(|error| error.for_flag("--expires"))?;
    let (store, row) = find(installation, id).await?;
    let successor = match row.successor {
        Some(successor) => store.key(&successor.to_string()).await?,
        None => None,
    };
    if row.status != KeyStatus::Active || successor.is_some() {
        let why = if successor.is_some() { "was rotated already" } else { "is inactive" };
        return Err(Failure::Data(format!("the key {id} {why}; see `keyadm keys show {id}`")));
    }
    let request = KeyRequest {
        name: row.name.clone(),
        description: row.description.clone(),
        grants: row.grants.clone(),
        expires_at: expires.or(row.expires_at),
    };
    if request.expires_at.is_some_and(|end| end <= now()) {
        return Err(Failure::Usage(
            "the old key has expired: set when the new one expires, with --expires".into(),
        ));
    }
    let audit: Audit = actor::audit();
    let sealer = installation.sealer().await?;
    let (key, new) = generate_key(&store, &sealer, request, audit.at).await?;
    let old = grace.map_or(OldKeyPolicy::Inactivate, OldKeyPolicy::KeepUntil);
    let new_id = new.key_id.clone();
    let store = store.bound_by(sealer);
    let rotation = match store.rotate_key(&row.key_id, new, old, audit).await {
        Err(StoreError::Unsure(why)) => confirm_rotated(&store, [&row.key_id, &new_id], why).await?,
        other => other?,
    };
    let until = rotation.old.grace_until.and(rotation.old.ends_at());
    let until = until.map(|end| time::format_relative(end, now()));
    let until = until.map_or_else(|| "is inactive now".into(), |end| format!("stays valid until {end}"));
    let message = format!(
        "Created the key {:?} with the id {}; the old one, {}, {until}.",
        rotation.new.name, rotation.new.key_id, rotation.old.key_id
    );
    render_created(&store, (&key, &rotation.new), json, &message).await
}

/// Looks up a rotation that the database did not confirm: both keys change, or neither.
async fn confirm_rotated(store: &Store, [old, new]: [&str; 2], why: String) -> Result<Rotation, Failure> {
    let note = format!("; the old key {old} is then inactive, or in its grace period");
    let new = confirm_created(store, new, why, &note).await?;
    let old = store.key(old).await?.ok_or_else(|| not_found(old))?;
    Ok(Rotation { old, new })
}

async fn find(installation: &Installation, id: &str) -> Result<(Store, KeyRow), Failure> {
    let id = parse_key_reference(id)?;
    let store = installation.store(MissingDatabase::Refuse).await?;
    let row = store.key(&id).await?.ok_or_else(|| not_found(&id))?;
    Ok((store, row))
}
