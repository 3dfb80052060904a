//! Tells of servers that list other tools than before, as events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::view::View;
use crate::telemetry::events::{Event, EventKind};
use crate::upstream::UpstreamId;
use metamcp_core::base::ServerName;
use metamcp_store::tool_pins::ListedTool;

/// The tools that each server listed last.
#[derive(Default)]
pub(super) struct ToldTools {
    listed: HashMap<(UpstreamId, View), Arc<[ListedTool]>>,
    told: HashMap<UpstreamId, (ToolChanges, Instant)>,
}

/// The names of tools that differ.
#[derive(Debug, Default, PartialEq, Eq)]
struct ToolChanges {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

/// Each kind of client has a view of its own, in which a server reports the same change again within seconds.
const SAME_CHANGE: Duration = Duration::from_mins(1);

/// Names in one event; with more of them, people look at the list.
const NAMES_TOLD_MAX: usize = 100;

impl ToldTools {
    /// Notes the tools that a server lists in one view. Returns the change since it listed them last.
    pub fn update(
        &mut self,
        (id, server): (UpstreamId, &ServerName),
        view: View,
        tools: &Arc<[ListedTool]>,
    ) -> Option<Event> {
        let before = self.listed.insert((id, view), Arc::clone(tools))?;
        let changes = ToolChanges::between(&before, tools);
        let now = Instant::now();
        let is_told = self
            .told
            .get(&id)
            .is_some_and(|(told, at)| *told == changes && now.duration_since(*at) < SAME_CHANGE);
        if changes == ToolChanges::default() || is_told {
            return None;
        }
        let event = Event::of_server(EventKind::ServerToolsChanged, server)
            .with("added", clip(&changes.added))
            .with("changed", clip(&changes.changed))
            .with("removed", clip(&changes.removed));
        self.told.insert(id, (changes, now));
        Some(event)
    }

    /// Forgets all other servers.
    pub fn retain(&mut self, is_kept: impl Fn(UpstreamId) -> bool) {
        self.listed.retain(|(id, _), _| is_kept(*id));
        self.told.retain(|id, _| is_kept(*id));
    }
}

impl ToolChanges {
    fn between(before: &[ListedTool], after: &[ListedTool]) -> Self {
        fn by_name(tools: &[ListedTool]) -> BTreeMap<&str, &ListedTool> {
            tools.iter().map(|tool| (tool.name.as_str(), tool)).collect()
        }
        let (before, after) = (by_name(before), by_name(after));
        let missing_in = |others: &BTreeMap<&str, &ListedTool>, these: &BTreeMap<&str, &ListedTool>| {
            these.keys().filter(|name| !others.contains_key(*name)).map(|name| (*name).to_owned()).collect()
        };
        let differs = |(name, tool): &(&&str, &&ListedTool)| {
            before.get(**name).is_some_and(|before| before.fingerprint != tool.fingerprint)
        };
        Self {
            added: missing_in(&before, &after),
            changed: after.iter().filter(differs).map(|(name, _)| (*name).to_owned()).collect(),
            removed: missing_in(&after, &before),
        }
    }
}

fn clip(names: &[String]) -> Vec<String> {
    names.iter().take(NAMES_TOLD_MAX).cloned().collect()
}

#[cfg(test)]
mod tests {
    use metamcp_core::protocol::ClientCapabilities;
    use serde_json::json;

    use super::*;

    /// A tool for each character: its name in lower case; upper case is another definition of it.
    fn tools(names: &str) -> Arc<[ListedTool]> {
        let tool = |name: char| {
            let key = name.to_ascii_lowercase().to_string();
            let raw = json!({"name": key, "description": name.to_string(), "inputSchema": {}}).to_string();
            ListedTool::parse(&key, raw.as_bytes()).expect("a tool")
        };
        names.chars().map(tool).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once() {
        let server = ServerName::new("a").expect("a name");
        let mut told = ToldTools::default();
        let mut update = |view, names: &str| {
            let event = told.update((UpstreamId(0), &server), view, &tools(names))?;
            Some(["added", "changed", "removed"].map(|member| event.data[member].to_string()).join(" "))
        };
        let legacy = View::Legacy(ClientCapabilities::default());
        assert_eq!(update(View::Modern, "ab"), None, "the first list is no change");
        assert_eq!(update(legacy, "ab"), None);
        assert_eq!(update(View::Modern, "Abc").as_deref(), Some(r#"["c"] ["a"] []"#));
        assert_eq!(update(legacy, "Abc"), None, "another view of the same change");
        assert_eq!(update(View::Modern, "bc").as_deref(), Some(r#"[] [] ["a"]"#));
        assert_eq!(update(View::Modern, "bc"), None);
        tokio::time::advance(SAME_CHANGE).await;
        assert_eq!(update(legacy, "bc").as_deref(), Some(r#"[] [] ["a"]"#));
    }
}
