//! Numbers for names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What stands for names that have no number of their own, and for methods that nobody knows. No endpoint and no server
/// can have that name: it has parentheses.
pub const OTHER: &str = "(other)";

/// Names of one kind that are told apart, over the life of the process; the one for all others included.
pub const LABELS_MAX: usize = 1024;

/// A number that stands for a name. The same name has the same one for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(u16);

/// The names of one kind that have a number. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Labels(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Without the one for all others, which is before them.
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Label>,
}

impl Label {
    /// Of all names that have none of their own.
    pub const OTHER: Self = Self(0);

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Labels {
    /// The number of a name, made when it has none and there is one left. Takes a lock: for when a table is built.
    pub fn label(&self, name: &str) -> Label {
        let mut known = self.lock();
        if let Some(label) = known.numbers.get(name) {
            return *label;
        }
        let next = known.names.len() + 1;
        let Some(number) = u16::try_from(next).ok().filter(|_| next < LABELS_MAX) else {
            return Label::OTHER;
        };
        let name: Arc<str> = name.into();
        known.names.push(Arc::clone(&name));
        known.numbers.insert(name, Label(number));
        Label(number)
    }

    /// What each number stands for, in their order.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        std::iter::once(OTHER.into()).chain(self.lock().names.iter().cloned()).collect()
    }

    /// Nothing in it is half done between two of its changes: a name without a number is only not used.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
