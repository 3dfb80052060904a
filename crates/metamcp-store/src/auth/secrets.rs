//! Random secrets, their text forms, and the file that stores them when no configuration provides them.

mod first_start;
mod rotate;
mod wrong_key;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

use super::config::EncryptionKey;

pub use first_start::{FirstStartError, check_first_start};
pub use rotate::RotateError;
pub use wrong_key::{WrongEncryptionKey, encryption_key_place, jwt_secret_place};

/// The contents of `secrets.toml`, as text: to be parsed by the `parse_` functions of this module.
#[derive(Debug)]
pub struct InstallationSecrets {
    /// In the form of the environment variable `ENCRYPTION_KEY`.
    pub encryption_key: Zeroizing<String>,
    /// In the form of the environment variable `JWT_SECRET`.
    pub jwt_secret: Zeroizing<String>,
}

/// Whether secrets were found or created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretsOrigin {
    Load,
    /// This is the first start.
    Create,
}

impl InstallationSecrets {
    /// Reads `secrets.toml` in the data directory. If there is none, creates both (directory 0700, file 0600), whatever the
    /// database has: only for [`InstallationSecrets::load_or_create_at_first_start`] and tests.
    ///
    /// Several processes may call this at once: one creates the file, the others load it.
    pub fn load_or_create(data_dir: &Path) -> Result<(Self, SecretsOrigin), SecretsError> {
        let path = data_dir.join(FILE_NAME);
        if let Some(found) = Self::load(&path)? {
            return Ok((found, SecretsOrigin::Load));
        }
        prepare_data_dir(data_dir).map_err(|error| SecretsError::io(data_dir, &error))?;
        let origin = create(&path).map_err(|error| SecretsError::io(&path, &error))?;
        let found = Self::load(&path)?.ok_or_else(|| SecretsError::io(&path, &ErrorKind::NotFound.into()))?;
        Ok((found, origin))
    }

    fn load(path: &Path) -> Result<Option<Self>, SecretsError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| SecretsError::io(path, &error))?,
        };
        // The mode of the open file, not of the path, which could name another file by now.
        let mode = file.metadata().map_err(|error| SecretsError::io(path, &error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(SecretsError::Exposed { path: path.to_owned(), mode: mode & 0o777 });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
        file.take(FILE_BYTES_MAX as u64)
            .read_to_string(&mut text)
            .map_err(|error| SecretsError::io(path, &error))?;
        Self::parse(&text).map(Some).map_err(|line| SecretsError::Syntax { path: path.to_owned(), line })
    }

    /// `Err` holds the number of the line that does not parse, or of the last line when an entry is missing.
    fn parse(text: &str) -> Result<Self, usize> {
        let (mut encryption_key, mut jwt_secret) = (None, None);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = parse_entry(line).ok_or(number + 1)?;
            let entry = match name {
                "encryption_key" => &mut encryption_key,
                "jwt_secret" => &mut jwt_secret,
                _ => return Err(number + 1),
            };
            if entry.replace(Zeroizing::new(value.to_owned())).is_some() {
                return Err(number + 1);
            }
        }
        match (encryption_key, jwt_secret) {
            (Some(encryption_key), Some(jwt_secret)) => Ok(Self { encryption_key, jwt_secret }),
            _ => Err(text.lines().count().max(1)),
        }
    }
}

/// Parses `name = "value"`. The values are base64 and digits, so there is nothing to unescape.
fn parse_entry(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
    (!value.contains(['"', '\\'])).then_some((name.trim(), value))
}

/// Creates the data directory if it does not exist, accessible to its owner only (0700).
pub fn prepare_data_dir(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a temporary file next to its path and links it into place: a reader never sees a partial file, and
/// of several writers only the first one succeeds.
fn create(path: &Path) -> std::io::Result<SecretsOrigin> {
    let draft = path.with_extension(format!("toml.{:x}", u64::from_le_bytes(random_bytes())));
    let written = write(&draft).and_then(|()| match std::fs::hard_link(&draft, path) {
        Ok(()) => sync_parent(path).map(|()| SecretsOrigin::Create),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(SecretsOrigin::Load),
        Err(error) => Err(error),
    });
    let removed = std::fs::remove_file(&draft);
    let origin = written?;
    removed?;
    Ok(origin)
}

/// Waits until the names in the directory of `path` are on disk: rows that are sealed from now on must not outlive the
/// file.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn write(path: &Path) -> std::io::Result<()> {
    let key = generate_encryption_key();
    let encoded = Zeroizing::new(STANDARD.encode(&key[..]));
    write_new(path, &render(&Zeroizing::new(format!("1:{}", *encoded)), &generate_jwt_secret()))
}

