use std::collections::VecDeque;
use std::sync::Arc;

/// Shares equal values among their owners by remembering the most recent ones. Clients of one kind send equal `clientInfo`,
/// and all sessions of a server get equal capabilities.
pub struct RecentInterner<T> {
    /// The most recently used first.
    values: VecDeque<Arc<T>>,
}

/// Remembered values. A gateway has a few kinds of clients and some tens of servers. With more, values are no longer shared.
const VALUES_MAX: usize = 64;

impl<T> Default for RecentInterner<T> {
    fn default() -> Self {
        Self { values: VecDeque::new() }
    }
}

impl<T: Eq> RecentInterner<T> {
    /// Returns the remembered value that equals the given one, or remembers the given one. The caller bounds its size.
    pub fn intern(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.find(|known| *known == *value) {
            return known;
        }
        self.values.truncate(VALUES_MAX - 1);
        self.values.push_front(Arc::clone(&value));
        value
    }

    /// Returns the first remembered value that satisfies the predicate.
    pub fn find(&mut self, predicate: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let index = self.values.iter().position(|known| predicate(known))?;
        if index > 0 {
            let known = self.values.remove(index)?;
            self.values.push_front(known);
        }
        self.values.front().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_values_are_shared() {
        let mut recent = RecentInterner::default();
        let first = recent.intern(Arc::new("0".to_owned()));
        let mut check = |number: usize, is_first: bool, remembered: usize| {
            let shared = recent.intern(Arc::new(number.to_string()));
            assert_eq!(
                (Arc::ptr_eq(&shared, &first), recent.values.len()),
                (is_first, remembered),
                "{number}"
            );
            let found = recent.find(|known| *known == *shared);
            assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &shared)), "{number}");
            assert_eq!(recent.find(String::is_empty), None);
        };
        check(0, true, 1);
        check(1, false, 2);
        // A value in use stays.
        for other in 2..2 * VALUES_MAX {
            check(other, false, (other + 1).min(VALUES_MAX));
            check(0, true, (other + 1).min(VALUES_MAX));
        }
        for other in 0..VALUES_MAX {
            check(100 + other, false, VALUES_MAX);
        }
        check(0, false, VALUES_MAX);
    }
}
