//! What is done with API keys.

use metamcp::auth::{ApiKey, KeyId, KeyRequest, Sealer, new_key};
use metamcp::store::{
    Audit, Bound, Grants, KeyRow, KeyStatus, Predecessor, Rate, Role, Rotation, Store, StoreError, Uuid,
};
use serde_json::{Value, json};

use crate::args::{Create, Keys, Scope};
use crate::failure::Failure;
use crate::place::{Absent, Installation};
use crate::table::{fields, line, or_none, table};
use crate::{bound, now, time, who};

pub async fn run(command: Keys, installation: &Installation, json: bool) -> Result<String, Failure> {
    match command {
        Keys::Create(asked) => create(installation, request(asked)?, json).await,
        Keys::List { include_inactive } => {
            let mut rows = installation.store(Absent::Refuse).await?.keys().await?.rows;
            rows.retain(|row| include_inactive || row.status == KeyStatus::Active);
            let sealer = bound::sealer(installation);
            Ok(if json { list_json(&rows, sealer.as_ref()) } else { list(&rows, sealer.as_ref()) })
        }
        Keys::Show(key) => {
            let (_, row) = find(installation, &key.id).await?;
            let sealer = bound::sealer(installation);
            Ok(if json { line(&looked_at(&row, sealer.as_ref())) } else { show(&row, sealer.as_ref()) })
        }
        Keys::Activate(key) => set_status(installation, &key.id, KeyStatus::Active, json).await,
        Keys::Inactivate(key) => set_status(installation, &key.id, KeyStatus::Inactive, json).await,
        Keys::Delete { key, confirm } => delete(installation, &key.id, confirm, json).await,
        Keys::Rotate { key, grace, expires } => rotate(installation, &key.id, grace, expires, json).await,
    }
}

fn request(asked: Create) -> Result<KeyRequest, Failure> {
    let list = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
    let grants = Grants {
        role: if asked.admin || asked.scope == Scope::Admin { Role::Admin } else { Role::Client },
        endpoints: list(asked.endpoint),
        tools: list(asked.tools),
        rate: asked.rate.as_deref().map(rate).transpose()?,
        concurrency: asked.concurrency,
    };
    let expires_at = asked.expires.map(|text| time::parse_end(&text, now())).transpose();
    let expires_at = expires_at.map_err(|error| error.of("--expires"))?;
    Ok(KeyRequest { name: asked.name, description: asked.description, grants, expires_at })
}

/// `10` or `10/50`.
fn rate(text: &str) -> Result<Rate, Failure> {
    let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
    match (number(per_second), number(burst)) {
        (Some(per_second), Some(burst)) => Ok(Rate { per_second, burst }),
        _ => Err(Failure::Usage(format!(
            "--rate: {text:?} is no rate; write calls a second (10), and at once if that is more (10/50)"
        ))),
    }
}

async fn create(installation: &Installation, request: KeyRequest, json: bool) -> Result<String, Failure> {
    request.check(now())?;
    let sealer = installation.sealer()?;
    let store = installation.store(Absent::Create).await?;
    let audit = who::audit();
    let (key, new) = new_key(&store, &sealer, request, audit.at).await?;
    let (store, id) = (store.bound_by(sealer), new.key_id.clone());
    let row = match store.insert_key(new, audit).await {
        Err(StoreError::Unsure(why)) => made_after_all(&store, &id, why, "").await?,
        other => other?,
    };
    Ok(made(&key, &row, json, &format!("Made the key {:?} with the id {}.", row.name, row.key_id)))
}

/// A key whose making the database did not confirm, when it is there. What was to happen to another key is in `besides`.
async fn made_after_all(store: &Store, id: &str, why: String, besides: &str) -> Result<KeyRow, Failure> {
    if let Ok(Some(row)) = store.key(id).await {
        return Ok(row);
    }
    // That it is not there yet proves nothing: the database may still be at it.
    Err(Failure::Unavailable(format!(
        "{}. See whether `keyadm keys list` has the key {id}: its secret is lost, so if it is there, run `keyadm keys delete \
         {id} --confirm`, and make another one{besides}",
        StoreError::Unsure(why)
    )))
}

