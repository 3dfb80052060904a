//! Reads the audit log and the usage counters.

use std::collections::{BTreeMap, HashMap};

use metamcp_core::base::{KeyId, UsageLabel};
use metamcp_store::store::{
    AuditFilter, AuditRow, ObjectKind, PAGE_ITEMS_MAX, Store, UsageCounts, UsageFilter, UsageKey,
};
use serde_json::{Map, Value, json};

use crate::args::{AuditArgs, UsageArgs};
use crate::clock::now;
use crate::failure::Failure;
use crate::installation::{Installation, MissingDatabase};
use crate::table::{line, or_none};
use crate::{key_request, table, time};

pub async fn audit(args: AuditArgs, installation: &Installation, json: bool) -> Result<String, Failure> {
    let (object_kind, object_id) = args.object.as_deref().map(parse_object).transpose()?.unwrap_or_default();
    let filter = AuditFilter {
        actor: args.actor,
        action: args.action,
        object_kind,
        object_id,
        from: args.since.as_deref().map(|text| parse_past("--since", text)).transpose()?,
        until: args.until.as_deref().map(|text| parse_past("--until", text)).transpose()?,
    };
    let store = installation.store(MissingDatabase::Refuse).await?;
    let (mut rows, mut before) = (Vec::new(), None);
    loop {
        let items = (args.limit - rows.len()).min(PAGE_ITEMS_MAX);
        if items == 0 {
            break;
        }
        let page = store.audit(filter.clone(), before, items).await?;
        rows.extend(page.items);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    Ok(if json {
        line(&Value::Array(rows.iter().map(describe_entry).collect()))
    } else {
        list_entries(&rows)
    })
}

/// Parses `key` or `key:4fT0sQbW91Lk`.
fn parse_object(text: &str) -> Result<(Option<ObjectKind>, Option<String>), Failure> {
    let (kind, id) = text.split_once(':').map_or((text, None), |(kind, id)| (kind, Some(id.to_owned())));
    let kind = ObjectKind::parse(kind).ok_or_else(|| {
        Failure::Usage(format!("--object: {kind:?} is not one of key, server, endpoint, jwt_key"))
    })?;
    Ok((Some(kind), id))
}

fn parse_past(flag: &str, text: &str) -> Result<u64, Failure> {
    time::parse_past(text, now()).map_err(|error| error.for_flag(flag))
}

fn describe_entry(row: &AuditRow) -> Value {
    json!({
        "id": row.id,
        "at": time::format(row.at),
        "actor": row.actor,
        "action": row.action,
        "object_kind": row.object_kind.as_str(),
        "object_id": row.object_id,
        "before": row.before,
        "after": row.after,
    })
}

fn list_entries(rows: &[AuditRow]) -> String {
    let cells = rows.iter().map(|row| {
        let change = summarize_change(row.before.as_ref(), row.after.as_ref());
        vec![time::format(row.at), row.actor.clone(), row.action.clone(), row.object_id.clone(), change]
    });
    table::list("entries", &["AT", "ACTOR", "ACTION", "OBJECT", "CHANGE"], cells)
}

/// Summarizes a change in one line; `--json` shows all of it.
fn summarize_change(before: Option<&Value>, after: Option<&Value>) -> String {
    let members = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, after): (Map<_, _>, Map<_, _>) = (members(before), members(after));
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    let words: Vec<String> = match (before.is_empty(), after.is_empty()) {
        (true, false) => {
            let members = ["name", "kind", "phase", "rows", "key_version"];
            let members = members.iter().filter(|name| after.contains_key(**name));
            members.map(|name| format!("{name}={}", text(after.get(*name)))).collect()
        }
        (false, true) => vec![format!("name={}", text(before.get("name").or(before.get("kid"))))],
        _ => changed
            .map(|(name, new)| format!("{name}: {} -> {}", text(before.get(name)), text(Some(new))))
            .collect(),
    };
    let line = words.join(", ");
    if line.chars().count() <= CHANGE_CHARS_MAX {
        return line;
    }
    line.chars().take(CHANGE_CHARS_MAX).chain(['…']).collect()
}

pub async fn usage(args: UsageArgs, installation: &Installation, json: bool) -> Result<String, Failure> {
    let tool = args.tool.map(|name| UsageLabel::Tool(name.into()));
    let prompt = args.prompt.map(|name| UsageLabel::Prompt(name.into()));
    let label = tool.or(prompt).or(args.resource.map(|uri| UsageLabel::Resource(uri.into())));
    let filter = UsageFilter {
        from: Some(parse_past("--since", &args.since)?),
        until: args.until.as_deref().map(|text| parse_past("--until", text)).transpose()?,
        key_id: args.key.as_deref().map(key_request::parse_key_reference).transpose()?,
        server: args.server,
        tool: label.map(|label| label.into_text().into_owned()),
    };
    let store = installation.store(MissingDatabase::Refuse).await?;
    let names: HashMap<String, String> =
        store.keys().await?.rows.into_iter().map(|row| (row.key_id, row.name)).collect();
    let sums = sum_pages(&store, filter, args.hourly).await?;
    Ok(if json {
        line(&Value::Array(
            sums.iter().map(|(key, counts)| describe_counts(key, counts, &names, args.hourly)).collect(),
        ))
    } else {
        list_counts(&sums, &names, args.hourly)
    })
}

