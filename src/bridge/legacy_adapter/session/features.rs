//! The features of a server that a session has to know.

/// The server's capabilities that decide which requests a session accepts and what it subscribes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
pub struct SessionFeatures {
    /// `logging`
    pub logging: bool,
    /// `resources.subscribe`
    pub subscribe: bool,
    /// `tools.listChanged`
    pub tools_changed: bool,
    /// `prompts.listChanged`
    pub prompts_changed: bool,
    /// `resources.listChanged`
    pub resources_changed: bool,
}
