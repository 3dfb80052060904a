//! An encryption key that opens nothing: where it comes from, and where another one is.

use std::path::Path;

use metamcp_config::SourceLocation;

use super::{FILE_NAME, InstallationSecrets};

/// Nothing in the database opens, so the rows were not altered one by one: the encryption key is not theirs.
#[derive(Debug, thiserror::Error)]
#[error(
    "{place}: this encryption key opens nothing of what is sealed in the database, so it is not the one that sealed it; {advice}"
)]
pub struct WrongEncryptionKey {
    place: String,
    advice: String,
}

impl WrongEncryptionKey {
    /// `place` is where a variable sets the key `used`; without one it is from the data directory.
    pub fn new(place: Option<&SourceLocation>, used: Option<&str>, data_dir: Option<&Path>) -> Self {
        let other = || {
            let (dir, used) = (data_dir?, used?);
            let secrets = InstallationSecrets::load_existing(dir).ok()??;
            (*secrets.encryption_key != *used).then(|| dir.join(FILE_NAME).display().to_string())
        };
        let advice = match place.and_then(|place| Some((place, other()?))) {
            Some((place, file)) => format!("{file} has another one: remove \"{place}\" to use that"),
            None => "set ENCRYPTION_KEY to that of the gateway or keyadm that sealed it, alone or beside the new one \
                     (ENCRYPTION_KEY=\"2:<new>,1:<old>\"), or restore its secrets.toml from the backup; or use the database \
                     that belongs to this key"
                .into(),
        };
        Self { place: encryption_key_place(place, data_dir), advice }
    }
}

/// Where the encryption key is written, for a message about it.
pub fn encryption_key_place(variable: Option<&SourceLocation>, data_dir: Option<&Path>) -> String {
    secret_place(variable, data_dir, "encryption_key")
}

/// Where the secret that signs tokens is written, for a message about it.
pub fn jwt_secret_place(variable: Option<&SourceLocation>, data_dir: Option<&Path>) -> String {
    secret_place(variable, data_dir, "jwt_secret")
}

fn secret_place(variable: Option<&SourceLocation>, data_dir: Option<&Path>, entry: &str) -> String {
    match (variable, data_dir) {
        (Some(variable), _) => variable.to_string(),
        (None, Some(dir)) => format!("{}: {entry}", dir.join(FILE_NAME).display()),
        (None, None) => format!("{FILE_NAME}: {entry}"),
    }
}
