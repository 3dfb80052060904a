//! What a program may be that is defined elsewhere than in this machine's files: which is run, with which arguments first,
//! which variables, and where.

use std::fmt;

/// What `[admin]` of `metamcp.toml` allows to whoever writes definitions. Nothing, unless it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The programs that may be run.
    pub commands: Vec<AllowedCommand>,
    /// The variables that they may be given.
    pub env: Vec<EnvPattern>,
    /// The directories that they may be run in: absolute paths, each compared as it is written.
    pub dirs: Vec<String>,
}

/// A program that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedCommand {
    /// An absolute path, compared as it is written.
    pub path: String,
    /// What its arguments have to begin with; any may follow.
    pub args: Vec<String>,
}

/// The name of a variable, or what it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvPattern {
    name: String,
    is_prefix: bool,
}

/// Why a program may not be run as it is defined; says what to do. Quotes a name, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The program.
    #[error(
        "is not among the programs that may be run: add {} to `stdio_commands` in [admin] of metamcp.toml, and start the \
         gateway again",
        it(.0.as_deref(), "its absolute path")
    )]
    Command(Option<String>),
    /// The program may be run, with other arguments.
    #[error(
        "may be run only with the arguments first that `stdio_commands` in [admin] of metamcp.toml has behind it: begin with \
         those, or add these there and start the gateway again"
    )]
    Args,
    /// A variable that is not listed.
    #[error(
        "sets the variable {0:?}, which is not among those that may be set: add its name, or its beginning and `*`, to \
         `stdio_env` in [admin] of metamcp.toml, and start the gateway again"
    )]
    Variable(String),
    /// A variable that is as good as another program.
    #[error(
        "sets the variable {0:?}, which decides what a program loads, runs or trusts, so `stdio_env` cannot allow it: leave \
         it out, or define the server in metamcp.toml"
    )]
    Steering(String),
    /// The working directory.
    #[error(
        "is not among the directories that programs may be run in: leave it out, or add {} to `stdio_dirs` in [admin] of \
         metamcp.toml, and start the gateway again",
        it(.0.as_deref(), "its absolute path")
    )]
    Dir(Option<String>),
}

/// What is wrong with what somebody wants to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No name.
    #[error(
        "is not the name of a variable, nor the beginning of one and `*`; write \"GITHUB_TOKEN\" or \"ACME_*\""
    )]
    Form,
    /// Not to be allowed.
    #[error(
        "decides what a program loads, runs or trusts: whoever may set it runs what they like, through any program; set it \
         in a server of metamcp.toml instead"
    )]
    Steering,
}

impl Allowed {
    /// Whether a program may be run with these arguments.
    pub fn command(&self, path: &str, args: &[String]) -> Result<(), Forbidden> {
        let mut listed = self.commands.iter().filter(|command| command.path == path).peekable();
        if listed.peek().is_none() {
            return Err(Forbidden::Command(None));
        }
        if listed.any(|command| args.starts_with(&command.args)) { Ok(()) } else { Err(Forbidden::Args) }
    }

    /// Whether a program may be given a variable of that name.
    pub fn variable(&self, name: &str) -> Result<(), Forbidden> {
        let shown = || name.chars().take(SHOWN_CHARS_MAX).collect();
        if is_steering(name) {
            return Err(Forbidden::Steering(shown()));
        }
        let is_listed = is_plain(name) && self.env.iter().any(|pattern| pattern.covers(name));
        if is_listed { Ok(()) } else { Err(Forbidden::Variable(shown())) }
    }

    /// Whether a program may be run in that directory.
    pub fn dir(&self, dir: &str) -> Result<(), Forbidden> {
        if self.dirs.iter().any(|listed| listed == dir) { Ok(()) } else { Err(Forbidden::Dir(None)) }
    }
}

