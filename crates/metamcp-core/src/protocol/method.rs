/// A method of either era that the gateway does something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum McpMethod {
    /// Opens a Legacy session.
    Initialize,
    /// `notifications/initialized`.
    Initialized,
    /// Legacy only.
    Ping,
    /// Modern only.
    Discover,
    /// `subscriptions/listen`, Modern only.
    Listen,
    /// `tools/list`.
    ToolsList,
    /// `tools/call`.
    ToolsCall,
    /// `prompts/list`.
    PromptsList,
    /// `prompts/get`.
    PromptsGet,
    /// `resources/list`.
    ResourcesList,
    /// `resources/templates/list`.
    TemplatesList,
    /// `resources/read`.
    ResourcesRead,
    /// `resources/subscribe`, Legacy only.
    Subscribe,
    /// `resources/unsubscribe`, Legacy only.
    Unsubscribe,
    /// `completion/complete`.
    Complete,
    /// `logging/setLevel`, Legacy only.
    SetLevel,
    /// `tasks/list`, 2025-11-25 only.
    TasksList,
    /// `notifications/cancelled`.
    Cancelled,
    /// `notifications/progress`.
    Progress,
    /// `notifications/roots/list_changed`, Legacy only.
    RootsListChanged,
    /// `notifications/tools/list_changed`, from servers.
    ToolsListChanged,
    /// `notifications/prompts/list_changed`, from servers.
    PromptsListChanged,
    /// `notifications/resources/list_changed`, from servers.
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

    /// How many there are.
    pub const COUNT: usize = Self::NAMES.len();

    /// The names of all, each at its [`index`](Self::index).
    pub fn names() -> [&'static str; Self::COUNT] {
        let mut names = [""; Self::COUNT];
        for (name, method) in Self::NAMES {
            names[method.index()] = name;
        }
        names
    }

    /// Its place among all.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The method of that name, if it is one the gateway knows; matched exactly, as the specification asks.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, method)| *method)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| *name)
    }

    /// Whether a repeated request does no harm: nothing but reading.
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
    fn every_name_reads_back() {
        for (name, method) in McpMethod::NAMES {
            assert_eq!(McpMethod::parse(name.as_bytes()), Some(method));
            assert_eq!(method.as_str(), name);
        }
        assert!(McpMethod::names().iter().all(|name| !name.is_empty()), "each has a place of its own");
        assert_eq!(McpMethod::parse(b"Tools/call"), None);
        assert_eq!(McpMethod::parse(b""), None);
    }
}
