//! Interned label values: small numbers that stand for the names of endpoints and servers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The label value for names without a number of their own and for unknown methods. No endpoint and no server can have this
/// name: names have no parentheses.
pub const OTHER: &str = "(other)";

/// Names per interner over the life of the process, [`OTHER`] included.
pub const LABELS_MAX: usize = 1024;

/// The number of an interned name. A name keeps its number for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelId(u16);

/// Assigns numbers to names. Clones share the same names.
#[derive(Debug, Clone, Default)]
pub struct LabelInterner(Arc<Mutex<InternedNames>>);

#[derive(Debug, Default)]
struct InternedNames {
    /// The name with number 1 comes first; number 0 is [`OTHER`].
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, LabelId>,
}

impl LabelId {
    /// The number of [`OTHER`](super::OTHER).
    pub const OTHER: Self = Self(0);

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl LabelInterner {
    /// Returns the number of a name, assigning the next one to a new name. [`LabelId::OTHER`] when all are assigned. Takes a
    /// lock: call it when a routing table is built, not for a request.
    pub fn intern(&self, name: &str) -> LabelId {
        let mut interned = self.lock();
        if let Some(label) = interned.numbers.get(name) {
            return *label;
        }
        let next = interned.names.len() + 1;
        let Some(number) = u16::try_from(next).ok().filter(|_| next < LABELS_MAX) else {
            return LabelId::OTHER;
        };
        let name: Arc<str> = name.into();
        interned.names.push(Arc::clone(&name));
        interned.numbers.insert(name, LabelId(number));
        LabelId(number)
    }

    /// All names, by number.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        std::iter::once(OTHER.into()).chain(self.lock().names.iter().cloned()).collect()
    }

    /// Takes over a poisoned lock. The worst that a panic can leave is a name without a number, which is harmless.
    fn lock(&self) -> MutexGuard<'_, InternedNames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
