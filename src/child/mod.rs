//! What stands between the gateway and a server that is a child process: this same program, started as
//! `metamcp exec-child`, in two steps.
//!
//! The **keeper** is the gateway's direct child, one for each server process. It adopts whatever the server leaves
//! behind (`PR_SET_CHILD_SUBREAPER`), and when the server ends, the gateway asks for the end, or the gateway itself is
//! gone, it ends all of it. It passes no message: the pipes are the server's own, and the keeper holds none of them but
//! standard error. The **stand-in** is the keeper's child: it binds its life to the keeper's (`PR_SET_PDEATHSIG`),
//! takes limits upon itself, and becomes the server's program, in a process group of its own. What a keeper leaves that is
//! killed itself comes to the gateway (`strays`).
//!
//! Invariants: when the keeper has ended, nothing that descends from the server runs, or, where it was killed, not for
//! long; the server inherits no descriptor but its three; no step is taken between a fork and an exec, so that all of this
//! is safe code.
//!
//! Does not know: MCP, what the server is, or who asks it.

mod files;
mod keeper;
mod kin;
mod orders;
mod pages;
mod stand_in;
mod strays;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use rustix::process::{Pid, Signal};

pub use files::{files_allowed, files_before, raise_files};
pub use orders::{Confinement, Limits, Orders};
pub use pages::{gave_up_huge_pages, give_up_huge_pages};
pub use strays::{adopt, end as end_strays, forget, start};

/// The first argument of a process that is to be one of these. Not in `--help`: nobody types it.
const COMMAND: &str = "exec-child";

/// This program, wherever it lies and whatever has become of its file.
pub const PROGRAM: &str = "/proc/self/exe";

/// What a shell says of a program that cannot be run.
const EXIT_NOT_RUN: u8 = 127;

/// Says something to whoever started this process. That may have gone, and what is to be ended is ended nevertheless:
/// `eprintln!` would panic.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "metamcp: {text}");
}

/// Runs as one of these, when the arguments of this process say so.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    let (role, orders, program) = (args.next(), args.next(), args.collect::<Vec<OsString>>());
    let orders = orders.and_then(|text| Orders::read(text.to_str()?));
    let code = match (role.as_ref().and_then(|role| role.to_str()), orders) {
        (Some(keeper::ROLE), Some(orders)) => keeper::run(&orders, &program),
        (Some(stand_in::ROLE), Some(orders)) => stand_in::run(&orders, &program),
        _ => {
            say(&format!("`{COMMAND}` is for metamcp itself; see metamcp --help"));
            ExitCode::from(EXIT_NOT_RUN)
        }
    };
    Some(code)
}

/// The arguments that make of this program the keeper of a server: `program` and its own arguments follow them.
pub fn keeper_args(orders: &Orders) -> [String; 3] {
    [COMMAND.to_owned(), keeper::ROLE.to_owned(), orders.to_text()]
}

/// Asks a keeper to end its server: all of it gets SIGTERM, and SIGKILL soon after.
pub fn ask_to_end(keeper: u32) {
    if let Some(pid) = pid(keeper) {
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// Kills a keeper, when it does not end by itself. Its server goes with it; the rest is for `end_strays`.
pub fn kill(keeper: u32) {
    if let Some(pid) = pid(keeper) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Keeps servers of the same user from looking into the gateway's memory. Core dumps end with it.
pub fn close_memory() {
    // A kernel that refuses leaves things as they were.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}
