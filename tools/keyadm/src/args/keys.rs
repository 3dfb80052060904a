//! The arguments of `keyadm keys`. Doc comments without a full stop are help texts.

use clap::{Args, Subcommand, ValueEnum};
use metamcp_store::store::QuotaKind;

use super::help_texts::SET_KEY;

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
    /// Change a key: its name, its limits, and when it expires; the key itself stays the same
    #[command(after_help = SET_KEY)]
    Set(SetKeyArgs),
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
    #[command(flatten)]
    pub limits: KeyLimits,
}

/// What a key may do, and for how long.
#[derive(Debug, Args)]
pub struct KeyLimits {
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
    /// Calls in a day (UTC); none removes it [default: none]
    #[arg(long, value_name = "N")]
    pub calls_per_day: Option<String>,
    /// Calls in a calendar month (UTC); none removes it [default: none]
    #[arg(long, value_name = "N")]
    pub calls_per_month: Option<String>,
    /// Bytes of requests and responses in a day: 500MiB, 2GB (KB, KiB, … TiB); none removes it [default: none]
    #[arg(long, value_name = "SIZE")]
    pub bytes_per_day: Option<String>,
    /// Bytes of requests and responses in a calendar month; none removes it [default: none]
    #[arg(long, value_name = "SIZE")]
    pub bytes_per_month: Option<String>,
    /// When the key expires: 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

#[derive(Debug, Args)]
pub struct SetKeyArgs {
    #[command(flatten)]
    pub key: KeyArg,
    /// A name for people, shown in lists, logs and traces
    #[arg(long)]
    pub name: Option<String>,
    /// What the key is for
    #[arg(long)]
    pub description: Option<String>,
    /// client: list and call tools; admin: administer over HTTP as well
    #[arg(long, value_enum)]
    pub scope: Option<Scope>,
    #[command(flatten)]
    pub limits: KeyLimits,
    /// Set these back to their defaults
    #[arg(long, value_enum, value_name = "FIELD", num_args = 1.., value_delimiter = ',')]
    pub unset: Vec<KeyField>,
}

impl KeyLimits {
    /// The quotas as they were given, with the fields that they set.
    pub fn quotas(&self) -> [(QuotaKind, KeyField, Option<&str>); 4] {
        [
            (QuotaKind::CallsPerDay, KeyField::CallsPerDay, self.calls_per_day.as_deref()),
            (QuotaKind::CallsPerMonth, KeyField::CallsPerMonth, self.calls_per_month.as_deref()),
            (QuotaKind::BytesPerDay, KeyField::BytesPerDay, self.bytes_per_day.as_deref()),
            (QuotaKind::BytesPerMonth, KeyField::BytesPerMonth, self.bytes_per_month.as_deref()),
        ]
    }
}

/// A field of a key that has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyField {
    Description,
    Endpoint,
    Tools,
    Rate,
    Concurrency,
    CallsPerDay,
    CallsPerMonth,
    BytesPerDay,
    BytesPerMonth,
    Expires,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// List and call tools.
    Client,
    /// Administer over HTTP, and call tools.
    Admin,
}
