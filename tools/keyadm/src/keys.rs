//! Commands for API keys.

use metamcp_core::base::KeyId;
use metamcp_store::auth::{ApiKey, KeyRequest, Sealer, generate_key};
use metamcp_store::store::{
    Audit, Grants, KeyRow, KeyStatus, OldKeyPolicy, Rate, Role, Rotation, SealedRow, Store, StoreError, Uuid,
};
use serde_json::{Value, json};

use crate::args::{CreateKeyArgs, Keys, Scope};
use crate::clock::now;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::table::{fields, line, or_none, table};
use crate::{actor, sealed_rows, time};

pub async fn run(command: Keys, installation: &Installation, json: bool) -> Result<String, Failure> {
    match command {
        Keys::Create(args) => create(installation, key_request(args)?, json).await,
        Keys::List { include_inactive } => {
            let mut rows = installation.store(MissingDatabase::Refuse).await?.keys().await?.rows;
            rows.retain(|row| include_inactive || row.status == KeyStatus::Active);
            let sealer = sealed_rows::find_sealer(installation);
            Ok(if json { list_json(&rows, sealer.as_ref()) } else { list(&rows, sealer.as_ref()) })
        }
        Keys::Show(key) => {
            let (_, row) = find(installation, &key.id).await?;
            let sealer = sealed_rows::find_sealer(installation);
            Ok(if json {
                line(&describe_with_seal(&row, sealer.as_ref()))
            } else {
                show(&row, sealer.as_ref())
            })
        }
        Keys::Activate(key) => set_status(installation, &key.id, KeyStatus::Active, json).await,
        Keys::Inactivate(key) => set_status(installation, &key.id, KeyStatus::Inactive, json).await,
        Keys::Delete { key, confirm } => delete(installation, &key.id, confirm, json).await,
        Keys::Rotate { key, grace, expires } => rotate(installation, &key.id, grace, expires, json).await,
    }
}

fn key_request(args: CreateKeyArgs) -> Result<KeyRequest, Failure> {
    let list = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
    let grants = Grants {
        role: if args.admin || args.scope == Scope::Admin { Role::Admin } else { Role::Client },
        endpoints: list(args.endpoint),
        tools: list(args.tools),
        rate: args.rate.as_deref().map(parse_rate).transpose()?,
        concurrency: args.concurrency,
    };
    let expires_at = args.expires.map(|text| time::parse_end(&text, now())).transpose();
    let expires_at = expires_at.map_err(|error| error.for_flag("--expires"))?;
    Ok(KeyRequest { name: args.name, description: args.description, grants, expires_at })
}