/// The one answer that holds a key: alone on the standard output.
fn made(key: &ApiKey, row: &KeyRow, json: bool, said: &str) -> String {
    if json {
        let mut answer = describe(row);
        answer["key"] = key.expose().into();
        return line(&answer);
    }
    eprintln!("{said} It is shown this once and stored nowhere:");
    format!("{}\n", key.expose())
}

async fn set_status(
    installation: &Installation,
    id: &str,
    status: KeyStatus,
    json: bool,
) -> Result<String, Failure> {
    let id = &reference(id)?;
    let store = match status {
        KeyStatus::Active => bound::store(installation, Absent::Refuse).await?,
        KeyStatus::Inactive => bound::store_if_it_can(installation).await?,
    };
    let row = store.key(id).await?.ok_or_else(|| missing(id))?;
    let changed = row.status != status;
    // One that is on already is asked for as well: it may be altered, and then it is not.
    if (changed || status == KeyStatus::Active)
        && !store.set_key_status(&row.key_id, status, who::audit()).await?
    {
        return Err(missing(id));
    }
    if json {
        let answer = json!({
            "id": row.key_id, "uuid": row.id.to_string(), "name": row.name, "status": status.as_str(),
            "expired": is_over(&row), "changed": changed,
        });
        return Ok(line(&answer));
    }
    let word = if status == KeyStatus::Active { "on" } else { "off" };
    let what = if changed { format!("is {word} now") } else { format!("was {word} already") };
    let ended = row.ends_at().filter(|end| status == KeyStatus::Active && *end <= now());
    let but = if ended.is_some() { ", but it has expired: make another one" } else { "" };
    Ok(format!("The key {:?} with the id {} {what}{but}.\n", row.name, row.key_id))
}

async fn delete(installation: &Installation, id: &str, confirm: bool, json: bool) -> Result<String, Failure> {
    let id = reference(id)?;
    if !confirm {
        return Err(Failure::Usage(
            "a deleted key cannot be brought back: say --confirm, or use `keyadm keys inactivate`".into(),
        ));
    }
    let store = installation.store(Absent::Refuse).await?;
    let row = store.key(&id).await?.ok_or_else(|| missing(&id))?;
    let row = store.delete_key(&row.key_id, who::audit()).await?;
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
    let grace = grace.map_err(|error| error.of("--grace"))?;
    if grace.is_some_and(|end| end <= now()) {
        return Err(Failure::Usage(
            "--grace: it would be over already; leave it out to end the old key now".into(),
        ));
    }
    let expires = expires.map(|text| time::parse_end(&text, now())).transpose();
    let expires = expires.map_err(|error| error.of("--expires"))?;
    let (store, row) = find(installation, id).await?;
    let successor = match row.successor {
        Some(successor) => store.key(&successor.to_string()).await?,
        None => None,
    };
    if row.status != KeyStatus::Active || successor.is_some() {
        let why = if successor.is_some() { "was rotated already" } else { "is off" };
        return Err(Failure::Data(format!("the key {id} {why}; `keyadm keys show {id}` tells more")));
    }
    let request = KeyRequest {
        name: row.name.clone(),
        description: row.description.clone(),
        grants: row.grants.clone(),
        expires_at: expires.or(row.expires_at),
    };
    if request.expires_at.is_some_and(|end| end <= now()) {
        return Err(Failure::Usage(
            "the old key has expired: say when the new one does, with --expires".into(),
        ));
    }
    let audit: Audit = who::audit();
    let sealer = installation.sealer()?;
    let (key, new) = new_key(&store, &sealer, request, audit.at).await?;
    let old = grace.map_or(Predecessor::Inactivate, Predecessor::KeepUntil);
    let new_id = new.key_id.clone();
    let store = store.bound_by(sealer);
    let rotation = match store.rotate_key(&row.key_id, new, old, audit).await {
        Err(StoreError::Unsure(why)) => rotated_after_all(&store, [&row.key_id, &new_id], why).await?,
        other => other?,
    };
    let until = rotation.old.grace_until.and(rotation.old.ends_at()).map(time::format);
    let until = until.map_or_else(|| "is off now".into(), |end| format!("goes on until {end}"));
    let said = format!(
        "Made the key {:?} with the id {}; the old one, {}, {until}.",
        rotation.new.name, rotation.new.key_id, rotation.old.key_id
    );
    Ok(made(&key, &rotation.new, json, &said))
}

