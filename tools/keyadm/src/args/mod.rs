//! The command line. Doc comments without a full stop are help texts.

mod help_texts;
mod keys;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use metamcp_config::BUILD_VERSION;

use help_texts::{
    ADD_ENDPOINT, APPROVE, DATA_DIR, DATABASE_URL, EDIT_ENDPOINT, EDIT_SERVER, EXAMPLES, HEADER_FILE, IMPORT,
    IMPORT_SERVERS, REKEY,
};
pub use keys::{CreateKeyArgs, KeyField, KeyLimits, Keys, Scope, SetKeyArgs};

/// What a command does to the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Writes to it; the command prints to which database.
    Write,
}

/// Administers a metamcp installation: API keys, servers, endpoints and secrets. Works while the gateway runs.
#[derive(Debug, Parser)]
#[command(name = "keyadm", version = BUILD_VERSION, max_term_width = 100, after_help = EXAMPLES)]
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
    /// Copy the embedded database to a new file, also while the gateway runs
    Backup {
        /// A file that does not exist yet
        file: PathBuf,
    },
    /// Check the installation for problems, and show how to solve them
    #[command(after_help = "Exit codes: 0 no problems (there may be warnings), 1 problems were found.")]
    Doctor {
        /// The gateway's configuration file [default: the one the gateway would find]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the audit log, newest entries first
    Audit(AuditArgs),
    /// Show usage counters by key, server, and tool, prompt or resource
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
            | Self::Backup { .. }
            | Self::Doctor { .. }
            | Self::Audit(_)
            | Self::Usage(_)
            | Self::Servers(
                Servers::Import(ImportServersArgs { dry_run: true, .. })
                | Servers::Existing(
                    ExistingServers::List | ExistingServers::Show(_) | ExistingServers::Export { .. },
                ),
            )
            | Self::Endpoints(Endpoints::Existing(ExistingEndpoints::List | ExistingEndpoints::Show(_)))
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
    /// Count only uses of this prompt
    #[arg(long, value_name = "NAME", conflicts_with = "tool")]
    pub prompt: Option<String>,
    /// Count only reads of this resource
    #[arg(long, value_name = "URI", conflicts_with_all = ["tool", "prompt"])]
    pub resource: Option<String>,
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
    /// Change a server; what is not given stays as it is
    #[command(after_help = EDIT_SERVER)]
    Edit(EditServerArgs),
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
    #[command(flatten)]
    pub headers: HeaderArgs,
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

/// The headers of a server over HTTP.
#[derive(Debug, Args)]
pub struct HeaderArgs {
    /// Sent with every request, as in 'X-Team: a'; not for secrets, since other users of the machine can see it
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    #[arg(long, value_name = "FILE", help = HEADER_FILE)]
    pub header_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct EditServerArgs {
    #[command(flatten)]
    pub server: NameArg,
    /// Give the server this name; its tools are then listed under it
    #[arg(long, value_name = "NAME")]
    pub rename: Option<String>,
    /// Another address; if its host or port differs, give all headers anew: stored ones are not sent there
    #[arg(long)]
    pub url: Option<String>,
    #[command(flatten)]
    pub headers: HeaderArgs,
    /// The protocol revisions that the server speaks
    #[arg(long, value_enum)]
    pub era: Option<EraArg>,
    /// Allow a private address
    #[arg(long)]
    pub allow_private: bool,
    /// A JSON merge patch of the definition; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rename", "url", "header", "header_file", "era", "allow_private"])]
    pub file: Option<PathBuf>,
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
    /// Add an endpoint, with the same checks as in the REST API
    #[command(after_help = ADD_ENDPOINT)]
    Add {
        /// Letters, digits, `-` and `_`; clients use the endpoint at `/mcp/NAME`
        name: String,
        #[command(flatten)]
        settings: EndpointSettings,
    },
    /// Change an endpoint; what is not given stays as it is
    #[command(after_help = EDIT_ENDPOINT)]
    Edit {
        #[command(flatten)]
        endpoint: NameArg,
        /// Give the endpoint this name; clients then use it at another path
        #[arg(long, value_name = "NAME", conflicts_with = "file")]
        rename: Option<String>,
        #[command(flatten)]
        settings: EndpointSettings,
    },
    #[command(flatten)]
    Existing(ExistingEndpoints),
}

/// Commands for endpoints that are in the database.
#[derive(Debug, Subcommand)]
pub enum ExistingEndpoints {
    /// List all endpoints, with their servers
    List,
    /// Show one endpoint with its servers, filters and overrides
    Show(NameArg),
    /// Remove an endpoint; its servers stay
    #[command(alias = "delete")]
    Remove {
        #[command(flatten)]
        endpoint: NameArg,
        /// Required; without it, nothing is removed
        #[arg(long)]
        confirm: bool,
    },
}

/// What an endpoint consists of.
#[derive(Debug, Args)]
pub struct EndpointSettings {
    /// The endpoint's servers, in the order in which their tools are listed
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub server: Vec<String>,
    /// Whether names of tools begin with the name of their server [default: always]
    #[arg(long, value_enum)]
    pub prefix: Option<PrefixArg>,
    /// The endpoint as a JSON object, as in the REST API, also with filters and overrides; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "prefix"])]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrefixArg {
    /// The name of the server comes first, as in `github__create_issue`.
    Always,
    /// The tools have the names that their servers list.
    Never,
}

#[derive(Debug, Args)]
pub struct NameArg {
    /// The name or UUID
    pub name: String,
}
