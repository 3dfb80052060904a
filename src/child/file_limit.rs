//! The limit of open files. This process raises it to the maximum, while the programs that it starts begin
//! with the initial limit: a program that waits by `select(2)` breaks when a descriptor is 1,024 or more.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit that this process began with. Unset until it was raised; `None` for no limit.
static INITIAL: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the limit of this process to the maximum. Returns the limit that then holds; `None` for no limit.
pub fn raise_file_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let initial = *INITIAL.get_or_init(|| current);
    if initial == maximum {
        return maximum;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // A kernel that refuses leaves things as they were.
        Err(_) => current,
    }
}

/// Sets the limit that started programs begin with: this process was started by one that had raised its own.
pub fn inherit_initial_file_limit(initial: Option<u64>) {
    let _ = INITIAL.set(initial);
}

/// Returns the maximum that this process may set; `None` for no limit.
pub fn file_limit_max() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Returns the limit that started programs begin with, if this process has raised its own.
pub fn initial_file_limit() -> Option<u64> {
    INITIAL.get().copied().flatten()
}

/// Sets the limit of this process, before it becomes a program.
pub(super) fn set_file_limit(limit: u64) -> Result<(), String> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
        .map_err(|error| format!("the limit of open files cannot be set: {error}"))
}
