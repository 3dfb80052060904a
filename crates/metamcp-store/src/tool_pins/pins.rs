//! The pins of one server's tools: what was approved and what waits for approval. A plain value, as the store
//! keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fingerprint::{ListedTool, ToolFingerprint};

/// The pins of a server that was listed at least once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolPins {
    tools: BTreeMap<String, ToolPin>,
}

/// The pin of one tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ToolPin {
    /// Oldest first. There are several if the server shows different definitions to different kinds of
    /// client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    approved: Vec<ToolFingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<PendingApproval>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct PendingApproval {
    #[serde(rename = "print")]
    fingerprint: ToolFingerprint,
    /// Unix time in seconds.
    since: u64,
}

/// A tool that differs from what was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinChange {
    /// The server's own name of the tool.
    #[serde(rename = "name")]
    pub tool: String,
    /// The members that differ from the last approved definition; `None` if the tool was never approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<&'static str>>,
    /// The digest of the definition that waits for approval.
    pub digest: String,
    /// When the definition was first listed, in seconds since 1970.
    pub since: u64,
}

/// Which changes are approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalSelection {
    All,
    /// The changes of these tools. With a digest, only a definition with that digest is approved.
    Tools(Vec<(String, Option<String>)>),
}

/// Why nothing is approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinApprovalError {
    /// The tool is unchanged or does not exist.
    #[error("no change of the tool {0:?} waits for approval")]
    NotPending(String),
    /// The definition has changed again since it was looked at.
    #[error("the tool {0:?} has changed again; review the current definition and approve that")]
    ChangedAgain(String),
}

/// Tools of one server with a pin: as many as are taken from a list by default. Those beyond are reported as
/// new each time, and stay in quarantine.
const TOOLS_MAX: usize = 10_000;

/// Definitions of one tool for different kinds of client. Beyond them the oldest is dropped.
const APPROVED_MAX: usize = 4;

/// Tools that one log entry names; it also has the total.
pub const LOGGED_TOOLS_MAX: usize = 20;

impl ToolPins {
    /// Parses the stored form; `None` if no version known to this program wrote it.
    pub fn from_json(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }

    /// Returns the stored form.
    pub fn to_json(&self) -> Value {
        json!(self)
    }

    /// Whether there is no pin.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Returns how a tool differs from what was approved; `None` if it does not.
    pub fn difference(&self, tool: &ListedTool) -> Option<Option<Vec<&'static str>>> {
        let approved = self.tools.get(&tool.name).map_or(&[][..], |pin| &pin.approved);
        if approved.contains(&tool.fingerprint) {
            return None;
        }
        Some(approved.last().map(|before| tool.fingerprint.changed_since(before)))
    }

    /// Returns the changes that wait for approval.
    pub fn waiting(&self) -> Vec<PinChange> {
        let change_of = |(name, pin): (&String, &ToolPin)| {
            let PendingApproval { fingerprint, since } = pin.waiting?;
            let changed = pin.approved.last().map(|before| fingerprint.changed_since(before));
            Some(PinChange { tool: name.clone(), changed, digest: fingerprint.digest(), since })
        };
        self.tools.iter().filter_map(change_of).collect()
    }

    /// Approves the listed tools. Returns the changes.
    pub fn approve_listed<'a>(
        &mut self,
        tools: impl IntoIterator<Item = &'a ListedTool>,
        now: u64,
    ) -> Vec<PinChange> {
        let mut changes = Vec::new();
        for tool in tools {
            let Some(changed) = self.difference(tool) else { continue };
            changes.push(PinChange {
                tool: tool.name.clone(),
                changed,
                digest: tool.fingerprint.digest(),
                since: now,
            });
            if let Some(pin) = self.pin_mut(&tool.name) {
                pin.approve(tool.fingerprint);
                pin.waiting = None;
            }
        }
        changes
    }

    /// Makes listed tools that are not approved wait for approval, unless a change of the tool waits already.
    /// Returns the new changes.
    pub fn add_pending<'a>(
        &mut self,
        tools: impl IntoIterator<Item = &'a ListedTool>,
        now: u64,
    ) -> Vec<PinChange> {
        let mut changes = Vec::new();
        for tool in tools {
            let Some(changed) = self.difference(tool) else { continue };
            let Some(pin) = self.pin_mut(&tool.name).filter(|pin| pin.waiting.is_none()) else { continue };
            pin.waiting = Some(PendingApproval { fingerprint: tool.fingerprint, since: now });
            let (tool, digest) = (tool.name.clone(), tool.fingerprint.digest());
            changes.push(PinChange { tool, changed, digest, since: now });
        }
        changes
    }

    /// Drops waiting changes whose definition is not listed any more.
    pub fn drop_unlisted(&mut self, is_listed: impl Fn(&str, &ToolFingerprint) -> bool) {
        for (name, pin) in &mut self.tools {
            pin.waiting = pin.waiting.filter(|waiting| is_listed(name, &waiting.fingerprint));
        }
        self.tools.retain(|_, pin| !pin.approved.is_empty() || pin.waiting.is_some());
    }

    /// Approves waiting changes and returns them. Approves nothing if one of them cannot be approved.
    pub fn approve(&mut self, selection: &ApprovalSelection) -> Result<Vec<PinChange>, PinApprovalError> {
        let mut waiting = self.waiting();
        if let ApprovalSelection::Tools(tools) = selection {
            for (name, digest) in tools {
                let of_tool = waiting.iter().find(|change| change.tool == *name);
                let change = of_tool.ok_or_else(|| PinApprovalError::NotPending(name.clone()))?;
                if digest.as_ref().is_some_and(|digest| *digest != change.digest) {
                    return Err(PinApprovalError::ChangedAgain(name.clone()));
                }
            }
            waiting.retain(|change| tools.iter().any(|(name, _)| *name == change.tool));
        }
        for change in &waiting {
            let Some(pin) = self.tools.get_mut(&change.tool) else { continue };
            if let Some(PendingApproval { fingerprint, .. }) = pin.waiting.take() {
                pin.approve(fingerprint);
            }
        }
        Ok(waiting)
    }

    /// Returns the pin of a tool; `None` if there are too many.
    fn pin_mut(&mut self, name: &str) -> Option<&mut ToolPin> {
        if self.tools.len() >= TOOLS_MAX && !self.tools.contains_key(name) {
            return None;
        }
        Some(self.tools.entry(name.to_owned()).or_default())
    }
}

