//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::place::Use;

/// Administers a metamcp installation: keys, servers, endpoints, what signs and seals. Works while the gateway runs.
#[derive(Debug, Parser)]
#[command(name = "keyadm", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Where everything is kept.
    #[command(flatten)]
    pub place: Place,
    /// Answers in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where everything is kept.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The gateway's data directory.
    #[arg(long, global = true, value_name = "DIR", help = DATA_DIR)]
    pub data_dir: Option<PathBuf>,
    /// The gateway's database, when it is not in the data directory.
    #[arg(long, global = true, value_name = "URL", help = DATABASE_URL)]
    pub database_url: Option<String>,
}

/// What the program is about.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Keys that sign tokens
    #[command(subcommand)]
    Jwt(Jwt),
    /// Seals everything in the database anew with the newest version of `ENCRYPTION_KEY`
    #[command(after_help = REKEY)]
    Rekey {
        /// First step: makes a new version in secrets.toml
        #[arg(long, conflicts_with = "drop_old")]
        add_version: bool,
        /// Last step: takes the old versions out of secrets.toml
        #[arg(long)]
        drop_old: bool,
    },
    /// Brings the database to the schema of this version; the gateway does so at its start as well
    Migrate,
    /// Looks for what is wrong with an installation, and says what to do
    #[command(
        after_help = "Exit codes: 0 when nothing is wrong (there may be warnings), 1 when something is."
    )]
    Doctor {
        /// The gateway's configuration file [default: as the gateway finds it]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Who changed what, newest first
    Audit(AuditArgs),
    /// Who used what
    Usage(UsageArgs),
    /// MCP servers in the database (not those of metamcp.toml or mcp.json)
    #[command(subcommand)]
    Servers(Servers),
    /// Endpoints in the database (not those of metamcp.toml)
    #[command(subcommand)]
    Endpoints(Endpoints),
    /// Takes over the servers, endpoints and API keys of a MetaMCP installation
    #[command(after_help = IMPORT)]
    ImportMetamcp {
        /// The database of this installation, if it is a server's [default: the gateway's: `$DATABASE_URL`, also from
        /// ./.env; else the one in the data directory]
        #[arg(long, value_name = "URL")]
        into: Option<String>,
        /// Says what would be done, and writes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Writes the completions of a shell, as in `keyadm completions bash > ~/.keyadm; . ~/.keyadm`
    Completions {
        /// For which shell
        shell: Shell,
    },
}

impl Command {
    /// What it does to the database. Of the commands that seal anew, those that change `secrets.toml` alone only look.
    pub fn used(&self) -> Use {
        match self {
            Self::Keys(Keys::List { .. } | Keys::Show(_))
            | Self::Jwt(Jwt::List)
            | Self::Rekey { add_version: true, .. }
            | Self::Rekey { drop_old: true, .. }
            | Self::Doctor { .. }
            | Self::Audit(_)
            | Self::Usage(_)
            | Self::Servers(
                Servers::Import(ImportServers { dry_run: true, .. })
                | Servers::There(ThereServers::List | ThereServers::Show(_) | ThereServers::Export { .. }),
            )
            | Self::Endpoints(Endpoints::List | Endpoints::Show(_))
            | Self::ImportMetamcp { dry_run: true, .. }
            | Self::Completions { .. } => Use::Read,
            Self::Keys(_)
            | Self::Jwt(_)
            | Self::Rekey { .. }
            | Self::Migrate
            | Self::Servers(_)
            | Self::Endpoints(_)
            | Self::ImportMetamcp { .. } => Use::Write,
        }
    }
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Makes a key and shows it, once
    Create(Create),
    /// Lists keys, never their secrets
    List {
        /// Also those switched off
        #[arg(long)]
        include_inactive: bool,
    },
    /// Shows one key
    Show(KeyRef),
    /// Switches a key on again; its old tokens stay dead
    Activate(KeyRef),
    /// Switches a key off; the gateway refuses it within a second, its tokens and open streams included
    Inactivate(KeyRef),
    /// Takes a key out for good; what it did stays in the audit log and the usage
    Delete {
        /// Which.
        #[command(flatten)]
        key: KeyRef,
        /// Without it nothing is done
        #[arg(long)]
        confirm: bool,
    },
    /// Makes a key in the place of another, with the same name and grants, and shows it, once
    Rotate {
        /// Which.
        #[command(flatten)]
        key: KeyRef,
        /// How long the old key goes on: 24h (s, m, h, d, w), or until a date [default: it is off at once]
        #[arg(long, value_name = "WHEN")]
        grace: Option<String>,
        /// When the new key ends, as in `create` [default: when the old one would have]
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
}

/// A key.
#[derive(Debug, Args)]
pub struct KeyRef {
    /// The 12 characters between `mcp_` and the next `_`, or the UUID
    pub id: String,
}

/// A key to be made.
#[derive(Debug, Args)]
pub struct Create {
    /// For people: shown in lists, logs and traces
    #[arg(long)]
    pub name: String,
    /// What it is for
    #[arg(long, default_value = "")]
    pub description: String,
    /// client: lists and calls tools. admin: administers over HTTP, too
    #[arg(long, value_enum, default_value = "client")]
    pub scope: Scope,
    /// The same as --scope admin
    #[arg(long, conflicts_with = "scope")]
    pub admin: bool,
    /// Only these endpoints; servers/NAME for a server's own path [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// Only tools with such names, as the client sees them; * for any characters, ? for one [default: all]
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = ',')]
    pub tools: Vec<String>,
    /// Calls a second on average, and at once after a pause [default: unlimited; BURST: the same as N]
    #[arg(long, value_name = "N[/BURST]")]
    pub rate: Option<String>,
    /// Calls at once [default: the gateway's limit]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// When it ends: 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Calls tools.
    Client,
    /// Administers, and calls tools.
    Admin,
}

