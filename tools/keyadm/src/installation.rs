//! An installation of the gateway: its database, its data directory, and its secrets.

use std::path::{Path, PathBuf};

use metamcp_config::{Base, DatabaseConfig, ProcessEnv, SecretPlaces, is_postgres_url};
use metamcp_store::auth::{
    EncryptionKey, InstallationSecrets, Sealer, WrongEncryptionKey, check_first_start, encryption_key_place,
    generate_encryption_key, jwt_secret_place, parse_encryption_key, prepare_data_dir,
};
use metamcp_store::store::{ForeignTables, Store, is_new_postgres};
use zeroize::Zeroizing;

use crate::args::{Access, Location};
use crate::failure::Failure;
use crate::file_access;
use crate::table::printable;

/// An installation of the gateway.
pub struct Installation {
    database: Database,
    /// Holds `secrets.toml`. Not needed with a database server if `ENCRYPTION_KEY` is set.
    data_dir: Option<PathBuf>,
    encryption_key: Option<Zeroizing<String>>,
    jwt_secret: Option<Zeroizing<String>>,
    secret_places: SecretPlaces,
    /// Whether opening the database prints its name, as commands that write do.
    announces_database: bool,
}

enum Database {
    Server(DatabaseConfig),
    Embedded,
}

/// What to do if there is no database yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MissingDatabase {
    /// Create it, so that keys can be created before the gateway's first start.
    Create,
    /// Fail: most likely the wrong directory was named, and an empty list would hide that.
    Refuse,
}

impl Installation {
    /// Finds the installation from flags, or else in the same way as the gateway: from the environment, `.env` in the
    /// current directory, and the default data directory.
    pub fn find(location: Location, access: Access) -> Result<Self, Failure> {
        let cwd = std::env::current_dir()
            .map_err(|error| Failure::Unavailable(format!("cannot read the current directory: {error}")))?;
        let base = metamcp_config::load_base(location.data_dir.as_deref(), &ProcessEnv, &cwd);
        let Base { data_dir, database, is_shared_database, encryption_key, jwt_secret, secret_places } =
            base.map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
        let database = match (location.database_url, database) {
            (Some(url), _) if is_postgres_url(&url) => {
                Database::Server(DatabaseConfig::from_flag(url, "--database-url", is_shared_database))
            }
            // The URL itself is not repeated, since it may contain a password.
            (Some(_), _) => {
                return Err(Failure::Usage(
                    "--database-url takes postgres://…; for the embedded database name its directory with --data-dir"
                        .into(),
                ));
            }
            (None, Some(written)) => {
                check_unambiguous(location.data_dir.as_deref())?;
                Database::Server(written)
            }
            (None, None) => Database::Embedded,
        };
        let announces_database = access == Access::Write;
        Ok(Self { database, data_dir, encryption_key, jwt_secret, secret_places, announces_database })
    }

    /// Finds both sides of an import: the URL of MetaMCP's database, which `--database-url` names, and this installation.
    pub fn find_source_and_target(
        location: Location,
        into: Option<String>,
        access: Access,
    ) -> Result<(Zeroizing<String>, Self), Failure> {
        // `DATABASE_URL` is not used for the source, since it names the gateway's own database.
        let from = location.database_url.filter(|url| is_postgres_url(url)).ok_or_else(|| {
            Failure::Usage(
                "name MetaMCP's database with --database-url postgres://…; DATABASE_URL names this installation's own"
                    .into(),
            )
        })?;
        if into.as_deref().is_some_and(|url| !is_postgres_url(url)) {
            return Err(Failure::Usage("--into takes postgres://…".into()));
        }
        let into = Self::find(Location { database_url: into, ..location }, access)?;
        match &into.database {
            Database::Server(database) if *database.url == from => Err(Failure::Usage(
                "MetaMCP's database cannot be this installation's as well: name this installation's with --into \
                 postgres://…, or, if it is embedded, clear DATABASE_URL (DATABASE_URL= keyadm import-metamcp …)"
                    .into(),
            )),
            _ => Ok((Zeroizing::new(from), into)),
        }
    }

    /// Returns the data directory, which may not exist yet.
    pub fn data_dir(&self) -> Result<&Path, Failure> {
        self.data_dir.as_deref().ok_or_else(|| {
            Failure::Usage(
                "HOME is not set, so the data directory is unknown; name it with --data-dir".into(),
            )
        })
    }

