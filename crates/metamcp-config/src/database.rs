//! The address of a PostgreSQL database.

use std::fmt;

use zeroize::Zeroizing;

use super::mistakes::{SourceLocation, printable};

/// A PostgreSQL database.
///
/// `Display`: `127.0.0.1:5432/metamcp (environment: DATABASE_URL)`.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// Begins with `postgres://` or `postgresql://`.
    pub url: Zeroizing<String>,
    /// Where the address is written.
    pub place: SourceLocation,
    /// `METAMCP_SHARED_DATABASE`: whether metamcp may create its tables beside those of other programs.
    pub is_shared: bool,
}

impl DatabaseConfig {
    /// The database of a flag. `url` begins with `postgres://` or `postgresql://`.
    pub fn from_flag(url: String, flag: &str, is_shared: bool) -> Self {
        Self { url: Zeroizing::new(url), place: SourceLocation::flag(flag), is_shared }
    }
}

impl fmt::Display for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match location(&self.url) {
            Some(location) => write!(f, "{} ({})", printable(location), self.place),
            None => write!(f, "the database of {}", self.place),
        }
    }
}

/// Whether a text is the address of a PostgreSQL database.
pub fn is_postgres_url(url: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Host, port and database of an address, without `user:password@` and the query, which may contain secrets. `None` if these
/// parts cannot be told apart for certain.
fn location(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (head, query) = rest.split_once('?').unwrap_or((rest, ""));
    let location = match head.rsplit_once('@') {
        Some((_, location)) => location,
        // The `?` may belong to a password in which it was not escaped as `%3F`.
        None if query.contains('@') => return None,
        None => head,
    };
    Some(location).filter(|location| !location.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_has_no_password() {
        let check = |url: &str, expected: Option<&str>| assert_eq!(location(url), expected, "{url}");
        check("postgres://db.example:5432/metamcp", Some("db.example:5432/metamcp"));
        check("postgresql://u:hunter2@db/metamcp?sslmode=require&password=hunter2", Some("db/metamcp"));
        check("postgres://u:hun@ter2@a:1,b:2/x", Some("a:1,b:2/x"));
        check("postgres:///x?host=/run&password=a@b", None);
        check("postgres://u:hun?ter2@db/x", None);
        check("postgres://u:hunter2@", None);
    }
}
