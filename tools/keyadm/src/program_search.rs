//! Finds programs in the directories of `PATH`.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Returns the absolute path of a program that is named without a directory, as a shell would find it. Relative directories
/// in `path` are passed over: what they mean depends on where a program is started.
pub fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, path: &str, expected: Option<&str>) {
        assert_eq!(find(name, OsStr::new(path)), expected.map(PathBuf::from), "{name:?} in {path:?}");
    }

    #[test]
    fn a_bare_name_is_found_in_absolute_directories_only() {
        check("sh", "/nowhere:/bin", Some("/bin/sh"));
        check("sh", "/nowhere", None);
        check("sh", "", None);
        check("", "/bin", None);
        check("/bin/sh", "/bin", None);
        check("../bin/sh", "/bin", None);
        check("bin", "/", None);
        check("passwd", "/etc", None);
        check("main.rs", "src:.", None);
    }
}
