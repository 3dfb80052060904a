//! Where the keys are kept, and what seals them.

use std::path::{Path, PathBuf};

use metamcp::auth::{
    EncryptionKey, Sealer, Secrets, generate_encryption_key, parse_encryption_key, prepare_data_dir,
};
use metamcp::config::{Env as _, ProcessEnv};
use metamcp::store::{Store, is_new_postgres};
use zeroize::Zeroizing;

use crate::args::Place;
use crate::failure::Failure;

/// An installation of the gateway.
pub struct Installation {
    database: Database,
    /// Where `secrets.toml` is looked for; a database server goes without, when `ENCRYPTION_KEY` is given.
    data_dir: Option<PathBuf>,
}

enum Database {
    Server(Zeroizing<String>),
    Embedded,
}

/// What to do when there is no database yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Make one: a key may be made before the gateway's first start.
    Create,
    /// Say so: a list of nothing most often means that the wrong directory was named.
    Refuse,
}

impl Installation {
    /// Flags first, then the environment, then the usual place.
    pub fn find(place: Place) -> Result<Self, Failure> {
        let url = match (&place.data_dir, place.database_url) {
            // Whoever names a directory means the database in it, whatever the environment says.
            (Some(_), None) => None,
            (_, Some(url)) => Some(url),
            (None, None) => variable("DATABASE_URL"),
        };
        let data_dir = data_dir(place.data_dir);
        match url {
            Some(url) if is_server(&url) => {
                Ok(Self { database: Database::Server(Zeroizing::new(url)), data_dir })
            }
            // The URL itself is not repeated: it may hold a password.
            Some(_) => Err(Failure::Usage(
                "--database-url (or DATABASE_URL) takes postgres://…; for the embedded database name its \
                 directory with --data-dir"
                    .into(),
            )),
            None => Ok(Self { database: Database::Embedded, data_dir }),
        }
    }

    /// For a move: the database that things come from, which `--database-url` names, and where they go.
    pub fn find_both(place: Place, into: Option<String>) -> Result<(Zeroizing<String>, Self), Failure> {
        let from = place.database_url.or_else(|| variable("DATABASE_URL"));
        let from = from.filter(|url| is_server(url)).ok_or_else(|| {
            Failure::Usage("name MetaMCP's database with --database-url postgres://…".into())
        })?;
        let into = into.or_else(|| variable("METAMCP_DATABASE_URL").filter(|_| place.data_dir.is_none()));
        if into.as_ref() == Some(&from) {
            return Err(Failure::Usage("MetaMCP's database cannot be this installation's as well".into()));
        }
        let data_dir = data_dir(place.data_dir);
        let database = match into {
            Some(url) if is_server(&url) => Database::Server(Zeroizing::new(url)),
            Some(_) => return Err(Failure::Usage("--into takes postgres://…".into())),
            None => Database::Embedded,
        };
        Ok((Zeroizing::new(from), Self { database, data_dir }))
    }

    /// Where the files of this installation are, whether or not they are there.
    pub fn data_dir(&self) -> Result<&Path, Failure> {
        self.data_dir.as_deref().ok_or_else(|| {
            Failure::Usage("there is no HOME to find the data directory in; name it with --data-dir".into())
        })
    }

    /// Opens the database.
    pub async fn store(&self, absent: Absent) -> Result<Store, Failure> {
        if let Database::Server(url) = &self.database {
            return Ok(Store::open(url).await?);
        }
        let data_dir = self.data_dir()?;
        let path = data_dir.join(DATABASE);
        if absent == Absent::Refuse && !path.exists() {
            return Err(Failure::Unavailable(format!(
                "there is no database at {}; name the gateway's data directory with --data-dir, \
                 or make a first key",
                path.display()
            )));
        }
        // SQLite takes such a file for a new database, and what is beside it (`-wal`) for nobody's.
        if absent == Absent::Refuse && path.metadata().is_ok_and(|file| file.len() == 0) {
            return Err(Failure::Unavailable(format!(
                "the database {} is empty, and no longer the one that it was: restore a backup; or `keyadm migrate` \
                 makes a new one in its place, without a key in it",
                path.display()
            )));
        }
        prepare_data_dir(data_dir).map_err(|error| unusable(data_dir, &error))?;
        Ok(Store::open_sqlite(&path).await?)
    }

