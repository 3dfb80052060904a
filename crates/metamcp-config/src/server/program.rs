use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::process_limits::{Confinement, ProcessLimits};

/// A program that is an MCP server.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// Searched in the configured `PATH`, unless it is a path itself.
    pub command: String,
    /// The arguments, not interpreted by a shell.
    pub args: Vec<String>,
    /// The whole environment, credentials included. Of two variables with one name the last counts.
    pub env: Vec<(String, String)>,
    /// The working directory; by default that of the gateway.
    pub cwd: Option<PathBuf>,
    pub settings: ProcessSettings,
}

/// How the processes of a program are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    pub sharing: Sharing,
    /// Whether one spare process is kept started. `None`: while sessions have processes to themselves, if starts are slow.
    pub prewarm: Option<bool>,
    /// From the start of a process to its response to `initialize`.
    pub start_timeout: Duration,
    /// A process without calls and without listening clients for this long is ended.
    pub idle_timeout: Duration,
    /// Limit for processes at once.
    pub processes_max: usize,
    /// Bytes of one message. A longer line ends the process.
    pub line_bytes_max: usize,
    /// The user to run the program as, if the gateway is root.
    pub uid: Option<u32>,
    /// The group to run the program as, if the gateway is root.
    pub gid: Option<u32>,
    pub limits: ProcessLimits,
    pub confinement: Option<Confinement>,
}

/// The variables that a program gets besides the configured ones: those that say where and who it is, as MCP
/// clients pass them. None is a secret.
pub const INHERITED: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

/// Which clients share a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// As [`Sharing::Key`], except for sessions to which the process may send what names no call: each of
    /// these has a process of its own.
    Auto,
    /// All clients. The process is told of no client capability, because it could not say which client it
    /// means.
    Shared,
    /// The sessions of one key whose clients have the same capabilities.
    Key,
    /// None: each session has a process of its own.
    Session,
}

impl fmt::Debug for Program {
    /// Leaves out arguments and values of variables, which may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("sharing", &self.settings.sharing)
            .finish_non_exhaustive()
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Program {
    /// `cat` with default settings.
    pub fn sample() -> Self {
        Self {
            command: "cat".into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            settings: ProcessSettings {
                sharing: Sharing::Auto,
                prewarm: None,
                start_timeout: Duration::from_mins(1),
                idle_timeout: Duration::from_mins(10),
                processes_max: 8,
                line_bytes_max: 1 << 20,
                uid: None,
                gid: None,
                limits: ProcessLimits::default(),
                confinement: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_no_secret() {
        let program = Program {
            args: vec!["--key=hunter2".into()],
            env: vec![("TOKEN".into(), "hunter2".into())],
            ..Program::sample()
        };
        let shown = format!("{program:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
