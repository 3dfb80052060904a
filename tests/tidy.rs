//! The habits of this house that a compiler does not check, read from the sources as text. Each failure
//! names file and line, and says what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: a module sees only what stands below it.
const ORDER: [&str; 19] = [
    "app",
    "config",
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
    "auth",
    "store",
    "journal",
    "protocol",
    "frame",
    "telemetry",
    "base",
];

/// Beyond the order: the data plane never waits for a store, and the two planes meet in snapshots only.
const FENCES: [(&str, &[&str]); 2] = [("server", &["store", "admin", "config"]), ("admin", &["server"])];

/// What must not appear in `frame`: it turns bytes into spans and does nothing else.
const FRAME_NEVER: [&str; 8] =
    ["tokio", "tokio_rustls", "hyper", "hyper_util", "http", "http_body", "serde", "serde_json"];

/// What a request runs through.
const DATA_PLANE: [&str; 12] = [
    "server", "bridge", "catalog", "session", "topology", "upstream", "route", "limits", "auth", "protocol",
    "frame", "base",
];

/// Outside crates that the data plane may name. A ratchet: it only shrinks. Eight of them are the
/// cryptography of `auth`, four TLS and its names, two the fixed header of framed streams and what is under way in them,
/// one the kernel's watch over parked connections; the fewer there are, the less can go wrong in them.
const DATA_PLANE_CRATES_MAX: usize = 36;

/// `unsafe` blocks in all of `src/journal`, the only place for them.
const UNSAFE_MAX: usize = 4;

/// Nobody keeps more in mind.
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

/// What is over a limit and may stay for now, as `path` or `path::function`, with the lines it has. It only
/// shrinks: an entry that is no longer needed, or could be lower, fails.
const RATCHET: &[(&str, usize)] = &[];

/// One source file in three forms of the same length, so that an offset means the same place in each.
struct Source {
    /// Relative to the root of the repository, with `/`.
    path: String,
    /// As it is.
    raw: String,
    /// Comments blanked.
    text: String,
    /// Comments, strings and characters blanked.
    code: String,
    /// Where test code is: whole files of tests, and what stands under `#[cfg(test)]`.
    tests: Vec<std::ops::Range<usize>>,
}

impl Source {
    fn new(path: String, raw: String) -> Self {
        let (text, code) = blank(&raw);
        let whole = path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/");
        let tests = if whole { std::iter::once(0..raw.len()).collect() } else { test_ranges(&code) };
        Self { path, raw, text, code, tests }
    }

    /// `config` of `src/config/raw.rs`; `app` of `src/app.rs`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split_once('/').map_or_else(|| rest.trim_end_matches(".rs"), |(module, _)| module))
    }

    fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&offset))
    }

    fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path, 1 + self.raw[..offset].matches('\n').count())
    }

    /// Where `needle` stands outside tests.
    fn find<'a>(&'a self, haystack: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
        haystack.match_indices(needle).map(|(at, _)| at).filter(|at| !self.is_test(*at))
    }

    /// Where `word` stands as a whole word of code outside tests.
    fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.find(&self.code, word).filter(move |at| is_whole(&self.code, *at, word.len()))
    }
}

fn is_whole(text: &str, at: usize, len: usize) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    !text[..at].ends_with(part) && !text[at + len..].starts_with(part)
}

/// The text without comments, and without comments, strings and characters. Both as long as the input.
fn blank(raw: &str) -> (String, String) {
    let bytes = raw.as_bytes();
    let (mut text, mut code) = (bytes.to_vec(), bytes.to_vec());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &raw[at..];
        let (len, comment) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), true)
        } else if rest.starts_with("/*") {
            (block_comment(rest), true)
        } else if let Some(len) = string(raw, at) {
            (len, false)
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        for form in if comment { vec![&mut text, &mut code] } else { vec![&mut code] } {
            form[at..at + len].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at += len;
    }
    let whole = |form| String::from_utf8(form).expect("whole tokens were blanked");
    (whole(text), whole(code))
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the string or character literal that begins at `at`, if one does.
fn string(raw: &str, at: usize) -> Option<usize> {
    let rest = &raw[at..];
    let word_before = raw[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    // r"", r#""#, br#""#, cr#""#: the hashes behind the r close it again.
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| !word_before && rest.starts_with(prefix));
    if let Some(prefix) = prefix {
        let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
        let open = prefix.len() + hashes;
        if rest[open..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            return Some(
                rest[open + 1..].find(&close).map_or(rest.len(), |end| open + 1 + end + close.len()),
            );
        }
    }
    if rest.starts_with('"') {
        return Some(until(rest, '"'));
    }
    // 'a' is a character, 'a a lifetime.
    let mut chars = rest.strip_prefix('\'')?.chars();
    let first = chars.next()?;
    (first == '\\' || chars.next() == Some('\'')).then(|| until(rest, '\''))
}

fn until(rest: &str, close: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == close => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// What each `#[cfg(test)]` covers: to the closing brace of the item, or to its semicolon.
fn test_ranges(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let body = start + attribute.len();
        let open = code[body..].find(['{', ';']).map_or(code.len(), |n| body + n);
        ranges.push(start..if code[open..].starts_with('{') { closing(code, open) } else { open + 1 });
    }
    ranges
}

/// Behind the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with that ending below the given folders of the repository, in a fixed order.
fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("a folder of sources can be read").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let relative =
        |path: &Path| path.strip_prefix(root()).unwrap_or(path).display().to_string().replace('\\', "/");
    let sources: Vec<_> =
        files(folders, "rs").into_iter().map(|path| Source::new(relative(&path), read(&path))).collect();
    assert!(!sources.is_empty(), "no sources found below {folders:?}: this test would check nothing");
    sources
}