/// The same of a rotation: both keys change at once or not at all.
async fn rotated_after_all(store: &Store, [old, new]: [&str; 2], why: String) -> Result<Rotation, Failure> {
    let besides = format!("; the old key {old} is then off, or in its time of grace");
    let made = made_after_all(store, new, why, &besides).await?;
    let old = store.key(old).await?.ok_or_else(|| missing(old))?;
    Ok(Rotation { old, new: made })
}

async fn find(installation: &Installation, id: &str) -> Result<(Store, KeyRow), Failure> {
    let id = reference(id)?;
    let store = installation.store(Absent::Refuse).await?;
    let row = store.key(&id).await?.ok_or_else(|| missing(&id))?;
    Ok((store, row))
}

/// A key id or a UUID, and never a whole key.
pub fn reference(text: &str) -> Result<String, Failure> {
    if text.starts_with("mcp_") {
        return Err(Failure::Usage(
            "give the id alone: the 12 characters between `mcp_` and the next `_`. A key on a command line \
             stays in the shell's history; take it for disclosed"
                .into(),
        ));
    }
    if KeyId::parse(text).is_some() || Uuid::parse_str(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(Failure::Usage(
        "a key id has 12 letters and digits, or is a UUID; `keyadm keys list` shows them".into(),
    ))
}

fn missing(id: &str) -> Failure {
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
        "expired": is_over(row),
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
        "expires_at": row.expires_at.map(time::format),
        "grace_until": row.grace_until.map(time::format),
        "successor": row.successor.map(|id| id.to_string()),
    })
}

/// With whether it opens.
fn looked_at(row: &KeyRow, sealer: Option<&Sealer>) -> Value {
    let mut answer = describe(row);
    answer["opens"] = bound::opens(sealer, Bound::Key(row)).into();
    answer
}

fn list_json(rows: &[KeyRow], sealer: Option<&Sealer>) -> String {
    line(&Value::Array(rows.iter().map(|row| looked_at(row, sealer)).collect()))
}

fn list(rows: &[KeyRow], sealer: Option<&Sealer>) -> String {
    let is_closed = |row: &KeyRow| bound::opens(sealer, Bound::Key(row)) == Some(false);
    let closed = rows.iter().filter(|row| is_closed(row)).count();
    if closed > 0 {
        eprintln!(
            "keyadm: {closed} keys are refused, since their rows do not open; `keyadm keys show ID` and `keyadm doctor` \
             say what to do"
        );
    }
    let head = ["ID", "NAME", "STATUS", "CREATED", "EXPIRES", "SCOPE", "DESCRIPTION"];
    table(
        &head,
        rows.iter().map(|row| {
            vec![
                row.key_id.clone(),
                row.name.clone(),
                if is_closed(row) { "refused" } else { status(row) }.into(),
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
    let opens = match (sealer, bound::opens(sealer, Bound::Key(row))) {
        (Some(sealer), Some(false)) => format!("no: {}", bound::closed(sealer, Bound::Key(row))),
        (_, Some(_)) => "yes".into(),
        (_, None) => "not known: ENCRYPTION_KEY is not given".into(),
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

/// In a few words: the whole of it is in `show`.
fn scope(grants: &Grants) -> String {
    let mut words = vec![grants.role.as_str().to_owned()];
    words.extend(grants.endpoints.as_ref().map(|names| format!("on {}", names.join(","))));
    words.extend(grants.tools.as_ref().map(|globs| format!("tools {}", globs.join(","))));
    words.extend(grants.rate.map(|rate| format!("{}/s", rate.per_second)));
    words.join(" ")
}

pub fn status(row: &KeyRow) -> &'static str {
    match row.status {
        KeyStatus::Active if is_over(row) => "expired",
        KeyStatus::Active if row.grace_until.is_some() => "rotated",
        status => status.as_str(),
    }
}

pub fn is_over(row: &KeyRow) -> bool {
    row.ends_at().is_some_and(|end| end <= now())
}
