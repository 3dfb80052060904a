//! The difference between two versions of the topology.

use std::collections::HashMap;

/// The names that differ between two versions, each list in ascending order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TopologyChanges {
    pub servers: NameChanges,
    /// An endpoint also counts as changed if one of its servers changed.
    pub endpoints: NameChanges,
}

/// The names that were added, changed or removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NameChanges {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl TopologyChanges {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl NameChanges {
    /// Compares two maps of names to ids. A name with another id has changed.
    pub(super) fn between(before: &HashMap<String, u32>, now: &HashMap<String, u32>) -> Self {
        let mut changes = Self::default();
        for (name, id) in now {
            match before.get(name) {
                None => changes.added.push(name.clone()),
                Some(earlier) if earlier != id => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        changes.removed = before.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        for names in [&mut changes.added, &mut changes.changed, &mut changes.removed] {
            names.sort_unstable();
        }
        changes
    }
}
