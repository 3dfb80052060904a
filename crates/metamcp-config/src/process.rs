//! `stdio` servers in `metamcp.toml` and `mcp.json`, and the allowlist for those in the store.

use std::env;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env_file;
use super::expand::Context;
use super::mistakes::{Diagnostics, SourceLocation, WithLocation, quote};
use super::raw::read_named;
use super::section::Section;
use crate::server::settings::{self, SettingRange};
use crate::server::{AllowedCommand, EnvPattern, SEALED_PLACEHOLDER, StdioAllowlist};
use crate::server::{Confinement, ProcessLimits};
use crate::server::{INHERITED, ProcessSettings, Program, Sharing};

/// A program whose variable references are not expanded yet.
pub(super) struct Draft<'a> {
    pub command: WithLocation<&'a str>,
    pub args: Vec<WithLocation<&'a str>>,
    pub env: Vec<(&'a str, WithLocation<&'a str>)>,
    /// A file with further variables. Those of `env` take precedence.
    pub env_file: Option<WithLocation<&'a str>>,
    pub cwd: Option<WithLocation<&'a str>>,
    /// The directory that a relative working directory starts from.
    pub beside: Option<&'a Path>,
    pub settings: ProcessSettings,
}

/// Reads the program of a server in `metamcp.toml`. `None` if the server is not a program. Every key of
/// programs is read in any case, so that next to a URL it is not reported as unknown.
pub(super) fn read<'a>(section: &Section<'a>, context: Context<'_>) -> Option<Draft<'a>> {
    let command = section.text("command");
    let args = section.texts("args").unwrap_or_default();
    let env = section.text_map("env");
    let cwd = section.text("cwd");
    let sharings = [
        ("auto", Sharing::Auto),
        ("shared", Sharing::Shared),
        ("key", Sharing::Key),
        ("session", Sharing::Session),
    ];
    let defaults = settings::default_process_settings();
    let user = |key| section.integer(key).and_then(|written| id(&written, context));
    let settings = ProcessSettings {
        sharing: section.word("sharing", &sharings, defaults.sharing),
        prewarm: section.flag("prewarm").or(defaults.prewarm),
        start_timeout: section.duration("start_timeout", settings::START_TIMEOUT),
        idle_timeout: section.duration("idle_timeout", settings::PROCESS_IDLE),
        processes_max: section.count("processes_max", settings::PROCESSES),
        line_bytes_max: section.size("line_bytes_max", settings::LINE_BYTES),
        uid: user("uid"),
        gid: user("gid"),
        limits: limits(section.child("limits")),
        confinement: confinement(section.child("confine"), context),
    };
    let Some(command) = command else {
        let is_said = !args.is_empty() || !env.is_empty() || cwd.is_some();
        if is_said {
            context.report.mistake(&section.place().below("command"), "is missing beside args, env or cwd");
        }
        return None;
    };
    Some(Draft { command, args, env, env_file: None, cwd, beside: section.directory(), settings })
}

fn limits(section: Section<'_>) -> ProcessLimits {
    // A limit that is not written is unlimited, so the defaults of these ranges are never used.
    let size = |key| section.has(key).then(|| section.size(key, LIMIT_BYTES) as u64);
    let count = |key| section.has(key).then(|| section.count(key, LIMIT_COUNT) as u64);
    let limits = ProcessLimits {
        memory_bytes: size("memory"),
        data_bytes: size("data"),
        open_files: count("open_files"),
        processes: count("processes"),
        cpu_s: section.has("cpu").then(|| section.duration("cpu", LIMIT_CPU).as_secs()),
        file_bytes: size("file_size"),
    };
    section.finish();
    limits
}

fn confinement(section: Section<'_>, context: Context<'_>) -> Option<Confinement> {
    let is_written = section.is_written();
    let paths = |key| -> Vec<PathBuf> {
        let list = section.texts(key).unwrap_or_default();
        list.iter().filter_map(|written| absolute(written, context)).collect()
    };
    let (read, write) = (paths("read"), paths("write"));
    let required = section.flag("required").unwrap_or(false);
    section.finish();
    is_written.then_some(Confinement { read, write, required })
}

fn absolute(written: &WithLocation<&str>, context: Context<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(context.expand(written)?);
    if !path.is_absolute() {
        context.report.mistake(&written.place, "is not an absolute path");
        return None;
    }
    if !path.exists() {
        context.report.notice(&written.place, "is not there, so nothing of it is opened to the program");
    }
    Some(path)
}

