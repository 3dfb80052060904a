//! What an endpoint shows of the tools of one of its servers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::base::Glob;

/// Which tools of a server are shown, and as what. By the server's own names; never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shows {
    /// `None`: every tool.
    allow: Option<Patterns>,
    /// Wins over `allow`.
    deny: Patterns,
    overrides: BTreeMap<String, Override>,
}

/// Most patterns stand for themselves: a thousand of them are one look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Patterns {
    names: BTreeSet<String>,
    globs: Vec<Glob>,
}

/// What is said of a tool in place of what its server says. `None` leaves that as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Override {
    /// The whole name it is listed and called by: nothing is put in front of it.
    pub name: Option<String>,
    /// Shown to people.
    pub title: Option<String>,
    /// Shown to models.
    pub description: Option<String>,
    /// A JSON object.
    pub annotations: Option<Value>,
}

impl Patterns {
    fn new(globs: Vec<Glob>) -> Self {
        let (names, globs): (Vec<_>, Vec<_>) = globs.into_iter().partition(Glob::is_literal);
        Self { names: names.iter().map(|name| name.as_str().to_owned()).collect(), globs }
    }

    fn hold(&self, tool: &str) -> bool {
        self.names.contains(tool) || self.globs.iter().any(|glob| glob.matches(tool))
    }
}

impl Shows {
    /// `None` where everything is shown as it is.
    pub fn new(
        allow: Vec<Glob>,
        deny: Vec<Glob>,
        overrides: BTreeMap<String, Override>,
    ) -> Option<Arc<Self>> {
        let is_all = allow.is_empty() && deny.is_empty() && overrides.is_empty();
        let allow = (!allow.is_empty()).then(|| Patterns::new(allow));
        (!is_all).then(|| Arc::new(Self { allow, deny: Patterns::new(deny), overrides }))
    }

    /// Whether a tool is there at all.
    pub(super) fn admits(&self, tool: &str) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.hold(tool)) && !self.deny.hold(tool)
    }

    /// What is said of a tool instead.
    pub fn instead(&self, tool: &str) -> Option<&Override> {
        self.overrides.get(tool)
    }

    /// Tools that are shown by another name, with that.
    pub fn renamed(&self) -> impl Iterator<Item = (&str, &str)> {
        let named =
            self.overrides.iter().filter_map(|(tool, instead)| Some((&**tool, instead.name.as_deref()?)));
        named.filter(|(tool, _)| self.admits(tool))
    }

    /// The same without those tools.
    #[must_use]
    pub fn without(&self, tools: Vec<String>) -> Self {
        let mut shows = self.clone();
        shows.deny.names.extend(tools);
        shows
    }

    /// The tool that is shown by that name of its override; `None` as well where several are, which hides them.
    pub fn renamed_to(&self, name: &str) -> Option<&str> {
        // The name first: to look whether a tool is there at all may take thousands of globs.
        let named = self.overrides.iter().filter(|(_, instead)| instead.name.as_deref() == Some(name));
        let mut shown = named.map(|(tool, _)| tool.as_str()).filter(|tool| self.admits(tool));
        let first = shown.next()?;
        shown.next().is_none().then_some(first)
    }
}
