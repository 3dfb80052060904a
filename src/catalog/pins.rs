//! The pins of one server's tools: what was approved and what waits for approval. A plain value, as the store
//! keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::print::{Print, SeenTool};

/// The pins of a server that was listed at least once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    tools: BTreeMap<String, Pinned>,
}

/// The pin of one tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pinned {
    /// Oldest first. There are several if the server shows different definitions to different kinds of
    /// client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    approved: Vec<Print>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    print: Print,
    /// Seconds since 1970.
    since: u64,
}

/// A tool that differs from what was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
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
pub enum Approve {
    All,
    /// The changes of these tools. With a digest, only a definition with that digest is approved.
    These(Vec<(String, Option<String>)>),
}

/// Why nothing is approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// The tool is unchanged or does not exist.
    #[error("nothing of the tool {0:?} waits to be approved")]
    NotWaiting(String),
    /// The definition has changed again since it was looked at.
    #[error("the tool {0:?} has changed again: look at what it is now, and approve that")]
    Other(String),
}

/// Tools of one server with a pin: as many as are taken from a list by default. Those beyond are reported as
/// new each time, and stay in quarantine.
const TOOLS_MAX: usize = 10_000;

/// Definitions of one tool for different kinds of client. Beyond them the oldest is dropped.
const APPROVED_MAX: usize = 4;

/// Tools that one log entry names; it also has the total.
pub const TOLD_MAX: usize = 20;

impl Pins {
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
    pub fn differs(&self, tool: &SeenTool) -> Option<Option<Vec<&'static str>>> {
        let approved = self.tools.get(&tool.name).map_or(&[][..], |pinned| &pinned.approved);
        if approved.contains(&tool.print) {
            return None;
        }
        Some(approved.last().map(|before| tool.print.changed_since(before)))
    }

    /// Returns the changes that wait for approval.
    pub fn waiting(&self) -> Vec<Change> {
        let waiting = |(name, pinned): (&String, &Pinned)| {
            let Waiting { print, since } = pinned.waiting?;
            let changed = pinned.approved.last().map(|before| print.changed_since(before));
            Some(Change { tool: name.clone(), changed, digest: print.digest(), since })
        };
        self.tools.iter().filter_map(waiting).collect()
    }

    /// Approves the listed tools. Returns the changes.
    pub fn accept<'a>(&mut self, seen: impl IntoIterator<Item = &'a SeenTool>, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for tool in seen {
            let Some(changed) = self.differs(tool) else { continue };
            changes.push(Change {
                tool: tool.name.clone(),
                changed,
                digest: tool.print.digest(),
                since: now,
            });
            if let Some(pinned) = self.of(&tool.name) {
                pinned.approve(tool.print);
                pinned.waiting = None;
            }
        }
        changes
    }

    /// Makes listed tools that are not approved wait for approval, unless a change of the tool waits already.
    /// Returns the new changes.
    pub fn hold<'a>(&mut self, seen: impl IntoIterator<Item = &'a SeenTool>, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for tool in seen {
            let Some(changed) = self.differs(tool) else { continue };
            let Some(pinned) = self.of(&tool.name).filter(|pinned| pinned.waiting.is_none()) else {
                continue;
            };
            pinned.waiting = Some(Waiting { print: tool.print, since: now });
            let (tool, digest) = (tool.name.clone(), tool.print.digest());
            changes.push(Change { tool, changed, digest, since: now });
        }
        changes
    }

    /// Drops waiting changes whose definition is not listed any more.
    pub fn drop_unseen(&mut self, is_seen: impl Fn(&str, &Print) -> bool) {
        for (name, pinned) in &mut self.tools {
            pinned.waiting = pinned.waiting.filter(|waiting| is_seen(name, &waiting.print));
        }
        self.tools.retain(|_, pinned| !pinned.approved.is_empty() || pinned.waiting.is_some());
    }

    /// Approves waiting changes and returns them. Approves nothing if one of them cannot be approved.
    pub fn approve(&mut self, what: &Approve) -> Result<Vec<Change>, NotApproved> {
        let mut waiting = self.waiting();
        if let Approve::These(these) = what {
            for (name, digest) in these {
                let of_tool = waiting.iter().find(|change| change.tool == *name);
                let change = of_tool.ok_or_else(|| NotApproved::NotWaiting(name.clone()))?;
                if digest.as_ref().is_some_and(|digest| *digest != change.digest) {
                    return Err(NotApproved::Other(name.clone()));
                }
            }
            waiting.retain(|change| these.iter().any(|(name, _)| *name == change.tool));
        }
        for change in &waiting {
            let Some(pinned) = self.tools.get_mut(&change.tool) else { continue };
            if let Some(Waiting { print, .. }) = pinned.waiting.take() {
                pinned.approve(print);
            }
        }
        Ok(waiting)
    }

    /// Returns the pin of a tool; `None` if there are too many.
    fn of(&mut self, name: &str) -> Option<&mut Pinned> {
        if self.tools.len() >= TOOLS_MAX && !self.tools.contains_key(name) {
            return None;
        }
        Some(self.tools.entry(name.to_owned()).or_default())
    }
}