/// Parses `10` or `10/50`.
fn parse_rate(text: &str) -> Result<Rate, Failure> {
    let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
    match (number(per_second), number(burst)) {
        (Some(per_second), Some(burst)) => Ok(Rate { per_second, burst }),
        _ => Err(Failure::Usage(format!(
            "--rate: {text:?} is not a rate; write the calls per second (10), optionally with a burst (10/50)"
        ))),
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
    let message = format!("Created the key {:?} with the id {}.", row.name, row.key_id);
    Ok(render_created(&key, &row, json, &message))
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
fn render_created(key: &ApiKey, row: &KeyRow, json: bool, message: &str) -> String {
    if json {
        let mut answer = describe(row);
        answer["key"] = key.expose().into();
        return line(&answer);
    }
    eprintln!("{message} It is shown only once and stored nowhere:");
    format!("{}\n", key.expose())
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
            "expired": has_ended(&row), "changed": changed,
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
    let until = rotation.old.grace_until.and(rotation.old.ends_at()).map(time::format);
    let until = until.map_or_else(|| "is inactive now".into(), |end| format!("stays valid until {end}"));
    let message = format!(
        "Created the key {:?} with the id {}; the old one, {}, {until}.",
        rotation.new.name, rotation.new.key_id, rotation.old.key_id
    );
    Ok(render_created(&key, &rotation.new, json, &message))
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

/// Accepts a key id or a UUID, but not a whole key.
pub fn parse_key_reference(text: &str) -> Result<String, Failure> {
    if text.starts_with("mcp_") {
        return Err(Failure::Usage(
            "give the id alone: the 12 characters between `mcp_` and the next `_`. A key on a command line \
             stays in the shell's history; treat it as disclosed"
                .into(),
        ));
    }
    if KeyId::parse(text).is_some() || Uuid::parse_str(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(Failure::Usage(
        "not a key id: it has 12 letters and digits, or is a UUID; see `keyadm keys list`".into(),
    ))
}

fn not_found(id: &str) -> Failure {
    Failure::Data(format!("there is no key with the id {id}"))
}

fn describe(row: &KeyRow) -> Value {
    json!({
        "id": row.key_id,
        "uuid": row.id.to_string(),
        "name": row.name,
        "description": row.description,
        "scope": row.grants.role.as_str(),
        "endpoints": row.grants.endpoints,
        "tools": row.grants.tools,
        "rate": row.grants.rate,
        "concurrency": row.grants.concurrency,
        "status": row.status.as_str(),
        "expired": has_ended(row),
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
        "expires_at": row.expires_at.map(time::format),
        "grace_until": row.grace_until.map(time::format),
        "successor": row.successor.map(|id| id.to_string()),
    })
}

/// Adds whether the seal of the row is valid.
fn describe_with_seal(row: &KeyRow, sealer: Option<&Sealer>) -> Value {
    let mut answer = describe(row);
    answer["opens"] = sealed_rows::is_valid(sealer, SealedRow::Key(row)).into();
    answer
}

fn list_json(rows: &[KeyRow], sealer: Option<&Sealer>) -> String {
    line(&Value::Array(rows.iter().map(|row| describe_with_seal(row, sealer)).collect()))
}

fn list(rows: &[KeyRow], sealer: Option<&Sealer>) -> String {
    let is_invalid = |row: &KeyRow| sealed_rows::is_valid(sealer, SealedRow::Key(row)) == Some(false);
    let invalid = rows.iter().filter(|row| is_invalid(row)).count();
    if invalid > 0 {
        eprintln!(
            "keyadm: {invalid} keys are refused, because their seals do not open; see `keyadm keys show ID` and `keyadm \
             doctor`"
        );
    }
    let head = ["ID", "NAME", "STATUS", "CREATED", "EXPIRES", "SCOPE", "DESCRIPTION"];
    table(
        &head,
        rows.iter().map(|row| {
            vec![
                row.key_id.clone(),
                row.name.clone(),
                if is_invalid(row) { "refused" } else { status(row) }.into(),
                time::format(row.created_at),
                row.ends_at().map_or_else(|| "never".into(), time::format),
                scope(&row.grants),
                row.description.clone(),
            ]
        }),
    )
}

fn show(row: &KeyRow, sealer: Option<&Sealer>) -> String {
    let all = |list: &Option<Vec<String>>| list.as_ref().map_or_else(|| "all".into(), |list| list.join(" "));
    let unlimited = || "unlimited".to_owned();
    let opens = match (sealer, sealed_rows::is_valid(sealer, SealedRow::Key(row))) {
        (Some(sealer), Some(false)) => {
            format!("no: {}", sealed_rows::explain_invalid(sealer, SealedRow::Key(row)))
        }
        (_, Some(_)) => "yes".into(),
        (_, None) => "unknown: ENCRYPTION_KEY is not set".into(),
    };
    let at = |time: Option<u64>| time.map_or_else(|| "-".into(), time::format);
    fields(&[
        ("id", row.key_id.clone()),
        ("uuid", row.id.to_string()),
        ("name", row.name.clone()),
        ("description", or_none(row.description.clone())),
        ("status", status(row).into()),
        ("scope", row.grants.role.as_str().into()),
        ("endpoints", all(&row.grants.endpoints)),
        ("tools", all(&row.grants.tools)),
        (
            "rate",
            row.grants.rate.map_or_else(unlimited, |rate| format!("{}/{}", rate.per_second, rate.burst)),
        ),
        ("concurrency", row.grants.concurrency.map_or_else(|| "the gateway's".into(), |n| n.to_string())),
        ("created", time::format(row.created_at)),
        ("changed", time::format(row.changed_at)),
        ("expires", row.expires_at.map_or_else(|| "never".into(), time::format)),
        ("grace until", at(row.grace_until)),
        ("successor", row.successor.map_or_else(|| "-".into(), |id| id.to_string())),
        ("sealed by", format!("version {} of ENCRYPTION_KEY", row.key_version)),
        ("opens", opens),
    ])
}

/// Summarizes the grants in a few words; `show` has all of them.
fn scope(grants: &Grants) -> String {
    let mut words = vec![grants.role.as_str().to_owned()];
    words.extend(grants.endpoints.as_ref().map(|names| format!("on {}", names.join(","))));
    words.extend(grants.tools.as_ref().map(|globs| format!("tools {}", globs.join(","))));
    words.extend(grants.rate.map(|rate| format!("{}/s", rate.per_second)));
    words.join(" ")
}

fn status(row: &KeyRow) -> &'static str {
    match row.status {
        KeyStatus::Active if has_ended(row) => "expired",
        KeyStatus::Active if row.grace_until.is_some() => "rotated",
        status => status.as_str(),
    }
}

/// Whether the key has expired or its grace period has ended.
pub fn has_ended(row: &KeyRow) -> bool {
    row.ends_at().is_some_and(|end| end <= now())
}
