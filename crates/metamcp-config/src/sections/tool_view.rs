//! Which tools of a server an endpoint shows, and what it says about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use metamcp_core::base::Glob;

/// The tools of one server that an endpoint shows, and the overrides of their metadata. Tools are keyed by the
/// server's own names. Immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolView {
    /// `None` allows every tool.
    allow: Option<ToolPatterns>,
    /// Takes precedence over `allow`.
    deny: ToolPatterns,
    overrides: BTreeMap<String, ToolOverride>,
}

/// Patterns of tool names. Most are literal names, which a set finds in one lookup even when there are thousands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ToolPatterns {
    names: BTreeSet<String>,
    globs: Vec<Glob>,
}

/// Replaces parts of a tool's metadata. `None` keeps what the server says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolOverride {
    /// The full advertised name. It gets no server prefix.
    pub name: Option<String>,
    /// The name shown to people.
    pub title: Option<String>,
    /// The description shown to models.
    pub description: Option<String>,
    /// A JSON object that replaces the server's.
    pub annotations: Option<Value>,
}

impl ToolPatterns {
    fn new(globs: Vec<Glob>) -> Self {
        let (names, globs): (Vec<_>, Vec<_>) = globs.into_iter().partition(Glob::is_literal);
        Self { names: names.iter().map(|name| name.as_str().to_owned()).collect(), globs }
    }

    fn matches(&self, tool: &str) -> bool {
        self.names.contains(tool) || self.globs.iter().any(|glob| glob.matches(tool))
    }
}

impl ToolView {
    /// Returns `None` if every tool is shown unchanged.
    pub fn new(
        allow: Vec<Glob>,
        deny: Vec<Glob>,
        overrides: BTreeMap<String, ToolOverride>,
    ) -> Option<Arc<Self>> {
        let shows_everything = allow.is_empty() && deny.is_empty() && overrides.is_empty();
        let allow = (!allow.is_empty()).then(|| ToolPatterns::new(allow));
        (!shows_everything).then(|| Arc::new(Self { allow, deny: ToolPatterns::new(deny), overrides }))
    }

    /// Whether the endpoint shows the tool.
    pub fn is_shown(&self, tool: &str) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.matches(tool)) && !self.deny.matches(tool)
    }

    /// The override of a tool's metadata.
    pub fn override_of(&self, tool: &str) -> Option<&ToolOverride> {
        self.overrides.get(tool)
    }

    /// The shown tools that have another name here, as pairs of the server's name and the advertised name.
    pub fn renamed_tools(&self) -> impl Iterator<Item = (&str, &str)> {
        let renamed =
            self.overrides.iter().filter_map(|(tool, change)| Some((&**tool, change.name.as_deref()?)));
        renamed.filter(|(tool, _)| self.is_shown(tool))
    }

    /// Returns a copy that also hides `tools`.
    #[must_use]
    pub fn without(&self, tools: Vec<String>) -> Self {
        let mut view = self.clone();
        view.deny.names.extend(tools);
        view
    }

    /// The tool that an override gives this name. `None` also if several overrides do: such tools hide each other.
    pub fn tool_renamed_to(&self, name: &str) -> Option<&str> {
        // Compare names first: deciding whether a tool is shown may match thousands of globs.
        let renamed = self.overrides.iter().filter(|(_, change)| change.name.as_deref() == Some(name));
        let mut shown = renamed.map(|(tool, _)| tool.as_str()).filter(|tool| self.is_shown(tool));
        let first = shown.next()?;
        shown.next().is_none().then_some(first)
    }
}
