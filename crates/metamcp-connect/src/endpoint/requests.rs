//! The endpoint's own requests to the client that have no response yet (sampling, elicitation, roots). Nobody
//! can answer them once the client's input has ended.

use std::cell::RefCell;

use bytes::Bytes;
use tokio::sync::Notify;

use metamcp_core::protocol::CallsById;

/// The endpoint's requests in flight. One leaves when the client answers it, the endpoint cancels it, or the
/// client's request during which it was sent is over.
#[derive(Default)]
pub struct EndpointRequests {
    /// Each with the id of the client's request on whose stream it arrived; `None` on the session's own stream.
    in_flight: RefCell<CallsById<Option<Bytes>, RECORDED_MAX>>,
    changed: Notify,
}

/// Further requests are not recorded: one in flight means the same as a thousand.
const RECORDED_MAX: usize = 64;

impl EndpointRequests {
    /// Records a request of the endpoint, sent `during` a request of the client.
    pub fn open(&self, id: String, during: Option<&[u8]>) {
        let during = during.map(Bytes::copy_from_slice);
        self.in_flight.borrow_mut().insert_or_replace(id.into(), during);
        self.changed.notify_waiters();
    }

    /// Removes a request that was answered or cancelled.
    pub fn close(&self, id: &[u8]) {
        self.in_flight.borrow_mut().remove(id);
        self.changed.notify_waiters();
    }

    /// Removes the requests that were sent during this request of the client.
    pub fn close_during(&self, client_request: &[u8]) {
        self.in_flight.borrow_mut().remove_all(|during| during.as_deref() == Some(client_request));
        self.changed.notify_waiters();
    }

    /// Waits until a request is in flight. Cancel safe.
    pub async fn wait_for_any(&self) {
        self.wait_until(|count| count > 0).await;
    }

    /// Waits until no request is in flight. Cancel safe.
    pub async fn wait_for_none(&self) {
        self.wait_until(|count| count == 0).await;
    }

    async fn wait_until(&self, condition: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self.in_flight.borrow().len()) {
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
    fn a_request_is_open_until_it_is_answered_cancelled_or_its_call_ends() {
        let requests = EndpointRequests::default();
        let check = |is_open: bool| {
            assert_eq!(requests.wait_for_any().now_or_never().is_some(), is_open);
            assert_eq!(requests.wait_for_none().now_or_never().is_some(), !is_open);
        };
        check(false);
        requests.open("1".to_owned(), None);
        requests.open("\"a\\u0062\"".to_owned(), Some(b"7"));
        requests.close(b"1");
        requests.close(b"\"1\"");
        requests.close_during(b"8");
        check(true);
        requests.close(b"\"ab\"");
        check(false);
        requests.open("2".to_owned(), Some(b"7"));
        requests.open("3".to_owned(), Some(b"7"));
        requests.close_during(b"7");
        check(false);
        (0..2 * RECORDED_MAX).for_each(|id| requests.open(id.to_string(), None));
        assert_eq!(requests.in_flight.borrow().len(), RECORDED_MAX);
    }

    #[tokio::test]
    async fn waiters_are_woken() {
        let requests = EndpointRequests::default();
        let closing = async {
            tokio::task::yield_now().await;
            requests.open("1".to_owned(), None);
            tokio::task::yield_now().await;
            requests.close(b"1");
        };
        let waiting = async {
            requests.wait_for_any().await;
            requests.wait_for_none().await;
        };
        tokio::join!(waiting, closing);
    }
}
