//! The first API key on its way to the person who started the gateway: to the terminal, or through a file.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use metamcp_store::auth::ApiKey;

/// Where the person finds the key.
pub enum FirstKey {
    /// Printed to the terminal, and stored nowhere.
    Printed(String),
    /// In a file that only its owner can read: standard output is not a terminal but often a log, which others may read.
    File(PathBuf),
}

/// Why nobody would receive the key, so that none was created.
pub struct UndeliverableKey {
    pub path: PathBuf,
    pub source: io::Error,
}

impl FirstKey {
    /// Writes the key to a file unless standard output is a terminal. To be called before the key is stored: a key that
    /// nobody receives must not become active.
    pub fn deliver(key: &ApiKey, data_dir: &Path) -> Result<Self, UndeliverableKey> {
        if io::stdout().is_terminal() {
            return Ok(Self::Printed(key.expose().to_owned()));
        }
        let path = data_dir.join(KEY_FILE);
        match write(&path, key.expose()) {
            Ok(()) => Ok(Self::File(path)),
            Err(source) => Err(UndeliverableKey { path, source }),
        }
    }

    /// Removes the file of a key that was not stored.
    pub fn discard(self) {
        if let Self::File(path) = self
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the file of a key that is not valid");
        }
    }
}

/// Writes the key to a file that only its owner can read.
fn write(path: &Path, key: &str) -> io::Result<()> {
    // Of an earlier installation in the same directory. It may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{key}")?;
    file.sync_all()
}

/// The file in the data directory that the first key is written to.
const KEY_FILE: &str = "first-key";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use metamcp_store::store::new_id;

    use super::*;

    #[test]
    fn only_its_owner_can_read_the_file() {
        let dir = std::env::temp_dir().join(format!("metamcp-first-key-{}", new_id().simple()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join(KEY_FILE);
        for earlier in [None, Some(0o644)] {
            if let Some(mode) = earlier {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            write(&path, "mcp_key").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "mcp_key\n");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        write(&path, "mcp_key").unwrap_err();
        fs::remove_dir_all(&dir).unwrap();
    }
}
