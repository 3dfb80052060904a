//! Which file imports which, from `use` declarations and the paths in code. Tests import what they like.
//!
//! A name that a module hands on (`pub use child::Name`) belongs to the file that defines it: whoever names it imports
//! that file and not the module. The module itself imports it only where its own code uses it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, closing};

/// The sources, and which imports which.
pub struct Graph {
    sources: Vec<Source>,
    modules: Vec<Module>,
    /// From, to, and where the first of the two names the second.
    edges: BTreeMap<(usize, usize), usize>,
}

/// A file, as a module of its crate.
struct Module {
    /// The folder of the crate's root, `src` of `src/a/b.rs`.
    root: String,
    /// `a::b`; empty for the root.
    name: Vec<String>,
    uses: Vec<Use>,
}

/// One name that a `use` declaration brings in.
struct Use {
    path: Vec<String>,
    /// Under which it is known here; `None` for `*`.
    name: Option<String>,
    is_public: bool,
    at: usize,
}

/// Names handed on by names handed on are followed so far.
const DEPTH_MAX: usize = 16;

impl Graph {
    pub fn new(sources: Vec<Source>) -> Self {
        let sources: Vec<Source> = sources
            .into_iter()
            .filter(|source| !source.is_test(0) && root_of(&source.path).is_some())
            .collect();
        let modules = sources.iter().map(Module::new).collect();
        let mut graph = Self { sources, modules, edges: BTreeMap::new() };
        for from in 0..graph.sources.len() {
            for (path, at) in graph.paths(from) {
                if let Some(to) = graph.resolve(from, &path, 0).filter(|to| *to != from) {
                    graph.edges.entry((from, to)).or_insert(at);
                }
            }
        }
        graph
    }

    /// Every import: who, whom, and where the first names the second.
    pub fn imports(&self) -> impl Iterator<Item = (&Source, &Source, usize)> {
        self.edges.iter().map(|((from, to), at)| (&self.sources[*from], &self.sources[*to], *at))
    }

    /// The groups of files of which each reaches each other by imports.
    pub fn circles(&self) -> Vec<Vec<&str>> {
        let reached: Vec<BTreeSet<usize>> = (0..self.sources.len()).map(|from| self.reached(from)).collect();
        let mut circles = BTreeSet::new();
        for from in 0..self.sources.len() {
            let circle: Vec<usize> =
                reached[from].iter().copied().filter(|to| reached[*to].contains(&from)).collect();
            if circle.contains(&from) {
                circles.insert(circle);
            }
        }
        let paths = |circle: Vec<usize>| -> Vec<&str> {
            let mut paths: Vec<_> = circle.into_iter().map(|at| &*self.sources[at].path).collect();
            paths.sort_unstable();
            paths
        };
        circles.into_iter().map(paths).collect()
    }

