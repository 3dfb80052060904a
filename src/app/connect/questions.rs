//! What the endpoint asks the client, until that has answered, the endpoint takes it back, or the call is over during which
//! it asks. Nobody can answer once the client's input has ended.

use std::cell::RefCell;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::protocol::is_same_id;

/// The questions that are open.
#[derive(Default)]
pub struct Questions {
    open: RefCell<Vec<Question>>,
    changed: Notify,
}

struct Question {
    /// As written.
    id: String,
    /// The id of the client's request that it was asked during; none where the endpoint did not say.
    during: Option<Bytes>,
}

/// More at once are not remembered: one that is open says as much as a thousand.
const OPEN_MAX: usize = 64;

impl Questions {
    /// The client is asked that, during a request of its own.
    pub fn ask(&self, id: String, during: Option<&[u8]>) {
        let mut open = self.open.borrow_mut();
        if open.len() < OPEN_MAX {
            open.push(Question { id, during: during.map(Bytes::copy_from_slice) });
        }
        self.changed.notify_waiters();
    }

    /// The client has answered that, or nobody asks it any more.
    pub fn close(&self, id: &[u8]) {
        self.open.borrow_mut().retain(|open| !is_same_id(open.id.as_bytes(), id));
        self.changed.notify_waiters();
    }

    /// That request of the client's is over.
    pub fn close_during(&self, request: &[u8]) {
        self.open.borrow_mut().retain(|open| open.during.as_deref() != Some(request));
        self.changed.notify_waiters();
    }

    /// Waits until one is open. Cancel safe.
    pub async fn any(&self) {
        self.until(|open| open > 0).await;
    }

    /// Waits until none is. Cancel safe.
    pub async fn none(&self) {
        self.until(|open| open == 0).await;
    }

    async fn until(&self, is_so: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(self.open.borrow().len()) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_is_open_until_it_is_answered_or_nobody_asks_any_more() {
        let questions = Questions::default();
        let check = |is_open: bool| {
            assert_eq!(questions.any().now_or_never().is_some(), is_open);
            assert_eq!(questions.none().now_or_never().is_some(), !is_open);
        };
        check(false);
        questions.ask("1".to_owned(), None);
        questions.ask("\"a\\u0062\"".to_owned(), Some(b"7"));
        questions.close(b"1");
        questions.close(b"\"1\"");
        questions.close_during(b"8");
        check(true);
        questions.close(b"\"ab\"");
        check(false);
        questions.ask("2".to_owned(), Some(b"7"));
        questions.ask("3".to_owned(), Some(b"7"));
        questions.close_during(b"7");
        check(false);
        (0..2 * OPEN_MAX).for_each(|id| questions.ask(id.to_string(), None));
        assert_eq!(questions.open.borrow().len(), OPEN_MAX);
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let questions = Questions::default();
        let closing = async {
            tokio::task::yield_now().await;
            questions.ask("1".to_owned(), None);
            tokio::task::yield_now().await;
            questions.close(b"1");
        };
        let waiting = async {
            questions.any().await;
            questions.none().await;
        };
        tokio::join!(waiting, closing);
    }
}
