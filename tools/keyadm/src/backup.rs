//! A copy of the embedded database.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

use crate::failure::Failure;
use crate::installation::Installation;
use crate::table;

/// Writes the database to a new file, which only its owner can read. The gateway may be running.
pub async fn run(installation: &Installation, file: &Path, json: bool) -> Result<String, Failure> {
    if installation.uses_database_server() {
        return Err(Failure::Usage(
            "the gateway uses a PostgreSQL database: make a backup with pg_dump, or as its other databases are backed up"
                .into(),
        ));
    }
    let store = installation.existing_store().await?;
    let path =
        std::path::absolute(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    // SQLite creates files that everybody may read, and writes to an empty file.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| {
        let text = format!("cannot create {}: {error}", path.display());
        if error.kind() == ErrorKind::AlreadyExists {
            Failure::Usage(text)
        } else {
            Failure::Unavailable(text)
        }
    })?;
    if let Err(error) = store.copy_to(&path).await {
        // What is left is no backup.
        let _ = std::fs::remove_file(&path);
        return Err(error.into());
    }
    Ok(if json {
        table::line(&json!({"file": path}))
    } else {
        format!(
            "The database was copied to {}. Keep it with the secrets (secrets.toml or ENCRYPTION_KEY), without which nothing \
             in it opens.\n",
            path.display()
        )
    })
}
