//! Reads the sources of the configuration: flags, environment, `.env` and the two files, without validating them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cli::{Cli, Command, Flags};
use super::mistakes::{Diagnostics, SourceLocation, WithLocation};

/// The environment of a process. A trait, so that tests can set variables.
pub trait Env {
    /// Returns a variable unchanged, if it is set.
    fn var(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnv;

/// Whom the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Clients that connect to the gateway's address.
    Network,
    /// The client that starts the gateway (`metamcp stdio`). What concerns the address has no effect.
    SingleClient,
}

/// The configuration as written, before validation.
pub(super) struct Raw<'a> {
    pub flags: &'a Flags,
    pub audience: Audience,
    pub variables: Variables<'a>,
    pub data_dir: PathBuf,
    pub toml: Option<TextFile>,
    pub mcp_json: Option<TextFile>,
    /// Where the files are looked for, also those that do not exist.
    pub candidates: Vec<PathBuf>,
    /// Where they were looked for in vain.
    pub missing: Vec<PathBuf>,
    /// When the files began to be read.
    pub loaded_at: SystemTime,
}

/// A file that was read, under the path it was found at.
#[derive(Debug)]
pub(super) struct TextFile {
    pub path: PathBuf,
    pub text: String,
}

/// The environment, then `.env`. A variable set in both is taken from the environment.
pub(super) struct Variables<'a> {
    process: &'a dyn Env,
    /// The variables of `.env` with their lines.
    file: BTreeMap<String, (String, SourceLocation)>,
    /// The path of `.env`, if it was read.
    pub path: Option<PathBuf>,
}

/// A variable is not valid UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUnicode;

impl Env for ProcessEnv {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn var(&self, name: &str) -> Option<OsString> {
        // `std::env::var_os` may panic on such names.
        if name.is_empty() || name.contains(['=', '\0']) { None } else { std::env::var_os(name) }
    }
}

const TOML: &str = "metamcp.toml";
const MCP_JSON: &str = "mcp.json";
const ENV_FILE: &str = ".env";

impl<'a> Raw<'a> {
    /// Reads the environment, `.env`, and the two files. Relative paths start at `cwd`, and files without a
    /// flag are looked for there first.
    pub fn read(cli: &'a Cli, env: &'a dyn Env, cwd: &Path, report: &Diagnostics) -> Self {
        let flags = &cli.flags;
        let audience = match cli.command {
            Some(Command::Stdio(_)) => Audience::SingleClient,
            _ => Audience::Network,
        };
        let loaded_at = SystemTime::now();
        let variables = Variables::read(env, cwd, report);
        let data_dir = data_dir(flags.data_dir.as_deref(), &variables, cwd, report);
        if data_dir.exists() && !data_dir.is_dir() {
            let place = match flags.data_dir {
                Some(_) => SourceLocation::flag("--data-dir"),
                None => SourceLocation::variable("METAMCP_DATA_DIR"),
            };
            report.mistake(&place, format!("{} is no directory; name one", data_dir.display()));
        }
        let find = |flag: Option<&Path>, flag_name: &str, name: &str| match flag {
            Some(path) => {
                let path = cwd.join(path);
                let text = read_named(&path, &SourceLocation::flag(flag_name), report);
                text.map(|text| TextFile { path, text })
            }
            None => [cwd, &data_dir].into_iter().find_map(|dir| {
                let path = dir.join(name);
                let place = SourceLocation::file(name, None, "");
                read_text(&path, &place, report).text().map(|text| TextFile { path, text })
            }),
        };
        let toml = find(flags.config.as_deref(), "--config", TOML);
        let mcp_json = find(flags.mcp_json.as_deref(), "--mcp-json", MCP_JSON);
        let candidates = |flag: Option<&Path>, name: &str| match flag {
            Some(path) => vec![cwd.join(path)],
            None => vec![cwd.join(name), data_dir.join(name)],
        };
        let places = [
            (candidates(flags.config.as_deref(), TOML), toml.as_ref().map(|file| &file.path)),
            (candidates(flags.mcp_json.as_deref(), MCP_JSON), mcp_json.as_ref().map(|file| &file.path)),
            (vec![cwd.join(ENV_FILE)], variables.path.as_ref()),
        ];
        let missing = places
            .iter()
            .flat_map(|(paths, found)| paths.iter().take_while(|path| Some(*path) != *found).cloned());
        let missing = missing.collect();
        let candidates = places.into_iter().flat_map(|(paths, _)| paths).collect();
        Self { flags, audience, variables, data_dir, toml, mcp_json, candidates, missing, loaded_at }
    }
}

