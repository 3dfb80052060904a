//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Makes, lists and switches off the API keys of a metamcp installation. Works while the gateway runs.
#[derive(Debug, Parser)]
#[command(name = "keyadm", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Where the keys are kept.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the keys are kept.
#[derive(Debug, Args)]
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
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Makes a key and shows it, once
    Create {
        /// For people: shown in lists, logs and traces
        #[arg(long)]
        name: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// When it ends: 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z [default: never]
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
        /// Answers in JSON
        #[arg(long)]
        json: bool,
    },
    /// Lists keys, never their secrets
    List {
        /// Also those switched off
        #[arg(long)]
        include_inactive: bool,
        /// Answers in JSON
        #[arg(long)]
        json: bool,
    },
    /// Switches a key off; the gateway refuses it within a second, its tokens and open streams included
    Inactivate {
        /// The 12 characters between `mcp_` and the next `_`
        id: String,
        /// Answers in JSON
        #[arg(long)]
        json: bool,
    },
}

const DATA_DIR: &str = "The gateway's data directory; with --database-url, where its secrets are \
                        [default: $METAMCP_DATA_DIR, else $XDG_DATA_HOME/metamcp, else ~/.local/share/metamcp]";
const DATABASE_URL: &str =
    "postgres://…: the gateway's database, when it is not in the data directory [default: $DATABASE_URL]";

const EXAMPLES: &str = "\
Examples:
  keyadm keys create --name laptop
  keyadm keys create --name ci --expires 30d --json
  keyadm keys list --include-inactive
  keyadm keys inactivate 4fT0sQbW91Lk

Secrets: ENCRYPTION_KEY from the environment, else the file secrets.toml in the data directory.
Exit codes: 0 done, 64 wrong usage, 65 wrong data (no such key, wrong ENCRYPTION_KEY), 69 store not available.";