fn render(encryption_key: &str, jwt_secret: &str) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "# Created by the first start. Whoever has this file and the database can forge every session: keep a copy\n\
         # in a safe place, and nowhere else. Without it all API keys are lost.\n\
         encryption_key = \"{encryption_key}\"\njwt_secret = \"{jwt_secret}\"\n"
    ))
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub fn generate_encryption_key() -> Zeroizing<[u8; 32]> {
    Zeroizing::new(random_bytes())
}

/// 256 random bits in base64.
pub fn generate_jwt_secret() -> Zeroizing<String> {
    let bytes = Zeroizing::new(random_bytes::<32>());
    Zeroizing::new(STANDARD.encode(&bytes[..]))
}

/// Parses `ENCRYPTION_KEY`: 32 bytes in base64 or hex, alone (version 1) or several as `2:<new>,1:<old>`.
///
/// Keeps the order: the first key seals, all of them open.
pub fn parse_encryption_key(text: &str) -> Result<Vec<EncryptionKey>, EncryptionKeyError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() > VERSIONS_MAX {
        return Err(EncryptionKeyError::TooMany);
    }
    let is_single = parts.len() == 1;
    let mut keys: Vec<EncryptionKey> = Vec::with_capacity(parts.len());
    for part in parts {
        let (version, encoded) = match part.split_once(':') {
            Some((version, encoded)) => {
                (version.trim().parse().map_err(|_| EncryptionKeyError::Version)?, encoded.trim())
            }
            None if is_single => (1, part),
            None => return Err(EncryptionKeyError::Version),
        };
        if keys.iter().any(|key| key.version == version) {
            return Err(EncryptionKeyError::DuplicateVersion(version));
        }
        keys.push(EncryptionKey {
            version,
            key: decode(encoded).ok_or(EncryptionKeyError::Length { version })?,
        });
    }
    Ok(keys)
}

fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(match text.len() {
        64 => decode_hex(text)?,
        _ if text.ends_with('=') => STANDARD.decode(text).ok()?,
        _ => STANDARD_NO_PAD.decode(text).ok()?,
    });
    Some(Zeroizing::new(<[u8; 32]>::try_from(&bytes[..]).ok()?))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Parses `JWT_SECRET`. The text itself is the secret, so that a value moved between file and environment
/// stays the same.
pub fn parse_jwt_secret(text: &str) -> Result<Zeroizing<Vec<u8>>, WeakJwtSecret> {
    let text = text.trim();
    check_jwt_secret(text.as_bytes())?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

pub(super) fn check_jwt_secret(secret: &[u8]) -> Result<(), WeakJwtSecret> {
    if secret.len() < JWT_SECRET_BYTES_MIN { Err(WeakJwtSecret { bytes: secret.len() }) } else { Ok(()) }
}

pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        bytes.zeroize();
        // Linux has random bytes from the moment any process runs. To continue without them would be far worse.
        panic!("the operating system gives no random bytes: {error}");
    }
    bytes
}

/// Why the secrets file cannot be used. Never holds its contents.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("{} can be read by others (mode {mode:o}); run `chmod 600 {}`", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{} cannot be parsed at line {line}; it must hold `encryption_key = \"1:<base64>\"` and \
         `jwt_secret = \"<base64>\"`, nothing else",
        path.display()
    )]
    Syntax {
        path: PathBuf,
        /// The line number, counted from one.
        line: usize,
    },
    #[error("cannot use {}: {reason}", path.display())]
    Io { path: PathBuf, kind: ErrorKind, reason: String },
}

impl SecretsError {
    fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), kind: error.kind(), reason: error.to_string() }
    }
}

/// Why a text is not an `ENCRYPTION_KEY`, as the rest of a sentence about the place where it is written. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionKeyError {
    #[error("version {version} is not 32 bytes in base64 or hex; make one with `openssl rand -base64 32`")]
    Length { version: u8 },
    /// One of several keys has no number, or one out of range.
    #[error("with several keys it needs a number from 0 to 255 before each, as in `2:<new>,1:<old>`")]
    Version,
    /// Two keys share a version, so which of them opens a value would be undefined.
    #[error("names version {0} twice; give each key a version of its own")]
    DuplicateVersion(u8),
    #[error("holds more than {VERSIONS_MAX} keys; remove those that no stored value needs any more")]
    TooMany,
}

