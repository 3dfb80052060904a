//! Servers that are child processes, spoken to over their standard input and output, one JSON-RPC message a
//! line (MCP, stdio). To the rest of the gateway each looks like a Streamable HTTP server: a POST, GET or
//! DELETE in, an answer out, with sessions, event streams and 404 for a session whose process is gone.
//!
//! Each server has a thread of its own, on which one supervising task (`supervisor`) owns its processes. It
//! is spoken to by messages over a bounded channel (`server`). What runs there is in `Rc` and `RefCell`.
//!
//! Invariants: an id or progress token that a process sees is minted by us and never used twice on it; what a
//! process says goes to the one client that is certainly meant, or to nobody; its standard error is read from
//! before the first byte is written to it, and never parsed; its environment is what was configured and six
//! variables that say where and who one is; nothing of it outlives the gateway (`child`).
//!
//! Does not know: HTTP, endpoints, and what a method does, but for those that decide whose a message is.

mod fate;
mod inbound;
mod lines;
mod link;
mod open;
mod process;
mod seat;
mod server;
mod supervisor;
mod tally;
mod turn;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::child::{Confinement, Limits};

pub use server::{Configured, Deployed, Failed, Health, ProcessHealth, Server};
pub use tally::{ProcessFailure, ProcessStage, Processes};

/// A program that is an MCP server, and how it is run.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// Looked for in the `PATH` that it is given, unless it is a path.
    pub command: String,
    /// Its arguments, each as it is.
    pub args: Vec<String>,
    /// Its whole environment; credentials among it. Of two of one name the last counts.
    pub env: Vec<(String, String)>,
    /// Its working directory; the gateway's own where nothing is said.
    pub cwd: Option<PathBuf>,
    /// How it is run.
    pub settings: Settings,
}

/// How a program is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who shares a process.
    pub sharing: Sharing,
    /// Whether one process is kept started beside those in use.
    pub prewarm: bool,
    /// From its start to its answer to `initialize`.
    pub start_timeout: Duration,
    /// Without a call, and without a client that listens, it is ended after so long.
    pub idle_timeout: Duration,
    /// Processes at once.
    pub processes_max: usize,
    /// One message of it; a longer line ends it.
    pub line_bytes_max: usize,
    /// The user to run it as, for a gateway that is root.
    pub uid: Option<u32>,
    /// Likewise the group.
    pub gid: Option<u32>,
    /// Limits of the kernel.
    pub limits: Limits,
    /// What of the file system is open to it.
    pub confinement: Option<Confinement>,
}

/// Variables that a server is given beside its own: those that say where and who one is, as MCP clients give
/// them. None is a secret.
pub const INHERITED: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

/// Who shares a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody. It is told of no capability of any client, for it could not say which client it means.
    Shared,
    /// The sessions of one key whose clients can do the same.
    Key,
    /// Nobody: each session has its own.
    Session,
}

impl fmt::Debug for Program {
    /// Without arguments and variables, which may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("sharing", &self.settings.sharing)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With nothing out of the ordinary.
    pub fn program() -> Program {
        Program {
            command: "cat".into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            settings: Settings {
                sharing: Sharing::Key,
                prewarm: false,
                start_timeout: Duration::from_mins(1),
                idle_timeout: Duration::from_mins(10),
                processes_max: 8,
                line_bytes_max: 1 << 20,
                uid: None,
                gid: None,
                limits: Limits::default(),
                confinement: None,
            },
        }
    }

    #[test]
    fn shows_no_secret() {
        let program = Program {
            args: vec!["--key=hunter2".into()],
            env: vec![("TOKEN".into(), "hunter2".into())],
            ..program()
        };
        let shown = format!("{program:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
