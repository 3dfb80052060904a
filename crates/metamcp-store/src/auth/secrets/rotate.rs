//! Rotation of the encryption key in the secrets file: adding a version, and dropping old ones.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::super::config::EncryptionKey;
use super::{
    EncryptionKeyError, FILE_NAME, InstallationSecrets, STANDARD, SecretsError, VERSIONS_MAX,
    generate_encryption_key, parse_encryption_key, random_bytes, render, sync_parent, write_new,
};
use base64::Engine;
use zeroize::Zeroizing;

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The `encryption_key` in the file does not parse, or has no room for another version.
    #[error("{FILE_NAME}: encryption_key: {0}")]
    Key(#[from] EncryptionKeyError),
    #[error(
        "another command is changing the encryption keys in this directory; run this one again once that has ended"
    )]
    Busy,
}

impl InstallationSecrets {
    /// Reads `secrets.toml` in the data directory. `None` when it does not exist; creates nothing.
    pub fn load_existing(data_dir: &Path) -> Result<Option<Self>, SecretsError> {
        Self::load(&data_dir.join(FILE_NAME))
    }

    /// Adds a new version of the encryption key in front of the existing ones, and returns its number. From
    /// the next start on it seals, and the others open.
    pub fn add_encryption_key(data_dir: &Path) -> Result<u8, RotateError> {
        rotate(data_dir, |keys| {
            if keys.len() >= VERSIONS_MAX {
                return Err(EncryptionKeyError::TooMany);
            }
            let is_taken = |version: &u8| keys.iter().any(|key| key.version == *version);
            let newest = keys.iter().map(|key| key.version).max().unwrap_or_default();
            let version = newest.checked_add(1).or_else(|| (1..=u8::MAX).find(|version| !is_taken(version)));
            let version = version.ok_or(EncryptionKeyError::TooMany)?;
            keys.insert(0, EncryptionKey { version, key: generate_encryption_key() });
            Ok(())
        })
    }

    /// Removes every version that is older than `current`, and returns their numbers. Values sealed under them are lost.
    /// A version that was added meanwhile stays, and so does `current`: values are still sealed under it.
    pub fn drop_old_encryption_keys(data_dir: &Path, current: u8) -> Result<Vec<u8>, RotateError> {
        let mut dropped = Vec::new();
        rotate(data_dir, |keys| {
            if let Some(at) = keys.iter().position(|key| key.version == current) {
                dropped = keys.drain(at + 1..).map(|key| key.version).collect();
            }
            Ok(())
        })?;
        Ok(dropped)
    }
}

/// Rewrites the encryption keys in the file. Returns the number of the version that is first now.
fn rotate(
    data_dir: &Path,
    change: impl FnOnce(&mut Vec<EncryptionKey>) -> Result<(), EncryptionKeyError>,
) -> Result<u8, RotateError> {
    let path = data_dir.join(FILE_NAME);
    // Two changes at once would each write what the other has not read.
    let folder = File::open(data_dir).map_err(|error| SecretsError::io(&path, &error))?;
    folder.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => RotateError::Busy,
        TryLockError::Error(error) => SecretsError::io(&path, &error).into(),
    })?;
    let missing = || SecretsError::io(&path, &std::io::ErrorKind::NotFound.into());
    let secrets = InstallationSecrets::load(&path)?.ok_or_else(missing)?;
    let mut keys = parse_encryption_key(&secrets.encryption_key)?;
    change(&mut keys)?;
    let texts = keys.iter().map(|key| {
        let encoded = Zeroizing::new(STANDARD.encode(&key.key[..]));
        Zeroizing::new(format!("{}:{}", key.version, *encoded))
    });
    let mut text = Zeroizing::new(String::new());
    for key in texts {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&key);
    }
    // Written next to the file and renamed into place: at no moment is the key missing or incomplete.
    let draft = path.with_extension(format!("toml.{:x}", u64::from_le_bytes(random_bytes())));
    let written = write_new(&draft, &render(&text, &secrets.jwt_secret))
        .and_then(|()| std::fs::rename(&draft, &path))
        .and_then(|()| sync_parent(&path));
    if let Err(error) = written {
        // The draft may not exist, or may already be the file itself.
        drop(std::fs::remove_file(&draft));
        return Err(SecretsError::io(&path, &error).into());
    }
    Ok(keys[0].version)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::testing::Folder;

    #[test]
    fn changes_at_once_lose_no_version() {
        let folder = Folder::create();
        InstallationSecrets::load_or_create(folder.path()).unwrap();
        let add = || InstallationSecrets::add_encryption_key(folder.path());
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(add)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused = |outcome: &Result<u8, RotateError>| matches!(outcome, Err(RotateError::Busy));
        assert!(outcomes.iter().all(|outcome| outcome.is_ok() || refused(outcome)), "{outcomes:?}");
        let added: Vec<u8> = outcomes.into_iter().filter_map(Result::ok).collect();
        assert!(!added.is_empty());
        let mut expected = added;
        expected.push(1);
        expected.sort_unstable_by(|one, other| other.cmp(one));
        check(folder.path(), &expected);
    }

    #[track_caller]
    fn check(data_dir: &Path, expected: &[u8]) -> Vec<EncryptionKey> {
        let secrets = InstallationSecrets::load_existing(data_dir).unwrap().unwrap();
        let keys = parse_encryption_key(&secrets.encryption_key).unwrap();
        assert_eq!(keys.iter().map(|key| key.version).collect::<Vec<_>>(), expected);
        let mode = std::fs::metadata(data_dir.join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_dir(data_dir).unwrap().count()), (0o600, 1));
        keys
    }

    #[test]
    fn versions_come_in_front_and_go_when_they_are_told_to() {
        let folder = Folder::create();
        assert!(InstallationSecrets::load_existing(folder.path()).unwrap().is_none());
        assert!(InstallationSecrets::add_encryption_key(folder.path()).is_err());
        let (made, _) = InstallationSecrets::load_or_create(folder.path()).unwrap();
        let one = check(folder.path(), &[1]);
        assert_eq!(InstallationSecrets::add_encryption_key(folder.path()).unwrap(), 2);
        let both = check(folder.path(), &[2, 1]);
        assert!(both[1].key == one[0].key && both[0].key != one[0].key);
        assert_eq!(InstallationSecrets::drop_old_encryption_keys(folder.path(), 2).unwrap(), [1]);
        assert!(check(folder.path(), &[2])[0].key == both[0].key);
        assert_eq!(
            InstallationSecrets::load_existing(folder.path()).unwrap().unwrap().jwt_secret,
            made.jwt_secret
        );
        assert_eq!(
            InstallationSecrets::drop_old_encryption_keys(folder.path(), 2).unwrap(),
            Vec::<u8>::new()
        );
        InstallationSecrets::add_encryption_key(folder.path()).unwrap();
        // Version 3 was added after it was found that all values are sealed with version 2.
        assert_eq!(
            InstallationSecrets::drop_old_encryption_keys(folder.path(), 2).unwrap(),
            Vec::<u8>::new()
        );
        check(folder.path(), &[3, 2]);
        for _ in 3..=VERSIONS_MAX {
            InstallationSecrets::add_encryption_key(folder.path()).unwrap();
        }
        let full = InstallationSecrets::add_encryption_key(folder.path()).unwrap_err().to_string();
        assert!(full.contains("more than 16"), "{full}");
    }
}