/// What can be done with the keys that sign tokens.
#[derive(Debug, Subcommand)]
pub enum Jwt {
    /// Lists them, never their secrets
    List,
    /// Makes a new key, waits until every replica knows it, and has it sign. No token is refused meanwhile, and
    /// those of the old key stay good. Broken off, it is run again and goes on
    Rotate {
        /// How long replicas are given to learn of the new key
        #[arg(long, value_name = "DURATION", default_value = "10s")]
        wait: String,
    },
    /// Takes out a key that does not sign: its tokens are refused at once
    Delete {
        /// Which
        // One in 64 begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Without it nothing is done
        #[arg(long)]
        confirm: bool,
    },
}

/// Which changes are asked for.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// A key id, keyadm:USER, or metamcp
    #[arg(long)]
    pub actor: Option<String>,
    /// As in the list: key.create, server.replace, …
    #[arg(long)]
    pub action: Option<String>,
    /// `key`, `server`, `endpoint` or `jwt_key`; with `:ID` one of them
    #[arg(long, value_name = "KIND[:ID]")]
    pub object: Option<String>,
    /// From then on: 24h ago (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Before then
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// No more than so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

/// Which counters are asked for.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Only this key
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// Only this server
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// Only this tool
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// From then on: 24h ago (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "30d")]
    pub since: String,
    /// Before then
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Each hour by itself
    #[arg(long)]
    pub hourly: bool,
}

/// What can be done with servers.
#[derive(Debug, Subcommand)]
pub enum Servers {
    /// Adds one, checked as the REST API checks it
    Add(AddServer),
    /// Adds those of an `mcpServers` file; a mistake in one does not stop the others
    #[command(after_help = IMPORT_SERVERS)]
    Import(ImportServers),
    /// What can be done with those that are there.
    #[command(flatten)]
    There(ThereServers),
}

/// What can be done with servers that are there.
#[derive(Debug, Subcommand)]
pub enum ThereServers {
    /// Lists them
    List,
    /// Shows one, never its credentials
    Show(NameRef),
    /// Has the gateway use it again
    Enable(NameRef),
    /// Has the gateway leave it alone
    Disable(NameRef),
    /// Takes it out, also of every endpoint
    Remove {
        /// Which.
        #[command(flatten)]
        server: NameRef,
        /// Without it nothing is done
        #[arg(long)]
        confirm: bool,
    },
    /// Shows which of its tools are not as they were approved, and approves them
    #[command(after_help = APPROVE)]
    Approve(ApproveArgs),
    /// Writes them as `mcpServers` JSON, without their credentials
    Export {
        /// Only these [default: all]
        servers: Vec<String>,
    },
}

/// What is to be approved.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The server's name, also of one that is defined in a file; or the UUID of one in the database
    pub name: String,
    /// Only this one, by the server's own name of it; may be given several times
    #[arg(long, value_name = "NAME")]
    pub tool: Vec<String>,
    /// Only if it is still as it was shown: the digest of the one tool that is named
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// Shows what waits, and approves nothing
    #[arg(long)]
    pub show: bool,
}

