//! What a key may do, ready to be asked: patterns are compiled once for a key, and a question allocates nothing.

use std::collections::HashSet;
use std::fmt;

use foldhash::fast::RandomState;

use crate::base::{EndpointName, Glob, InvalidGlob, InvalidName, ServerName};
use crate::store::{self, Rate, Role};

/// What a key may do.
///
/// Whatever cannot be understood in a stored row allows nothing.
#[derive(Debug)]
pub struct Grants {
    role: Role,
    /// Scopes, as `route` writes them; `None`: all.
    scopes: Option<Words>,
    /// `None`: all.
    tools: Option<Tools>,
    rate: Option<Rate>,
    concurrency: Option<u32>,
}

type Words = HashSet<Box<str>, RandomState>;

#[derive(Debug)]
struct Tools {
    /// Those that stand for themselves: most patterns do.
    names: Words,
    globs: Vec<Glob>,
}

impl Grants {
    /// Of what the store holds.
    pub fn compile(written: &store::Grants) -> Self {
        Self {
            role: written.role,
            scopes: written
                .endpoints
                .as_ref()
                .map(|names| names.iter().filter_map(|name| scope(name).ok()).map(Into::into).collect()),
            tools: written.tools.as_ref().map(|globs| Tools::compile(globs)),
            rate: written.rate,
            concurrency: written.concurrency,
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

    /// Whether an endpoint may be used at all.
    pub fn may_enter(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope))
    }

    /// Whether a tool may be seen and called, wherever it is.
    pub fn may_call(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.hold(tool))
    }

    /// Whether there is an endpoint or a tool that may not be.
    pub fn are_confined(&self) -> bool {
        self.scopes.is_some() || self.tools.is_some()
    }

    /// Whether every tool may be.
    pub fn may_call_all(&self) -> bool {
        self.tools.is_none()
    }
}

impl Tools {
    fn compile(globs: &[String]) -> Self {
        let (names, globs): (Vec<_>, Vec<_>) =
            globs.iter().filter_map(|glob| Glob::new(glob).ok()).partition(Glob::is_literal);
        Self { names: names.iter().map(|glob| glob.as_str().into()).collect(), globs }
    }

    fn hold(&self, tool: &str) -> bool {
        self.names.contains(tool) || self.globs.iter().any(|glob| glob.matches(tool))
    }
}

/// Whether a key may be made with these grants.
pub fn check(grants: &store::Grants) -> Result<(), GrantsError> {
    if let Some(names) = &grants.endpoints {
        names.iter().try_for_each(|name| scope(name).map(drop)).map_err(GrantsError::Endpoint)?;
        count(names)?;
    }
    if let Some(globs) = &grants.tools {
        globs.iter().try_for_each(|glob| Glob::new(glob).map(drop)).map_err(GrantsError::Tool)?;
        count(globs)?;
    }
    if grants.rate.is_some_and(|rate| rate.per_second == 0 || rate.burst == 0) {
        return Err(GrantsError::Rate);
    }
    if grants.concurrency == Some(0) {
        return Err(GrantsError::Concurrency);
    }
    Ok(())
}

fn count(list: &[String]) -> Result<(), GrantsError> {
    if (1..=ENTRIES_MAX).contains(&list.len()) { Ok(()) } else { Err(GrantsError::Count) }
}

/// The scope that an entry of a key's endpoints stands for: `NAME`, or `servers/NAME` for a server's own path.
fn scope(entry: &str) -> Result<String, InvalidName> {
    match entry.strip_prefix("servers/") {
        Some(server) => ServerName::new(server).map(|name| format!("s/{name}")),
        None => EndpointName::new(entry).map(|name| format!("e/{name}")),
    }
}

/// Grants that no key can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantsError {
    /// A name that no endpoint can have.
    Endpoint(InvalidName),
    /// Not a pattern.
    Tool(InvalidGlob),
    /// None, which would be a key for nothing, or very many.
    Count,
    /// Never a call.
    Rate,
    /// Never a call.
    Concurrency,
}

