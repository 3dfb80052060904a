//! Maps the advertised name of a tool, prompt or resource to the server that offers it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

/// An index of advertised names of one kind of item. Immutable once shared; lookups take no lock.
#[derive(Default)]
pub struct NameIndex {
    destinations: HashMap<Box<str>, Destination, RandomState>,
}

/// One item of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The index of the server in its endpoint.
    pub server_index: u32,
    /// The server's name for the item, which replaces the advertised name in requests. `None` if they are equal.
    pub original_name: Option<Arc<OriginalName>>,
}

/// A server's own name for an item, encoded for each place of a message where it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalName {
    pub text: String,
    /// As a JSON string, quotes included.
    pub json: Bytes,
    /// As the value of `Mcp-Name`.
    pub header: Bytes,
    /// Whether the server listed the item. Otherwise only a client used the name.
    pub is_listed: bool,
}

impl NameIndex {
    pub fn with_capacity(items: usize) -> Self {
        Self { destinations: HashMap::with_capacity_and_hasher(items, RandomState::default()) }
    }

    /// Adds a name. Returns the destination it replaces.
    pub fn insert(&mut self, advertised: &str, destination: Destination) -> Option<Destination> {
        self.destinations.insert(advertised.into(), destination)
    }

    pub fn find(&self, advertised: &str) -> Option<&Destination> {
        self.destinations.get(advertised)
    }

    /// All names, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Destination)> {
        self.destinations.iter().map(|(advertised, destination)| (&**advertised, destination))
    }

    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }
}

/// The literal parts of a URI template (RFC 6570), which is all that routing needs. It matches a superset of the
/// URIs that the template expands to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplate {
    literals: Vec<String>,
}

/// Expressions in one template. Real templates have a few; a longer one is an attack on the matcher.
const EXPRESSIONS_MAX: usize = 32;

impl UriTemplate {
    /// Splits a template at its expressions. Returns `None` if it has none, too many, or an unclosed brace.
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

    /// Whether `uri` starts with the first literal, ends with the last, and has the others in order in between.
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

    /// The number of literal bytes. Of several templates that match, the one with the most is the most specific.
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
    fn matches_uri_templates() {
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
    fn finds_inserted_names() {
        let mut names = NameIndex::with_capacity(2);
        let (json, header) = (Bytes::from_static(b"\"echo\""), Bytes::from_static(b"echo"));
        let original_name = OriginalName { text: "echo".into(), json, header, is_listed: true };
        let destination = Destination { server_index: 1, original_name: Some(Arc::new(original_name)) };
        assert_eq!(names.insert("b__echo", destination.clone()), None);
        assert_eq!(names.find("b__echo"), Some(&destination));
        assert_eq!(names.find("b__Echo"), None);
        assert_eq!(names.insert("b__echo", destination.clone()), Some(destination));
    }
}
