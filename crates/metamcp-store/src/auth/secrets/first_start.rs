//! The secrets of the data directory, created at the first start only.

use std::path::{Path, PathBuf};

use super::{InstallationSecrets, SecretsError};
use crate::store::{Store, StoreError, sqlite_has_sealed_rows};

/// Why an installation has no secrets to start with.
#[derive(Debug, thiserror::Error)]
pub enum FirstStartError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// It is unknown whether the database has sealed rows.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// New secrets would make every row of the database look altered.
    #[error(
        "the database has keys, but {}/secrets.toml is missing, and with it the secret that they are sealed with. Restore \
         this file from the backup, or set ENCRYPTION_KEY to that of the gateway or keyadm that made the keys. If both are \
         lost, so are the keys: start again with a new database and data directory",
        data_dir.display()
    )]
    Missing { data_dir: PathBuf },
}

impl InstallationSecrets {
    /// Reads `secrets.toml` in the data directory. Creates it if the store has no sealed rows yet.
    ///
    /// Several processes may call this at once: one creates the file, and all return its contents.
    pub async fn load_or_create_at_first_start(
        data_dir: &Path,
        store: &Store,
    ) -> Result<Self, FirstStartError> {
        if let Some(found) = Self::load_existing(data_dir)? {
            return Ok(found);
        }
        if !store.has_sealed_rows().await? {
            return Ok(Self::load_or_create(data_dir)?.0);
        }
        // Another process may have created the file, and sealed a row, after this one looked for it.
        Self::load_existing(data_dir)?.ok_or_else(|| FirstStartError::missing(data_dir))
    }
}

impl FirstStartError {
    pub fn missing(data_dir: &Path) -> Self {
        Self::Missing { data_dir: data_dir.to_owned() }
    }
}

/// Checks that a first start with the SQLite file `database`, which need not exist, may create secrets in `data_dir`.
/// Creates nothing.
pub fn check_first_start(data_dir: &Path, database: &Path) -> Result<(), FirstStartError> {
    if database.exists() && sqlite_has_sealed_rows(database)? {
        return Err(FirstStartError::missing(data_dir));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secrets::FILE_NAME;
    use crate::auth::{KeyRequest, Sealer, create_key, generate_jwt_key, parse_encryption_key};
    use crate::store::testing::Folder;
    use crate::store::{Audit, Grants};

    /// Creates a key, sealed with these secrets.
    async fn create(store: &Store, secrets: &InstallationSecrets) {
        let sealer = Sealer::new(&parse_encryption_key(&secrets.encryption_key).unwrap()).unwrap();
        let request = KeyRequest {
            name: "k".into(),
            description: String::new(),
            grants: Grants::everything(),
            expires_at: None,
        };
        create_key(store, &sealer, request, Audit::by("test")).await.unwrap();
    }

    #[tokio::test]
    async fn secrets_are_created_beside_an_empty_database_only() {
        let folder = Folder::create();
        let (dir, database) = (folder.path(), folder.join("db"));
        check_first_start(dir, &database).unwrap();
        assert!(!database.exists());
        let store = Store::open_sqlite(&database).await.unwrap();
        let load = || InstallationSecrets::load_or_create_at_first_start(dir, &store);
        create(&store, &load().await.unwrap()).await;
        std::fs::remove_file(folder.join(FILE_NAME)).unwrap();
        let missing = load().await.unwrap_err().to_string();
        assert!(missing.contains("secrets.toml is missing"), "{missing}");
        assert_eq!(check_first_start(dir, &database).unwrap_err().to_string(), missing);
        assert!(!folder.join(FILE_NAME).exists());
    }

    /// The file and the first row are created after this process has looked for the file, and before it looks for rows.
    #[tokio::test]
    async fn secrets_of_another_process_are_found() {
        let folder = Folder::create();
        let store = Store::open_sqlite(&folder.join("db")).await.unwrap();
        let other = folder.join("other");
        let (secrets, _) = InstallationSecrets::load_or_create(&other).unwrap();
        let sealer = Sealer::new(&parse_encryption_key(&secrets.encryption_key).unwrap()).unwrap();
        let bound = store.bound_by(sealer);
        // Polled in this order; the database runs its jobs in the order in which they arrive.
        let (inserted, loaded, ()) = tokio::join!(
            bound.insert_jwt_key(generate_jwt_key(), Audit::by("test")),
            InstallationSecrets::load_or_create_at_first_start(folder.path(), &store),
            async { std::fs::rename(other.join(FILE_NAME), folder.join(FILE_NAME)).unwrap() },
        );
        inserted.unwrap();
        assert_eq!(loaded.unwrap().encryption_key, secrets.encryption_key);
    }
}