impl ToolPin {
    fn approve(&mut self, fingerprint: ToolFingerprint) {
        self.approved.retain(|other| *other != fingerprint);
        self.approved.push(fingerprint);
        if self.approved.len() > APPROVED_MAX {
            self.approved.remove(0);
        }
    }
}

/// Returns the changes for a log: some of them, and the total.
pub fn summarize_changes(changes: &[PinChange]) -> Value {
    let some: Vec<_> = changes
        .iter()
        .take(LOGGED_TOOLS_MAX)
        .map(|change| json!({"tool": change.tool, "changed": change.changed, "digest": change.digest}))
        .collect();
    json!({"count": changes.len(), "some": some})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, description: &str) -> ListedTool {
        let definition = json!({"name": name, "description": description}).to_string();
        ListedTool::parse(name, definition.as_bytes()).expect("an object")
    }

    /// `x: description`, `y: new`.
    fn words(changes: &[PinChange]) -> String {
        let word = |change: &PinChange| {
            let what = change.changed.as_ref().map_or("new".to_owned(), |parts| parts.join("+"));
            format!("{}: {what}", change.tool)
        };
        changes.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[track_caller]
    fn check(changes: &[PinChange], expected: &str) {
        assert_eq!(words(changes), expected);
    }

    #[test]
    fn listed_tools_are_approved_or_wait() {
        let mut pins = ToolPins::default();
        check(&pins.approve_listed(&[tool("x", "1"), tool("y", "1")], 1), "x: new, y: new");
        check(&pins.approve_listed(&[tool("x", "1")], 2), "");
        check(
            &pins.add_pending(&[tool("x", "2"), tool("y", "1"), tool("z", "1")], 3),
            "x: description, z: new",
        );
        // One definition of each tool waits.
        check(&pins.add_pending(&[tool("x", "3")], 4), "");
        check(&pins.waiting(), "x: description, z: new");
        let parsed = ToolPins::from_json(&pins.to_json()).expect("as it was written");
        assert_eq!(parsed, pins);
        pins.drop_unlisted(|name, _| name == "x");
        check(&pins.waiting(), "x: description");
        // The definition for one kind of client stays approved when that for another is approved.
        check(&pins.approve(&ApprovalSelection::All).expect("it waits"), "x: description");
        check(&pins.add_pending(&[tool("x", "1"), tool("x", "2")], 5), "");
        for version in 3..=6 {
            pins.approve_listed(&[tool("x", &version.to_string())], 6);
        }
        check(&pins.add_pending(&[tool("x", "1")], 7), "x: description");
    }

    #[test]
    fn only_the_reviewed_definition_is_approved() {
        let mut pins = ToolPins::default();
        pins.approve_listed(&[tool("x", "1"), tool("y", "1")], 1);
        pins.add_pending(&[tool("x", "2"), tool("y", "2")], 2);
        let digest = tool("x", "2").fingerprint.digest();
        let this =
            |name: &str, digest: &str| ApprovalSelection::Tools(vec![(name.into(), Some(digest.into()))]);
        let before = pins.clone();
        assert_eq!(pins.approve(&this("x", "00")), Err(PinApprovalError::ChangedAgain("x".into())));
        assert_eq!(pins.approve(&this("z", &digest)), Err(PinApprovalError::NotPending("z".into())));
        assert_eq!(pins, before);
        check(&pins.approve(&this("x", &digest)).expect("it waits"), "x: description");
        check(&pins.waiting(), "y: description");
    }

    #[test]
    fn pins_are_bounded() {
        let mut pins = ToolPins::default();
        let many: Vec<_> = (0..=TOOLS_MAX).map(|number| tool(&format!("t{number:05}"), "")).collect();
        assert_eq!(pins.approve_listed(&many, 1).len(), TOOLS_MAX + 1);
        assert_eq!(pins.add_pending(&many, 2), []);
        check(&pins.approve_listed(&many, 3), &format!("t{TOOLS_MAX}: new"));
    }
}
