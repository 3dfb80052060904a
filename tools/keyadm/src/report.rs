//! Results, for people and for programs.

use std::fmt::Write;

use metamcp::auth::ApiKey;
use metamcp::store::{KeyRow, KeyStatus};
use serde_json::{Value, json};

use crate::time;

/// The one answer that holds a key.
pub fn created_json(key: &ApiKey, row: &KeyRow) -> String {
    line(&json!({
        "id": row.key_id,
        "key": key.expose(),
        "name": row.name,
        "description": row.description,
        "created_at": time::format(row.created_at),
        "expires_at": row.expires_at.map(time::format),
    }))
}

pub fn inactivated_json(row: &KeyRow, changed: bool) -> String {
    line(&json!({ "id": row.key_id, "name": row.name, "status": "inactive", "changed": changed }))
}

pub fn list_json(rows: &[KeyRow], now: u64) -> String {
    let rows = rows.iter().map(|row| {
        json!({
            "id": row.key_id,
            "name": row.name,
            "description": row.description,
            "status": row.status.as_str(),
            "expired": is_expired(row, now),
            "created_at": time::format(row.created_at),
            "expires_at": row.expires_at.map(time::format),
        })
    });
    line(&Value::Array(rows.collect()))
}

/// Columns as wide as what stands in them.
pub fn table(rows: &[KeyRow], now: u64) -> String {
    let head = ["ID", "NAME", "STATUS", "CREATED", "EXPIRES", "DESCRIPTION"].map(String::from);
    let lines: Vec<[String; 6]> =
        std::iter::once(head).chain(rows.iter().map(|row| cells(row, now))).collect();
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(widths) {
            write!(row, "{cell:width$}  ").expect("a String takes everything");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &KeyRow, now: u64) -> [String; 6] {
    let status = match row.status {
        KeyStatus::Active if is_expired(row, now) => "expired",
        status => status.as_str(),
    };
    [
        row.key_id.clone(),
        printable(&row.name),
        status.into(),
        time::format(row.created_at),
        row.expires_at.map_or_else(|| "never".into(), time::format),
        printable(&row.description),
    ]
}

/// Another writer of the database may have put anything there, and a terminal obeys what it is shown.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn is_expired(row: &KeyRow, now: u64) -> bool {
    row.expires_at.is_some_and(|end| end <= now)
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}
