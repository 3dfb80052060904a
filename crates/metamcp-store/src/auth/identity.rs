//! The authenticated client.

use std::sync::Arc;

use crate::store::{self, Quotas, Rate, Role};

use super::grants::CompiledGrants;
use super::kid_digest::KidDigest;
use metamcp_core::base::KeyId;

/// Proof that a credential was checked. Only `auth` creates one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity(Arc<IdentityData>);

#[derive(Debug)]
pub(super) struct IdentityData {
    key: Arc<KeyIdentity>,
    /// What the identity depends on besides its key, if the credential was a token.
    token: Option<TokenProof>,
    /// When the client certificate ends, in Unix seconds, if that was the credential.
    certificate_expires_at: Option<u64>,
}

/// What an access token depends on, besides its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenProof {
    /// Unix time in seconds.
    pub expires_at: u64,
    /// The key that signed it.
    pub signed_by: KidDigest,
}

#[derive(Debug)]
struct KeyIdentity {
    key_id: KeyId,
    name: String,
    epoch: u64,
    grants: CompiledGrants,
}

impl Identity {
    pub(super) fn new(key_id: KeyId, name: String, epoch: u64, grants: &store::Grants) -> Self {
        let grants = CompiledGrants::compile(grants);
        let key = Arc::new(KeyIdentity { key_id, name, epoch, grants });
        Self(Arc::new(IdentityData { key, token: None, certificate_expires_at: None }))
    }

    /// An identity without a check, for the tests of other modules.
    #[cfg(any(test, feature = "test-util"))]
    pub fn sample(key_id: &str) -> Self {
        Self::sample_with(key_id, &store::Grants::everything())
    }

    /// Like [`Identity::sample`], with these grants.
    #[cfg(any(test, feature = "test-util"))]
    pub fn sample_with(key_id: &str, grants: &store::Grants) -> Self {
        Self::new(KeyId::parse(key_id).expect("12 characters of base62"), "sample".into(), 1, grants)
    }

    /// The identity of every client in `AuthMode::Open`: may call every tool, may not administer.
    pub(super) fn anonymous() -> Self {
        Self::new(KeyId::ANONYMOUS, "anonymous".into(), 0, &store::Grants::everything())
    }

    /// The same client, as a token proves it.
    pub(super) fn with_token(&self, token: TokenProof) -> Self {
        let (key, token) = (Arc::clone(&self.0.key), Some(token));
        Self(Arc::new(IdentityData { key, token, certificate_expires_at: None }))
    }

    /// The same client, as a certificate proves it.
    pub(super) fn with_certificate(&self, expires_at: u64) -> Self {
        let (key, certificate_expires_at) = (Arc::clone(&self.0.key), Some(expires_at));
        Self(Arc::new(IdentityData { key, token: None, certificate_expires_at }))
    }

    /// Takes the place of an identity whose parts are cached.
    pub(super) fn from_data(data: Arc<IdentityData>) -> Self {
        Self(data)
    }

    /// The parts, to be cached.
    pub(super) fn data(&self) -> &Arc<IdentityData> {
        &self.0
    }

    /// Whether both stand for the same row of a key.
    pub(super) fn has_same_key(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.key, &other.0.key)
    }

    /// The proof of a token. `None` if the credential was the key itself.
    pub(super) fn token(&self) -> Option<TokenProof> {
        self.0.token
    }

    /// When the certificate ends that the credential was. `None` for another credential.
    pub(super) fn certificate_expires_at(&self) -> Option<u64> {
        self.0.certificate_expires_at
    }

    pub fn key_id(&self) -> KeyId {
        self.0.key.key_id
    }

    /// The display name of the key.
    pub fn name(&self) -> &str {
        &self.0.key.name
    }

    /// The key's epoch when the credential was checked. A key that changed since then has a greater one.
    pub fn epoch(&self) -> u64 {
        self.0.key.epoch
    }

    /// Whether a tool may be listed and called at an endpoint; listing and calling share this predicate. `scope` is
    /// written as in the routing table: `e/NAME`, or `s/NAME` for a server's own path. `tool` is the name that the
    /// client sees.
    pub fn can_call_tool(&self, scope: &str, tool: &str) -> bool {
        self.can_use_endpoint(scope) && self.0.key.grants.can_call(tool)
    }

    /// Whether an endpoint may be used at all. A forbidden endpoint is answered like one that does not exist.
    pub fn can_use_endpoint(&self, scope: &str) -> bool {
        self.0.key.grants.can_use_endpoint(scope)
    }

    /// Whether every tool is allowed. If so, the tool list of an allowed endpoint needs no filtering.
    pub fn can_call_all_tools(&self) -> bool {
        self.0.key.grants.can_call_all_tools()
    }

    /// Whether any endpoint or tool is forbidden.
    pub fn is_restricted(&self) -> bool {
        self.0.key.grants.is_restricted()
    }

    pub fn role(&self) -> Role {
        self.0.key.grants.role()
    }

    /// The rate limit of the key; `None` for no limit.
    pub fn rate(&self) -> Option<Rate> {
        self.0.key.grants.rate()
    }

    /// Concurrent calls allowed; `None` when only the gateway's own limits apply.
    pub fn concurrency(&self) -> Option<u32> {
        self.0.key.grants.concurrency()
    }

    /// Calls and bytes allowed in a day and in a month; `None` for no quota.
    #[inline]
    pub fn quotas(&self) -> Option<&Quotas> {
        let quotas = self.0.key.grants.quotas();
        (!quotas.is_none()).then_some(quotas)
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
        assert_eq!(identity.can_call_tool(asked.0, asked.1), expected, "{asked:?}");
        assert!(!identity.can_call_all_tools());
    }

    #[test]
    fn a_tool_call_needs_both_the_endpoint_and_the_tool_pattern() {
        check(&["team"], &["b0__*"], ("e/team", "b0__echo"), true);
        check(&["team"], &["b0__*"], ("e/team", "b1__echo"), false);
        check(&["team"], &["b0__*"], ("e/default", "b0__echo"), false);
        check(&["team"], &["b0__*"], ("s/b0", "b0__echo"), false);
    }

    #[test]
    fn the_anonymous_client_may_call_everything_and_administer_nothing() {
        let anonymous = Identity::anonymous();
        assert!(
            anonymous.can_call_tool("e/default", "x")
                && anonymous.can_call_tool("s/b0", "y")
                && anonymous.can_call_all_tools()
        );
        assert_eq!((anonymous.role(), anonymous.rate(), anonymous.concurrency()), (Role::Client, None, None));
    }
}