impl<'a> Variables<'a> {
    /// Reads the environment only.
    #[cfg(test)]
    pub fn process(process: &'a dyn Env) -> Self {
        Self { process, file: BTreeMap::new(), path: None }
    }

    /// Reads `.env` of the directory as well, if it exists. The environment of the process is not changed.
    ///
    /// The file may be that of another program that is developed in this directory. So a line that cannot be read is a mistake
    /// only if it sets a variable of metamcp, and otherwise a notice.
    pub fn read(process: &'a dyn Env, cwd: &Path, report: &Diagnostics) -> Self {
        let path = cwd.join(ENV_FILE);
        let source = path.display().to_string();
        let found = read_text(&path, &SourceLocation::file(ENV_FILE, None, ""), report).text();
        let is_found = found.is_some();
        let text = found.unwrap_or_default();
        let mut file = BTreeMap::new();
        for item in dotenvy::from_read_iter(text.as_bytes()) {
            match item {
                // The first occurrence counts, as in other readers of `.env`.
                Ok((name, value)) => {
                    let place = SourceLocation::file(&source, None, &name);
                    file.entry(name).or_insert((value, place));
                }
                Err(error) => {
                    let line = dotenv_line(&text, &error);
                    // The line is not quoted, because `.env` files contain secrets.
                    let place = SourceLocation::file(&source, line, "");
                    if line.and_then(|line| text.lines().nth(line - 1)).is_some_and(sets_own_variable) {
                        report
                            .mistake(&place, "is not NAME=value; quote values with spaces: NAME=\"a value\"");
                    } else {
                        report.notice(&place, "is not NAME=value, and is skipped");
                    }
                }
            }
        }
        Self { process, file, path: is_found.then_some(path) }
    }

    /// Returns a variable that the configuration refers to by name. It may be empty.
    pub fn lookup(&self, name: &str) -> Result<Option<String>, NotUnicode> {
        Ok(self.find(name)?.map(|written| written.value))
    }

    /// Returns a variable of the process. It may be empty.
    pub fn lookup_process(&self, name: &str) -> Result<Option<String>, NotUnicode> {
        self.process.var(name).map(|value| value.into_string().map_err(|_| NotUnicode)).transpose()
    }

    /// Whether a variable gives access to this gateway itself: its `.env` may be the `envFile` of a program, too.
    pub fn is_own_secret(&self, name: &str, value: &str) -> bool {
        OWN_SECRETS.contains(&name)
            && !value.is_empty()
            && self.lookup(name).is_ok_and(|own| own.as_deref() == Some(value))
    }

    fn find(&self, name: &str) -> Result<Option<WithLocation<String>>, NotUnicode> {
        if let Some(value) = self.lookup_process(name)? {
            return Ok(Some(WithLocation { value, place: SourceLocation::variable(name) }));
        }
        let written = self.file.get(name);
        Ok(written.map(|(value, place)| WithLocation { value: value.clone(), place: place.clone() }))
    }

    /// Returns a variable of metamcp. An empty variable counts as not set.
    pub fn text(&self, name: &str, report: &Diagnostics) -> Option<WithLocation<String>> {
        if let Ok(written) = self.find(name) {
            written.filter(|written| !written.value.is_empty())
        } else {
            report.mistake(&SourceLocation::variable(name), "is not UTF-8");
            None
        }
    }

