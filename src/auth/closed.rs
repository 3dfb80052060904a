//! Rows that do not open, and what is to be said of them.

use super::seal::Sealer;

/// A row that is not gone by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// As it stands in the row, where anybody may have written it.
    name: String,
    key_version: u8,
    /// Whether it names a version of `ENCRYPTION_KEY` that was not given. Else it was altered.
    lacks_version: bool,
}

impl Closed {
    pub fn of(name: &str, key_version: u8, sealer: &Sealer) -> Self {
        let name =
            if name.chars().all(|c| c.is_ascii_graphic()) { name.to_owned() } else { format!("{name:?}") };
        Self { name, key_version, lacks_version: !sealer.knows(key_version) }
    }

    /// Some of them, for people.
    pub fn list(closed: &[Self]) -> String {
        let mut which: Vec<String> = closed.iter().take(NAMED_MAX).map(Self::told).collect();
        if closed.len() > NAMED_MAX {
            which.push("…".into());
        }
        which.join(", ")
    }

    fn told(&self) -> String {
        let Self { name, key_version, lacks_version } = self;
        if *lacks_version {
            format!("{name} sealed by version {key_version}, which is not given")
        } else {
            format!("{name} altered")
        }
    }
}

/// Named in one error; the count says how many there are.
const NAMED_MAX: usize = 8;
