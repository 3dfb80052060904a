//! The files of `deploy/`: the documentation names each of them and no other, they name no version, and
//! what stops a gateway waits long enough.

use std::fs;

use crate::none;
use crate::source::{read, root};

/// `server.drain_delay` + `server.drain_deadline` + 15 s with the defaults of `docs/CONFIGURATION.md`.
const STOP_SECONDS_MIN: u64 = 25;

/// The files of a folder and those below, by their paths in the repository.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder").flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// What administrators take as it is. The other files are parts of packages.
const FOR_ADMINISTRATORS: [&str; 5] =
    ["deploy/systemd", "deploy/container", "deploy/compose", "deploy/nginx", "deploy/haproxy"];

#[test]
fn the_documentation_names_what_is_in_deploy() {
    let page = read(&root().join("docs/OPERATIONS.md"));
    let mut found = Vec::new();
    for path in FOR_ADMINISTRATORS.iter().flat_map(|folder| files(folder)) {
        if !path.ends_with("/.gitignore") && !page.contains(&path) {
            found.push(format!("docs/OPERATIONS.md does not name {path}"));
        }
    }
    for (at, _) in page.match_indices("deploy/") {
        let path = page[at..].split(|c: char| !c.is_alphanumeric() && !"/.-_".contains(c)).next();
        let path = path.unwrap_or_default().trim_end_matches('.');
        if !root().join(path).exists() {
            found.push(format!("docs/OPERATIONS.md names {path}, which is not there"));
        }
    }
    none(&found, "say what each file is for:");
}

#[test]
fn files_of_packages_get_the_version_of_cargo_toml() {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, rest) = manifest.split_once("\nversion = \"").expect("a version");
    let version = &rest[..rest.find('"').expect("its end")];
    let mut found = Vec::new();
    for path in files("deploy") {
        if read(&root().join(&path)).contains(version) {
            found.push(format!("{path}: {version}"));
        }
    }
    none(&found, "write @VERSION@, which tools/lib/packages.py fills:");
}

#[test]
fn what_stops_a_gateway_waits_for_it() {
    for (path, key) in [
        ("deploy/systemd/metamcp.service", "TimeoutStopSec="),
        ("deploy/compose/compose.yaml", "stop_grace_period: "),
    ] {
        let text = read(&root().join(path));
        let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("{path} has no {key}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let seconds: u64 = digits.parse().expect("seconds");
        assert!(seconds > STOP_SECONDS_MIN, "{path}: {key}{seconds} cuts what is in flight");
    }
}
