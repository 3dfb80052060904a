//! The features of a server that a session has to know.

/// The server's capabilities that decide which requests a session accepts and what it subscribes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
pub struct SessionFeatures {
    /// The server capability `logging`.
    pub logging: bool,
    /// The server capability `resources.subscribe`.
    pub subscribe: bool,
    /// The server capability `tools.listChanged`.
    pub tools_changed: bool,
    /// The server capability `prompts.listChanged`.
    pub prompts_changed: bool,
    /// The server capability `resources.listChanged`.
    pub resources_changed: bool,
}