const ALL: [&str; 5] = ["src", "tests", "tools", "benches", "loadtest"];

#[track_caller]
fn none(found: &[String], what_to_do: &str) {
    assert!(found.is_empty(), "{what_to_do}\n  {}", found.join("\n  "));
}

/// The modules of this crate that a file names outside tests, with where: `crate::a::b`, the groups of
/// `use crate::{a, b::c}`, and `super::` as often as it takes to reach the root.
fn imports(source: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let rooted = |at: usize, path: &str| source.code[at..].strip_prefix(path).map(|rest| (at, rest));
    let climb = "super::".repeat(depth(&source.path));
    let climbs = source.words("super").filter_map(|at| rooted(at, &climb));
    for (at, rest) in source.words("crate").filter_map(|at| rooted(at, "crate::")).chain(climbs) {
        let names = match rest.strip_prefix('{') {
            Some(_) => group(&rest[..closing(rest, 0)]),
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
    path.trim_end_matches("/mod.rs").matches('/').count()
}

/// The members of `{a, b::{c, d}}`, inner groups left alone.
fn group(text: &str) -> Vec<&str> {
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                members.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(&inner[start..]);
    members
}

#[test]
fn modules_import_only_what_stands_below() {
    let place = |name: &str| ORDER.iter().position(|module| *module == name);
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let Some(module) = source.module().filter(|module| !matches!(*module, "main" | "lib")) else {
            continue;
        };
        let Some(own) = place(module) else {
            found.push(format!(
                "{}: {module} is not in the list of modules: give it a place in ORDER",
                source.path
            ));
            continue;
        };
        let fenced = FENCES.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, fenced)| fenced);
        for (import, at) in imports(&source) {
            if place(&import).is_some_and(|other| other < own) || fenced.contains(&import.as_str()) {
                found.push(format!("{}: {module} imports {import}", source.at(at)));
            }
        }
    }
    none(&found, "a module sees only what stands below it; pass a value in, or move the thing down:");
}

#[test]
fn only_app_and_main_know_config() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        if !matches!(source.module(), Some("config" | "app" | "main")) {
            let imports = imports(&source).into_iter().filter(|(import, _)| import == "config");
            found.extend(imports.map(|(_, at)| source.at(at)));
        }
    }
    none(&found, "each module owns a plain Config struct, which `config` fills; do not import `config`:");
}

#[test]
fn frame_knows_bytes_only() {
    let mut found = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| source.module() == Some("frame")) {
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
    for source in sources(&["src"]).iter().filter(|source| source.module() != Some("store")) {
        for word in ["SELECT ", "INSERT INTO", "CREATE TABLE", "DELETE FROM"] {
            found.extend(source.find(&source.text, word).map(|at| source.at(at)));
        }
    }
    none(&found, "only src/store and sql/ know SQL; add a method to the store:");
}

#[test]
fn unsafe_is_in_the_journal_only() {
    let mut found = Vec::new();
    let mut allowed = 0;
    for source in sources(&["src", "tools", "benches"]) {
        let places: Vec<_> = source.words("unsafe").collect();
        if source.module() == Some("journal") {
            allowed += places.len();
        } else {
            found.extend(places.into_iter().map(|at| source.at(at)));
        }
    }
    none(&found, "only src/journal may be unsafe:");
    assert!(allowed <= UNSAFE_MAX, "{allowed} uses of unsafe in src/journal, {UNSAFE_MAX} are enough");
}

