//! What the reaper and the launcher share.

use std::io::{self, Write as _};

use rustix::process::Pid;

/// The first argument of a reaper or launcher. Not in `--help`, because users do not type it.
pub const COMMAND: &str = "exec-child";

/// The second argument of a reaper.
pub const REAPER_ROLE: &str = "keep";

/// The second argument of a launcher.
pub const LAUNCHER_ROLE: &str = "become";

/// This program, wherever its file is and even if it was deleted.
pub const PROGRAM: &str = "/proc/self/exe";

/// The exit status of a shell for a program that cannot be run.
pub const EXIT_NOT_RUN: u8 = 127;

/// Prints an error to standard error. Its reader may be gone, and the rest must run all the same: `eprintln!`
/// would panic.
pub fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "metamcp: {text}");
}

/// Converts a process id.
pub fn to_pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}
