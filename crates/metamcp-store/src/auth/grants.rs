//! The grants of a key, compiled once so that a check neither parses nor allocates.

use std::collections::HashSet;
use std::fmt;

use foldhash::fast::RandomState;

use crate::store::{self, QuotaKind, Quotas, Rate, Role};
use metamcp_core::base::{EndpointName, Glob, InvalidGlob, InvalidName, ServerName};

/// What a key may do.
///
/// An entry of a stored row that does not parse allows nothing.
#[derive(Debug)]
pub struct CompiledGrants {
    role: Role,
    /// Scopes as the routing table writes them; `None` allows all.
    scopes: Option<StringSet>,
    /// `None` allows all tools.
    tools: Option<ToolPatterns>,
    rate: Option<Rate>,
    concurrency: Option<u32>,
    quotas: Quotas,
}

type StringSet = HashSet<Box<str>, RandomState>;

#[derive(Debug)]
struct ToolPatterns {
    /// Patterns without wildcards: most patterns are plain names.
    names: StringSet,
    globs: Vec<Glob>,
}

impl CompiledGrants {
    pub fn compile(grants: &store::Grants) -> Self {
        Self {
            role: grants.role,
            scopes: grants
                .endpoints
                .as_ref()
                .map(|names| names.iter().filter_map(|name| to_scope(name).ok()).map(Into::into).collect()),
            tools: grants.tools.as_ref().map(|globs| ToolPatterns::compile(globs)),
            rate: grants.rate,
            concurrency: grants.concurrency,
            quotas: grants.quotas,
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    pub fn concurrency(&self) -> Option<u32> {
        self.concurrency
    }

    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub fn can_use_endpoint(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope))
    }

    /// Whether a tool may be listed and called, at any endpoint.
    pub fn can_call(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.is_match(tool))
    }

    /// Whether any endpoint or tool is forbidden.
    pub fn is_restricted(&self) -> bool {
        self.scopes.is_some() || self.tools.is_some()
    }

    pub fn can_call_all_tools(&self) -> bool {
        self.tools.is_none()
    }
}

impl ToolPatterns {
    fn compile(globs: &[String]) -> Self {
        let (names, globs): (Vec<_>, Vec<_>) =
            globs.iter().filter_map(|glob| Glob::new(glob).ok()).partition(Glob::is_literal);
        Self { names: names.iter().map(|glob| glob.as_str().into()).collect(), globs }
    }

    fn is_match(&self, tool: &str) -> bool {
        self.names.contains(tool) || self.globs.iter().any(|glob| glob.matches(tool))
    }
}

/// Checks that a new key may have these grants.
pub fn validate(grants: &store::Grants) -> Result<(), GrantsError> {
    if let Some(names) = &grants.endpoints {
        names.iter().try_for_each(|name| to_scope(name).map(drop)).map_err(GrantsError::Endpoint)?;
        check_count(names)?;
    }
    if let Some(globs) = &grants.tools {
        globs.iter().try_for_each(|glob| Glob::new(glob).map(drop)).map_err(GrantsError::Tool)?;
        check_count(globs)?;
    }
    if grants.rate.is_some_and(|rate| rate.per_second == 0 || rate.burst == 0) {
        return Err(GrantsError::Rate);
    }
    if grants.concurrency == Some(0) {
        return Err(GrantsError::Concurrency);
    }
    let mut limits = QuotaKind::ALL.into_iter().filter_map(|kind| grants.quotas.limit(kind));
    if limits.any(|limit| !(1..=QUOTA_MAX).contains(&limit)) {
        return Err(GrantsError::Quota);
    }
    Ok(())
}

/// The counters of a gateway have 48 bits: 256 TiB, or 1000 calls in each microsecond of a month.
pub const QUOTA_MAX: u64 = (1 << 48) - 1;

fn check_count(list: &[String]) -> Result<(), GrantsError> {
    if (1..=ENTRIES_MAX).contains(&list.len()) { Ok(()) } else { Err(GrantsError::Count) }
}

/// The scope of an entry in a key's list of endpoints: `NAME`, or `servers/NAME` for a server's own path.
fn to_scope(entry: &str) -> Result<String, InvalidName> {
    match entry.strip_prefix("servers/") {
        Some(server) => ServerName::new(server).map(|name| format!("s/{name}")),
        None => EndpointName::new(entry).map(|name| format!("e/{name}")),
    }
}

/// Grants that a new key cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantsError {
    Endpoint(InvalidName),
    Tool(InvalidGlob),
    /// An empty list, which would make a useless key, or too many entries.
    Count,
    /// A rate that never allows a call.
    Rate,
    /// A concurrency that never allows a call.
    Concurrency,
    /// A quota that never allows a call, or that is too great to be counted.
    Quota,
}

