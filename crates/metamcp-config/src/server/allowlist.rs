//! The allowlist for `stdio` servers that are defined in the store: programs with their leading arguments,
//! environment variables, and working directories.

use std::fmt;

/// The allowlist from the `[admin]` section of `metamcp.toml`. Empty by default, so nothing may run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioAllowlist {
    pub commands: Vec<AllowedCommand>,
    /// Variables that definitions may set.
    pub env: Vec<EnvPattern>,
    /// Working directories: absolute paths, compared byte for byte.
    pub dirs: Vec<String>,
}

/// A program that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedCommand {
    /// An absolute path, compared byte for byte.
    pub path: String,
    /// Arguments that the command line must begin with; any may follow.
    pub args: Vec<String>,
}

/// The name of a variable, or a prefix of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvPattern {
    name: String,
    is_prefix: bool,
}

/// Why a program may not run as defined. The text says what to do; it may quote a name, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowlistViolation {
    /// The program is not listed.
    #[error(
        "is not among the programs that may be run: add {} to `stdio_commands` in [admin] of metamcp.toml, and reload the configuration (SIGHUP)",
        quoted_or(.0.as_deref(), "its absolute path")
    )]
    Command(Option<String>),
    /// The program is listed, but only with other leading arguments.
    #[error(
        "may be run only with the leading arguments listed with it in `stdio_commands` in [admin] of metamcp.toml: begin \
         with those, or list these too and reload the configuration (SIGHUP)"
    )]
    Args,
    /// The variable is not listed.
    #[error(
        "sets the variable {0:?}, which is not among those that may be set: add its name, or a prefix followed by `*`, \
         to `stdio_env` in [admin] of metamcp.toml, and reload the configuration (SIGHUP)"
    )]
    Variable(String),
    /// The variable could make the program run other code, and can never be listed.
    #[error(
        "sets the variable {0:?}, which decides what a program loads, runs or trusts, so `stdio_env` cannot allow it: leave \
         it out, or define the server in metamcp.toml"
    )]
    ReservedVariable(String),
    /// The working directory is not listed.
    #[error(
        "is not among the directories that programs may be run in: leave it out, or add {} to `stdio_dirs` in [admin] of \
         metamcp.toml, and reload the configuration (SIGHUP)",
        quoted_or(.0.as_deref(), "its absolute path")
    )]
    Dir(Option<String>),
}

/// Why a pattern in `stdio_env` is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvPatternError {
    /// It is neither a name nor a prefix.
    #[error(
        "is neither the name of a variable nor a prefix followed by `*`; write \"GITHUB_TOKEN\" or \"ACME_*\""
    )]
    Form,
    /// It is a variable that can never be allowed.
    #[error(
        "decides what a program loads, runs or trusts, so that setting it amounts to running any program; set it in a \
         server of metamcp.toml instead"
    )]
    Reserved,
}

impl StdioAllowlist {
    /// Whether the program may run with these arguments.
    pub fn check_command(&self, path: &str, args: &[String]) -> Result<(), AllowlistViolation> {
        let mut listed = self.commands.iter().filter(|command| command.path == path).peekable();
        if listed.peek().is_none() {
            return Err(AllowlistViolation::Command(None));
        }
        if listed.any(|command| args.starts_with(&command.args)) {
            Ok(())
        } else {
            Err(AllowlistViolation::Args)
        }
    }

    /// Whether a program may be given a variable of this name.
    pub fn check_variable(&self, name: &str) -> Result<(), AllowlistViolation> {
        let shown = || name.chars().take(SHOWN_CHARS_MAX).collect();
        if is_reserved(name) {
            return Err(AllowlistViolation::ReservedVariable(shown()));
        }
        let is_listed = is_portable_name(name) && self.env.iter().any(|pattern| pattern.matches(name));
        if is_listed { Ok(()) } else { Err(AllowlistViolation::Variable(shown())) }
    }

    /// Whether a program may run in this directory.
    pub fn check_dir(&self, dir: &str) -> Result<(), AllowlistViolation> {
        if self.dirs.iter().any(|listed| listed == dir) { Ok(()) } else { Err(AllowlistViolation::Dir(None)) }
    }
}

impl AllowlistViolation {
    /// Adds the path to the text, for readers who do not have the definition in front of them.
    #[must_use]
    pub fn with_path(self, path: &str) -> Self {
        match self {
            // Only absolute paths can be listed.
            Self::Command(_) => Self::Command(path.starts_with('/').then(|| path.to_owned())),
            Self::Dir(_) => Self::Dir(Some(path.to_owned())),
            other => other,
        }
    }
}

impl EnvPattern {
    /// Parses a pattern such as `GITHUB_TOKEN` or `ACME_*`.
    pub fn new(text: &str) -> Result<Self, EnvPatternError> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if !is_portable_name(name) {
            return Err(EnvPatternError::Form);
        }
        // A prefix that merely covers some reserved names is accepted: those names are rejected one by one in
        // `check_variable`.
        if is_reserved(name) {
            return Err(EnvPatternError::Reserved);
        }
        Ok(Self { name: name.to_owned(), is_prefix })
    }

    fn matches(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

impl fmt::Display for AllowedCommand {
    /// Omits the arguments, which may be tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.args.is_empty() { "" } else { " ..." })
    }
}

impl fmt::Display for EnvPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_prefix { "*" } else { "" })
    }
}

fn quoted_or(path: Option<&str>, fallback: &str) -> String {
    path.map_or_else(|| fallback.to_owned(), |path| format!("{path:?}"))
}

