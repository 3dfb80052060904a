//! The command line.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, CommandFactory, Parser, Subcommand};

use zeroize::Zeroizing;

use super::types::{EXIT_USAGE, LogFormat};
use metamcp_core::base::EndpointName;

/// What `--version` prints: the version, and the commit if `tools/release` built the program. It sets the variable while it
/// compiles; other builds need no git.
pub const BUILD_VERSION: &str = match option_env!("METAMCP_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The command line of `metamcp`.
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "metamcp",
    version = BUILD_VERSION,
    about = "One authenticated endpoint in front of many MCP servers",
    after_help = AFTER_HELP,
    max_term_width = 110
)]
pub struct Cli {
    /// The command; `serve` by default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Accepted before and after the command.
    #[command(flatten)]
    pub flags: Flags,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve until told to stop (the default command)
    Serve,
    /// Read the configuration, print what would be served and every error, and exit
    Check,
    /// Serve the client that started this process over standard input and output, without a port; exits with
    /// the client
    Stdio(StdioArgs),
    /// Connect the client that started this process to a remote MCP endpoint: standard input and output to
    /// Streamable HTTP
    #[command(after_help = CONNECT_HELP)]
    Connect(ConnectArgs),
}

/// Arguments of `metamcp stdio`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StdioArgs {
    /// The endpoint to serve [default: the one with every server]
    #[arg(long, value_name = "NAME", value_parser = EndpointName::new)]
    pub endpoint: Option<EndpointName>,
}

/// Arguments of `metamcp connect`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(args = gateway_flags())]
pub struct ConnectArgs {
    /// The address of the endpoint
    #[arg(
        value_name = "URL",
        help = "Where the endpoint is: http://host/path, https://host/path or unix:/path/to/socket:/mcp"
    )]
    pub url: Secret,
    /// Sent as `Authorization: Bearer KEY`. Other users of this machine can read a command line;
    /// `METAMCP_KEY` and --key-file avoid that
    #[arg(long, value_name = "KEY")]
    pub key: Option<Secret>,
    /// A file that contains the key and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub key_file: Option<PathBuf>,
    /// Sent with every request; ${VARIABLE} in the value is expanded. May be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Vec<Secret>,
    /// How long the endpoint may take to respond, and between two parts of a response, in seconds [default:
    /// 3600]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// The command line of the `metamcp-connect` program.
#[derive(Debug, Parser)]
#[command(
    name = "metamcp-connect",
    version = BUILD_VERSION,
    about = "Connect the client that started this program to a remote MCP endpoint: standard input and output to \
             Streamable HTTP",
    after_help = CONNECT_HELP,
    max_term_width = 110
)]
pub struct ConnectCli {
    #[command(flatten)]
    pub args: ConnectArgs,
    /// How log lines are written to standard error [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// An argument that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Flags of every command. They take precedence over the environment, which takes precedence over the file.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// The configuration file [default: ./metamcp.toml, or metamcp.toml in the data directory, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// A file with `mcpServers`, as MCP clients use it [default: ./mcp.json, or mcp.json in the data
    /// directory, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub mcp_json: Option<PathBuf>,
    /// The directory of the database and the generated secrets [default: ~/.local/share/metamcp]
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// The IP address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", global = true, value_parser = parse_host)]
    pub host: Option<IpAddr>,
    /// The port to listen on; 0 takes a free one [default: 12009]
    #[arg(long, value_name = "PORT", global = true)]
    pub port: Option<u16>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", global = true)]
    pub workers: Option<usize>,
    /// Require no key; only when listening on loopback
    #[arg(long, global = true)]
    pub no_auth: bool,
    /// The format of log lines [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

impl Cli {
    /// Returns the command, `serve` by default.
    pub fn chosen(&self) -> Command {
        self.command.clone().unwrap_or(Command::Serve)
    }
}

/// Parses the command line of this process. Prints help, or the error, and exits: with 0 for help and
/// version, with 64 (`EX_USAGE`) for an error.
pub fn parse<C: Parser>() -> C {
    C::try_parse().unwrap_or_else(|error| {
        // If printing fails, the exit code still tells the result.
        let _ = error.print();
        std::process::exit(if error.use_stderr() { EXIT_USAGE.into() } else { 0 })
    })
}

/// The flags that have no meaning without a gateway. `metamcp connect` accepts them, but its help does not
/// show them.
fn gateway_flags() -> Vec<clap::Arg> {
    let flags = Flags::augment_args(clap::Command::new("gateway"));
    let of_gateway = flags.get_arguments().filter(|flag| flag.get_id() != "log_format");
    of_gateway.map(|flag| flag.clone().hide(true)).collect()
}

/// The text of `--help`, for documentation and tests.
pub fn help() -> String {
    Cli::command().render_long_help().to_string()
}

/// Parses an IP address, with or without the brackets of a URL, or `localhost`.
pub(super) fn parse_host(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(super::defaults::HOST);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| HOST_FORM.to_owned())
}