impl fmt::Display for GrantsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(name) => write!(f, "{name}, or `servers/NAME` for a server's own path"),
            Self::Tool(glob) => glob.fmt(f),
            Self::Count => {
                write!(f, "a key names 1 to {ENTRIES_MAX} endpoints and 1 to {ENTRIES_MAX} tools, or none")
            }
            Self::Rate => {
                f.write_str("a rate limit is at least 1 call per second with a burst of at least 1")
            }
            Self::Concurrency => f.write_str("the concurrency limit is at least 1 call"),
            Self::Quota => write!(f, "a quota is 1 to {QUOTA_MAX} calls or bytes"),
        }
    }
}

impl std::error::Error for GrantsError {}

/// Patterns are tried one by one at every call. A longer list is better expressed by an endpoint with a filter.
const ENTRIES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(endpoints: Option<&[&str]>, tools: Option<&[&str]>) -> store::Grants {
        let list = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        store::Grants {
            endpoints: endpoints.map(list),
            tools: tools.map(list),
            ..store::Grants::everything()
        }
    }

    #[track_caller]
    fn check_allowed(
        endpoints: Option<&[&str]>,
        tools: Option<&[&str]>,
        scope: &str,
        tool: &str,
        expected: bool,
    ) {
        let grants = CompiledGrants::compile(&grants(endpoints, tools));
        assert_eq!(grants.can_use_endpoint(scope) && grants.can_call(tool), expected, "{scope} {tool}");
    }

    #[test]
    fn a_key_may_use_what_it_names_and_nothing_else() {
        check_allowed(None, None, "e/default", "b0__echo", true);
        check_allowed(None, None, "s/b0", "echo", true);
        check_allowed(Some(&["team"]), None, "e/team", "x", true);
        check_allowed(Some(&["team"]), None, "e/default", "x", false);
        check_allowed(Some(&["team"]), None, "e/teams", "x", false);
        check_allowed(Some(&["team"]), None, "s/team", "x", false);
        check_allowed(Some(&["servers/b0"]), None, "s/b0", "x", true);
        check_allowed(Some(&["servers/b0"]), None, "e/b0", "x", false);
        check_allowed(Some(&["a", "b"]), None, "e/b", "x", true);
        check_allowed(None, Some(&["b0__*", "echo"]), "e/default", "b0__x", true);
        check_allowed(None, Some(&["b0__*", "echo"]), "e/default", "echo", true);
        check_allowed(None, Some(&["b0__*", "echo"]), "e/default", "echo2", false);
        check_allowed(None, Some(&["b0__*", "echo"]), "e/default", "", false);
        check_allowed(Some(&["a"]), Some(&["x"]), "e/a", "y", false);
        check_allowed(Some(&["a"]), Some(&["x"]), "e/b", "x", false);
    }

    #[test]
    fn malformed_entries_of_a_row_allow_nothing() {
        check_allowed(Some(&[]), None, "e/default", "x", false);
        check_allowed(None, Some(&[]), "e/default", "x", false);
        check_allowed(Some(&["e/default", "../default", ""]), None, "e/default", "x", false);
        check_allowed(Some(&["e/default"]), None, "e/e/default", "x", false);
        check_allowed(None, Some(&["a b", ""]), "e/default", "a b", false);
    }

    #[test]
    fn invalid_grants_are_refused_with_the_reason() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let base = || grants(None, None);
        let quotas = |change: fn(&mut Quotas)| {
            let mut grants = grants(None, None);
            change(&mut grants.quotas);
            grants
        };
        let name = EndpointName::new("a/b").unwrap_err();
        let server = ServerName::new("a__b").unwrap_err();
        let glob = Glob::new("a b").unwrap_err();
        let many = vec!["a".to_owned(); ENTRIES_MAX + 1];
        let rows = [
            (base(), Ok(())),
            (grants(Some(&["default", "servers/b0"]), Some(&["*", "a?"])), Ok(())),
            (grants(Some(&["ok", "a/b"]), None), Err(GrantsError::Endpoint(name))),
            (grants(Some(&["servers/a__b"]), None), Err(GrantsError::Endpoint(server))),
            (grants(None, Some(&["a b"])), Err(GrantsError::Tool(glob))),
            (grants(Some(&[]), None), Err(GrantsError::Count)),
            (store::Grants { tools: Some(many), ..base() }, Err(GrantsError::Count)),
            (store::Grants { rate: rate(1, 1), concurrency: Some(1), ..base() }, Ok(())),
            (store::Grants { rate: rate(0, 1), ..base() }, Err(GrantsError::Rate)),
            (store::Grants { rate: rate(1, 0), ..base() }, Err(GrantsError::Rate)),
            (store::Grants { concurrency: Some(0), ..base() }, Err(GrantsError::Concurrency)),
            (quotas(|quotas| quotas.calls_per_day = Some(0)), Err(GrantsError::Quota)),
            (quotas(|quotas| quotas.bytes_per_month = Some(QUOTA_MAX + 1)), Err(GrantsError::Quota)),
            (quotas(|quotas| quotas.bytes_per_month = Some(QUOTA_MAX)), Ok(())),
        ];
        for (grants, expected) in rows {
            assert_eq!(validate(&grants), expected, "{grants:?}");
        }
    }
}