    /// Returns a directory that a variable of the process names. An empty variable counts as not set.
    fn directory(&self, name: &str, report: &Diagnostics) -> Option<PathBuf> {
        let value = self.lookup_process(name).unwrap_or_else(|_| {
            report.mistake(&SourceLocation::variable(name), "is not UTF-8");
            None
        });
        value.filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}

/// Whether a line of `.env` sets a variable that metamcp reads.
fn sets_own_variable(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let name = line.split(['=', ':', ' ', '\t']).next().unwrap_or_default();
    OWN_VARIABLES.contains(&name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The variables of `.env.example`, and those with [`OWN_PREFIXES`].
const OWN_VARIABLES: [&str; 6] =
    ["DATABASE_URL", "ENCRYPTION_KEY", "JWT_SECRET", "RUST_LOG", "SERVER_HOST", "SERVER_PORT"];
const OWN_SECRETS: [&str; 4] = ["DATABASE_URL", "ENCRYPTION_KEY", "JWT_SECRET", "METAMCP_KEY"];
const OWN_PREFIXES: [&str; 2] = ["METAMCP_", "OTEL_"];

fn data_dir(flag: Option<&Path>, variables: &Variables<'_>, cwd: &Path, report: &Diagnostics) -> PathBuf {
    find_data_dir(flag, variables, cwd, report).unwrap_or_else(|| {
        let place = SourceLocation::flag("--data-dir");
        report.mistake(&place, "nothing says where data is kept (HOME is not set); write --data-dir DIR");
        cwd.to_owned()
    })
}

/// Looks at the flag, `METAMCP_DATA_DIR`, `$XDG_DATA_HOME/metamcp` and `~/.local/share/metamcp`, in this
/// order.
pub(super) fn find_data_dir(
    flag: Option<&Path>,
    variables: &Variables<'_>,
    cwd: &Path,
    report: &Diagnostics,
) -> Option<PathBuf> {
    if let Some(dir) = flag {
        return Some(cwd.join(dir));
    }
    if let Some(dir) = variables.text("METAMCP_DATA_DIR", report) {
        return Some(cwd.join(dir.value));
    }
    // The XDG specification says to ignore relative paths.
    if let Some(dir) = variables.directory("XDG_DATA_HOME", report).filter(|dir| dir.is_absolute()) {
        return Some(dir.join("metamcp"));
    }
    variables
        .directory("HOME", report)
        .filter(|dir| dir.is_absolute())
        .map(|home| home.join(".local/share/metamcp"))
}

/// The result of reading a file.
enum FileRead {
    Text(String),
    Missing,
    /// The error was reported.
    Unreadable,
}

impl FileRead {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing | Self::Unreadable => None,
        }
    }
}

/// Reads a file that was named explicitly. Reports an error if it does not exist.
pub(super) fn read_named(path: &Path, place: &SourceLocation, report: &Diagnostics) -> Option<String> {
    let found = read_text(path, place, report);
    if matches!(found, FileRead::Missing) {
        report.mistake(place, format!("{} is not there", path.display()));
    }
    found.text()
}

fn read_text(path: &Path, place: &SourceLocation, report: &Diagnostics) -> FileRead {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let wrong = match read {
        // A directory above it may be a file.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return FileRead::Missing;
        }
        Err(error) => format!("cannot be read: {error}"),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => "is longer than 1 MiB".to_owned(),
        Ok(_) => match String::from_utf8(bytes) {
            // Some editors write a byte order mark.
            Ok(text) => {
                return FileRead::Text(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text));
            }
            Err(_) => "is not UTF-8".to_owned(),
        },
    };
    report.mistake(place, format!("{} {wrong}", path.display()));
    FileRead::Unreadable
}

/// Returns the line of an error: dotenvy returns the text that it could not parse, but not its position.
fn dotenv_line(text: &str, error: &dotenvy::Error) -> Option<usize> {
    let dotenvy::Error::LineParse(wrong, _) = error else { return None };
    let offset = text.find(wrong.as_str())?;
    Some(1 + memchr::memchr_iter(b'\n', &text.as_bytes()[..offset]).count())
}

/// The largest configuration in use has about 60 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
