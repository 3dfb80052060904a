//! What a key may see and call of one server. The same predicate decides lists and calls.

use crate::base::ServerName;
use crate::route::{Endpoint, Prefix, SEPARATOR, Shape, Table};
use crate::store::Grants;

/// The endpoints through which a key reaches a server.
pub struct Reach<'a> {
    grants: &'a Grants,
    server: &'a ServerName,
    /// How tools are named on each of them.
    prefixes: Vec<Prefix>,
}

impl<'a> Reach<'a> {
    /// `None`: through none, and then the server does not exist for that key.
    pub fn of(grants: &'a Grants, server: &'a ServerName, table: &Table) -> Option<Self> {
        let mut prefixes: Vec<Prefix> = table
            .endpoints()
            .filter(|endpoint| endpoint.servers.iter().any(|place| place.name == *server))
            .filter_map(|endpoint| named(endpoint))
            .filter(|(name, _)| {
                grants.endpoints.as_ref().is_none_or(|granted| granted.iter().any(|other| other == name))
            })
            .map(|(_, prefix)| prefix)
            .collect();
        if grants.endpoints.is_none() {
            // Whoever may use every endpoint may use a server that is in none, under its own path.
            prefixes.push(Prefix::Always);
        }
        (!prefixes.is_empty()).then_some(Self { grants, server, prefixes })
    }

    /// Whether the key may call that tool of the server, under one of the names that endpoints give it.
    pub fn admits(&self, tool: &str) -> bool {
        let Some(globs) = &self.grants.tools else { return true };
        self.prefixes.iter().any(|prefix| match prefix {
            Prefix::Never => globs.iter().any(|glob| matches(glob, tool)),
            Prefix::Always => {
                let name = format!("{}{SEPARATOR}{tool}", self.server);
                globs.iter().any(|glob| matches(glob, &name))
            }
        })
    }
}

/// An endpoint's name and how it names tools; `None` for a server by itself.
fn named(endpoint: &Endpoint) -> Option<(&str, Prefix)> {
    match endpoint.shape {
        Shape::Aggregate(prefix) => Some((endpoint.scope.strip_prefix("e/")?, prefix)),
        Shape::Single => None,
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
    use crate::base::EndpointName;
    use crate::route::EndpointConfig;

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

    #[track_caller]
    fn check(endpoints: Option<&[&str]>, tools: Option<&[&str]>, server: &str, tool: &str, expected: bool) {
        let name = |text: &str| ServerName::new(text).expect("valid");
        let endpoint = |text: &str, servers: &[&str], prefix| EndpointConfig {
            name: EndpointName::new(text).expect("valid"),
            servers: servers.iter().map(|text| name(text)).collect(),
            prefix,
        };
        let table = Table::build(
            &[name("a"), name("b"), name("alone")],
            &[endpoint("default", &["a", "b"], Prefix::Always), endpoint("bare", &["b"], Prefix::Never)],
        )
        .expect("all servers exist");
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let grants =
            Grants { endpoints: endpoints.map(list), tools: tools.map(list), ..Grants::everything() };
        let server = name(server);
        let found = Reach::of(&grants, &server, &table).is_some_and(|reach| reach.admits(tool));
        assert_eq!(found, expected, "{endpoints:?} {tools:?} {server} {tool}");
    }

    #[test]
    fn a_key_reaches_what_its_endpoints_show() {
        check(None, None, "a", "x", true);
        check(None, None, "alone", "x", true);
        check(Some(&["default"]), None, "a", "x", true);
        check(Some(&["bare"]), None, "a", "x", false);
        check(Some(&["bare"]), None, "b", "x", true);
        check(Some(&["other"]), None, "b", "x", false);
        check(Some(&["a"]), None, "a", "x", false);
        check(Some(&[]), None, "a", "x", false);
        check(Some(&["default"]), None, "alone", "x", false);
        check(None, Some(&["a__*"]), "a", "x", true);
        check(None, Some(&["a__*"]), "b", "x", false);
        check(None, Some(&["x"]), "a", "x", false);
        check(Some(&["bare"]), Some(&["x"]), "b", "x", true);
        check(Some(&["default"]), Some(&["x"]), "b", "x", false);
    }
}