pub(super) const HOST_FORM: &str = "is not an IP address; write 127.0.0.1 (this machine only), 0.0.0.0 or :: (every interface), or one of this machine's";

const CONNECT_HELP: &str = "\
Ends when its standard input is closed, after what is under way was answered: 60 seconds at most, and 2 where the endpoint
asks the client something, which nobody can answer any more. SIGTERM and SIGINT end it at once.

Environment, also from ./.env:
  METAMCP_KEY  the key, where neither --key nor --key-file is given
  RUST_LOG     what is logged";

const AFTER_HELP: &str = "\
Examples:
  metamcp                                  start; the first time, print an API key
  metamcp --mcp-json ~/.cursor/mcp.json    put a client's servers behind one endpoint
  metamcp --no-auth                        first steps on one's own machine
  metamcp check --config metamcp.toml      say what would be served, and every mistake
  metamcp stdio                            the same for one client, which starts it: no port, no key
  metamcp connect https://host/mcp         a client that starts programs, to an endpoint elsewhere

Environment, also from ./.env:
  DATABASE_URL ENCRYPTION_KEY JWT_SECRET METAMCP_DATA_DIR METAMCP_KEY METAMCP_SHARED_DATABASE RUST_LOG
  SERVER_HOST SERVER_PORT

Clients reach every server at http://127.0.0.1:12009/mcp with the header
  Authorization: Bearer KEY

Every key of metamcp.toml is described in docs/CONFIGURATION.md.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reads_flags_before_and_after_the_command() {
        let check = |line: &str, command, port| {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!((cli.chosen(), cli.flags.port), (command, port), "{line}");
        };
        check("metamcp", Command::Serve, None);
        check("metamcp serve", Command::Serve, None);
        check("metamcp --port 1", Command::Serve, Some(1));
        check("metamcp serve --port 1", Command::Serve, Some(1));
        check("metamcp --port 1 check", Command::Check, Some(1));
        check("metamcp check --port 1", Command::Check, Some(1));
        let endpoint = EndpointName::new("team").ok();
        check("metamcp stdio --port 1", Command::Stdio(StdioArgs { endpoint: None }), Some(1));
        check("metamcp stdio --endpoint team", Command::Stdio(StdioArgs { endpoint }), None);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in [
            "metamcp --prot 1",
            "metamcp start",
            "metamcp --port 70000",
            "metamcp --host example.com",
            "metamcp connect",
            "metamcp connect http://a --key b --key-file c",
            "metamcp connect http://a --timeout soon",
            "metamcp stdio --endpoint a/b",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap_err().use_stderr(), "{line}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let line = "metamcp connect https://a/hunter2 --key hunter2 --header A=hunter2";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"), "{cli:?}");
        let Command::Connect(args) = cli.chosen() else { panic!("{cli:?}") };
        assert_eq!(args.key.unwrap().expose(), "hunter2");
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expected: Option<&str>| {
            let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(parse_host(text).ok(), expected, "{text}");
        };
        check("127.0.0.1", Some("127.0.0.1"));
        check("localhost", Some("127.0.0.1"));
        check("::1", Some("::1"));
        check("[::1]", Some("::1"));
        check("", None);
        check("[]", None);
        check("127.0.0.1:80", None);
        check("example.com", None);
    }

    #[test]
    fn connect_shows_its_own_flags_alone() {
        let mut all = Cli::command();
        all.build();
        let help = all.find_subcommand_mut("connect").unwrap().render_long_help().to_string();
        for (part, expected) in [
            ("--key-file", true),
            ("--log-format", true),
            ("60 seconds", true),
            ("--config", false),
            ("--mcp-json", false),
            ("--data-dir", false),
            ("--host", false),
            ("--port", false),
            ("--workers", false),
            ("--no-auth", false),
        ] {
            assert_eq!(help.contains(part), expected, "{part}: {help}");
        }
        let cli = Cli::try_parse_from("metamcp --port 1 connect http://a --data-dir b".split(' ')).unwrap();
        assert_eq!((cli.flags.port, cli.flags.data_dir), (Some(1), Some("b".into())), "they are taken");
    }

    #[test]
    fn help_shows_examples_and_environment() {
        for part in ["Examples:", "--mcp-json", "METAMCP_DATA_DIR", "check"] {
            assert!(help().contains(part), "{part}");
        }
    }
}
