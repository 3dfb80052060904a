//! Who is asking.

use std::fmt;
use std::sync::Arc;

use crate::store::{self, Rate, Role};

use super::grants::Grants;
use super::key::{KEY_ID_BYTES, is_base62};

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
    pub(super) fn new(key_id: KeyId, name: String, epoch: u64, grants: &store::Grants) -> Self {
        Self(Arc::new(Claims { key_id, name, epoch, grants: Grants::compile(grants) }))
    }

    /// Evidence without a check, for the tests of modules that ask for it.
    #[cfg(test)]
    pub fn sample(key_id: &str) -> Self {
        Self::sample_with(key_id, &store::Grants::everything())
    }

    /// The same, of a key that may do only so much.
    #[cfg(test)]
    pub fn sample_with(key_id: &str, grants: &store::Grants) -> Self {
        Self::new(KeyId::parse(key_id).expect("12 characters of base62"), "sample".into(), 1, grants)
    }

    /// May call whatever there is, and administers nothing: whoever reaches the port is it.
    pub(super) fn anonymous() -> Self {
        Self::new(KeyId::ANONYMOUS, "anonymous".into(), 0, &store::Grants::everything())
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

    /// Whether a tool may be listed and called there: the one predicate for both. `scope` as an endpoint of the
    /// routing table has it (`e/NAME`, `s/NAME` for a server's own path), `tool` as the client sees its name.
    pub fn may(&self, scope: &str, tool: &str) -> bool {
        self.may_enter(scope) && self.0.grants.may_call(tool)
    }

    /// Whether an endpoint may be used at all. One that may not is answered like one that is not there.
    pub fn may_enter(&self, scope: &str) -> bool {
        self.0.grants.may_enter(scope)
    }

    /// Whether no tool is kept from it, so that a list of an endpoint it may enter can be given as it is.
    pub fn may_call_all(&self) -> bool {
        self.0.grants.may_call_all()
    }

    /// Whether it is kept from an endpoint or a tool.
    pub fn is_confined(&self) -> bool {
        self.0.grants.are_confined()
    }

    /// What the key is for.
    pub fn role(&self) -> Role {
        self.0.grants.role()
    }

    /// How often it may call; `None`: as often as it likes.
    pub fn rate(&self) -> Option<Rate> {
        self.0.grants.rate()
    }

    /// Calls at once; `None`: what the gateway's limits allow.
    pub fn concurrency(&self) -> Option<u32> {
        self.0.grants.concurrency()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(endpoints: &[&str], tools: &[&str], asked: (&str, &str), expected: bool) {
        let list = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect());
        let grants =
            store::Grants { endpoints: list(endpoints), tools: list(tools), ..store::Grants::everything() };
        let identity = Identity::sample_with("AAAAAAAAAAAA", &grants);
        assert_eq!(identity.may(asked.0, asked.1), expected, "{asked:?}");
        assert!(!identity.may_call_all());
    }

    #[test]
    fn a_tool_takes_both_the_endpoint_and_the_pattern() {
        check(&["team"], &["b0__*"], ("e/team", "b0__echo"), true);
        check(&["team"], &["b0__*"], ("e/team", "b1__echo"), false);
        check(&["team"], &["b0__*"], ("e/default", "b0__echo"), false);
        check(&["team"], &["b0__*"], ("s/b0", "b0__echo"), false);
    }

    #[test]
    fn the_anonymous_client_calls_everything_and_administers_nothing() {
        let anonymous = Identity::anonymous();
        assert!(anonymous.may("e/default", "x") && anonymous.may("s/b0", "y") && anonymous.may_call_all());
        assert_eq!((anonymous.role(), anonymous.rate(), anonymous.concurrency()), (Role::Client, None, None));
    }
}
