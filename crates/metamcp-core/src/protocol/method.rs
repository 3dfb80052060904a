/// A method of either era that the gateway handles itself or routes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum McpMethod {
    /// Opens a Legacy session.
    Initialize,
    Initialized,
    /// Only Legacy revisions have it.
    Ping,
    /// Only Modern revisions have it.
    Discover,
    /// Only Modern revisions have it.
    Listen,
    ToolsList,
    ToolsCall,
    PromptsList,
    PromptsGet,
    ResourcesList,
    TemplatesList,
    ResourcesRead,
    /// Only Legacy revisions have it.
    Subscribe,
    /// Only Legacy revisions have it.
    Unsubscribe,
    Complete,
    /// Only Legacy revisions have it.
    SetLevel,
    /// Only revision 2025-11-25 has it.
    TasksList,
    Cancelled,
    Progress,
    /// Only Legacy revisions have it.
    RootsListChanged,
    /// Sent by servers, to clients.
    ToolsListChanged,
    /// Sent by servers, to clients.
    PromptsListChanged,
    /// Sent by servers, to clients.
    ResourcesListChanged,
    /// `notifications/subscriptions/acknowledged`, from Modern servers.
    Acknowledged,
}

impl McpMethod {
    const NAMES: [(&'static str, Self); 24] = [
        ("tools/call", Self::ToolsCall),
        ("tools/list", Self::ToolsList),
        ("resources/read", Self::ResourcesRead),
        ("prompts/get", Self::PromptsGet),
        ("ping", Self::Ping),
        ("notifications/progress", Self::Progress),
        ("prompts/list", Self::PromptsList),
        ("resources/list", Self::ResourcesList),
        ("resources/templates/list", Self::TemplatesList),
        ("completion/complete", Self::Complete),
        ("tasks/list", Self::TasksList),
        ("initialize", Self::Initialize),
        ("notifications/initialized", Self::Initialized),
        ("notifications/cancelled", Self::Cancelled),
        ("server/discover", Self::Discover),
        ("subscriptions/listen", Self::Listen),
        ("resources/subscribe", Self::Subscribe),
        ("resources/unsubscribe", Self::Unsubscribe),
        ("logging/setLevel", Self::SetLevel),
        ("notifications/roots/list_changed", Self::RootsListChanged),
        ("notifications/tools/list_changed", Self::ToolsListChanged),
        ("notifications/prompts/list_changed", Self::PromptsListChanged),
        ("notifications/resources/list_changed", Self::ResourcesListChanged),
        ("notifications/subscriptions/acknowledged", Self::Acknowledged),
    ];

    pub const COUNT: usize = Self::NAMES.len();

    /// All names, in the order of their [`index`](Self::index).
    pub fn names() -> [&'static str; Self::COUNT] {
        let mut names = [""; Self::COUNT];
        for (name, method) in Self::NAMES {
            names[method.index()] = name;
        }
        names
    }

    pub const fn index(self) -> usize {
        self as usize
    }

    /// Parses a name. Names are case-sensitive.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, method)| *method)
    }

    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| *name)
    }

    /// Whether the method only reads, so that a request may be retried.
    pub const fn is_read_only(self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::Discover
                | Self::ToolsList
                | Self::PromptsList
                | Self::PromptsGet
                | Self::ResourcesList
                | Self::TemplatesList
                | Self::ResourcesRead
                | Self::Complete
                | Self::TasksList
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse() {
        for (name, method) in McpMethod::NAMES {
            assert_eq!(McpMethod::parse(name.as_bytes()), Some(method));
            assert_eq!(method.as_str(), name);
        }
        assert!(McpMethod::names().iter().all(|name| !name.is_empty()), "every method has a name");
        assert_eq!(McpMethod::parse(b"Tools/call"), None);
        assert_eq!(McpMethod::parse(b""), None);
    }
}
