//! Where the keys are kept, and what seals them.

use std::path::{Path, PathBuf};

use metamcp::auth::{
    EncryptionKey, Sealer, Secrets, generate_encryption_key, parse_encryption_key, prepare_data_dir,
};
use metamcp::config::{self, Base, ProcessEnv};
use metamcp::store::{Store, is_new_postgres};
use zeroize::Zeroizing;

use crate::args::Place;
use crate::failure::Failure;
use crate::table::printable;

/// An installation of the gateway.
pub struct Installation {
    database: Database,
    /// Where `secrets.toml` is looked for; a database server goes without, when `ENCRYPTION_KEY` is given.
    data_dir: Option<PathBuf>,
    encryption_key: Option<Zeroizing<String>>,
    jwt_secret: Option<Zeroizing<String>>,
    /// Whether it is said which database it is: whoever writes wants to know where.
    is_told: bool,
}

enum Database {
    Server {
        url: Zeroizing<String>,
        /// Who named it.
        named_by: &'static str,
    },
    Embedded,
}

/// What a command does to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Looks.
    Read,
    /// Changes something, and says in which.
    Write,
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
    /// Flags first, then what the gateway goes by, read as the gateway reads it: the environment, `.env` of the current
    /// directory, the usual place.
    pub fn find(place: Place, used: Use) -> Result<Self, Failure> {
        let cwd = std::env::current_dir().map_err(|error| {
            Failure::Unavailable(format!("the current directory cannot be read: {error}"))
        })?;
        let base = config::load_base(place.data_dir.as_deref(), &ProcessEnv, &cwd);
        let Base { data_dir, database_url, encryption_key, jwt_secret } =
            base.map_err(|mistakes| Failure::Usage(mistakes.to_string()))?;
        let database = match (place.database_url, database_url) {
            (Some(url), _) if is_server(&url) => {
                Database::Server { url: Zeroizing::new(url), named_by: "--database-url" }
            }
            // The URL itself is not repeated: it may hold a password.
            (Some(_), _) => {
                return Err(Failure::Usage(
                    "--database-url takes postgres://…; for the embedded database name its directory with --data-dir"
                        .into(),
                ));
            }
            (None, Some(url)) => {
                check_unambiguous(place.data_dir.as_deref())?;
                Database::Server { url, named_by: "DATABASE_URL" }
            }
            (None, None) => Database::Embedded,
        };
        Ok(Self { database, data_dir, encryption_key, jwt_secret, is_told: used == Use::Write })
    }

    /// For a move: the database that things come from, which `--database-url` names, and where they go.
    pub fn find_both(
        place: Place,
        into: Option<String>,
        used: Use,
    ) -> Result<(Zeroizing<String>, Self), Failure> {
        // Not `DATABASE_URL`: that is where the gateway keeps its own, and things would go elsewhere.
        let from = place.database_url.filter(|url| is_server(url)).ok_or_else(|| {
            Failure::Usage(
                "name MetaMCP's database with --database-url postgres://…; DATABASE_URL names this installation's own"
                    .into(),
            )
        })?;
        if into.as_deref().is_some_and(|url| !is_server(url)) {
            return Err(Failure::Usage("--into takes postgres://…".into()));
        }
        let into = Self::find(Place { database_url: into, ..place }, used)?;
        match &into.database {
            Database::Server { url, .. } if **url == from => Err(Failure::Usage(
                "MetaMCP's database cannot be this installation's as well: name this one's with --into postgres://…, or, \
                 where it is embedded, set DATABASE_URL to nothing (DATABASE_URL= keyadm import-metamcp …)"
                    .into(),
            )),
            _ => Ok((Zeroizing::new(from), into)),
        }
    }

    /// Where the files of this installation are, whether or not they are there.
    pub fn data_dir(&self) -> Result<&Path, Failure> {
        self.data_dir.as_deref().ok_or_else(|| {
            Failure::Usage("there is no HOME to find the data directory in; name it with --data-dir".into())
        })
    }

    /// Opens the database, and says which it is if something is to be changed in it.
    pub async fn store(&self, absent: Absent) -> Result<Store, Failure> {
        let store = self.open(absent).await?;
        if self.is_told {
            eprintln!("{TOLD}{}", printable(&self.name()?));
        }
        Ok(store)
    }

    /// Which database it is, without a password.
    fn name(&self) -> Result<String, Failure> {
        Ok(match &self.database {
            Database::Server { url, named_by } => match shown(url) {
                Some(place) => format!("{place} ({named_by})"),
                None => format!("of {named_by}"),
            },
            Database::Embedded => self.data_dir()?.join(DATABASE).display().to_string(),
        })
    }

    async fn open(&self, absent: Absent) -> Result<Store, Failure> {
        if let Database::Server { url, .. } = &self.database {
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
        if let Database::Server { url, .. } = &self.database
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
            Database::Server { url, .. } => !is_new_postgres(url).await?,
            Database::Embedded => self.data_dir()?.join(DATABASE).exists(),
        };
        if is_there { self.store(Absent::Refuse).await.map(Some) } else { Ok(None) }
    }

    /// Whether the database is a server's.
    pub fn has_server(&self) -> bool {
        matches!(self.database, Database::Server { .. })
    }

    /// The folder of `secrets.toml`, if that is what counts.
    pub fn own_secrets(&self) -> Result<&Path, Failure> {
        if self.encryption_key.is_some() {
            return Err(Failure::Usage(
                "ENCRYPTION_KEY is in the environment (or .env), and so are its versions: put the new one in front of the old \
                 one yourself, as in ENCRYPTION_KEY=\"2:<new>,1:<old>\"; `keyadm rekey --help` says in which order"
                    .into(),
            ));
        }
        self.data_dir()
    }

    /// What `ENCRYPTION_KEY` and `JWT_SECRET` are, without making any. `None`: there is no such secret yet.
    pub fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(text) = self.given(name) {
            return Ok(Some(text.clone()));
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

    /// By the environment or `.env`.
    fn given(&self, name: &str) -> Option<&Zeroizing<String>> {
        if name == "JWT_SECRET" { self.jwt_secret.as_ref() } else { self.encryption_key.as_ref() }
    }

    fn secret_of_database(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let name = "ENCRYPTION_KEY";
        if !self.has_server() {
            return self.secret(name);
        }
        let found =
            if self.given(name).is_none() && self.data_dir.is_none() { None } else { self.secret(name)? };
        found.map(Some).ok_or_else(|| {
            Failure::Usage(
                "ENCRYPTION_KEY is not set, and there is no secrets.toml in the data directory: set ENCRYPTION_KEY to the \
                 gateway's, or name its data directory with --data-dir; a new one would seal what no gateway opens"
                    .into(),
            )
        })
    }
}