/// Whether every shell and loader accepts this as a variable name. Excludes `BASH_FUNC_x%%` and the like.
fn is_portable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Compared in upper case, because some programs read the lower-case name too.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    RESERVED_NAMES.contains(&name.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Variables that decide what a program loads, runs or trusts. The primary protection is the allowlist, which
/// is empty by default; this list only prevents allowing such a variable by accident, so it need not be
/// complete.
const RESERVED_NAMES: [&str; 41] = [
    "BROWSER",
    "CDPATH",
    "CLASSPATH",
    "CURL_CA_BUNDLE",
    "EDITOR",
    "ELECTRON_RUN_AS_NODE",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "GODEBUG",
    "GOFLAGS",
    "HOME",
    "IFS",
    "JAVA_HOME",
    "JAVA_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCPATH",
    "MANPAGER",
    "NLSPATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "PAGER",
    "PATH",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "REQUESTS_CA_BUNDLE",
    "SHELL",
    "SHELLOPTS",
    "SSH_ASKPASS",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SUDO_ASKPASS",
    "TMPDIR",
    "VISUAL",
    "ZDOTDIR",
];

/// Prefixes of such variables: those of loaders, shells, interpreters, and tools that fetch or build
/// packages.
const RESERVED_PREFIXES: [&str; 34] = [
    "BASH",
    "BUNDLE_",
    "BUN_",
    "CARGO_",
    "COMPLUS_",
    "CORECLR_",
    "DENO_",
    "DOCKER_",
    "DOTNET_",
    "DYLD_",
    "ERL_",
    "GEM_",
    "GIT_",
    "GUILE_",
    "JULIA_",
    "LD_",
    "LUA_",
    "METAMCP_",
    "NPM_CONFIG_",
    "OPENSSL_",
    "PERL",
    "PIPX_",
    "PIP_",
    "PNPM_",
    "POETRY_",
    "PYTHON",
    "RUBY",
    "RUST",
    "R_PROFILE",
    "TCL",
    "UV_",
    "XDG_",
    "YARN_",
    "_JAVA_",
];

/// Keeps the name in an error short.
const SHOWN_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &[&str], name: &str, expected: Result<(), &str>) {
        let env = patterns.iter().map(|text| EnvPattern::new(text).expect("a pattern")).collect();
        let found = StdioAllowlist { env, ..StdioAllowlist::default() }
            .check_variable(name)
            .map_err(|violation| violation.to_string());
        match (&found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(text)) => {
                assert!(found.contains(text) && found.contains("`stdio_env`"), "{name}: {found}");
            }
            _ => panic!("{patterns:?} {name}: {found:?}"),
        }
    }

    #[test]
    fn only_listed_variables_are_allowed() {
        check(&["GITHUB_TOKEN"], "GITHUB_TOKEN", Ok(()));
        check(&["ACME_*"], "ACME_KEY", Ok(()));
        check(&["NODE_*"], "NODE_ENV", Ok(()));
        check(&[], "GITHUB_TOKEN", Err("\"GITHUB_TOKEN\", which is not among"));
        for name in ["GITHUB_TOKEN_2", "github_token", "ACME", "xACME_KEY", "ACME_KEY%%", "ACME_()", ""] {
            check(&["GITHUB_TOKEN", "ACME_*"], name, Err("not among those"));
        }
        for name in ["LD_PRELOAD", "BASH_ENV", "BASH_FUNC_ls%%", "PATH", "PYTHONPATH", "npm_config_registry"]
        {
            check(&["ACME_*"], name, Err("decides what a program loads"));
        }
        check(&["P*"], "PATH", Err("\"PATH\", which decides"));
        check(&["NODE_*"], "NODE_OPTIONS", Err("\"NODE_OPTIONS\", which decides"));
    }

    #[test]
    fn reserved_variables_cannot_be_listed() {
        for text in
            ["LD_PRELOAD", "LD_*", "PATH", "BASH_ENV", "BASH*", "NODE_OPTIONS", "PYTHON*", "ld_preload"]
        {
            assert_eq!(EnvPattern::new(text), Err(EnvPatternError::Reserved), "{text}");
        }
        for text in ["", "*", "A*B", "A-B", "1A", "A=B", "A B", "**"] {
            assert_eq!(EnvPattern::new(text), Err(EnvPatternError::Form), "{text}");
        }
    }

    #[test]
    fn arguments_begin_with_the_listed_ones() {
        let command = |path: &str, args: &[&str]| AllowedCommand {
            path: path.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        let commands =
            vec![command("/bin/a", &[]), command("/bin/b", &["-y", "x"]), command("/bin/b", &["z"])];
        let allowed = StdioAllowlist { commands, ..StdioAllowlist::default() };
        let check = |path: &str, args: &[&str], expected: Result<(), AllowlistViolation>| {
            assert_eq!(allowed.check_command(path, &command(path, args).args), expected, "{path} {args:?}");
        };
        check("/bin/a", &[], Ok(()));
        check("/bin/a", &["-e", "x"], Ok(()));
        check("/bin/b", &["-y", "x", "more"], Ok(()));
        check("/bin/b", &["z"], Ok(()));
        for args in [&[][..], &["-y"], &["x", "-y"], &["-y", "xx"]] {
            check("/bin/b", args, Err(AllowlistViolation::Args));
        }
        check("/bin/c", &[], Err(AllowlistViolation::Command(None)));
    }
}