impl Forbidden {
    /// The same, for whoever does not see what was written: with the path.
    #[must_use]
    pub fn of(self, path: &str) -> Self {
        match self {
            // Only an absolute one can be listed.
            Self::Command(_) => Self::Command(path.starts_with('/').then(|| path.to_owned())),
            Self::Dir(_) => Self::Dir(Some(path.to_owned())),
            other => other,
        }
    }
}

impl EnvPattern {
    /// `GITHUB_TOKEN`, or `ACME_*`.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if !is_plain(name) {
            return Err(PatternError::Form);
        }
        // A beginning that some of them share with others is let pass: they are refused one by one.
        if is_steering(name) {
            return Err(PatternError::Steering);
        }
        Ok(Self { name: name.to_owned(), is_prefix })
    }

    fn covers(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

impl fmt::Display for AllowedCommand {
    /// Without the arguments, which may be tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.args.is_empty() { "" } else { " ..." })
    }
}

impl fmt::Display for EnvPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_prefix { "*" } else { "" })
    }
}

fn it(shown: Option<&str>, else_called: &str) -> String {
    shown.map_or_else(|| else_called.to_owned(), |path| format!("{path:?}"))
}

/// What every shell and loader takes for a name; `BASH_FUNC_x%%` and its like are none.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Some programs take them in lower case too.
fn is_steering(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    STEERING.contains(&name.as_str()) || STEERING_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Names that decide what a program loads, runs or trusts. The guard is the list of what is allowed, which is empty unless
/// somebody writes it; this one keeps that from being opened by a slip, so it need not know every program.
const STEERING: [&str; 41] = [
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

/// The same, by what their names begin with: loaders, shells, interpreters, and what fetches and builds packages.
const STEERING_FAMILIES: [&str; 34] = [
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

/// A name is told, a megabyte of it is not.
const SHOWN_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &[&str], name: &str, expected: Result<(), &str>) {
        let env = patterns.iter().map(|text| EnvPattern::new(text).expect("a pattern")).collect();
        let found = Allowed { env, ..Allowed::default() }.variable(name).map_err(|why| why.to_string());
        match (&found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(said)) => {
                assert!(found.contains(said) && found.contains("`stdio_env`"), "{name}: {found}");
            }
            _ => panic!("{patterns:?} {name}: {found:?}"),
        }
    }

    #[test]
    fn variables_are_those_that_are_listed() {
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
    fn what_steers_a_program_cannot_be_listed() {
        for text in
            ["LD_PRELOAD", "LD_*", "PATH", "BASH_ENV", "BASH*", "NODE_OPTIONS", "PYTHON*", "ld_preload"]
        {
            assert_eq!(EnvPattern::new(text), Err(PatternError::Steering), "{text}");
        }
        for text in ["", "*", "A*B", "A-B", "1A", "A=B", "A B", "**"] {
            assert_eq!(EnvPattern::new(text), Err(PatternError::Form), "{text}");
        }
    }

    #[test]
    fn arguments_begin_with_those_that_are_listed() {
        let command = |path: &str, args: &[&str]| AllowedCommand {
            path: path.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        let commands =
            vec![command("/bin/a", &[]), command("/bin/b", &["-y", "x"]), command("/bin/b", &["z"])];
        let allowed = Allowed { commands, ..Allowed::default() };
        let check = |path: &str, args: &[&str], expected: Result<(), Forbidden>| {
            assert_eq!(allowed.command(path, &command(path, args).args), expected, "{path} {args:?}");
        };
        check("/bin/a", &[], Ok(()));
        check("/bin/a", &["-e", "x"], Ok(()));
        check("/bin/b", &["-y", "x", "more"], Ok(()));
        check("/bin/b", &["z"], Ok(()));
        for args in [&[][..], &["-y"], &["x", "-y"], &["-y", "xx"]] {
            check("/bin/b", args, Err(Forbidden::Args));
        }
        check("/bin/c", &[], Err(Forbidden::Command(None)));
    }
}