#[test]
fn nothing_unwraps() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
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
    for source in sources(&["src"]) {
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
    for source in sources(&["src", "tools", "benches"]) {
        for path in paths {
            found.extend(source.find(&source.raw, path).map(|at| source.at(at)));
        }
    }
    none(&found, "this path is on one machine only; take it from configuration:");
}

/// The functions of a file outside tests: name, where, lines.
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in source.words("fn") {
        let rest = &source.code[at + 2..];
        let name: String =
            rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // Without a name it is a type, with a semicolon first only a signature.
        let Some(open) = rest.find(['{', ';']).filter(|n| !name.is_empty() && rest[*n..].starts_with('{'))
        else {
            continue;
        };
        let open = at + 2 + open;
        let lines = source.raw[open..closing(&source.code, open)].matches('\n').count();
        found.push((name, at, lines.saturating_sub(1)));
    }
    found
}

/// Lines outside tests.
fn file_lines(source: &Source) -> usize {
    let offsets = source.raw.match_indices('\n').map(|(at, _)| at);
    offsets.filter(|at| !source.is_test(*at)).count()
}

#[test]
fn functions_and_files_are_short() {
    let mut found = Vec::new();
    let mut sizes = Vec::new();
    for source in sources(&["src", "tools"]) {
        sizes.push((source.path.clone(), source.path.clone(), file_lines(&source), FILE_LINES_MAX));
        for (name, at, lines) in functions(&source) {
            sizes.push((format!("{}::{name}", source.path), source.at(at), lines, FUNCTION_LINES_MAX));
        }
    }
    for (key, at, lines, max) in &sizes {
        let max = RATCHET.iter().find(|(name, _)| name == key).map_or(*max, |(_, lines)| *lines);
        if *lines > max {
            found.push(format!("{at}: {key} has {lines} lines, {max} are allowed"));
        }
    }
    for (name, lines) in RATCHET {
        if !sizes.iter().any(|(key, _, found, max)| key == name && found == lines && found > max) {
            found.push(format!("RATCHET: {name} is shorter now or gone: lower the entry, or take it out"));
        }
    }
    none(&found, "part it into pieces that have names:");
}

/// The names under which code sees the `[dependencies]` of the root package.
fn dependencies() -> BTreeSet<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, section) = manifest.split_once("\n[dependencies]\n").expect("Cargo.toml has [dependencies]");
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|name| name.trim().replace('-', "_"))
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

#[test]
fn the_data_plane_uses_few_crates() {
    let dependencies = dependencies();
    assert!(dependencies.contains("hyper"), "the dependencies were not found: {dependencies:?}");
    let mut used = BTreeSet::new();
    for source in sources(&["src"]) {
        if source.module().is_some_and(|module| DATA_PLANE.contains(&module)) {
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

/// The checks can fail: each of these is what one of them looks for.
#[test]
fn this_file_reads_sources_as_it_should() {
    let raw = r##"
use crate::{base::{A, B}, store};
fn one() { let a = "} // { .unwrap()"; let b = '{'; let c: &'static str = r#"""#; }
// fn not_here() {}
/* unsafe /* nested */ fn */
fn two<'a>(x: &'a str) -> crate::admin::X {
    x.parse().unwrap()
}
trait T { fn signature(&self); }
#[cfg(test)]
mod tests { use crate::app; fn three() { x.unwrap() } }
"##;
    let source = Source::new("src/server/x.rs".into(), raw.into());
    assert_eq!(source.module(), Some("server"));
    let imported: Vec<_> = imports(&source).into_iter().map(|(name, _)| name).collect();
    assert_eq!(imported, ["base", "store", "admin"]);
    let named: Vec<_> = functions(&source).into_iter().map(|(name, _, lines)| (name, lines)).collect();
    assert_eq!(named, [("one".to_owned(), 0), ("two".to_owned(), 1)]);
    assert_eq!(
        source.find(&source.code, ".unwrap()").map(|at| source.at(at)).collect::<Vec<_>>(),
        ["src/server/x.rs:7"]
    );
    assert_eq!(source.words("unsafe").count(), 0);
    assert_eq!(file_lines(&source), 10);
    assert_eq!(Source::new("src/app.rs".into(), String::new()).module(), Some("app"));
    for (path, code) in [
        ("src/server/mod.rs", "use super::store::X;"),
        ("src/server/x.rs", "use super::super::store::X;"),
        ("src/server/x.rs", "use super::super::{base::A, store};"),
    ] {
        let found = imports(&Source::new(path.into(), code.into()));
        assert!(found.iter().any(|(name, _)| name == "store"), "{path}: {code}");
    }
    assert!(imports(&Source::new("src/server/x.rs".into(), "use super::store::X;".into())).is_empty());
}
