//! The command line. Doc comments without a full stop are help texts.
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// What a command does to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Writes to it; the command prints to which database.
    Write,
}

/// Administers a metamcp installation: API keys, servers, endpoints and secrets. Works while the gateway runs.
#[derive(Debug, Parser)]
#[command(name = "keyadm", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub location: Location,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// The location of the installation.
#[derive(Debug, Clone, Args)]
pub struct Location {
    #[arg(long, global = true, value_name = "DIR", help = DATA_DIR)]
    pub data_dir: Option<PathBuf>,
    #[arg(long, global = true, value_name = "URL", help = DATABASE_URL)]
    pub database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, show, change and revoke API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Manage the keys that sign tokens
    #[command(subcommand)]
    Jwt(Jwt),
    /// Seal everything in the database again, with the newest version of `ENCRYPTION_KEY`
    #[command(after_help = REKEY)]
    Rekey {
        /// First step: add a new version to secrets.toml
        #[arg(long, conflicts_with = "drop_old")]
        add_version: bool,
        /// Last step: remove the old versions from secrets.toml
        #[arg(long)]
        drop_old: bool,
    },
    /// Migrate the database to the schema of this version, as the gateway does when it starts
    Migrate,
    /// Check the installation for problems, and show how to solve them
    #[command(after_help = "Exit codes: 0 no problems (there may be warnings), 1 problems were found.")]
    Doctor {
        /// The gateway's configuration file [default: the one the gateway would find]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the audit log, newest entries first
    Audit(AuditArgs),
    /// Show usage counters by key, server and tool
    Usage(UsageArgs),
    /// Manage MCP servers in the database (not those in metamcp.toml or mcp.json)
    #[command(subcommand)]
    Servers(Servers),
    /// Manage endpoints in the database (not those in metamcp.toml)
    #[command(subcommand)]
    Endpoints(Endpoints),
    /// Import the servers, endpoints and API keys of a MetaMCP installation
    #[command(after_help = IMPORT)]
    ImportMetamcp {
        /// The database of this installation, if it is on a server [default: the gateway's: `$DATABASE_URL`, also from
        /// ./.env; else the one in the data directory]
        #[arg(long, value_name = "URL")]
        into: Option<String>,
        /// Show what would be done, and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print shell completions, for example: `keyadm completions bash > ~/.keyadm; . ~/.keyadm`
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
}

impl Command {
    /// Returns how the command uses the database. `rekey --add-version` and `--drop-old` write to `secrets.toml` only.
    pub fn access(&self) -> Access {
        match self {
            Self::Keys(Keys::List { .. } | Keys::Show(_))
            | Self::Jwt(Jwt::List)
            | Self::Rekey { add_version: true, .. }
            | Self::Rekey { drop_old: true, .. }
            | Self::Doctor { .. }
            | Self::Audit(_)
            | Self::Usage(_)
            | Self::Servers(
                Servers::Import(ImportServersArgs { dry_run: true, .. })
                | Servers::Existing(
                    ExistingServers::List | ExistingServers::Show(_) | ExistingServers::Export { .. },
                ),
            )
            | Self::Endpoints(Endpoints::List | Endpoints::Show(_))
            | Self::ImportMetamcp { dry_run: true, .. }
            | Self::Completions { .. } => Access::Read,
            Self::Keys(_)
            | Self::Jwt(_)
            | Self::Rekey { .. }
            | Self::Migrate
            | Self::Servers(_)
            | Self::Endpoints(_)
            | Self::ImportMetamcp { .. } => Access::Write,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Create a key and print it, once
    Create(CreateKeyArgs),
    /// List keys, without their secrets
    List {
        /// Include keys that are inactive
        #[arg(long)]
        include_inactive: bool,
    },
    /// Show one key, without its secret
    Show(KeyArg),
    /// Activate a key again; tokens from before stay revoked
    Activate(KeyArg),
    /// Deactivate a key; within a second the gateway refuses it, revokes its tokens and closes its streams
    Inactivate(KeyArg),
    /// Delete a key for good; its entries in the audit log and in the usage counters stay
    Delete {
        #[command(flatten)]
        key: KeyArg,
        /// Required; without it, nothing is deleted
        #[arg(long)]
        confirm: bool,
    },
    /// Replace a key by a new one with the same name and grants, and print the new one, once
    Rotate {
        #[command(flatten)]
        key: KeyArg,
        /// How long the old key stays valid: 24h (s, m, h, d, w), or until a date [default: not at all]
        #[arg(long, value_name = "WHEN")]
        grace: Option<String>,
        /// When the new key expires, as in `create` [default: when the old one would have]
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct KeyArg {
    /// The 12 characters between `mcp_` and the next `_`, or the UUID
    pub id: String,
}

#[derive(Debug, Args)]
pub struct CreateKeyArgs {
    /// A name for people, shown in lists, logs and traces
    #[arg(long)]
    pub name: String,
    /// What the key is for
    #[arg(long, default_value = "")]
    pub description: String,
    /// client: list and call tools; admin: administer over HTTP as well
    #[arg(long, value_enum, default_value = "client")]
    pub scope: Scope,
    /// The same as --scope admin
    #[arg(long, conflicts_with = "scope")]
    pub admin: bool,
    /// Allow only these endpoints; servers/NAME for a server's own path [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// Allow only tools with these names, as the client sees them; * matches any characters, ? one [default: all]
    #[arg(long, value_name = "GLOB", num_args = 1.., value_delimiter = ',')]
    pub tools: Vec<String>,
    /// Calls per second on average, and the burst allowed after a pause [default: unlimited; BURST: the same as N]
    #[arg(long, value_name = "N[/BURST]")]
    pub rate: Option<String>,
    /// Calls in flight at once, without event streams that stay open [default: the gateway's limit]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// When the key expires: 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// List and call tools.
    Client,
    /// Administer over HTTP, and call tools.
    Admin,
}

#[derive(Debug, Subcommand)]
pub enum Jwt {
    /// List the keys, without their secrets
    List,
    /// Create a new key, wait until every replica knows it, and sign with it from then on. Tokens of the old key stay
    /// valid. If it is interrupted, run it again to continue
    Rotate {
        /// How long to wait for replicas to learn the new key
        #[arg(long, value_name = "DURATION", default_value = "10s")]
        wait: String,
    },
    /// Delete a key that does not sign; its tokens are refused at once
    Delete {
        /// The id of the key
        // One in 64 begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Required; without it, nothing is deleted
        #[arg(long)]
        confirm: bool,
    },
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only changes by this actor: a key id, keyadm:USER, or metamcp
    #[arg(long)]
    pub actor: Option<String>,
    /// Only this action, as shown in the list: key.create, server.replace, …
    #[arg(long)]
    pub action: Option<String>,
    /// Only objects of this kind: `key`, `server`, `endpoint` or `jwt_key`; with `:ID`, only one of them
    #[arg(long, value_name = "KIND[:ID]")]
    pub object: Option<String>,
    /// Only from this time on: 24h ago (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Show at most this many entries
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Count only this key's calls
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// Count only calls to this server
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// Count only calls of this tool
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// Only from this time on: 24h ago (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "30d")]
    pub since: String,
    /// Only before this time
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Show each hour separately
    #[arg(long)]
    pub hourly: bool,
}

#[derive(Debug, Subcommand)]
pub enum Servers {
    /// Add a server, with the same checks as in the REST API
    Add(AddServerArgs),
    /// Add the servers of an `mcpServers` file; an invalid entry does not stop the others
    #[command(after_help = IMPORT_SERVERS)]
    Import(ImportServersArgs),
    #[command(flatten)]
    Existing(ExistingServers),
}

/// Commands for servers that are in the database.
#[derive(Debug, Subcommand)]
pub enum ExistingServers {
    /// List all servers, with their state
    List,
    /// Show one server, without its credentials
    Show(NameArg),
    /// Let gateways serve a disabled server again
    Enable(NameArg),
    /// Stop gateways from serving a server
    Disable(NameArg),
    /// Remove a server, also from every endpoint
    Remove {
        #[command(flatten)]
        server: NameArg,
        /// Required; without it, nothing is removed
        #[arg(long)]
        confirm: bool,
    },
    /// Show which tools of a server differ from what was approved, and approve them
    #[command(after_help = APPROVE)]
    Approve(ApproveArgs),
    /// Print servers as `mcpServers` JSON, without their credentials
    Export {
        /// Only these servers [default: all]
        servers: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The server's name, whether it is in the database or in a file; or the UUID of one in the database
    pub name: String,
    /// Only this tool, by the server's own name for it; may be repeated
    #[arg(long, value_name = "NAME")]
    pub tool: Vec<String>,
    /// Only if the tool has not changed since it was shown: the digest that was shown for it
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// Show what waits, and approve nothing
    #[arg(long)]
    pub show: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("kind").required(true).args(["url", "command"])))]
pub struct AddServerArgs {
    /// Letters, digits, `-` and single `_`; tools are listed as `NAME__TOOL`
    pub name: String,
    /// `http://…`, `https://…`, or `unix:/path/to/socket:/mcp`
    #[arg(long)]
    pub url: Option<String>,
    /// The absolute path of a program; a gateway runs it only if its `admin.stdio_commands` allows it
    #[arg(long, value_name = "PATH")]
    pub command: Option<String>,
    /// With --command: a file of environment variables, one `TOKEN=…` on each line; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// With --command: the absolute path of the working directory
    #[arg(long, value_name = "PATH")]
    pub cwd: Option<String>,
    /// Sent with every request, as in 'X-Team: a'; not for secrets, since other users of the machine can see it
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    #[arg(long, value_name = "FILE", help = HEADER_FILE)]
    pub header_file: Option<PathBuf>,
    /// The protocol revisions that the server speaks [default: auto]
    #[arg(long, value_enum)]
    pub era: Option<EraArg>,
    /// Allow a private address
    #[arg(long)]
    pub allow_private: bool,
    /// With --command: its arguments, after `--`; not for secrets, since other users of the machine can see them
    #[arg(last = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ImportServersArgs {
    /// A file in the format of MCP clients; - reads standard input
    pub file: PathBuf,
    /// Replace servers that have the same names
    #[arg(long)]
    pub replace: bool,
    /// Allow addresses of private networks
    #[arg(long)]
    pub allow_private: bool,
    /// Show what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EraArg {
    /// Detect what the server speaks.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

#[derive(Debug, Subcommand)]
pub enum Endpoints {
    /// List all endpoints, with their servers
    List,
    /// Show one endpoint with its servers, filters and overrides
    Show(NameArg),
    /// Remove an endpoint; its servers stay
    Remove {
        #[command(flatten)]
        endpoint: NameArg,
        /// Required; without it, nothing is removed
        #[arg(long)]
        confirm: bool,
    },
}

#[derive(Debug, Args)]
pub struct NameArg {
    /// The name or UUID
    pub name: String,
}

const DATA_DIR: &str = "The gateway's data directory; with --database-url, the directory of its secrets \
                        [default: $METAMCP_DATA_DIR, else $XDG_DATA_HOME/metamcp, else ~/.local/share/metamcp]";
const DATABASE_URL: &str = "postgres://…: the gateway's database, if it is not in the data directory \
                            [default: $DATABASE_URL, read in the same way as by the gateway]";

const HEADER_FILE: &str = "A file of headers, one on each line as in 'Authorization: Bearer …', for secrets; - reads \
                           standard input. All headers are sealed in the database";

const REKEY: &str = "\
With secrets.toml in the data directory:
  keyadm rekey --add-version    then restart every gateway: they seal with the new version and open both
  keyadm rekey                  while they run; if it is interrupted, run it again
  keyadm rekey --drop-old       then restart every gateway: what is sealed with the old version is lost

With ENCRYPTION_KEY in the environment: set ENCRYPTION_KEY=\"2:<new>,1:<old>\" for gateways and keyadm (the first version
seals, all of them open), run `keyadm rekey`, and remove the old version at the next restart. With several replicas,
restart all of them with \"1:<old>,2:<new>\" first, so that each can open the session ids of the others.

Exit codes: 0 everything is sealed with the newest version, 65 some values were left, since no version opens them.";

const IMPORT: &str = "\
Here --database-url names MetaMCP's database, which is only read. Active keys keep working, on the endpoints they had
access to; replace them one by one with `keyadm keys rotate`. A second run imports what is new.

  keyadm import-metamcp --database-url postgres://metamcp@old/metamcp --data-dir /var/lib/metamcp --dry-run

Exit codes: 0 done, 65 some items could not be imported (all others were).";

const IMPORT_SERVERS: &str = "\
Variables (${...}) are not expanded: write the actual values. Disabled entries and entries of an unsupported kind are
skipped and listed.

Exit codes: 0 done, 65 some servers could not be added (all others were).";

const APPROVE: &str = "\
Tool definitions are approved when a gateway first lists them. If the server has `changed_tools = \"quarantine\"`, a tool
that changes later is neither listed nor called until it is approved here. Read its new definition at /servers/NAME/mcp,
then approve it:
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

Environment, also read from ./.env as the gateway does: DATABASE_URL METAMCP_DATA_DIR ENCRYPTION_KEY.
Secrets: ENCRYPTION_KEY, else the file secrets.toml in the data directory.
Exit codes: 0 done, 1 doctor found problems, 64 invalid usage, 65 invalid data (no such key, wrong
ENCRYPTION_KEY), 69 store not available, 74 cannot write the result.";
