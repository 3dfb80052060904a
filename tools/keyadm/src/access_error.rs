//! Explains why a file cannot be accessed: which file, whose it is, who runs the program, and what to do.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::actor;

/// Explains an error. If permission is denied, names the file or directory that denies it.
pub fn explain(path: &Path, error: &Error) -> String {
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // The deepest path whose metadata can be read is what denies the access: everything above it was searched.
    let visible = path.ancestors().find_map(|path| Some((path, path.metadata().ok()?)));
    let (ErrorKind::PermissionDenied, Some((denying, metadata))) = (error.kind(), visible) else {
        return format!("cannot access {}: {error}", path.display());
    };
    let owner = actor::user_name(metadata.uid());
    format!(
        "permission denied: the user {} cannot access {}: {} belongs to the user {owner} and has the mode {:04o}; run \
         keyadm as the user of the gateway (sudo -u {owner} keyadm …), or change the permissions",
        actor::user(),
        path.display(),
        if denying == path.as_path() { "it".into() } else { denying.display().to_string() },
        metadata.mode() & 0o7777,
    )
}
