//! What `deny.toml` says of outside crates, held against `Cargo.lock` and the licences that crates declare.
//!
//! `cargo deny` does more: it also looks for advisories and yanked versions, and reads licence files. It is not run here,
//! because it takes longer to build than everything else.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::none;
use crate::source::{read, root};

/// The quoted words of a text, in order.
fn quoted(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

/// The strings in the list `name` of `deny.toml`.
fn list<'a>(deny: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("\n{name} = [");
    let (_, rest) = deny.split_once(&start).unwrap_or_else(|| panic!("no {name} in deny.toml"));
    let words = quoted(rest.split_once(']').expect("the end of the list").0);
    assert!(!words.is_empty(), "{name} in deny.toml is empty");
    words
}

/// Name and source of every package in a lock file. Packages of the workspace have no source.
fn packages(lock: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let mut lines = package.lines();
            lines
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
                .map(|text| text.trim_matches('"'))
        };
        found.push((field("name").expect("a name"), field("source")));
    }
    found
}

/// Whether a licence expression (SPDX, annex D, and the older `A/B`) can be met with these licences.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    any(&mut rest, allowed) && rest.is_empty()
}

fn any(rest: &mut &[&str], allowed: &[&str]) -> bool {
    let mut is_met = all(rest, allowed);
    while rest.first().is_some_and(|word| word.eq_ignore_ascii_case("OR")) {
        *rest = &rest[1..];
        is_met |= all(rest, allowed);
    }
    is_met
}

fn all(rest: &mut &[&str], allowed: &[&str]) -> bool {
    let mut is_met = one(rest, allowed);
    while rest.first().is_some_and(|word| word.eq_ignore_ascii_case("AND")) {
        *rest = &rest[1..];
        is_met &= one(rest, allowed);
    }
    is_met
}

/// A licence, one with an exception, or an expression in parentheses.
fn one(rest: &mut &[&str], allowed: &[&str]) -> bool {
    match **rest {
        ["(", ref inner @ ..] => {
            *rest = inner;
            let is_met = any(rest, allowed);
            let is_closed = rest.first() == Some(&")");
            *rest = rest.get(1..).unwrap_or_default();
            is_met && is_closed
        }
        [licence, with, exception, ref behind @ ..] if with.eq_ignore_ascii_case("WITH") => {
            *rest = behind;
            allowed.contains(&&*format!("{licence} WITH {exception}"))
        }
        [licence, ref behind @ ..] => {
            *rest = behind;
            allowed.contains(&licence)
        }
        [] => false,
    }
}

#[test]
fn licence_expressions_are_read() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
    let rows = [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 or MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND Apache-2.0", true),
        ("MIT AND GPL-3.0 OR Apache-2.0", true),
        ("MIT AND (GPL-3.0 OR Apache-2.0)", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("MIT WITH LLVM-exception", false),
        ("", false),
        ("MIT GPL-3.0", false),
        ("(MIT", false),
    ];
    for (expression, expected) in rows {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression:?}");
    }
}

#[test]
fn outside_crates_are_those_that_deny_toml_allows() {
    let deny = read(&root().join("deny.toml"));
    let registries: Vec<_> =
        list(&deny, "allow-registry").iter().map(|url| format!("registry+{url}")).collect();
    let banned: Vec<_> = deny.match_indices("{ crate = ").map(|(at, _)| quoted(&deny[at..])[0]).collect();
    assert!(!banned.is_empty(), "deny.toml bans nothing");
    let mut found = Vec::new();
    for file in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock = read(&root().join(file));
        let packages = packages(&lock);
        assert!(packages.len() > 100, "{file} was not read: {packages:?}");
        for (name, source) in packages {
            // Without a source it is in a folder, which the licence test looks at.
            if let Some(source) = source.filter(|source| !registries.iter().any(|known| known == source)) {
                found.push(format!("{file}: {name} comes from {source}"));
            }
            if banned.contains(&name) {
                found.push(format!("{file}: {name} is banned"));
            }
        }
    }
    none(&found, "these crates are against deny.toml:");
}

/// Of the crates that are compiled for Linux: those of other systems need not be there.
#[test]
fn licences_are_those_that_deny_toml_allows() {
    let deny = read(&root().join("deny.toml"));
    let allowed = list(&deny, "allow");
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--format-version", "1"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "only {} packages", packages.len());
    let mut found = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence, &allowed) {
            found.push(format!("{}: {licence:?}", package["name"]));
        }
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        if package["source"].is_null() && !manifest.starts_with(root()) {
            found.push(format!("{}: in {}, outside of the repository", package["name"], manifest.display()));
        }
    }
    none(&found, "deny.toml does not allow the licences or sources of these crates:");
}
