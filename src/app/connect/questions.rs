//! What the endpoint asks the client, until that has answered or the endpoint takes it back. Nobody can once the client's input has ended.

use std::cell::RefCell;

use tokio::sync::Notify;

use crate::protocol::is_same_id;

/// The questions that are open, by their ids as written.
#[derive(Default)]
pub struct Questions {
    open: RefCell<Vec<String>>,
    asked: Notify,
}

/// More at once are not remembered: one that is open says as much as a thousand.
const OPEN_MAX: usize = 64;

impl Questions {
    /// The client is asked that.
    pub fn ask(&self, id: String) {
        let mut open = self.open.borrow_mut();
        if open.len() < OPEN_MAX {
            open.push(id);
        }
        self.asked.notify_waiters();
    }

    /// The client has answered that, or nobody asks it any more.
    pub fn close(&self, id: &[u8]) {
        self.open.borrow_mut().retain(|open| !is_same_id(open.as_bytes(), id));
    }

    /// Waits until one is open. Cancel safe.
    pub async fn any(&self) {
        loop {
            let asked = self.asked.notified();
            if !self.open.borrow().is_empty() {
                return;
            }
            asked.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_is_open_until_it_is_answered() {
        let questions = Questions::default();
        let check = |expected: bool| assert_eq!(questions.any().now_or_never().is_some(), expected);
        check(false);
        questions.ask("1".to_owned());
        questions.ask("\"a\\u0062\"".to_owned());
        questions.close(b"1");
        questions.close(b"\"1\"");
        check(true);
        questions.close(b"\"ab\"");
        check(false);
        (0..2 * OPEN_MAX).for_each(|id| questions.ask(id.to_string()));
        assert_eq!(questions.open.borrow().len(), OPEN_MAX);
    }
}
