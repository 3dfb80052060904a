//! Renders keys, without their secrets.

use std::collections::BTreeMap;

use metamcp_store::auth::Sealer;
use metamcp_store::store::{KeyRow, KeyStatus, KeyTotals, QuotaKind, SealedRow, Store, StoreError};
use serde_json::{Value, json};

use crate::clock::now;
use crate::table::{fields, line, or_none};
use crate::{sealed_rows, table, time};

pub fn describe(row: &KeyRow) -> Value {
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
        "quotas": row.grants.quotas,
        "status": row.status.as_str(),
        "expired": has_ended(row),
        "created_at": time::format(row.created_at),
        "changed_at": time::format(row.changed_at),
        "expires_at": row.expires_at.map(time::format),
        "grace_until": row.grace_until.map(time::format),
        "successor": row.successor.map(|id| id.to_string()),
    })
}

/// What the store has of the use of keys, by key id.
pub struct KeyUses {
    /// When each key last called a server, in seconds since 1970.
    last: BTreeMap<String, u64>,
    /// What keys with a quota used in this day and month.
    totals: BTreeMap<String, KeyTotals>,
}

impl KeyUses {
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        let totals = store.key_totals(now()).await?.into_iter().collect();
        Ok(Self { last: store.key_uses().await?, totals })
    }

    /// When a key last called a server, in seconds since 1970.
    fn last(&self, row: &KeyRow) -> Option<u64> {
        self.last.get(&row.key_id).copied()
    }

    /// Each quota of a key, with its limit and what is used of it.
    fn quotas(&self, row: &KeyRow) -> Vec<(QuotaKind, u64, u64)> {
        let totals = self.totals.get(&row.key_id).copied().unwrap_or_default();
        let limit = |kind| row.grants.quotas.limit(kind);
        let kinds = QuotaKind::ALL.into_iter();
        kinds.filter_map(|kind| Some((kind, totals.used(kind), limit(kind)?))).collect()
    }
}

/// Adds when the key was last used, and whether the seal of the row is valid.
pub fn describe_stored(row: &KeyRow, sealer: Option<&Sealer>, uses: &KeyUses) -> Value {
    let mut answer = describe(row);
    answer["last_used_at"] = uses.last(row).map(time::format).into();
    let used = uses.quotas(row).into_iter().map(|(kind, used, _)| (kind.as_str().to_owned(), used.into()));
    answer["quotas_used"] = Value::Object(used.collect());
    answer["opens"] = sealed_rows::is_valid(sealer, SealedRow::Key(row)).into();
    answer
}

pub fn list_json(rows: &[KeyRow], sealer: Option<&Sealer>, uses: &KeyUses) -> String {
    line(&Value::Array(rows.iter().map(|row| describe_stored(row, sealer, uses)).collect()))
}

/// `items` says what is listed, if there is none.
pub fn list(items: &str, rows: &[KeyRow], sealer: Option<&Sealer>, uses: &KeyUses) -> String {
    let is_invalid = |row: &KeyRow| sealed_rows::is_valid(sealer, SealedRow::Key(row)) == Some(false);
    let invalid = rows.iter().filter(|row| is_invalid(row)).count();
    if invalid > 0 {
        eprintln!(
            "keyadm: {invalid} keys are refused, because their seals do not open; see `keyadm keys show ID` and `keyadm \
             doctor`"
        );
    }
    let head = ["ID", "NAME", "STATUS", "CREATED", "EXPIRES", "LAST USED", "SCOPE", "DESCRIPTION"];
    table::list(
        items,
        &head,
        rows.iter().map(|row| {
            vec![
                row.key_id.clone(),
                row.name.clone(),
                if is_invalid(row) { "refused" } else { status(row) }.into(),
                time::format(row.created_at),
                row.ends_at().map_or_else(|| "never".into(), time::format),
                uses.last(row).map_or_else(|| "never".into(), time::format),
                scope(row, uses),
                row.description.clone(),
            ]
        }),
    )
}

pub fn show(row: &KeyRow, sealer: Option<&Sealer>, uses: &KeyUses) -> String {
    let all = |list: &Option<Vec<String>>| list.as_ref().map_or_else(|| "all".into(), |list| list.join(" "));
    let unlimited = || "unlimited".to_owned();
    let opens = match (sealer, sealed_rows::is_valid(sealer, SealedRow::Key(row))) {
        (Some(sealer), Some(false)) => {
            format!("no: {}", sealed_rows::explain_invalid(sealer, SealedRow::Key(row)))
        }
        (_, Some(_)) => "yes".into(),
        (_, None) => "unknown: ENCRYPTION_KEY is not set".into(),
    };
    let at = |time: Option<u64>| time.map_or_else(|| "-".into(), |time| time::format_relative(time, now()));
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
        ("quotas", quotas(row, uses)),
        ("created", time::format_relative(row.created_at, now())),
        ("changed", time::format_relative(row.changed_at, now())),
        ("expires", row.expires_at.map_or_else(|| "never".into(), |end| time::format_relative(end, now()))),
        ("last used", uses.last(row).map_or_else(|| "never".into(), |at| time::format_relative(at, now()))),
        ("grace until", at(row.grace_until)),
        ("successor", row.successor.map_or_else(|| "-".into(), |id| id.to_string())),
        ("sealed by", format!("version {} of ENCRYPTION_KEY", row.key_version)),
        ("opens", opens),
    ])
}

/// Summarizes the grants in a few words; `show` has all of them.
fn scope(row: &KeyRow, uses: &KeyUses) -> String {
    let grants = &row.grants;
    let mut words = vec![grants.role.as_str().to_owned()];
    words.extend(grants.endpoints.as_ref().map(|names| format!("on {}", names.join(","))));
    words.extend(grants.tools.as_ref().map(|globs| format!("tools {}", globs.join(","))));
    words.extend(grants.rate.map(|rate| format!("{}/s", rate.per_second)));
    words.extend(uses.quotas(row).into_iter().map(|(kind, used, limit)| format!("{used}/{limit} {kind}")));
    words.join(" ")
}

/// Each quota with what is used of it, and when it resets.
fn quotas(row: &KeyRow, uses: &KeyUses) -> String {
    let line = |(kind, used, limit): (QuotaKind, u64, u64)| {
        let reset = time::format_relative(kind.period().end(now()), now());
        format!("{used} of {limit} {kind} used, resets {reset}")
    };
    let lines: Vec<_> = uses.quotas(row).into_iter().map(line).collect();
    if lines.is_empty() { "none".into() } else { lines.join("; ") }
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
