//! Which modules may import which: the order of modules, the floors within a folder, and no circles of files.

use crate::graph::{Graph, members};
use crate::none;
use crate::source::{Source, closing, sources};

/// Who may import whom within a crate: a module sees only what stands below it. Cargo sees to it between crates;
/// [`FENCES`] says which crates the modules of the gateway must not name. The other crates have one floor each.
const ORDER: [(&str, &[&str]); 3] = [
    (
        "src",
        &[
            "app",
            "server",
            "admin",
            "bridge",
            "catalog",
            "session",
            "topology",
            "upstream",
            "child",
            "route",
            "limits",
            "journal",
            "telemetry",
            "runtime",
        ],
    ),
    ("crates/metamcp-store/src", &["definition", "tool_pins", "auth", "store"]),
    ("crates/metamcp-core/src", &["protocol", "frame", "http1", "base", "fuzz"]),
];

/// Beyond the order: a module, a crate, and the module of it that must not be named. The data plane never waits for a
/// store, the low modules know none, and the two planes meet in snapshots only.
const FENCES: [(&str, &str, &str); 8] = [
    ("server", "metamcp_store", "store"),
    ("server", "crate", "admin"),
    ("admin", "crate", "server"),
    ("route", "metamcp_store", "store"),
    ("limits", "metamcp_store", "store"),
    ("journal", "metamcp_store", "store"),
    ("telemetry", "metamcp_store", "store"),
    ("runtime", "metamcp_store", "store"),
];

/// The floors of a folder, from top to bottom: a file sees only what stands on its own floor or below. `mod.rs` of the
/// folder declares them all and is exempt.
const FLOORS: [(&str, &[&str]); 1] =
    [("src/server", &["net", "path", "eras", "streams", "mcp", "worker", "reply", "http1", "tls"])];

#[test]
fn modules_import_only_what_stands_below() {
    let mut found = Vec::new();
    for source in sources(&["src", "crates"]) {
        let Some(module) = source.module().filter(|module| !matches!(*module, "main" | "lib")) else {
            continue;
        };
        let Some((_, order)) = ORDER.iter().find(|(folder, _)| source.path.starts_with(folder)) else {
            continue;
        };
        let place = |name: &str| order.iter().position(|module| *module == name);
        let Some(own) = place(module) else {
            found.push(format!(
                "{}: {module} is not in the list of modules: give it a place in ORDER",
                source.path
            ));
            continue;
        };
        for (import, at) in imports(&source) {
            if place(&import).is_some_and(|other| other < own) {
                found.push(format!("{}: {module} imports {import}", source.at(at)));
            }
        }
    }
    none(&found, "a module sees only what stands below it; pass a value in, or move the thing down:");
}

#[test]
fn planes_meet_in_snapshots_only() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let module = source.module();
        for (_, root, fenced) in FENCES.iter().filter(|(name, ..)| module == Some(name)) {
            let imports = if *root == "crate" { imports(&source) } else { imports_from(&source, root) };
            let named = imports.into_iter().filter(|(import, _)| import == fenced);
            found.extend(named.map(|(_, at)| format!("{}: {root}::{fenced}", source.at(at))));
        }
    }
    none(
        &found,
        "the data plane never waits for a store, nor the control plane for a worker; share a snapshot:",
    );
}

/// What of `metamcp-config` is plain data, and `certificates`: the server reads the files of TLS again while it runs. The rest
/// reads the command line and the files, which only `app` and `main` do.
const PLAIN_CONFIG: [&str; 5] = ["certificates", "sections", "server", "mcp_json", "strict_json"];

#[test]
fn only_app_and_main_load_the_configuration() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        if !matches!(source.module(), Some("app" | "main")) {
            let is_plain = |at: &usize| {
                let rest = source.code[*at..].trim_start_matches("metamcp_config::");
                PLAIN_CONFIG.iter().any(|module| rest.starts_with(module))
            };
            let named = source.words("metamcp_config").filter(|at| !is_plain(at));
            found.extend(named.map(|at| source.at(at)));
        }
    }
    none(&found, "take a struct of metamcp_config::sections, which `app` passes in:");
}

#[test]
fn floors_import_only_what_stands_below() {
    let graph = Graph::new(sources(&["src", "crates"]));
    let mut found = Vec::new();
    for (folder, floors) in FLOORS {
        let floor = |path: &str| -> Option<String> {
            let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
            Some(rest.split('/').next()?.trim_end_matches(".rs").to_owned())
        };
        let place = |name: &str| floors.iter().position(|floor| *floor == name);
        for (from, to, at) in graph.imports() {
            let (Some(own), Some(other)) = (floor(&from.path), floor(&to.path)) else { continue };
            match (place(&own), place(&other)) {
                _ if own == "mod" || other == "mod" => {}
                (Some(upper), Some(lower)) if upper <= lower => {}
                (Some(_), Some(_)) => found.push(format!("{}: {own} imports {}", from.at(at), to.path)),
                _ => found.push(format!("{}: {own} or {other} has no floor: add it to FLOORS", from.at(at))),
            }
        }
    }
    none(&found, "a floor sees only what stands below it; pass a value in, or move the thing down:");
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let graph = Graph::new(sources(&["src", "crates", "tools", "bench", "loadtest"]));
    let circles = graph.circles();
    let mut found = Vec::new();
    for circle in &circles {
        let is_in = |source: &Source| circle.contains(&&*source.path);
        let imports = graph.imports().filter(|(from, to, _)| is_in(from) && is_in(to));
        let imports: Vec<_> =
            imports.map(|(from, to, at)| format!("    {} imports {}", from.at(at), to.path)).collect();
        found.push(format!("{} files:\n{}", circle.len(), imports.join("\n")));
    }
    none(
        &found,
        "files import each other in a circle; move what they share to a lower file, or pass a value in:",
    );
}

/// The modules of this crate that a file names outside tests, with where: `crate::a::b`, the groups of
/// `use crate::{a, b::c}`, and `super::` as often as it takes to reach the root.
pub fn imports(source: &Source) -> Vec<(String, usize)> {
    let climb = "super::".repeat(depth(&source.path));
    let climbs = source.words("super").filter_map(|at| Some((at, source.code[at..].strip_prefix(&climb)?)));
    let mut found = imports_from(source, "crate");
    found.extend(names_after(climbs));
    found
}

/// The modules of a crate that a file names outside tests, as [`imports`] finds those of its own.
fn imports_from(source: &Source, root: &str) -> Vec<(String, usize)> {
    let path = format!("{root}::");
    let rooted = source.words(root).filter_map(|at| Some((at, source.code[at..].strip_prefix(&path)?)));
    names_after(rooted)
}

/// The first names of what follows a root: of a path one, of a group several.
fn names_after<'a>(paths: impl Iterator<Item = (usize, &'a str)>) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, rest) in paths {
        let names = match rest.strip_prefix('{') {
            Some(_) => members(&rest[1..closing(rest, 0) - 1]),
            None => vec![rest],
        };
        let ident = |text: &str| {
            text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned()
        };
        found.extend(names.into_iter().map(|name| (ident(name.trim()), at)));
    }
    found
}

/// How far below the root a file's module is: 1 for `src/a.rs` and `src/a/mod.rs`, 2 for `src/a/b.rs`.
fn depth(path: &str) -> usize {
    let path =
        path.strip_prefix("crates/").and_then(|path| path.split_once('/')).map_or(path, |(_, path)| path);
    path.trim_end_matches("/mod.rs").matches('/').count()
}