fn id(written: &WithLocation<i128>, context: Context<'_>) -> Option<u32> {
    let id = u32::try_from(written.value).ok().filter(|id| *id != u32::MAX);
    if id.is_none() {
        context.report.mistake(&written.place, "is not the number of a user or group");
    }
    id
}

impl Draft<'_> {
    /// Expands the variable references and validates the program.
    /// `inherited` are the variables of every program.
    pub fn program(
        self,
        place: &SourceLocation,
        inherited: &[(String, String)],
        context: Context<'_>,
    ) -> Option<Program> {
        let report = context.report;
        let command = context.expand(&self.command)?;
        if command.trim().is_empty() || command.contains('\0') {
            report.mistake(&self.command.place, "names no program; write one: command = \"npx\"");
        }
        if self.args.len() > ARGS_MAX || self.env.len() > ENV_MAX {
            report.mistake(place, format!("has more than {ARGS_MAX} args or {ENV_MAX} variables"));
        }
        let mut args = Vec::with_capacity(self.args.len());
        for written in &self.args {
            let Some(arg) = context.expand(written) else { continue };
            if arg.contains('\0') {
                report.mistake(&written.place, "has a NUL in it");
            }
            check_shown(&arg, &written.place, report);
            args.push(arg);
        }
        let mut env = inherited.to_vec();
        if let Some(written) = &self.env_file {
            env.extend(read_env_file(written, context));
        }
        env.extend(read_env(&self.env, context));
        let cwd = match &self.cwd {
            None => None,
            Some(written) => {
                let path = self.beside.unwrap_or(Path::new("")).join(context.expand(written)?);
                if !path.is_dir() {
                    report.mistake(&written.place, "is no directory that is there");
                }
                Some(path)
            }
        };
        if let Some(why) = cannot_run(&command, &env, cwd.as_deref()) {
            report.notice(&self.command.place, why);
        }
        Some(Program { command, args, env, cwd, settings: self.settings })
    }
}

/// Expands and validates variables of a program.
fn read_env(written: &[(&str, WithLocation<&str>)], context: Context<'_>) -> Vec<(String, String)> {
    let mut env = Vec::with_capacity(written.len());
    for (name, written) in written {
        let Some(value) = context.expand(written) else { continue };
        check_variable(name, &value, &written.place, context.report);
        env.push(((*name).to_owned(), value));
    }
    env
}

/// Reads and validates the variables in a file of `NAME=value` lines. Their values are taken as they are.
fn read_env_file(written: &WithLocation<&str>, context: Context<'_>) -> Vec<(String, String)> {
    let Some(path) = context.expand(written) else { return Vec::new() };
    // As the other relative paths of the file: from the directory in which the gateway was started.
    let Some(text) = read_named(Path::new(&path), &written.place, context.report) else { return Vec::new() };
    let mut variables = Vec::new();
    for line in env_file::read(&text) {
        match line {
            Ok((name, value)) if context.variables.is_own_secret(name, &value) => {
                let text = format!(
                    "sets the {name} of this gateway, which is not passed on; write it into env if the program needs it"
                );
                context.report.notice(&written.place, text);
            }
            Ok((name, value)) => {
                check_variable(name, &value, &written.place, context.report);
                variables.push((name.to_owned(), value));
            }
            // The line is not quoted, because it may contain a secret.
            Err(line) => {
                let text = format!("has a line that is not NAME=value ({}), and is skipped", line.number);
                context.report.notice(&written.place, text);
            }
        }
        if variables.len() > ENV_MAX {
            context.report.mistake(&written.place, format!("has more than {ENV_MAX} variables"));
            break;
        }
    }
    variables
}

fn check_variable(name: &str, value: &str, place: &SourceLocation, report: &Diagnostics) {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        report.mistake(place, "is no variable: a name has no `=`, and neither part a NUL");
    }
    check_shown(value, place, report);
}

