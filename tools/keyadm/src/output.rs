//! The result of a command.

/// What a command prints, and its exit code.
pub struct CommandOutput {
    pub text: String,
    /// 0, unless something needs attention.
    pub code: u8,
}

impl From<String> for CommandOutput {
    fn from(text: String) -> Self {
        Self { text, code: 0 }
    }
}
