//! What was approved of one server's tools, and what waits for that: what the store keeps of it, as a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::print::{Print, SeenTool};

/// What is known of the tools of a server that was listed at least once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    tools: BTreeMap<String, Pinned>,
}

/// What is known of one tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pinned {
    /// Oldest first. There are several where the server shows it otherwise to clients of other kinds.
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

/// A tool that is not as it was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The server's own name of it.
    #[serde(rename = "name")]
    pub tool: String,
    /// Which of its members are other than when it was last approved; `None`: it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<&'static str>>,
    /// By which it is told apart from what it may become until somebody approves it.
    pub digest: String,
    /// When it was seen first, in seconds since 1970.
    pub since: u64,
}

/// What is approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approve {
    /// Whatever waits.
    All,
    /// What waits of these tools, and, where that is said, nothing but what has that digest.
    These(Vec<(String, Option<String>)>),
}

/// Why nothing is approved. Says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// It is as it was approved, or not there.
    #[error("nothing of the tool {0:?} waits to be approved")]
    NotWaiting(String),
    /// It changed again.
    #[error("the tool {0:?} has changed again: look at what it is now, and approve that")]
    Other(String),
}

/// Tools of one server that are remembered: as many as are taken from a list by default. Those beyond are told as new each
/// time, and stay in quarantine.
const TOOLS_MAX: usize = 10_000;

/// Ways in which a server may show one tool to clients of different kinds. Beyond them the oldest is forgotten.
const APPROVED_MAX: usize = 4;

/// Tools that one entry of a log names; it says how many there are.
pub const TOLD_MAX: usize = 20;

impl Pins {
    /// As it is kept; `None`: no version that this program knows wrote it.
    pub fn from_json(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }

    /// To be kept.
    pub fn to_json(&self) -> Value {
        json!(self)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// How a tool differs from what was approved of it; `None`: it does not.
    pub fn differs(&self, tool: &SeenTool) -> Option<Option<Vec<&'static str>>> {
        let approved = self.tools.get(&tool.name).map_or(&[][..], |pinned| &pinned.approved);
        if approved.contains(&tool.print) {
            return None;
        }
        Some(approved.last().map(|before| tool.print.changed_since(before)))
    }

    /// What waits to be approved.
    pub fn waiting(&self) -> Vec<Change> {
        let waiting = |(name, pinned): (&String, &Pinned)| {
            let Waiting { print, since } = pinned.waiting?;
            let changed = pinned.approved.last().map(|before| print.changed_since(before));
            Some(Change { tool: name.clone(), changed, digest: print.digest(), since })
        };
        self.tools.iter().filter_map(waiting).collect()
    }

    /// Approves what is seen. Gives what that changes.
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

    /// Has what is seen and not approved wait for that, where nothing of the tool does. Gives what waits by that.
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

    /// What waits and is not seen any more does not wait any more.
    pub fn drop_unseen(&mut self, is_seen: impl Fn(&str, &Print) -> bool) {
        for (name, pinned) in &mut self.tools {
            pinned.waiting = pinned.waiting.filter(|waiting| is_seen(name, &waiting.print));
        }
        self.tools.retain(|_, pinned| !pinned.approved.is_empty() || pinned.waiting.is_some());
    }

    /// Approves what waits. Gives what that changes; nothing is approved where something cannot be.
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

    /// `None`: there are too many.
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

/// Changes as a log has them: some of them, and how many there are.
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