/// A server to be added.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("kind").required(true).args(["url", "command"])))]
pub struct AddServer {
    /// Letters, digits, `-` and single `_`; its tools are called `NAME__TOOL`
    pub name: String,
    /// `http://…`, `https://…`, or `unix:/path/to/socket:/mcp`
    #[arg(long)]
    pub url: Option<String>,
    /// The absolute path of a program; a gateway runs it where its `admin.stdio_commands` has it
    #[arg(long, value_name = "PATH")]
    pub command: Option<String>,
    /// Of a program: its variables, as in `TOKEN=…`, one in a line; - reads the standard input
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Of a program: the absolute path of its working directory
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// Sent with every request, as in 'X-Team: a'; not for secrets, since whoever is on the machine sees it
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// A file of headers, as in `Authorization: Bearer …`, one in a line; - reads the standard input
    #[arg(long, value_name = "FILE", help = HEADER_FILE)]
    pub header_file: Option<PathBuf>,
    /// Which revisions it is asked in [default: auto]
    #[arg(long, value_enum)]
    pub era: Option<Era>,
    /// Its address may be a private one
    #[arg(long)]
    pub allow_private: bool,
    /// Of a program: its arguments, behind `--`; not for secrets, since whoever is on the machine sees them
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Servers to be added.
#[derive(Debug, Args)]
pub struct ImportServers {
    /// As MCP clients keep it; - reads the standard input
    pub file: PathBuf,
    /// In the place of servers that are there under such names
    #[arg(long)]
    pub replace: bool,
    /// Their addresses may be private ones
    #[arg(long)]
    pub allow_private: bool,
    /// Says what would be done, and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which revisions a server is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Era {
    /// Found out.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

/// What can be done with endpoints.
#[derive(Debug, Subcommand)]
pub enum Endpoints {
    /// Lists them
    List,
    /// Shows one with its servers, filters and overrides
    Show(NameRef),
    /// Takes it out; its servers stay
    Remove {
        /// Which.
        #[command(flatten)]
        endpoint: NameRef,
        /// Without it nothing is done
        #[arg(long)]
        confirm: bool,
    },
}

/// A server or an endpoint.
#[derive(Debug, Args)]
pub struct NameRef {
    /// Its name or UUID
    pub name: String,
}

const DATA_DIR: &str = "The gateway's data directory; with --database-url, where its secrets are \
                        [default: $METAMCP_DATA_DIR, else $XDG_DATA_HOME/metamcp, else ~/.local/share/metamcp]";
const DATABASE_URL: &str = "postgres://…: the gateway's database, when it is not in the data directory \
                            [default: $DATABASE_URL, as the gateway has it]";

const HEADER_FILE: &str = "Headers that are secrets, one in a line as in 'Authorization: Bearer …'; - reads the standard \
                           input. All headers are sealed in the database";

const REKEY: &str = "\
With secrets.toml in the data directory:
  keyadm rekey --add-version    then restart every gateway: it seals with the new version and opens both
  keyadm rekey                  while they run; broken off, it is run again
  keyadm rekey --drop-old       then restart every gateway: what the old version sealed is lost

With ENCRYPTION_KEY in the environment: give gateways and keyadm ENCRYPTION_KEY=\"2:<new>,1:<old>\" (the first
one seals, all open), run `keyadm rekey`, and leave the old one out at the next restart. With several replicas
restart all of them with \"1:<old>,2:<new>\" first, so that none meets a session id it cannot open.

Exit codes: 0 everything is sealed by the newest version, 65 something no given version opens was left as it is.";

const IMPORT: &str = "\
Here --database-url names MetaMCP's database, which is only read. Keys that were on keep working,
on the endpoints they opened; `keyadm keys rotate` replaces them one by one. Run again, it takes over what is new.

  keyadm import-metamcp --database-url postgres://metamcp@old/metamcp --data-dir /var/lib/metamcp --dry-run

Exit codes: 0 done, 65 some things could not be taken over (all the others were).";

const IMPORT_SERVERS: &str = "\
Variables (${...}) are not put in: write the value itself. Entries that are switched off or of a kind that this version
does not serve are left out, and it is said.

Exit codes: 0 done, 65 some servers could not be added (all the others were).";

const APPROVE: &str = "\
What a server says of its tools is approved when it is listed for the first time. What changes later waits here where the
server has `changed_tools = \"quarantine\"`: such a tool is neither shown nor called. Look at what it says now, as the gateway
passes it at /servers/NAME/mcp, then approve it:
  keyadm servers approve github --show
  keyadm servers approve github --tool create_issue --digest 5e88…";

const EXAMPLES: &str = "\
Examples:
  keyadm keys create --name laptop
  keyadm keys create --name ci --endpoint team --tools 'github__*' --rate 10/50 --expires 30d --json
  keyadm keys rotate 4fT0sQbW91Lk --grace 24h
  keyadm keys inactivate 4fT0sQbW91Lk
  keyadm servers add github --url https://api.example.com/mcp --header-file headers.txt
  keyadm servers import ~/.cursor/mcp.json --dry-run
  keyadm audit --object key --since 7d
  keyadm doctor

The environment is read as the gateway reads it, also from ./.env: DATABASE_URL METAMCP_DATA_DIR ENCRYPTION_KEY.
Secrets: ENCRYPTION_KEY, else the file secrets.toml in the data directory.
Exit codes: 0 done, 1 doctor found something wrong, 64 wrong usage, 65 wrong data (no such key, wrong
ENCRYPTION_KEY), 69 store not available, 74 the result could not be written.";