    fn reached(&self, from: usize) -> BTreeSet<usize> {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for ((_, to), _) in self.edges.range((at, 0)..(at + 1, 0)) {
                if reached.insert(*to) {
                    next.push(*to);
                }
            }
        }
        reached
    }

    /// The paths that a file names: what it brings in for itself, and what its code says.
    fn paths(&self, at: usize) -> Vec<(Vec<String>, usize)> {
        let (source, module) = (&self.sources[at], &self.modules[at]);
        let is_used =
            |used: &Use| !used.is_public || used.name.as_ref().is_some_and(|name| has_code(source, name));
        let brought =
            module.uses.iter().filter(|used| is_used(used)).map(|used| (used.path.clone(), used.at));
        let said = code_paths(source).into_iter().filter(|(path, _)| {
            let known = |used: &Use| used.name.as_ref() == Some(&path[0]);
            matches!(&*path[0], "crate" | "super" | "self")
                || self.child(at, &path[0]).is_some()
                || module.uses.iter().any(known)
        });
        brought.chain(said).collect()
    }

    /// The file in which the last part of a path is defined; `None` for what is of another crate.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        if depth > DEPTH_MAX {
            return None;
        }
        let module = &self.modules[from];
        match &**first {
            "crate" => self.within(self.find(&module.root, &[])?, rest, depth),
            "self" => self.within(from, rest, depth),
            "super" => {
                let (_, parent) = module.name.split_last()?;
                self.within(self.find(&module.root, parent)?, rest, depth)
            }
            name => {
                if let Some(child) = self.child(from, name) {
                    return self.within(child, rest, depth);
                }
                let used = module.uses.iter().find(|used| used.name.as_deref() == Some(name))?;
                self.resolve(from, &[&used.path[..], rest].concat(), depth + 1)
            }
        }
    }

    /// The same, of a path that begins in that module.
    fn within(&self, module: usize, path: &[String], depth: usize) -> Option<usize> {
        let Some((first, rest)) = path.split_first() else { return Some(module) };
        if depth > DEPTH_MAX {
            return None;
        }
        if first == "super" || first == "self" {
            return self.resolve(module, path, depth + 1);
        }
        if let Some(child) = self.child(module, first) {
            return self.within(child, rest, depth);
        }
        let uses = &self.modules[module].uses;
        if let Some(used) = uses.iter().find(|used| used.name.as_ref() == Some(first)) {
            return self.resolve(module, &[&used.path[..], rest].concat(), depth + 1);
        }
        let mut behind_stars = uses.iter().filter(|used| used.name.is_none());
        let defining = behind_stars.find_map(|used| {
            let place = self.resolve(module, &used.path, depth + 1)?;
            self.defines(place, first).then_some(place)
        });
        Some(defining.unwrap_or(module))
    }

    fn defines(&self, module: usize, name: &str) -> bool {
        let source = &self.sources[module];
        source.words(name).any(|at| {
            let before = source.code[..at].trim_end();
            ["struct", "enum", "trait", "fn", "const", "static", "type"]
                .iter()
                .any(|word| before.ends_with(word))
        })
    }

    fn child(&self, module: usize, name: &str) -> Option<usize> {
        let Module { root, name: parent, .. } = &self.modules[module];
        self.find(root, &[&parent[..], &[name.to_owned()]].concat())
    }

    fn find(&self, root: &str, name: &[String]) -> Option<usize> {
        self.modules.iter().position(|module| module.root == root && module.name == name)
    }
}

impl Module {
    fn new(source: &Source) -> Self {
        let root = root_of(&source.path).unwrap_or_default().to_owned();
        let path = source.path[root.len()..].trim_matches('/').trim_end_matches(".rs");
        let path =
            path.strip_suffix("mod").filter(|_| path == "mod" || path.ends_with("/mod")).unwrap_or(path);
        let is_root = matches!(path, "lib" | "main");
        let parts = path.split('/').filter(|part| !part.is_empty() && !is_root);
        Self { root, name: parts.map(str::to_owned).collect(), uses: uses(source) }
    }
}

/// `src` of `src/a.rs`, `crates/x/src` of `crates/x/src/a.rs`.
fn root_of(path: &str) -> Option<&str> {
    if path.starts_with("src/") {
        return Some("src");
    }
    path.find("/src/").map(|at| &path[..at + 4])
}

/// Every name that the `use` declarations of a file bring in.
fn uses(source: &Source) -> Vec<Use> {
    let mut found = Vec::new();
    for (at, text) in declarations(source) {
        let before = source.code[..at].trim_end();
        let is_public = before.ends_with("pub") || before.ends_with(')');
        let mut paths = Vec::new();
        spread(&[], text, &mut paths);
        for (path, name) in paths {
            found.push(Use { path, name, is_public, at });
        }
    }
    found
}

/// Where each `use` declaration begins, and what stands between it and its semicolon.
fn declarations(source: &Source) -> Vec<(usize, &str)> {
    let begun = source.words("use").filter_map(|at| {
        let rest = &source.code[at + 3..];
        // `use<'_>` says what a type captures.
        let end = rest.find(';').filter(|_| rest.starts_with(char::is_whitespace))?;
        Some((at, rest[..end].trim()))
    });
    begun.collect()
}

