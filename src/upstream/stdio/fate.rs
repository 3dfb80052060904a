//! Why a process ended, in words: for everybody, without what it printed, its arguments or its environment.

use std::env::split_paths;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use super::Program;

/// Why nothing more comes of a process.
#[derive(Debug)]
pub enum End {
    /// It was asked to end.
    Asked,
    /// It ended, with this.
    Exited(io::Result<ExitStatus>),
    /// It closed its standard output.
    Silent,
    /// It closed its standard input.
    Deaf,
    /// It does not read.
    Stalled,
    /// A line over the cap.
    TooLong,
    /// Nothing but lines that are no message.
    Babble,
}

/// What a shell says of a program that it did not find; so does the stand-in (`child`).
const EXIT_NOT_FOUND: i32 = 127;

/// A shell adds this to the signal that ended a program; so does the keeper (`child`).
const EXIT_BY_SIGNAL: i32 = 128;

/// Signals of Linux have numbers up to this.
const SIGNAL_MAX: i32 = 64;

/// Where a program is looked for that is given no `PATH` (`confstr(3)`).
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// The name of a program, as far as it is shown.
const NAME_CHARS_MAX: usize = 64;

impl End {
    /// What became of it.
    pub fn text(&self, program: &Program) -> String {
        match self {
            Self::Exited(Ok(status)) => exited(*status, program),
            Self::Exited(Err(error)) => format!("its program cannot be waited for: {error}"),
            Self::Silent => "its program closed its standard output".to_owned(),
            Self::Deaf => "its program closed its standard input".to_owned(),
            Self::Stalled => "its program does not read its standard input".to_owned(),
            Self::TooLong => "its program sent a message over line_bytes_max".to_owned(),
            Self::Babble => "what its program prints to standard output is no MCP".to_owned(),
            Self::Asked => "its program was asked to end".to_owned(),
        }
    }
}

/// What it ended with. The keeper ends with what the program ended with.
pub fn exited(status: ExitStatus, program: &Program) -> String {
    let by_signal = EXIT_BY_SIGNAL + 1..=EXIT_BY_SIGNAL + SIGNAL_MAX;
    match (status.code(), status.signal()) {
        (Some(EXIT_NOT_FOUND), _) if !is_there(program) => not_found(program),
        (Some(code), _) if by_signal.contains(&code) => {
            format!("its program was killed by signal {}", code - EXIT_BY_SIGNAL)
        }
        (Some(code), _) => format!("its program ended with exit status {code}"),
        (None, Some(signal)) => format!("the process that keeps its program was killed by signal {signal}"),
        (None, None) => "its program ended".to_owned(),
    }
}

/// It was not started at all.
pub fn unstarted(error: &io::Error, program: &Program) -> String {
    match &program.cwd {
        Some(cwd) if !cwd.is_dir() => "its working directory (`cwd`) is not there".to_owned(),
        _ => match error.raw_os_error() {
            Some(code) => format!("no process can be started: {}", io::Error::from_raw_os_error(code)),
            None => format!("no process can be started: {}", error.kind()),
        },
    }
}

fn not_found(program: &Program) -> String {
    if program.command.contains(char::is_whitespace) {
        // What stands behind the first of the words may be a secret.
        return "its program was not found: `command` is the program alone, and `args` the rest".to_owned();
    }
    let name = Path::new(&program.command).file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    format!("its program `{name}` was not found")
}

/// Whether the program is where it is looked for.
fn is_there(program: &Program) -> bool {
    let is_there = |path: &Path| match &program.cwd {
        Some(cwd) => cwd.join(path).is_file(),
        None => path.is_file(),
    };
    if program.command.contains('/') {
        return is_there(Path::new(&program.command));
    }
    let path = program.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let path = path.map_or(PATH_DEFAULT, String::as_str);
    split_paths(path).any(|dir| is_there(&dir.join(&program.command)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::program;
    use super::*;

    #[test]
    fn says_what_became_of_a_program_and_no_secret() {
        let check = |command: &str, wait_status: i32, expected: &str| {
            let env = vec![("PATH".to_owned(), "/no/such:/bin".to_owned())];
            let program = Program { command: command.into(), args: vec!["hunter2".into()], env, ..program() };
            assert_eq!(End::Exited(Ok(ExitStatus::from_raw(wait_status))).text(&program), expected);
        };
        check("sh", 1 << 8, "its program ended with exit status 1");
        check("sh", 0, "its program ended with exit status 0");
        check("sh", 127 << 8, "its program ended with exit status 127");
        check("sh", 137 << 8, "its program was killed by signal 9");
        check("sh", 255 << 8, "its program ended with exit status 255");
        check("sh", 9, "the process that keeps its program was killed by signal 9");
        check("no-npx", 127 << 8, "its program `no-npx` was not found");
        check("/no/such/npx", 127 << 8, "its program `npx` was not found");
        check(
            "npx -y x --key=hunter2",
            127 << 8,
            "its program was not found: `command` is the program alone, and `args` the rest",
        );
        let program = Program { cwd: Some("/no/such/dir".into()), ..program() };
        let error = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(unstarted(&error, &program), "its working directory (`cwd`) is not there");
    }
}
