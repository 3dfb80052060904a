//! Rows that cannot be unsealed, and why: for error messages.

use super::seal::Sealer;

/// A row whose sealed value does not open. Nothing in such a row is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsealFailure {
    /// The row's name as stored: anyone with write access to the database may have put it there, so unprintable
    /// characters are escaped.
    name: String,
    key_version: u8,
    /// Whether the row names a version of `ENCRYPTION_KEY` that was not given. Otherwise the row was altered.
    is_version_missing: bool,
}

impl UnsealFailure {
    pub fn new(name: &str, key_version: u8, sealer: &Sealer) -> Self {
        let name =
            if name.chars().all(|c| c.is_ascii_graphic()) { name.to_owned() } else { format!("{name:?}") };
        Self { name, key_version, is_version_missing: !sealer.has_key_version(key_version) }
    }

    /// Lists the first few rows, each with the reason, for an error message.
    pub fn summarize(failures: &[Self]) -> String {
        let mut rows: Vec<String> = failures.iter().take(LISTED_MAX).map(Self::describe).collect();
        if failures.len() > LISTED_MAX {
            rows.push("…".into());
        }
        rows.join(", ")
    }

    fn describe(&self) -> String {
        let Self { name, key_version, is_version_missing } = self;
        if *is_version_missing {
            format!("{name} sealed by version {key_version}, which is not given")
        } else {
            format!("{name} altered")
        }
    }
}

/// Rows listed in one error message. The message also says how many there are.
const LISTED_MAX: usize = 8;
