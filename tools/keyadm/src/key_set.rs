//! Changes a key.

use metamcp_store::auth::KeyRequest;

use crate::args::{KeyField, SetKeyArgs};
use crate::clock::now;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::table::line;
use crate::{actor, key_endpoints, key_request, key_view, sealed_rows};

pub async fn set(args: SetKeyArgs, installation: &Installation, json: bool) -> Result<String, Failure> {
    let id = key_request::parse_key_reference(&args.key.id)?;
    let store = sealed_rows::sealing_store(installation, MissingDatabase::Refuse).await?;
    let row = store.key(&id).await?.ok_or_else(|| key_request::not_found(&id))?;
    let before = row.to_request();
    let request = changed_request(args, before.clone())?;
    // A key that has expired may keep its expiry while something else changes.
    let expires_at = request.expires_at.filter(|_| request.expires_at != before.expires_at);
    KeyRequest { expires_at, ..request.clone() }.check(now())?;
    let after = store.update_key(&row.key_id, before.clone(), request.clone(), actor::audit()).await?;
    let changed = before != request;
    let unknown = key_endpoints::find_unknown(&store, &after.grants).await?;
    if json {
        let mut answer = key_view::describe(&after);
        answer["changed"] = changed.into();
        answer["unknown_endpoints"] = unknown.into();
        return Ok(line(&answer));
    }
    key_endpoints::warn(&unknown);
    let word = if changed { "is changed now" } else { "is the same already" };
    Ok(format!("The key {:?} with the id {} {word}.\n", after.name, after.key_id))
}

fn changed_request(args: SetKeyArgs, mut request: KeyRequest) -> Result<KeyRequest, Failure> {
    let SetKeyArgs { key: _, name, description, scope, limits, unset } = args;
    let quotas = limits.quotas().map(|(_, field, text)| (field, text.is_some()));
    let given = [
        (KeyField::Description, description.is_some()),
        (KeyField::Endpoint, !limits.endpoint.is_empty()),
        (KeyField::Tools, !limits.tools.is_empty()),
        (KeyField::Rate, limits.rate.is_some()),
        (KeyField::Concurrency, limits.concurrency.is_some()),
        (KeyField::Expires, limits.expires.is_some()),
    ];
    let given = [&given[..], &quotas[..]].concat();
    let is_given = given.iter().any(|(_, is_given)| *is_given);
    if name.is_none() && scope.is_none() && unset.is_empty() && !is_given {
        return Err(Failure::Usage("name what to change; see `keyadm keys set --help`".into()));
    }
    if given.iter().any(|(field, is_given)| *is_given && unset.contains(field)) {
        return Err(Failure::Usage(
            "a field is set and unset by --unset at once: leave out one of them".into(),
        ));
    }
    for field in unset {
        match field {
            KeyField::Description => request.description.clear(),
            KeyField::Endpoint => request.grants.endpoints = None,
            KeyField::Tools => request.grants.tools = None,
            KeyField::Rate => request.grants.rate = None,
            KeyField::Concurrency => request.grants.concurrency = None,
            KeyField::CallsPerDay => request.grants.quotas.calls_per_day = None,
            KeyField::CallsPerMonth => request.grants.quotas.calls_per_month = None,
            KeyField::BytesPerDay => request.grants.quotas.bytes_per_day = None,
            KeyField::BytesPerMonth => request.grants.quotas.bytes_per_month = None,
            KeyField::Expires => request.expires_at = None,
        }
    }
    request.name = name.unwrap_or(request.name);
    request.description = description.unwrap_or(request.description);
    request.grants.role = scope.map_or(request.grants.role, Into::into);
    key_request::apply_limits(limits, &mut request)?;
    Ok(request)
}