    /// Opens the database; prints its name if the command writes.
    pub async fn store(&self, missing: MissingDatabase) -> Result<Store, Failure> {
        let store = self.open(missing).await?;
        if self.announces_database {
            eprintln!("{ANNOUNCEMENT}{}", printable(&self.database_name()?));
        }
        Ok(store)
    }

    /// Returns the name of the database, without a password.
    fn database_name(&self) -> Result<String, Failure> {
        Ok(match &self.database {
            Database::Server(database) => database.to_string(),
            Database::Embedded => self.data_dir()?.join(DATABASE).display().to_string(),
        })
    }

    async fn open(&self, missing: MissingDatabase) -> Result<Store, Failure> {
        if let Database::Server(database) = &self.database {
            let foreign_tables =
                if database.is_shared { ForeignTables::Accept } else { ForeignTables::Refuse };
            let store = Store::postgres(&database.url)?.with_foreign_tables(foreign_tables);
            store.prepare().await.map_err(|error| match Failure::from(error) {
                // It may be named in a `.env` of this directory that is meant for another program.
                Failure::Unavailable(text) => Failure::Unavailable(format!("{database}: {text}")),
                other => other,
            })?;
            return Ok(store);
        }
        let data_dir = self.data_dir()?;
        let path = data_dir.join(DATABASE);
        let exists = file_access::exists(&path)?;
        if missing == MissingDatabase::Refuse && !exists {
            return Err(Failure::Unavailable(format!(
                "there is no database at {}; name the gateway's data directory with --data-dir, \
                 or create a first key",
                path.display()
            )));
        }
        // SQLite would treat an empty file as a new database, and ignore the `-wal` beside it.
        if missing == MissingDatabase::Refuse && path.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(Failure::Unavailable(format!(
                "the database {} is empty, so its content was lost: restore a backup, or run `keyadm migrate` to create a \
                 new one without any keys",
                path.display()
            )));
        }
        prepare_data_dir(data_dir).map_err(|error| unusable(data_dir, &error))?;
        // SQLite's own error names neither the user nor the owner.
        if exists {
            file_access::check_writable(&path)?;
        }
        Ok(Store::open_sqlite(&path).await?)
    }

    /// Opens a database that exists; fails without creating anything if it has no tables yet.
    pub async fn existing_store(&self) -> Result<Store, Failure> {
        if let Database::Server(database) = &self.database
            && is_new_postgres(&database.url).await?
        {
            let text = "the database has no metamcp tables: run `keyadm migrate` or start the gateway to create them, or \
                        check that --database-url (DATABASE_URL) names the gateway's database";
            return Err(Failure::Unavailable(text.into()));
        }
        self.store(MissingDatabase::Refuse).await
    }

    /// Opens a database that exists; `None` if it has no tables yet.
    pub async fn store_if_exists(&self) -> Result<Option<Store>, Failure> {
        let exists = match &self.database {
            Database::Server(database) => !is_new_postgres(&database.url).await?,
            Database::Embedded => file_access::exists(&self.data_dir()?.join(DATABASE))?,
        };
        if exists { self.store(MissingDatabase::Refuse).await.map(Some) } else { Ok(None) }
    }

    pub fn uses_database_server(&self) -> bool {
        matches!(self.database, Database::Server(_))
    }

    /// Returns the directory of `secrets.toml`; fails if `ENCRYPTION_KEY` overrides that file.
    pub fn secrets_dir(&self) -> Result<&Path, Failure> {
        if self.encryption_key.is_some() {
            return Err(Failure::Usage(
                "ENCRYPTION_KEY is set in the environment (or .env), so its versions are managed there: add the new version \
                 in front of the old one, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; see `keyadm rekey --help` for the order"
                    .into(),
            ));
        }
        self.data_dir()
    }

    /// Returns the value of `ENCRYPTION_KEY` or `JWT_SECRET`, without creating it; `None` if there is none yet.
    pub fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(text) = self.env_secret(name) {
            return Ok(Some(text.clone()));
        }
        let found = InstallationSecrets::load_existing(self.data_dir()?)?;
        Ok(found.map(|found| if name == "JWT_SECRET" { found.jwt_secret } else { found.encryption_key }))
    }

    /// Returns the sealer of the installation: from the environment, or else from the data directory. For a database
    /// server none is created, since gateways elsewhere could not open what it seals; nor beside a database with keys, which
    /// another one has sealed.
    pub async fn sealer(&self) -> Result<Sealer, Failure> {
        let text = if let Some(text) = self.required_encryption_key()? {
            text
        } else {
            let store = self.open(MissingDatabase::Create).await?;
            InstallationSecrets::load_or_create_at_first_start(self.data_dir()?, &store).await?.encryption_key
        };
        self.parse_sealer(&text).map(|(sealer, _)| sealer)
    }

    /// Returns the sealer of a value of `ENCRYPTION_KEY`, and how many versions it has.
    pub fn parse_sealer(&self, text: &str) -> Result<(Sealer, usize), Failure> {
        let keys = parse_encryption_key(text)
            .map_err(|error| Failure::Data(format!("{}: {error}", self.encryption_key_place())))?;
        Ok((Sealer::new(&keys)?, keys.len()))
    }

    /// Where `ENCRYPTION_KEY` is written.
    pub fn encryption_key_place(&self) -> String {
        encryption_key_place(self.secret_places.encryption_key.as_ref(), self.data_dir.as_deref())
    }

    /// Where `JWT_SECRET` is written.
    pub fn jwt_secret_place(&self) -> String {
        jwt_secret_place(self.secret_places.jwt_secret.as_ref(), self.data_dir.as_deref())
    }

    /// The text for an `ENCRYPTION_KEY` that opens no row.
    pub fn wrong_encryption_key(&self) -> WrongEncryptionKey {
        let used = self.encryption_key.as_ref().map(|text| text.as_str());
        WrongEncryptionKey::new(self.secret_places.encryption_key.as_ref(), used, self.data_dir.as_deref())
    }

    /// Like `sealer`, but stores nothing: if there is no secret yet, the sealer has a temporary one.
    pub fn sealer_for_dry_run(&self) -> Result<Sealer, Failure> {
        if let Some(text) = self.required_encryption_key()? {
            return self.parse_sealer(&text).map(|(sealer, _)| sealer);
        }
        let (data_dir, database) = (self.data_dir()?, self.data_dir()?.join(DATABASE));
        if file_access::exists(&database)? {
            file_access::check_writable(&database)?;
        }
        check_first_start(data_dir, &database)?;
        Ok(Sealer::new(&[EncryptionKey { version: 1, key: generate_encryption_key() }])?)
    }

    /// Returns a secret that is set in the environment or in `.env`.
    fn env_secret(&self, name: &str) -> Option<&Zeroizing<String>> {
        if name == "JWT_SECRET" { self.jwt_secret.as_ref() } else { self.encryption_key.as_ref() }
    }

    /// Returns `ENCRYPTION_KEY`. `None` is possible only with the embedded database; a database server requires a key.
    fn required_encryption_key(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let name = "ENCRYPTION_KEY";
        if !self.uses_database_server() {
            return self.secret(name);
        }
        let found = if self.env_secret(name).is_none() && self.data_dir.is_none() {
            None
        } else {
            self.secret(name)?
        };
        found.map(Some).ok_or_else(|| {
            Failure::Usage(
                "ENCRYPTION_KEY is not set, and there is no secrets.toml in the data directory: set ENCRYPTION_KEY to the \
                 gateway's, or name its data directory with --data-dir; gateways could not open what a new key seals"
                    .into(),
            )
        })
    }
}

/// Refuses `--data-dir` with a database in it together with `DATABASE_URL`, which the gateway prefers: the user may mean
/// either, and would not notice that the other one was changed.
fn check_unambiguous(data_dir: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = data_dir.map(|dir| dir.join(DATABASE)) else { return Ok(()) };
    if !file_access::exists(&path)? {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--data-dir names a directory with a database ({}), and DATABASE_URL (in the environment or .env) names another \
         one, which the gateway prefers. To use that one, name the directory with METAMCP_DATA_DIR instead of --data-dir; \
         to use the one in the directory, clear DATABASE_URL: DATABASE_URL= keyadm …",
        path.display()
    )))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return file_access::inaccessible(path, error);
    }
    Failure::Unavailable(format!("cannot use the data directory {}: {error}", path.display()))
}

/// The embedded database's file in the data directory.
pub const DATABASE: &str = "metamcp.sqlite";

/// Stands before the name of the database that a command writes to.
const ANNOUNCEMENT: &str = "keyadm: using the database ";
