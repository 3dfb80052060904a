//! Files that the user may not access.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use support::{Place, Run};

/// Runs a command after access to one file or directory was taken away, and checks what it prints.
#[track_caller]
fn check(denied: &str, arguments: &[&str], expected: &[&str]) {
    let place = Place::new();
    place.key("laptop");
    let data = place.data_dir();
    let all = ["", "metamcp.sqlite", "metamcp.sqlite-wal", "metamcp.sqlite-shm", "secrets.toml"];
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    for name in all.map(|name| data.join(name)).iter().filter(|path| path.exists()) {
        let mode = if name.is_dir() { 0o777 } else { 0o600 };
        fs::set_permissions(name, Permissions::from_mode(mode)).unwrap();
        if is_root {
            std::os::unix::fs::chown(name, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    fs::write(place.path().join("headers"), "X-Team: a\n").unwrap();
    let path = place.path().join(denied);
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let run = Run::of(as_nobody(&place, arguments, is_root));
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    run.check(69, "permission denied: the user ");
    for text in expected.iter().copied().chain([path.to_str().unwrap(), "mode 0000", "run keyadm as"]) {
        assert!(run.err.contains(text), "{text:?} is not in {:?}", run.err);
    }
    assert!(!run.err.contains("there is no database"), "{}", run.err);
}

/// Permissions do not restrict root, so root becomes nobody.
fn as_nobody(place: &Place, arguments: &[&str], is_root: bool) -> Command {
    let mut command = place.command(arguments);
    if is_root {
        let program = place.path().join("keyadm");
        fs::copy(Path::new(command.get_program()), &program).unwrap();
        let mut other = Command::new(program);
        other.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        other.current_dir(place.path()).args(arguments).uid(NOBODY).gid(NOBODY);
        command = other;
    }
    command
}

#[test]
fn denied_access_is_explained() {
    let of_database = ["metamcp.sqlite"];
    check("data", &["keys", "list"], &of_database);
    check("data", &["keys", "create", "--name", "x"], &["secrets.toml"]);
    check("data/metamcp.sqlite", &["keys", "list", "--json"], &of_database);
    check("data/metamcp.sqlite", &["endpoints", "list"], &of_database);
    check("data/secrets.toml", &["keys", "create", "--name", "x"], &["secrets.toml"]);
    check(
        "headers",
        &["servers", "add", "a", "--url", "https://a.example/", "--header-file", "headers"],
        &[],
    );
}

/// The user that owns nothing.
const NOBODY: u32 = 65_534;
