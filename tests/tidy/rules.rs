//! Rules about what stands in the sources: SQL, `unsafe`, unfinished work, outside crates.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::source::{Source, is_whole, read, root, sources};
use crate::{ALL, none};

/// What must not appear in `frame`: it turns bytes into spans and does nothing else.
const FRAME_NEVER: [&str; 8] =
    ["tokio", "tokio_rustls", "hyper", "hyper_util", "http", "http_body", "serde", "serde_json"];

/// What a request runs through, besides all of `metamcp-http`.
const DATA_PLANE: [&str; 13] = [
    "server",
    "bridge",
    "catalog",
    "session",
    "topology",
    "upstream",
    "route",
    "limits",
    "auth",
    "tool_pins",
    "protocol",
    "frame",
    "base",
];

/// Outside crates that the data plane may name. A ratchet: it grows only for a new
/// subject that needs a library, as the names in client certificates did. Eight of them are the
/// cryptography of `auth`, six TLS with its names, the names in
/// certificates and the authorities of the system, two the fixed header of framed streams and what is under way in them,
/// one the kernel's watch over parked connections; the fewer there are, the less can go wrong in them.
const DATA_PLANE_CRATES_MAX: usize = 38;

/// `unsafe` blocks in `src/journal` and [`UNSAFE_FILE`], the only places for them.
const UNSAFE_MAX: usize = 4;

/// One call of the allocator, which has no safe interface for it.
const UNSAFE_FILE: &str = "src/runtime/purge.rs";

#[test]
fn frame_knows_bytes_only() {
    let mut found = Vec::new();
    for source in sources(&["src", "crates"]).iter().filter(|source| source.module() == Some("frame")) {
        for name in FRAME_NEVER {
            // A path or an import, not a variable of that name.
            let used = |at: &usize| source.code[*at + name.len()..].starts_with("::");
            found.extend(source.words(name).filter(used).map(|at| format!("{}: {name}", source.at(at))));
        }
    }
    none(&found, "frame turns bytes into spans and does no I/O; move this up:");
}

#[test]
fn sql_is_in_the_store_only() {
    let mut found = Vec::new();
    for source in sources(&["src", "crates"]).iter().filter(|source| source.module() != Some("store")) {
        for word in ["SELECT ", "INSERT INTO", "CREATE TABLE", "DELETE FROM"] {
            found.extend(source.find(&source.text, word).map(|at| source.at(at)));
        }
    }
    none(&found, "only the store and sql/ know SQL; add a method to the store:");
}

#[test]
fn unsafe_is_confined() {
    let mut found = Vec::new();
    let mut allowed = 0;
    for source in sources(&["src", "crates", "tools", "bench"]) {
        let places: Vec<_> = source.words("unsafe").collect();
        if source.module() == Some("journal") || source.path == UNSAFE_FILE {
            allowed += places.len();
        } else {
            found.extend(places.into_iter().map(|at| source.at(at)));
        }
    }
    none(&found, "only src/journal and src/runtime/purge.rs may be unsafe:");
    assert!(allowed <= UNSAFE_MAX, "{allowed} uses of unsafe, at most {UNSAFE_MAX} are allowed");
}

#[test]
fn nothing_unwraps() {
    let mut found = Vec::new();
    for source in sources(&["src", "crates"]) {
        found.extend(source.find(&source.code, ".unwrap()").map(|at| source.at(at)));
    }
    none(&found, "say why it holds with expect(\"...\"), or give an error:");
}

#[test]
fn nothing_is_left_for_later() {
    // In two pieces, so that this file does not find itself.
    let anywhere = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let in_code = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("#[", "ignore"),
        concat!("#[should", "_panic"),
    ];
    let mut found = Vec::new();
    for source in sources(&ALL) {
        let raw = anywhere.iter().flat_map(|word| {
            source
                .raw
                .match_indices(word)
                .map(|(at, _)| at)
                .filter(|at| is_whole(&source.raw, *at, word.len()))
        });
        let code = in_code.iter().flat_map(|word| source.code.match_indices(word).map(|(at, _)| at));
        found.extend(raw.chain(code).map(|at| source.at(at)));
    }
    none(&found, "finish it, take it out, or open an issue; tests run, or are not there:");
}

#[test]
fn every_module_says_what_it_is() {
    let mut found = Vec::new();
    for source in sources(&["src", "crates"]) {
        if source.path.ends_with("/mod.rs") && !source.raw.starts_with("//! ") {
            found.push(source.path);
        }
    }
    none(&found, "begin with //! and say what it does, its invariants, and what it does not know:");
}

#[test]
fn no_path_of_one_machine() {
    let paths = ["/Users/", "/home/", "/root/", "/tmp/"];
    let mut found = Vec::new();
    for source in sources(&["src", "crates", "tools", "bench"]) {
        for path in paths {
            found.extend(source.find(&source.raw, path).map(|at| source.at(at)));
        }
    }
    none(&found, "this path is on one machine only; take it from configuration:");
}