/// Sums the counters page by page, since there may be years of hours.
async fn sum_pages(
    store: &Store,
    filter: UsageFilter,
    hourly: bool,
) -> Result<BTreeMap<UsageKey, UsageCounts>, Failure> {
    let (mut sums, mut after) = (BTreeMap::new(), None);
    loop {
        let page = store.usage(filter.clone(), after, PAGE_ITEMS_MAX).await?;
        for row in page.items {
            let key = if hourly { row.key } else { UsageKey { hour: 0, ..row.key } };
            let sum: &mut UsageCounts = sums.entry(key).or_default();
            sum.calls = sum.calls.saturating_add(row.counts.calls);
            sum.errors = sum.errors.saturating_add(row.counts.errors);
            sum.bytes_in = sum.bytes_in.saturating_add(row.counts.bytes_in);
            sum.bytes_out = sum.bytes_out.saturating_add(row.counts.bytes_out);
            sum.milliseconds = sum.milliseconds.saturating_add(row.counts.milliseconds);
        }
        after = page.next;
        if after.is_none() {
            return Ok(sums);
        }
    }
}

fn describe_counts(
    key: &UsageKey,
    counts: &UsageCounts,
    names: &HashMap<String, String>,
    hourly: bool,
) -> Value {
    let mut row = json!({
        "key": key.key_id,
        "name": names.get(&key.key_id),
        "server": key.server,
        "tool": "",
        "prompt": "",
        "resource": "",
        "calls": counts.calls,
        "errors": counts.errors,
        "bytes_in": counts.bytes_in,
        "bytes_out": counts.bytes_out,
        "milliseconds": counts.milliseconds,
    });
    match UsageLabel::parse(&key.tool) {
        UsageLabel::None => {}
        UsageLabel::Tool(name) => row["tool"] = name.into(),
        UsageLabel::Prompt(name) => row["prompt"] = name.into(),
        UsageLabel::Resource(uri) => row["resource"] = uri.into(),
    }
    if hourly {
        row["hour"] = time::format(key.hour).into();
    }
    row
}

/// What is said of a key that the database does not have.
fn name_of_absent(key_id: &str) -> &'static str {
    if key_id == KeyId::ANONYMOUS.as_str() { "(no key required)" } else { "(deleted)" }
}

fn list_counts(
    sums: &BTreeMap<UsageKey, UsageCounts>,
    names: &HashMap<String, String>,
    hourly: bool,
) -> String {
    let mut head =
        vec!["KEY", "NAME", "SERVER", "TOOL", "CALLS", "ERRORS", "BYTES IN", "BYTES OUT", "MS A CALL"];
    if hourly {
        head.insert(0, "HOUR");
    }
    let rows = sums.iter().map(|(key, counts)| {
        let average = counts.milliseconds.checked_div(counts.calls).unwrap_or_default();
        let mut cells = vec![
            key.key_id.clone(),
            names.get(&key.key_id).cloned().unwrap_or_else(|| name_of_absent(&key.key_id).into()),
            or_none(key.server.clone()),
            or_none(key.tool.clone()),
        ];
        let numbers = [counts.calls, counts.errors, counts.bytes_in, counts.bytes_out, average];
        cells.extend(numbers.map(|number| number.to_string()));
        if hourly {
            cells.insert(0, time::format(key.hour));
        }
        cells
    });
    table::list("calls", &head, rows)
}

/// The width that a terminal has left for the last column.
const CHANGE_CHARS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: Value, after: Value, expected: &str) {
        let some = |value: Value| if value.is_null() { None } else { Some(value) };
        assert_eq!(summarize_change(some(before).as_ref(), some(after).as_ref()), expected);
    }

    #[test]
    fn a_change_is_summarized_in_one_line() {
        check(Value::Null, json!({"name": "ci", "status": "active"}), "name=ci");
        check(json!({"name": "ci"}), Value::Null, "name=ci");
        check(json!({"kid": "x"}), Value::Null, "name=x");
        check(
            json!({"a": 1, "status": "active"}),
            json!({"a": 1, "status": "inactive"}),
            "status: active -> inactive",
        );
        check(json!({"a": null}), json!({"a": [1]}), "a: - -> [1]");
        check(Value::Null, Value::Null, "");
        let long = summarize_change(None, Some(&json!({"name": "x".repeat(500)})));
        assert_eq!(long.chars().count(), CHANGE_CHARS_MAX + 1);
    }
}