impl Pinned {
    fn approve(&mut self, print: Print) {
        self.approved.retain(|other| *other != print);
        self.approved.push(print);
        if self.approved.len() > APPROVED_MAX {
            self.approved.remove(0);
        }
    }
}

/// Returns the changes for a log: some of them, and the total.
pub fn told(changes: &[Change]) -> Value {
    let some: Vec<_> = changes
        .iter()
        .take(TOLD_MAX)
        .map(|change| json!({"tool": change.tool, "changed": change.changed, "digest": change.digest}))
        .collect();
    json!({"count": changes.len(), "some": some})
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::merge::Item;
    use super::*;

    fn tool(name: &str, description: &str) -> SeenTool {
        let raw = Bytes::from(json!({"name": name, "description": description}).to_string());
        let item = Item { key: name.into(), raw, key_start: 0, key_end: 0 };
        SeenTool::read(&item).expect("an object")
    }

    /// `x: description`, `y: new`.
    fn words(changes: &[Change]) -> String {
        let word = |change: &Change| {
            let what = change.changed.as_ref().map_or("new".to_owned(), |parts| parts.join("+"));
            format!("{}: {what}", change.tool)
        };
        changes.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[track_caller]
    fn check(changes: &[Change], expected: &str) {
        assert_eq!(words(changes), expected);
    }

    #[test]
    fn what_is_seen_is_approved_or_waits() {
        let mut pins = Pins::default();
        check(&pins.accept(&[tool("x", "1"), tool("y", "1")], 1), "x: new, y: new");
        check(&pins.accept(&[tool("x", "1")], 2), "");
        check(&pins.hold(&[tool("x", "2"), tool("y", "1"), tool("z", "1")], 3), "x: description, z: new");
        // One of each tool waits.
        check(&pins.hold(&[tool("x", "3")], 4), "");
        check(&pins.waiting(), "x: description, z: new");
        let kept = Pins::from_json(&pins.to_json()).expect("as it was written");
        assert_eq!(kept, pins);
        pins.drop_unseen(|name, _| name == "x");
        check(&pins.waiting(), "x: description");
        // What one kind of client is shown stays approved when what another is shown is.
        check(&pins.approve(&Approve::All).expect("it waits"), "x: description");
        check(&pins.hold(&[tool("x", "1"), tool("x", "2")], 5), "");
        for version in 3..=6 {
            pins.accept(&[tool("x", &version.to_string())], 6);
        }
        check(&pins.hold(&[tool("x", "1")], 7), "x: description");
    }

    #[test]
    fn only_what_was_looked_at_is_approved() {
        let mut pins = Pins::default();
        pins.accept(&[tool("x", "1"), tool("y", "1")], 1);
        pins.hold(&[tool("x", "2"), tool("y", "2")], 2);
        let digest = tool("x", "2").print.digest();
        let this = |name: &str, digest: &str| Approve::These(vec![(name.into(), Some(digest.into()))]);
        let before = pins.clone();
        assert_eq!(pins.approve(&this("x", "00")), Err(NotApproved::Other("x".into())));
        assert_eq!(pins.approve(&this("z", &digest)), Err(NotApproved::NotWaiting("z".into())));
        assert_eq!(pins, before);
        check(&pins.approve(&this("x", &digest)).expect("it waits"), "x: description");
        check(&pins.waiting(), "y: description");
    }

    #[test]
    fn no_more_is_remembered_than_has_room() {
        let mut pins = Pins::default();
        let many: Vec<_> = (0..=TOOLS_MAX).map(|number| tool(&format!("t{number:05}"), "")).collect();
        assert_eq!(pins.accept(&many, 1).len(), TOOLS_MAX + 1);
        assert_eq!(pins.hold(&many, 2), []);
        check(&pins.accept(&many, 3), &format!("t{TOOLS_MAX}: new"));
    }
}