impl fmt::Display for GrantsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(name) => write!(f, "{name}, or `servers/NAME` for a server's own path"),
            Self::Tool(glob) => glob.fmt(f),
            Self::Count => {
                write!(f, "a key names 1 to {ENTRIES_MAX} endpoints and 1 to {ENTRIES_MAX} tools, or none")
            }
            Self::Rate => f.write_str("a rate is at least 1 call a second, and 1 at once"),
            Self::Concurrency => f.write_str("a key has at least 1 call at once"),
        }
    }
}

impl std::error::Error for GrantsError {}

/// Patterns are tried one by one at every call; whoever needs more of them wants an endpoint with a filter.
const ENTRIES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(endpoints: Option<&[&str]>, tools: Option<&[&str]>) -> store::Grants {
        let list = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        store::Grants {
            endpoints: endpoints.map(list),
            tools: tools.map(list),
            ..store::Grants::everything()
        }
    }

    #[track_caller]
    fn check_may(
        endpoints: Option<&[&str]>,
        tools: Option<&[&str]>,
        scope: &str,
        tool: &str,
        expected: bool,
    ) {
        let grants = Grants::compile(&written(endpoints, tools));
        assert_eq!(grants.may_enter(scope) && grants.may_call(tool), expected, "{scope} {tool}");
    }

    #[test]
    fn a_key_may_what_it_names_and_nothing_else() {
        check_may(None, None, "e/default", "b0__echo", true);
        check_may(None, None, "s/b0", "echo", true);
        check_may(Some(&["team"]), None, "e/team", "x", true);
        check_may(Some(&["team"]), None, "e/default", "x", false);
        check_may(Some(&["team"]), None, "e/teams", "x", false);
        check_may(Some(&["team"]), None, "s/team", "x", false);
        check_may(Some(&["servers/b0"]), None, "s/b0", "x", true);
        check_may(Some(&["servers/b0"]), None, "e/b0", "x", false);
        check_may(Some(&["a", "b"]), None, "e/b", "x", true);
        check_may(None, Some(&["b0__*", "echo"]), "e/default", "b0__x", true);
        check_may(None, Some(&["b0__*", "echo"]), "e/default", "echo", true);
        check_may(None, Some(&["b0__*", "echo"]), "e/default", "echo2", false);
        check_may(None, Some(&["b0__*", "echo"]), "e/default", "", false);
        check_may(Some(&["a"]), Some(&["x"]), "e/a", "y", false);
        check_may(Some(&["a"]), Some(&["x"]), "e/b", "x", false);
    }

    #[test]
    fn what_somebody_else_wrote_into_the_row_allows_nothing() {
        check_may(Some(&[]), None, "e/default", "x", false);
        check_may(None, Some(&[]), "e/default", "x", false);
        check_may(Some(&["e/default", "../default", ""]), None, "e/default", "x", false);
        check_may(Some(&["e/default"]), None, "e/e/default", "x", false);
        check_may(None, Some(&["a b", ""]), "e/default", "a b", false);
    }

    #[test]
    fn grants_that_no_key_can_have_are_named() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let base = || written(None, None);
        let name = EndpointName::new("a/b").unwrap_err();
        let server = ServerName::new("a__b").unwrap_err();
        let glob = Glob::new("a b").unwrap_err();
        let many = vec!["a".to_owned(); ENTRIES_MAX + 1];
        let rows = [
            (base(), Ok(())),
            (written(Some(&["default", "servers/b0"]), Some(&["*", "a?"])), Ok(())),
            (written(Some(&["ok", "a/b"]), None), Err(GrantsError::Endpoint(name))),
            (written(Some(&["servers/a__b"]), None), Err(GrantsError::Endpoint(server))),
            (written(None, Some(&["a b"])), Err(GrantsError::Tool(glob))),
            (written(Some(&[]), None), Err(GrantsError::Count)),
            (store::Grants { tools: Some(many), ..base() }, Err(GrantsError::Count)),
            (store::Grants { rate: rate(1, 1), concurrency: Some(1), ..base() }, Ok(())),
            (store::Grants { rate: rate(0, 1), ..base() }, Err(GrantsError::Rate)),
            (store::Grants { rate: rate(1, 0), ..base() }, Err(GrantsError::Rate)),
            (store::Grants { concurrency: Some(0), ..base() }, Err(GrantsError::Concurrency)),
        ];
        for (grants, expected) in rows {
            assert_eq!(check(&grants), expected, "{grants:?}");
        }
    }
}
