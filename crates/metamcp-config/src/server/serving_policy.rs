//! What this machine serves of the servers that are defined in the store.

use super::allowlist::{AllowlistViolation, StdioAllowlist};
use super::program::Program;

/// How this machine serves the servers defined in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingPolicy {
    /// Default for servers that do not set `allow_private`.
    pub allow_private: bool,
    pub allowed: StdioAllowlist,
    /// Variables that every program inherits. The program's own variables take precedence.
    pub inherited: Vec<(String, String)>,
}

impl ServingPolicy {
    /// Returns a stored program as it runs here, with inherited variables, if the allowlist permits it.
    pub fn resolve_program(&self, program: Box<Program>) -> Result<Box<Program>, UnservedReason> {
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
