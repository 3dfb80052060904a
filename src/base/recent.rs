use std::collections::VecDeque;
use std::sync::Arc;

/// What was said last, so that many who say the same keep it once: clients of one kind introduce themselves alike, and the
/// sessions of one server are offered the same.
pub struct Recent<T> {
    /// The newest first.
    said: VecDeque<Arc<T>>,
}

/// A gateway has a few kinds of clients and some tens of servers. Where it has more, all that come in turn are kept by each
/// of its own.
const SAID_MAX: usize = 64;

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { said: VecDeque::new() }
    }
}

impl<T: Eq> Recent<T> {
    /// The same as somebody else's, if that was said lately. What is given is kept here for a while: its size is bounded by
    /// whoever gives it.
    pub fn shared(&mut self, said: Arc<T>) -> Arc<T> {
        let known = self.said.iter().position(|known| *known == said).and_then(|at| self.said.remove(at));
        let shared = known.unwrap_or(said);
        self.said.truncate(SAID_MAX - 1);
        self.said.push_front(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_lately_is_kept_once() {
        let mut recent = Recent::default();
        let first = recent.shared(Arc::new("0".to_owned()));
        let mut check = |said: usize, is_first: bool, kept: usize| {
            let shared = recent.shared(Arc::new(said.to_string()));
            assert_eq!((Arc::ptr_eq(&shared, &first), recent.said.len()), (is_first, kept), "{said}");
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
