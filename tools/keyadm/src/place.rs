//! Where the keys are kept, and what seals them.

use std::path::{Path, PathBuf};

use metamcp::auth::{Sealer, Secrets, parse_encryption_key, prepare_data_dir};
use metamcp::config::{Env as _, ProcessEnv};
use metamcp::store::{Audit, Store};
use zeroize::Zeroizing;

use crate::args::Place;
use crate::failure::Failure;

/// An installation of the gateway.
pub struct Installation {
    data_dir: PathBuf,
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
        match (place.data_dir, place.database_url) {
            (Some(_), Some(_)) => {
                return Err(Failure::Usage("give --data-dir or --database-url, not both".into()));
            }
            (Some(data_dir), None) => return Ok(Self { data_dir }),
            (None, Some(url)) => return Err(refuse(&url)),
            (None, None) => {}
        }
        if let Some(url) = variable("DATABASE_URL") {
            return Err(refuse(&url));
        }
        let data_dir = variable("METAMCP_DATA_DIR")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(variable("XDG_DATA_HOME")?).join("metamcp")))
            .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share/metamcp")));
        let data_dir = data_dir.ok_or_else(|| {
            Failure::Usage("there is no HOME to find the data directory in; name it with --data-dir".into())
        })?;
        Ok(Self { data_dir })
    }

    /// Opens the database.
    pub async fn store(&self, absent: Absent) -> Result<Store, Failure> {
        let path = self.data_dir.join(DATABASE);
        if absent == Absent::Refuse && !path.exists() {
            return Err(Failure::Unavailable(format!(
                "there is no database at {}; name the gateway's data directory with --data-dir, \
                 or make a first key",
                path.display()
            )));
        }
        prepare_data_dir(&self.data_dir).map_err(|error| unusable(&self.data_dir, &error))?;
        Ok(Store::open_sqlite(&path).await?)
    }

    /// What seals keys: from the environment, else from the data directory.
    pub fn sealer(&self) -> Result<Sealer, Failure> {
        let text = match variable("ENCRYPTION_KEY").map(Zeroizing::new) {
            Some(text) => text,
            None => Secrets::load_or_create(&self.data_dir)?.0.encryption_key,
        };
        Ok(Sealer::new(&parse_encryption_key(&text)?)?)
    }
}

/// Whoever runs the program, now.
pub fn audit() -> Audit {
    let user = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(|| "unknown".into());
    Audit::by(format!("keyadm:{user}"))
}

/// An empty one counts as not set: so do the shells and compose files that pass it on.
fn variable(name: &str) -> Option<String> {
    ProcessEnv.var(name)?.into_string().ok().filter(|value| !value.is_empty())
}

/// The URL itself is not repeated: it may hold a password.
fn refuse(url: &str) -> Failure {
    let scheme = url.split("://").next().unwrap_or_default();
    Failure::Usage(if matches!(scheme, "postgres" | "postgresql") {
        "this version of keyadm does not reach PostgreSQL yet; name a data directory with --data-dir".into()
    } else {
        "--database-url (or DATABASE_URL) takes postgres://…; for the embedded database name its directory \
         with --data-dir"
            .into()
    })
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Unavailable(format!("cannot use the data directory {}: {error}", path.display()))
}

/// As the gateway calls it.
const DATABASE: &str = "metamcp.sqlite";
