//! Policy for server definitions: what a writer may define, and what this machine serves of what is stored.

use super::allowlist::{AllowlistViolation, StdioAllowlist};
use crate::server::Program;
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

/// How this machine serves the servers defined in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingPolicy {
    /// Default for servers that do not set `allow_private`.
    pub allow_private: bool,
    pub allowed: StdioAllowlist,
    /// Variables that every program inherits. The program's own variables take precedence.
    pub inherited: Vec<(String, String)>,
}

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

impl ServingPolicy {
    /// Returns a stored program as it runs here, with inherited variables, if the allowlist permits it.
    pub(super) fn resolve_program(&self, program: Box<Program>) -> Result<Box<Program>, UnservedReason> {
        self.check(&program)
            .map_err(|(subject, violation)| UnservedReason::ProgramNotAllowed(subject, violation))?;
        let env = self.inherited.iter().cloned().chain(program.env).collect();
        Ok(Box::new(Program { env, ..*program }))
    }

    /// Checks a program against the current allowlist of this machine. What was allowed when the definition was
    /// written does not matter. The text of the error names the offending part.
    fn check(&self, program: &Program) -> Result<(), (String, AllowlistViolation)> {
        let Program { command, args, env, cwd, .. } = program;
        let with_command = |violation: AllowlistViolation| {
            (format!("its command {command:?}"), violation.with_path(command))
        };
        self.allowed.check_command(command, args).map_err(with_command)?;
        for (name, _) in env {
            self.allowed.check_variable(name).map_err(|violation| ("it".to_owned(), violation))?;
        }
        if let Some(cwd) = cwd {
            // The allowlist is UTF-8, so a path that is not UTF-8 never matches it.
            let cwd = cwd.to_string_lossy();
            let with_cwd =
                |violation: AllowlistViolation| (format!("its cwd {cwd:?}"), violation.with_path(&cwd));
            self.allowed.check_dir(&cwd).map_err(with_cwd)?;
        }
        Ok(())
    }
}

/// Why this machine does not serve a stored definition. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum UnservedReason {
    #[error("servers of kind {0} are not supported by this version")]
    UnsupportedKind(&'static str),
    /// The offending part of the program, and the rule that it violates.
    #[error("{0} {1}")]
    ProgramNotAllowed(String, AllowlistViolation),
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