    /// Opens a database that there is; one in which nothing was ever made stays so.
    pub async fn store_as_it_is(&self) -> Result<Store, Failure> {
        if let Database::Server(url) = &self.database
            && is_new_postgres(url).await?
        {
            let text = "the database has no table of metamcp's: `keyadm migrate`, or the gateway's first start, makes \
                        them; or --database-url (DATABASE_URL) names another one than the gateway's";
            return Err(Failure::Unavailable(text.into()));
        }
        self.store(Absent::Refuse).await
    }

    /// The same, for what can do without; `None`: nothing was ever made there.
    pub async fn store_if_there(&self) -> Result<Option<Store>, Failure> {
        let is_there = match &self.database {
            Database::Server(url) => !is_new_postgres(url).await?,
            Database::Embedded => self.data_dir()?.join(DATABASE).exists(),
        };
        if is_there { self.store(Absent::Refuse).await.map(Some) } else { Ok(None) }
    }

    /// Whether the database is a server's.
    pub fn has_server(&self) -> bool {
        matches!(self.database, Database::Server(_))
    }

    /// The folder of `secrets.toml`, if that is what counts.
    pub fn own_secrets(&self) -> Result<&Path, Failure> {
        if variable("ENCRYPTION_KEY").is_some() {
            return Err(Failure::Usage(
                "ENCRYPTION_KEY is in the environment, and so are its versions: put the new one in front of the old \
                 one yourself, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; `keyadm rekey --help` says in which order"
                    .into(),
            ));
        }
        self.data_dir()
    }

    /// What `ENCRYPTION_KEY` and `JWT_SECRET` are, without making any. `None`: there is no such secret yet.
    pub fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(text) = variable(name) {
            return Ok(Some(Zeroizing::new(text)));
        }
        let found = Secrets::find(self.data_dir()?)?;
        Ok(found.map(|found| if name == "JWT_SECRET" { found.jwt_secret } else { found.encryption_key }))
    }

    /// What seals keys: from the environment, else from the data directory. None is made for a database server: what
    /// it sealed there, no gateway elsewhere could open.
    pub fn sealer(&self) -> Result<Sealer, Failure> {
        let text = match self.secret_of_database()? {
            Some(text) => text,
            None => Secrets::load_or_create(self.data_dir()?)?.0.encryption_key,
        };
        Ok(Sealer::new(&parse_encryption_key(&text)?)?)
    }

    /// As `sealer`, and makes nothing: where there is no secret yet, it is one that is forgotten with the value.
    pub fn sealer_as_it_is(&self) -> Result<Sealer, Failure> {
        match self.secret_of_database()? {
            Some(text) => Ok(Sealer::new(&parse_encryption_key(&text)?)?),
            None => Ok(Sealer::new(&[EncryptionKey { version: 1, key: generate_encryption_key() }])?),
        }
    }

    fn secret_of_database(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let name = "ENCRYPTION_KEY";
        if !self.has_server() {
            return self.secret(name);
        }
        let found =
            if variable(name).is_none() && self.data_dir.is_none() { None } else { self.secret(name)? };
        found.map(Some).ok_or_else(|| {
            Failure::Usage(
                "ENCRYPTION_KEY is not set, and there is no secrets.toml in the data directory: set ENCRYPTION_KEY to the \
                 gateway's, or name its data directory with --data-dir; a new one would seal what no gateway opens"
                    .into(),
            )
        })
    }
}

/// As the gateway finds it.
fn data_dir(named: Option<PathBuf>) -> Option<PathBuf> {
    named
        .or_else(|| variable("METAMCP_DATA_DIR").map(PathBuf::from))
        .or_else(|| Some(PathBuf::from(variable("XDG_DATA_HOME")?).join("metamcp")))
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share/metamcp")))
}

/// An empty one counts as not set: so do the shells and compose files that pass it on.
fn variable(name: &str) -> Option<String> {
    ProcessEnv.var(name)?.into_string().ok().filter(|value| !value.is_empty())
}

fn is_server(url: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Unavailable(format!("cannot use the data directory {}: {error}", path.display()))
}

/// As the gateway calls it.
pub const DATABASE: &str = "metamcp.sqlite";
