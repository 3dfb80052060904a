//! The program that a gateway was started as: where its file is, also after another one took its place.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use metamcp_config::Env;

/// Finds the path that this process was started from, as a shell does: links in it are kept, because an upgrade may change
/// them. `None` if there is no such file.
pub fn find(started_as: Option<&OsStr>, env: &dyn Env, cwd: &Path) -> Option<PathBuf> {
    let name = started_as.filter(|name| !name.is_empty())?;
    let path = Path::new(name);
    let is_path = path.components().count() > 1 || path.has_root();
    if is_path {
        return Some(cwd.join(path)).filter(|path| is_program(path));
    }
    let folders = env.var("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let paths = std::env::split_paths(&folders).map(|folder| cwd.join(folder).join(path));
    paths.into_iter().find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct SearchPath(&'static str);

    impl Env for SearchPath {
        fn var(&self, name: &str) -> Option<OsString> {
            (name == "PATH").then(|| self.0.into())
        }
    }

    #[test]
    fn the_program_is_found_as_a_shell_finds_it() {
        let check = |started_as: &str, path: &'static str, expected: Option<&str>| {
            let found = find(Some(OsStr::new(started_as)), &SearchPath(path), Path::new("/bin"));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{started_as} in {path}");
        };
        check("/bin/sh", "", Some("/bin/sh"));
        check("./sh", "", Some("/bin/./sh"));
        check("sh", "/nonexistent:/bin", Some("/bin/sh"));
        check("sh", "/nonexistent", None);
        check("/etc/passwd", "", None);
        check("", "/bin", None);
    }
}
