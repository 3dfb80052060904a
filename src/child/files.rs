//! How many files this process may have open: as many as it is allowed to, while programs that it starts begin with
//! what it began with itself. One that waits by `select(2)` breaks where a descriptor is 1,024 or more.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit that this process began with; nothing, or no limit: programs get what is there.
static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the limit of this process to what it is allowed; gives what then holds, `None`: none.
pub fn raise_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let before = *BEFORE.get_or_init(|| current);
    if before == maximum {
        return maximum;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // A kernel that refuses leaves things as they were.
        Err(_) => current,
    }
}

/// What this process is allowed at most; `None`: no limit.
pub fn files_allowed() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// What a program that is started begins with, where that is not what this process has now.
pub fn files_before() -> Option<u64> {
    BEFORE.get().copied().flatten()
}

/// Gives this process the limit that a program is to begin with.
pub(super) fn lower_files(to: u64) -> Result<(), String> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.map_or(to, |maximum| to.min(maximum)));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
        .map_err(|error| format!("the limit of open files cannot be set: {error}"))
}