/// The paths of `a::{b, c::{self, d as e}, f::*}`, each with the name under which it is known.
fn spread(before: &[String], text: &str, found: &mut Vec<(Vec<String>, Option<String>)>) {
    let text = text.trim();
    let (head, group) =
        text.split_once('{').map_or((text, None), |(head, _)| (head, Some(&text[head.len()..])));
    let (head, alias) =
        head.split_once(" as ").map_or((head, None), |(head, alias)| (head, Some(alias.trim())));
    let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let mut path: Vec<String> = before.iter().cloned().chain(parts).collect();
    if let Some(group) = group {
        for member in members(&group[1..closing(group, 0) - 1]) {
            spread(&path, member, found);
        }
        return;
    }
    if path.len() > before.len() && path.last().is_some_and(|last| last == "*") {
        path.pop();
        return found.push((path, None));
    }
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let name = alias.map(str::to_owned).or_else(|| path.last().cloned());
    if !text.is_empty() {
        found.push((path, name));
    }
}

/// The members of `a, b::{c, d}`, inner groups left alone.
pub fn members(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                members.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(&text[start..]);
    members
}

/// Whether the code outside of `use` declarations names it by itself.
fn has_code(source: &Source, name: &str) -> bool {
    let declared: Vec<_> = declarations(source).iter().map(|(at, text)| *at..at + 4 + text.len()).collect();
    source.words(name).any(|at| {
        let before = source.code[..at].trim_end();
        !declared.iter().any(|range| range.contains(&at)) && !before.ends_with("::") && !before.ends_with('.')
    })
}

/// Every path of two parts and more that stands in code, outside of `use` declarations and tests.
fn code_paths(source: &Source) -> Vec<(Vec<String>, usize)> {
    let declared: Vec<_> = declarations(source).iter().map(|(at, text)| *at..at + 4 + text.len()).collect();
    let code = &source.code;
    let part = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    let mut behind = 0;
    for (at, _) in code.match_indices("::") {
        if at < behind || source.is_test(at) || declared.iter().any(|range| range.contains(&at)) {
            continue;
        }
        let first: String =
            code[..at].chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let first: String = first.chars().rev().collect();
        let before = code[..at - first.len()].trim_end();
        if first.is_empty() || before.ends_with("(in") {
            continue;
        }
        let (mut path, mut end) = (vec![first], at);
        while code[end..].starts_with("::") {
            let next = part(&code[end + 2..]);
            if next.is_empty() {
                break;
            }
            end += 2 + next.len();
            path.push(next);
        }
        behind = end;
        if path.len() > 1 {
            found.push((path, at));
        }
    }
    found
}

#[test]
fn names_are_found_where_they_are_defined() {
    let source = |path: &str, raw: &str| Source::new(path.to_owned(), raw.to_owned());
    let graph = Graph::new(vec![
        source("src/lib.rs", "mod a;\nmod b;"),
        source("src/a/mod.rs", "mod leaf;\nmod other;\npub use leaf::{Leaf, self as l};\npub use other::*;"),
        source("src/a/leaf.rs", "pub struct Leaf;\n#[cfg(test)]\nmod tests { use crate::b::B; }"),
        source("src/a/other.rs", "use super::Leaf;\npub struct Other(Leaf);"),
        source("src/b.rs", "use crate::a::{Other, l};\npub struct B;\nfn f() -> crate::a::Leaf { l::Leaf }"),
        source("src/a/tests.rs", "use crate::b::B;"),
    ]);
    let imports: Vec<_> = graph.imports().map(|(from, to, _)| (&*from.path, &*to.path)).collect();
    let expected =
        [("src/a/other.rs", "src/a/leaf.rs"), ("src/b.rs", "src/a/leaf.rs"), ("src/b.rs", "src/a/other.rs")];
    assert_eq!(imports, expected);
    assert!(graph.circles().is_empty());
}

#[test]
fn circles_are_found() {
    let source = |path: &str, raw: &str| Source::new(path.to_owned(), raw.to_owned());
    let graph = Graph::new(vec![
        source("src/lib.rs", ""),
        source("src/a/mod.rs", "mod b;\npub use b::B;\npub struct A(B);"),
        source("src/a/b.rs", "pub struct B(super::c::C, super::A);"),
        source("src/a/c.rs", "pub struct C;"),
    ]);
    assert_eq!(graph.circles(), [["src/a/b.rs", "src/a/mod.rs"]]);
}
