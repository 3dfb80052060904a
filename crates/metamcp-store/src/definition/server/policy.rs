//! Policy for server definitions: what a writer may define, and what this machine serves of what is stored.

use metamcp_config::server::{ServingPolicy, StdioAllowlist};

use crate::store::ServerKind;

/// What a writer may define. Writers over the network are trusted less than those with a shell on the machine.
#[derive(Debug, Clone)]
pub struct DefinitionRules {
    pub served_kinds: Vec<ServerKind>,
    /// Which programs a `stdio` server may name.
    pub commands: CommandPolicy,
    /// Default for servers that do not set `allow_private`.
    pub allow_private: bool,
}

/// The kinds that this version serves.
pub const SERVED_KINDS: [ServerKind; 3] = [ServerKind::Http, ServerKind::Sse, ServerKind::Stdio];

/// Which programs a `stdio` definition may name.
#[derive(Debug, Clone)]
pub enum CommandPolicy {
    /// Any program. Whether it may run is decided on the machine that serves it.
    Any,
    /// Any absolute path. The writer has a shell on this machine, and the gateway still applies its own
    /// allowlist.
    Absolute,
    /// Only listed programs. A definition sent over the network must not run arbitrary programs.
    Allowlisted(StdioAllowlist),
}

impl DefinitionRules {
    /// Rules for definitions sent over the network: only programs on this machine's allowlist.
    pub fn remote(serving: &ServingPolicy) -> Self {
        Self {
            served_kinds: SERVED_KINDS.to_vec(),
            commands: CommandPolicy::Allowlisted(serving.allowed.clone()),
            allow_private: serving.allow_private,
        }
    }

    /// Rules for definitions from the store, which were checked when they were written. Definitions imported from
    /// another store were checked there.
    pub fn stored() -> Self {
        Self { served_kinds: SERVED_KINDS.to_vec(), commands: CommandPolicy::Any, allow_private: true }
    }
}