/// Explains why the program could not be started at the moment. Not an error: the program may exist by the
/// time it is needed, and other servers must be served in any case. Only the first word of the command is
/// quoted, as the rest may be a secret.
fn cannot_run(command: &str, env: &[(String, String)], cwd: Option<&Path>) -> Option<String> {
    let mut words = command.split_whitespace();
    let first = words.next()?;
    let has_more = words.next().is_some();
    let missing = |text: &str| {
        if has_more {
            let first = quote(first);
            return format!("is no program: write its name alone, {first}, and each word behind it in args");
        }
        text.to_owned()
    };
    if command.starts_with("~/") {
        return Some("begins with ~, which only a shell knows; write ${HOME}/...".into());
    }
    if command.contains('/') {
        let path = cwd.unwrap_or(Path::new("")).join(command);
        return match path.metadata() {
            Err(_) => Some(missing("is not there; write the path of a program that is")),
            Ok(found) if found.is_dir() => Some("is a directory; write the path of the program in it".into()),
            Ok(found) if !may_run(&found) => Some("may not be executed; allow it by chmod +x".into()),
            Ok(_) => None,
        };
    }
    let (_, path) = env.iter().rev().find(|(name, _)| name == "PATH")?;
    let is_program = |folder: PathBuf| {
        folder.join(command).metadata().is_ok_and(|found| found.is_file() && may_run(&found))
    };
    if env::split_paths(path).any(is_program) {
        return None;
    }
    Some(missing(
        "is in no directory of the PATH that it would be started with; install it, or write its whole path",
    ))
}

#[cfg(unix)]
fn may_run(found: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    found.permissions().mode() & 0o111 != 0
}

/// Only Unix has a bit for it. Programs are run on Linux; elsewhere a configuration is only read.
#[cfg(not(unix))]
fn may_run(found: &Metadata) -> bool {
    found.is_file()
}

/// Reads the allowlist for programs that are defined in the store.
pub(super) fn allowed(section: &Section<'_>, report: &Diagnostics) -> StdioAllowlist {
    let mut allowed = StdioAllowlist::default();
    for WithLocation { value: line, place } in section.text_lists("stdio_commands") {
        let mut words = line.into_iter().map(str::to_owned);
        match words.next().filter(|path| is_path(path)) {
            None => report.mistake(&place, NO_PROGRAM),
            Some(path) => {
                let command = AllowedCommand { path, args: words.collect() };
                put(command, &place, &mut allowed.commands, report);
            }
        }
    }
    for WithLocation { value, place } in section.texts("stdio_env").unwrap_or_default() {
        match EnvPattern::new(value) {
            Ok(pattern) => put(pattern, &place, &mut allowed.env, report),
            Err(wrong) => report.mistake(&place, wrong.to_string()),
        }
    }
    for WithLocation { value, place } in section.texts("stdio_dirs").unwrap_or_default() {
        if is_path(value) {
            put(value.to_owned(), &place, &mut allowed.dirs, report);
        } else {
            report.mistake(&place, "is not the absolute path of a directory; write \"/srv/notes\"");
        }
    }
    allowed
}

fn is_path(text: &str) -> bool {
    Path::new(text).is_absolute() && !text.contains(char::is_control)
}

fn put<T: PartialEq>(value: T, place: &SourceLocation, list: &mut Vec<T>, report: &Diagnostics) {
    if list.contains(&value) {
        report.mistake(place, "is there twice");
    } else {
        list.push(value);
    }
}

/// Rejects the placeholder for sealed values, which would otherwise be passed to the program.
fn check_shown(value: &str, place: &SourceLocation, report: &Diagnostics) {
    if value == SEALED_PLACEHOLDER {
        report.mistake(place, "stands for what is not shown; write the value itself");
    }
}

/// The variables of every program: some of this process, and those of `[backend]`, which take precedence.
pub(super) fn inherited(
    written: &[(&str, WithLocation<&str>)],
    context: Context<'_>,
) -> Vec<(String, String)> {
    let inherited = |name: &str| Some((name.to_owned(), context.variables.lookup_process(name).ok()??));
    let mut env: Vec<_> = INHERITED.into_iter().filter_map(inherited).collect();
    env.extend(read_env(written, context));
    env
}

const NO_PROGRAM: &str = "is not the absolute path of a program; write \"/usr/bin/npx\", or what `command -v npx` says, or \
                          it and the arguments that must come first: [\"/usr/bin/npx\", \"-y\", \"@acme/server\"]";

/// More than any command line in use.
const ARGS_MAX: usize = 256;

/// More variables than any server reads.
const ENV_MAX: usize = 256;

/// Sizes below one megabyte are too small for any server.
const LIMIT_BYTES: SettingRange<usize> = SettingRange { default: 1 << 20, min: 1 << 20, max: 1 << 46 };

/// With fewer than 8 file descriptors or processes, nothing starts.
const LIMIT_COUNT: SettingRange<usize> = SettingRange { default: 8, min: 8, max: 1 << 30 };

/// The kernel counts CPU time in seconds.
const LIMIT_CPU: SettingRange<Duration> = SettingRange {
    default: Duration::from_secs(1),
    min: Duration::from_secs(1),
    max: Duration::from_hours(8760),
};
