//! Who is asking.

use std::fmt;
use std::sync::Arc;

use super::key::{KEY_ID_BYTES, is_base62};
use crate::store::{Grants, Role};

/// The public part of an API key: 12 characters of base62. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl KeyId {
    /// What an anonymous client goes by in `Mode::Open`. Never the id of a key: `-` is not of base62.
    pub const ANONYMOUS: Self = Self(*b"anonymous---");

    /// Takes exactly 12 characters of base62.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; KEY_ID_BYTES] = text.as_bytes().try_into().ok()?;
        bytes.iter().copied().all(is_base62).then_some(Self(bytes))
    }

    /// Back from [`KeyId::as_bytes`]: of a key, or the anonymous one.
    pub fn from_bytes(bytes: &[u8; KEY_ID_BYTES]) -> Option<Self> {
        if *bytes == Self::ANONYMOUS.0 {
            return Some(Self::ANONYMOUS);
        }
        Self::parse(std::str::from_utf8(bytes).ok()?)
    }

    /// As in the key.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("both constructors take ASCII only")
    }

    /// As in the key.
    pub fn as_bytes(&self) -> &[u8; KEY_ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Evidence that a credential was checked. Only `auth` makes one; cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Claims>);

#[derive(Debug)]
struct Claims {
    key_id: KeyId,
    name: String,
    epoch: u64,
    grants: Grants,
}

impl Identity {
    pub(super) fn new(key_id: KeyId, name: String, epoch: u64, grants: Grants) -> Self {
        Self(Arc::new(Claims { key_id, name, epoch, grants }))
    }

    /// Evidence without a check, for the tests of modules that ask for it.
    #[cfg(test)]
    pub fn sample(key_id: &str) -> Self {
        Self::new(
            KeyId::parse(key_id).expect("12 characters of base62"),
            "sample".into(),
            1,
            Grants::everything(),
        )
    }

    /// With these grants.
    #[cfg(test)]
    pub fn sample_with(key_id: &str, grants: &Grants) -> Self {
        Self::new(KeyId::parse(key_id).expect("12 characters of base62"), "sample".into(), 1, grants.clone())
    }

    pub(super) fn anonymous() -> Self {
        Self::new(KeyId::ANONYMOUS, "anonymous".into(), 0, Grants::everything())
    }

    /// Whom it is about.
    pub fn key_id(&self) -> KeyId {
        self.0.key_id
    }

    /// The name its maker gave the key.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The key's epoch when the credential was checked. A key that has moved on has another.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// What the key is for.
    pub fn role(&self) -> Role {
        self.0.grants.role
    }

    /// Whether a tool may be listed and called there: the one predicate for both. `scope` as an endpoint of the
    /// routing table has it (`e/NAME`, `s/NAME` for a server's own path), `tool` as the client sees its name.
    pub fn may(&self, scope: &str, tool: &str) -> bool {
        let tools = &self.0.grants.tools;
        self.may_enter(scope)
            && tools.as_ref().is_none_or(|globs| globs.iter().any(|glob| matches(glob, tool)))
    }

    /// Whether an endpoint may be used at all. One that may not is answered like one that is not there.
    pub fn may_enter(&self, scope: &str) -> bool {
        let is_it = |entry: &String| match entry.strip_prefix("servers/") {
            Some(server) => scope.strip_prefix("s/") == Some(server),
            None => scope.strip_prefix("e/") == Some(entry),
        };
        self.0.grants.endpoints.as_ref().is_none_or(|entries| entries.iter().any(is_it))
    }
}

/// Whether a glob (`*`: anything, `?`: one character) is the whole name. Linear but for the stars: each star is gone
/// back to at most once for each character.
fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        match glob.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == name[read] => {
                at += 1;
                read += 1;
            }
            _ => match &mut star {
                Some((star_at, taken)) => {
                    *taken += 1;
                    (at, read) = (*star_at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let check = |glob: &str, name: &str, expected: bool| {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        };
        check("*", "", true);
        check("", "", true);
        check("", "a", false);
        check("a*c", "abbc", true);
        check("a*c", "abcd", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*_*_*", "a_b_c", true);
        check("git__*", "github__x", false);
        check("ä?", "äö", true);
        check(&"*a".repeat(60), &"a".repeat(10_000), true);
        check(&"*a".repeat(60), &"b".repeat(10_000), false);
    }
}
