//! Merge patches of server definitions (RFC 7396).

use serde_json::Value;

use super::read::KIND_ALIAS;

/// Writes the names of members in a patch as a stored definition has them, so that they replace what is stored.
pub fn normalize_patch(patch: &mut Value) {
    lower_header_names(patch);
    rename_kind_alias(patch);
}

/// Converts header names of a patch to lower case, as they are stored. Names that differ only in case are
/// left for validation to report.
fn lower_header_names(patch: &mut Value) {
    let Some(headers) = patch.get_mut("headers").and_then(Value::as_object_mut) else { return };
    let names: Vec<String> = headers.keys().cloned().collect();
    for name in names {
        let lower = name.to_ascii_lowercase();
        if !headers.contains_key(&lower)
            && let Some(value) = headers.remove(&name)
        {
            headers.insert(lower, value);
        }
    }
}

/// Renames `protocol` to `kind` in a patch, so that it replaces the stored `kind`. If the patch has both,
/// validation reports it.
fn rename_kind_alias(patch: &mut Value) {
    let Some(members) = patch.as_object_mut().filter(|members| !members.contains_key("kind")) else { return };
    if let Some(kind) = members.remove(KIND_ALIAS) {
        members.insert("kind".to_owned(), kind);
    }
}
