use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::LogFormat;

/// The command line of `metamcp`, as it was written.
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "metamcp",
    version,
    about = "One authenticated endpoint in front of many MCP servers",
    after_help = AFTER_HELP,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do; `serve` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Accepted before and after the command.
    #[command(flatten)]
    pub flags: Flags,
}

/// What the program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve until told to stop (what happens without a command)
    Serve,
    /// Read the configuration, say what would be served and every mistake in it, and start nothing
    Check,
}

/// The flags of every command. They win over the environment, which wins over the file.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// The configuration file [default: ./metamcp.toml, else metamcp.toml in the data directory, if there]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// A file with `mcpServers`, as MCP clients keep it [default: ./mcp.json, else mcp.json in the data
    /// directory, if there]
    #[arg(long, value_name = "FILE", global = true)]
    pub mcp_json: Option<PathBuf>,
    /// Where the database and the generated secrets are [default: ~/.local/share/metamcp]
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
    /// Ask nobody for a key; only when listening on loopback
    #[arg(long, global = true)]
    pub no_auth: bool,
    /// How log lines are written [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

impl Cli {
    /// The command that was given, or the usual one.
    pub fn chosen(&self) -> Command {
        self.command.unwrap_or(Command::Serve)
    }
}

/// Reads the command line of this process. Prints help or a mistake and ends the process where that is
/// what was asked for: with 0 for help and version, with 64 (`EX_USAGE`) for a mistake.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        // If even this cannot be written, the exit code still tells.
        let _ = error.print();
        std::process::exit(if error.use_stderr() { super::EXIT_USAGE.into() } else { 0 })
    })
}

/// The text of `--help`, for documentation and tests.
pub fn help() -> String {
    Cli::command().render_long_help().to_string()
}

/// An IP address, with or without the brackets of a URL, or `localhost`.
pub(super) fn parse_host(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(super::defaults::HOST);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| HOST_FORM.to_owned())
}

pub(super) const HOST_FORM: &str = "is not an IP address; write 127.0.0.1 (this machine only), 0.0.0.0 or :: (every interface), or one of this machine's";

const AFTER_HELP: &str = "\
Examples:
  metamcp                                  start; the first time, print an API key
  metamcp --mcp-json ~/.cursor/mcp.json    put a client's servers behind one endpoint
  metamcp --no-auth                        first steps on one's own machine
  metamcp check --config metamcp.toml      say what would be served, and every mistake

Environment, also from ./.env:
  DATABASE_URL ENCRYPTION_KEY JWT_SECRET METAMCP_DATA_DIR RUST_LOG SERVER_HOST SERVER_PORT

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
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in
            ["metamcp --prot 1", "metamcp start", "metamcp --port 70000", "metamcp --host example.com"]
        {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap_err().use_stderr(), "{line}");
        }
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
    fn help_shows_examples_and_environment() {
        for part in ["Examples:", "--mcp-json", "METAMCP_DATA_DIR", "check"] {
            assert!(help().contains(part), "{part}");
        }
    }
}
