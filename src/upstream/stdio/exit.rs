//! Why a process ended, in words that clients may read: without its output, its arguments or its environment.

use std::env::split_paths;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use metamcp_config::server::Program;

/// Why a process is not used any more.
#[derive(Debug)]
pub enum ExitCause {
    /// The gateway asked it to end.
    Requested,
    Exited(io::Result<ExitStatus>),
    StdoutClosed,
    StdinClosed,
    /// It does not read its standard input.
    StdinStalled,
    /// It sent a line over the limit.
    LineTooLong,
    /// It sent nothing but lines that are not messages.
    InvalidOutput,
}

/// Why a process failed.
pub struct ExitReport {
    /// The reason that clients are told.
    pub reason: String,
    /// The last line of standard error, for administrators.
    pub last_stderr: Option<String>,
}

/// The exit status of a shell for a program that it did not find, which the launcher (`child`) uses too.
const EXIT_NOT_FOUND: i32 = 127;

/// A shell adds this to the number of the signal that killed a program, and so does the reaper (`child`).
const EXIT_BY_SIGNAL: i32 = 128;

/// Signals of Linux have numbers up to this.
const SIGNAL_MAX: i32 = 64;

/// Where a program without a `PATH` is searched (`confstr(3)`).
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// A longer program name is cut.
const NAME_CHARS_MAX: usize = 64;

impl ExitCause {
    /// Describes the cause for logs and errors.
    pub fn describe(&self, program: &Program) -> String {
        match self {
            Self::Exited(Ok(status)) => describe_status(*status, program),
            Self::Exited(Err(error)) => format!("its program cannot be waited for: {error}"),
            Self::StdoutClosed => "its program closed its standard output".to_owned(),
            Self::StdinClosed => "its program closed its standard input".to_owned(),
            Self::StdinStalled => "its program does not read its standard input".to_owned(),
            Self::LineTooLong => "its program sent a message over line_bytes_max".to_owned(),
            Self::InvalidOutput => "its program prints lines that are not MCP messages".to_owned(),
            Self::Requested => "its program was asked to end".to_owned(),
        }
    }
}

/// Describes an exit status. The reaper exits with the status of the program.
fn describe_status(status: ExitStatus, program: &Program) -> String {
    let by_signal = EXIT_BY_SIGNAL + 1..=EXIT_BY_SIGNAL + SIGNAL_MAX;
    match (status.code(), status.signal()) {
        (Some(EXIT_NOT_FOUND), _) if !exists(program) => describe_not_found(program),
        (Some(code), _) if by_signal.contains(&code) => {
            format!("its program was killed by signal {}", code - EXIT_BY_SIGNAL)
        }
        (Some(code), _) => format!("its program ended with exit status {code}"),
        (None, Some(signal)) => {
            format!("the process that supervises its program was killed by signal {signal}")
        }
        (None, None) => "its program ended".to_owned(),
    }
}

/// Describes why no process could be started.
pub fn describe_spawn_error(error: &io::Error, program: &Program) -> String {
    match &program.cwd {
        Some(cwd) if !cwd.is_dir() => "its working directory (`cwd`) does not exist".to_owned(),
        _ => match error.raw_os_error() {
            Some(code) => format!("no process can be started: {}", io::Error::from_raw_os_error(code)),
            None => format!("no process can be started: {}", error.kind()),
        },
    }
}

fn describe_not_found(program: &Program) -> String {
    if program.command.contains(char::is_whitespace) {
        // What follows the first word may be a secret.
        return "its program was not found: `command` is the program alone, and `args` the rest".to_owned();
    }
    let name = Path::new(&program.command).file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    format!("its program `{name}` was not found")
}

/// Whether the program exists where it is searched.
fn exists(program: &Program) -> bool {
    let is_file = |path: &Path| match &program.cwd {
        Some(cwd) => cwd.join(path).is_file(),
        None => path.is_file(),
    };
    if program.command.contains('/') {
        return is_file(Path::new(&program.command));
    }
    let path = program.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let path = path.map_or(PATH_DEFAULT, String::as_str);
    split_paths(path).any(|dir| is_file(&dir.join(&program.command)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_config::server::Program;

    #[test]
    fn describes_exits_without_secrets() {
        let check = |command: &str, wait_status: i32, expected: &str| {
            let env = vec![("PATH".to_owned(), "/no/such:/bin".to_owned())];
            let program =
                Program { command: command.into(), args: vec!["hunter2".into()], env, ..Program::sample() };
            assert_eq!(ExitCause::Exited(Ok(ExitStatus::from_raw(wait_status))).describe(&program), expected);
        };
        check("sh", 1 << 8, "its program ended with exit status 1");
        check("sh", 0, "its program ended with exit status 0");
        check("sh", 127 << 8, "its program ended with exit status 127");
        check("sh", 137 << 8, "its program was killed by signal 9");
        check("sh", 255 << 8, "its program ended with exit status 255");
        check("sh", 9, "the process that supervises its program was killed by signal 9");
        check("no-npx", 127 << 8, "its program `no-npx` was not found");
        check("/no/such/npx", 127 << 8, "its program `npx` was not found");
        check(
            "npx -y x --key=hunter2",
            127 << 8,
            "its program was not found: `command` is the program alone, and `args` the rest",
        );
        let program = Program { cwd: Some("/no/such/dir".into()), ..Program::sample() };
        let error = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(describe_spawn_error(&error, &program), "its working directory (`cwd`) does not exist");
    }
}
