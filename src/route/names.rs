//! From the name of a tool, prompt or resource to the server that has it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

/// Parts server from tool in an advertised name.
pub const SEPARATOR: &str = "__";

/// Where names of one kind lead. Immutable; lookups take no lock.
#[derive(Default)]
pub struct Names {
    destinations: HashMap<Box<str>, Destination, RandomState>,
}

/// One item of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The server's place in its endpoint.
    pub place: u32,
    /// The name at the server, to be put in place of the advertised one; `None` where both are the same.
    pub own_name: Option<Arc<OwnName>>,
}

/// A server's own name for an item, ready to be put into a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnName {
    /// As it is.
    pub text: String,
    /// As a JSON string.
    pub json: Bytes,
    /// As the value of `Mcp-Name`.
    pub header: Bytes,
    /// Whether the server told of it; else a client only called it so.
    pub is_listed: bool,
}

impl Names {
    /// With room for so many.
    pub fn with_capacity(items: usize) -> Self {
        Self { destinations: HashMap::with_capacity_and_hasher(items, RandomState::default()) }
    }

    /// Adds a name; the one that was there before under the same name.
    pub fn insert(&mut self, advertised: &str, destination: Destination) -> Option<Destination> {
        self.destinations.insert(advertised.into(), destination)
    }

    /// Where a name leads.
    pub fn find(&self, advertised: &str) -> Option<&Destination> {
        self.destinations.get(advertised)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Destination)> {
        self.destinations.iter().map(|(advertised, destination)| (&**advertised, destination))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }
}

/// A URI template, as far as finding its server needs: the literal parts around its expressions
/// (RFC 6570). It matches a superset of what the template makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplate {
    literals: Vec<String>,
}

/// Expressions in one template; more say that it is no template but an attack.
const EXPRESSIONS_MAX: usize = 32;

impl UriTemplate {
    /// Cuts a template at its expressions; `None` when it has none, too many, or an open brace.
    pub fn parse(template: &str) -> Option<Self> {
        let mut literals = Vec::new();
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            let close = open + rest[open..].find('}')?;
            literals.push(rest[..open].to_owned());
            rest = &rest[close + 1..];
            if literals.len() > EXPRESSIONS_MAX {
                return None;
            }
        }
        literals.push(rest.to_owned());
        (literals.len() > 1).then_some(Self { literals })
    }

    /// Whether the literal parts occur in that order, the first at the start and the last at the end.
    pub fn matches(&self, uri: &str) -> bool {
        let Some((first, rest)) = self.literals.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else { return false };
        let Some(mut uri) = uri.strip_prefix(first.as_str()) else { return false };
        for literal in middle {
            match uri.find(literal.as_str()) {
                Some(at) => uri = &uri[at + literal.len()..],
                None => return false,
            }
        }
        uri.ends_with(last.as_str())
    }

    /// How much of it is literal: the template with more of it is the closer one.
    pub fn literal_bytes(&self) -> usize {
        self.literals.iter().map(String::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, uri: &str, expected: bool) {
        let template = UriTemplate::parse(template).expect("a template");
        assert_eq!(template.matches(uri), expected, "{template:?} {uri}");
    }

    #[test]
    fn templates() {
        check("demo://item/{id}", "demo://item/7", true);
        check("demo://item/{id}", "demo://other/7", false);
        check("{+path}", "file:///x", true);
        check("x/{a}/y/{b}.txt", "x/1/y/2.txt", true);
        check("x/{a}/y/{b}.txt", "x/1/z/2.txt", false);
        check("x/{a}/y/{b}.txt", "x/1/y/2.png", false);
        assert_eq!(UriTemplate::parse("no-expression"), None);
        assert_eq!(UriTemplate::parse("open{brace"), None);
        assert_eq!(UriTemplate::parse(&"{a}".repeat(100)), None);
    }

    #[test]
    fn a_name_leads_where_it_was_put() {
        let mut names = Names::with_capacity(2);
        let (json, header) = (Bytes::from_static(b"\"echo\""), Bytes::from_static(b"echo"));
        let own_name = OwnName { text: "echo".into(), json, header, is_listed: true };
        let destination = Destination { place: 1, own_name: Some(Arc::new(own_name)) };
        assert_eq!(names.insert("b__echo", destination.clone()), None);
        assert_eq!(names.find("b__echo"), Some(&destination));
        assert_eq!(names.find("b__Echo"), None);
        assert_eq!(names.insert("b__echo", destination.clone()), Some(destination));
    }
}