/// A secret that is short enough to be guessed. The text is the rest of a sentence about the place where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {bytes} bytes and needs at least {JWT_SECRET_BYTES_MIN}; make one with `openssl rand -base64 32`"
)]
pub struct WeakJwtSecret {
    pub bytes: usize,
}

const FILE_NAME: &str = "secrets.toml";

/// Room for a handful of key versions; a file with one takes about 350 bytes. A longer file is cut off and
/// fails to parse.
const FILE_BYTES_MAX: usize = 16 << 10;

/// Two are enough for a rotation. Opening searches them in turn.
const VERSIONS_MAX: usize = 16;

/// RFC 7518, section 3.2: a key of the same size as the hash output, or larger.
const JWT_SECRET_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::Folder;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(u8, u8)], EncryptionKeyError>) {
        let parsed = parse_encryption_key(text)
            .map(|keys| keys.iter().map(|key| (key.version, key.key[0])).collect::<Vec<_>>());
        assert_eq!(parsed, expected.map(<[_]>::to_vec), "{text:?}");
    }

    #[test]
    fn encryption_keys_are_read_in_every_form() {
        let [one, two] = [1, 2].map(|fill| STANDARD.encode([fill; 32]));
        check(&one, Ok(&[(1, 1)]));
        check(one.trim_end_matches('='), Ok(&[(1, 1)]));
        check(&"02".repeat(32), Ok(&[(1, 2)]));
        check(&"fF".repeat(32), Ok(&[(1, 255)]));
        check(&format!("7:{one}"), Ok(&[(7, 1)]));
        check(&format!("2:{two}, 1:{one}"), Ok(&[(2, 2), (1, 1)]));
        check("", Err(EncryptionKeyError::Length { version: 1 }));
        check("changeme", Err(EncryptionKeyError::Length { version: 1 }));
        check(&"0g".repeat(32), Err(EncryptionKeyError::Length { version: 1 }));
        check(&STANDARD.encode([1; 31]), Err(EncryptionKeyError::Length { version: 1 }));
        check(&format!("{one},{two}"), Err(EncryptionKeyError::Version));
        check(&format!("256:{one}"), Err(EncryptionKeyError::Version));
        check(&format!("1:{one},1:{two}"), Err(EncryptionKeyError::DuplicateVersion(1)));
        check(&",".repeat(100), Err(EncryptionKeyError::TooMany));
    }

    #[test]
    fn a_jwt_secret_is_its_text_and_not_a_short_one() {
        let secret = generate_jwt_secret();
        assert_eq!(parse_jwt_secret(&format!("{}\n", *secret)).unwrap().as_slice(), secret.as_bytes());
        assert_eq!(parse_jwt_secret("secret").unwrap_err(), WeakJwtSecret { bytes: 6 });
    }

    #[test]
    fn the_first_start_creates_and_all_others_load_the_same() {
        let folder = Folder::create();
        let dir = folder.join("a").join("data");
        let made: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| InstallationSecrets::load_or_create(&dir).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|(_, origin)| *origin == SecretsOrigin::Create).count(), 1);
        let (again, origin) = InstallationSecrets::load_or_create(&dir).unwrap();
        assert_eq!(origin, SecretsOrigin::Load);
        for (one, _) in &made {
            assert_eq!((&one.encryption_key, &one.jwt_secret), (&again.encryption_key, &again.jwt_secret));
        }
        assert_eq!(parse_encryption_key(&again.encryption_key).unwrap()[0].version, 1);
        assert!(parse_jwt_secret(&again.jwt_secret).is_ok());
        let bits = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((bits(&dir), bits(&dir.join(FILE_NAME))), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no draft is left behind");
    }

    #[test]
    fn a_file_others_may_read_is_refused_with_what_to_do() {
        let folder = Folder::create();
        InstallationSecrets::load_or_create(folder.path()).unwrap();
        let path = folder.join(FILE_NAME);
        for mode in [0o640, 0o604, 0o660, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = InstallationSecrets::load_or_create(folder.path()).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_file_that_says_something_else_is_refused_with_its_line() {
        let line = |text: &str| InstallationSecrets::parse(text).map(|_| ()).unwrap_err();
        assert_eq!(line(""), 1);
        assert_eq!(line("# nothing\n"), 1);
        assert_eq!(line("encryption_key = \"1:x\"\n"), 1);
        assert_eq!(line("encryption_key = \"1:x\"\nencryption_key = \"1:x\"\n"), 2);
        assert_eq!(line("\nencryption_key = 1:x\n"), 2);
        assert_eq!(line("jwt_secret = \"a\\\"b\"\n"), 1);
        assert_eq!(line("[auth]\n"), 1);
    }
}