/// A directory that was named for the database in it, and an address that the gateway would prefer: whoever gives both
/// may mean either, and would hear of success.
fn check_unambiguous(data_dir: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = data_dir.map(|dir| dir.join(DATABASE)).filter(|path| path.exists()) else {
        return Ok(());
    };
    Err(Failure::Usage(format!(
        "--data-dir names a directory with a database in it ({}), and DATABASE_URL (of the environment or .env) another one, \
         which the gateway takes. For that one, name the directory with METAMCP_DATA_DIR in place of --data-dir; for the one in \
         the directory, set DATABASE_URL to nothing: DATABASE_URL= keyadm …",
        path.display()
    )))
}

/// Host, port and database of an address, where it is certain that they are that: `user:password@` and what stands behind
/// `?` may be secrets.
fn shown(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (head, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match head.rsplit_once('@') {
        Some((_, place)) => place,
        // A `?` in a password that is not written as `%3F`.
        None if query.contains('@') => return None,
        None => head,
    };
    Some(place.to_owned()).filter(|place| !place.is_empty())
}

fn is_server(url: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Unavailable(format!("cannot use the data directory {}: {error}", path.display()))
}

/// As the gateway calls it.
pub const DATABASE: &str = "metamcp.sqlite";

/// Before the name of the database that is written to.
const TOLD: &str = "keyadm: works on the database ";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(shown(url).as_deref(), expected, "{url}");
    }

    #[test]
    fn addresses_are_shown_without_what_may_be_secret() {
        check("postgres://db.example:5432/metamcp", Some("db.example:5432/metamcp"));
        check("postgresql://u:hunter2@db/metamcp?sslmode=require&password=hunter2", Some("db/metamcp"));
        check("postgres://u:hun@ter2@a:1,b:2/x", Some("a:1,b:2/x"));
        check("postgres:///x?host=/run&password=a@b", None);
        check("postgres://u:hun?ter2@db/x", None);
        check("postgres://u:hunter2@", None);
    }
}