/// The names under which code sees the `[dependencies]` of the crates, but for those of this workspace.
fn dependencies() -> BTreeSet<String> {
    let manifests = [
        "Cargo.toml",
        "crates/metamcp-core/Cargo.toml",
        "crates/metamcp-http/Cargo.toml",
        "crates/metamcp-store/Cargo.toml",
    ];
    let manifests = manifests.map(|path| read(&root().join(path)));
    let lines = manifests.iter().flat_map(|manifest| {
        let (_, section) =
            manifest.split_once("\n[dependencies]\n").expect("the manifest has [dependencies]");
        section.lines().take_while(|line| !line.starts_with('['))
    });
    lines
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|name| name.trim().replace('-', "_"))
        .filter(|name| !name.is_empty() && !name.starts_with('#') && !name.starts_with("metamcp"))
        .collect()
}

#[test]
fn the_data_plane_uses_few_crates() {
    let dependencies = dependencies();
    assert!(dependencies.contains("hyper"), "the dependencies were not found: {dependencies:?}");
    let mut used = BTreeSet::new();
    for source in sources(&["src", "crates"]) {
        let is_named = source.module().is_some_and(|module| DATA_PLANE.contains(&module));
        if is_named || source.path.starts_with("crates/metamcp-http/") {
            let names_crate = |name: &&String| {
                source.words(name).any(|at| {
                    let before = source.code[..at].trim_end();
                    // `a::b::name` and `x.name` are something else of the same name.
                    source.code[at + name.len()..].starts_with("::")
                        && !before.ends_with("::")
                        && !before.ends_with('.')
                })
            };
            used.extend(dependencies.iter().filter(names_crate).cloned());
        }
    }
    println!(
        "the data plane uses {} crates: {}",
        used.len(),
        used.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    assert!(used.len() <= DATA_PLANE_CRATES_MAX, "{} crates in the data plane: {used:?}", used.len());
}

#[test]
fn documents_named_in_the_readme_are_there() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else { return };
    let mut found = Vec::new();
    for (at, _) in readme.match_indices("docs/") {
        let end = readme[at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c))
            .unwrap_or(readme.len() - at);
        let path = readme[at..at + end].trim_end_matches('.');
        if !root().join(path).exists() {
            found.push(path.to_owned());
        }
    }
    none(&found, "README.md names what is not there:");
}

/// The source files that a line of a document names between backticks, each with the function behind `::` if
/// there is one.
pub fn cited(line: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let quoted = line.split('`').skip(1).step_by(2);
    let parts =
        quoted.map(|text| text.split_once("::").map_or((text, None), |(path, name)| (path, Some(name))));
    parts.filter(|(path, _)| {
        path.contains('/') && Path::new(path).extension().is_some_and(|found| found == "rs")
    })
}

#[test]
fn tests_named_in_the_security_page_are_there() {
    let page = read(&root().join("docs/SECURITY.md"));
    let (mut found, mut functions) = (Vec::new(), 0);
    for (number, line) in page.lines().enumerate() {
        for (path, function) in cited(line) {
            let at = format!("docs/SECURITY.md:{}", number + 1);
            let Ok(raw) = fs::read_to_string(root().join(path)) else {
                found.push(format!("{at}: {path}"));
                continue;
            };
            let Some(function) = function else { continue };
            functions += 1;
            if !Source::new(path.to_owned(), raw).code.contains(&format!("fn {function}(")) {
                found.push(format!("{at}: {path}::{function}"));
            }
        }
    }
    none(&found, "docs/SECURITY.md names what is not there:");
    assert!(functions > 100, "{functions} functions found: this test would check nothing");
}

/// Bytes of all corpora together. A fuzzer makes more from a few small inputs, and these are read in every run of the tests.
const CORPORA_BYTES_MAX: u64 = 200 << 10;

#[test]
fn fuzz_targets_run_in_unit_tests() {
    let manifest = read(&root().join("fuzz/Cargo.toml"));
    let path = |line: &str| Some(line.strip_prefix("path = \"targets/")?.strip_suffix(".rs\"")?.to_owned());
    let targets: BTreeSet<String> = manifest.lines().filter_map(path).collect();
    assert!(targets.len() > 10, "the targets were not found: {targets:?}");
    let sources = sources(&["src", "crates"]);
    let (mut found, mut bytes) = (Vec::new(), 0);
    for target in &targets {
        if !sources.iter().any(|source| source.raw.contains(&format!("run_corpus(\"{target}\", "))) {
            found.push(format!("no unit test runs the corpus of {target}"));
        }
        if !read(&root().join(format!("fuzz/targets/{target}.rs")))
            .contains(&format!("::fuzz::{target}(bytes)"))
        {
            found.push(format!("fuzz/targets/{target}.rs does not call the function of that name"));
        }
        let corpus = fs::read_dir(root().join("fuzz/corpus").join(target)).into_iter().flatten().flatten();
        let sizes: Vec<u64> = corpus.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
        if sizes.is_empty() {
            found.push(format!("fuzz/corpus/{target} is empty"));
        }
        bytes += sizes.iter().sum::<u64>();
    }
    none(&found, "give a fuzz target a corpus, and a test that runs it:");
    assert!(
        bytes <= CORPORA_BYTES_MAX,
        "the corpora have {bytes} bytes, at most {CORPORA_BYTES_MAX} are allowed"
    );
}
