use std::collections::VecDeque;
use std::sync::Arc;

/// What was said last, so that many who say the same keep it once: clients of one kind introduce themselves alike, and the
/// sessions of one server are offered the same.
pub struct RecentInterner<T> {
    /// The newest first.
    said: VecDeque<Arc<T>>,
}

/// A gateway has a few kinds of clients and some tens of servers. Where it has more, all that come in turn are kept by each
/// of its own.
const SAID_MAX: usize = 64;

impl<T> Default for RecentInterner<T> {
    fn default() -> Self {
        Self { said: VecDeque::new() }
    }
}

impl<T: Eq> RecentInterner<T> {
    /// The same as somebody else's, if that was said lately. What is given is kept here for a while: its size is bounded by
    /// whoever gives it.
    pub fn intern(&mut self, said: Arc<T>) -> Arc<T> {
        if let Some(known) = self.find(|known| *known == *said) {
            return known;
        }
        self.said.truncate(SAID_MAX - 1);
        self.said.push_front(Arc::clone(&said));
        said
    }

    /// What was said lately and is looked for.
    pub fn find(&mut self, is_it: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let at = self.said.iter().position(|known| is_it(known))?;
        if at > 0 {
            let known = self.said.remove(at)?;
            self.said.push_front(known);
        }
        self.said.front().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_lately_is_kept_once() {
        let mut recent = RecentInterner::default();
        let first = recent.intern(Arc::new("0".to_owned()));
        let mut check = |said: usize, is_first: bool, kept: usize| {
            let shared = recent.intern(Arc::new(said.to_string()));
            assert_eq!((Arc::ptr_eq(&shared, &first), recent.said.len()), (is_first, kept), "{said}");
            let found = recent.find(|known| *known == *shared);
            assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &shared)), "{said}");
            assert_eq!(recent.find(String::is_empty), None);
        };
        check(0, true, 1);
        check(1, false, 2);
        // What is said again stays.
        for other in 2..2 * SAID_MAX {
            check(other, false, (other + 1).min(SAID_MAX));
            check(0, true, (other + 1).min(SAID_MAX));
        }
        for other in 0..SAID_MAX {
            check(100 + other, false, SAID_MAX);
        }
        check(0, false, SAID_MAX);
    }
}
