//! Checks whether files can be accessed.

use std::io::Error;
use std::path::Path;

use crate::access_error;
use crate::failure::Failure;

/// Whether a file exists. Fails if that cannot be known, as in a directory that this user may not search.
pub fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| inaccessible(path, &error))
}

/// Fails if this user may not read and write the file.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    let opened = std::fs::File::options().read(true).write(true).open(path);
    opened.map(drop).map_err(|error| inaccessible(path, &error))
}

/// The failure of an access.
pub fn inaccessible(path: &Path, error: &Error) -> Failure {
    Failure::Unavailable(access_error::explain(path, error))
}
