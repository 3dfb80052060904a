//! Calls that wait for an answer, and their end when their credential ends.
//!
//! A call that waits is not polled, so it cannot notice by itself that its key was revoked. A worker sweeps its waiting
//! calls, and wakes those that must end. They then drop what they hold: permits, and the connection to a server.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use foldhash::fast::RandomState;

use metamcp_store::auth::Identity;

/// The waiting calls of one worker. There are no more than their keys' permits allow.
#[derive(Default)]
pub struct RevocableCalls {
    calls: RefCell<HashMap<u64, RevocableCall, RandomState>>,
    next: Cell<u64>,
}

struct RevocableCall {
    identity: Identity,
    waker: Waker,
    /// Whether the credential has ended.
    is_ended: bool,
}

/// The credential ended before the call was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct CredentialEnded;

/// An entry of the table, removed on drop.
struct RevocableEntry<'a> {
    calls: &'a RevocableCalls,
    number: u64,
}

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

impl RevocableCalls {
    /// Completes with the answer, or when a sweep finds that the credential has ended. The caller then drops `answering`.
    pub async fn until_revoked<T>(
        &self,
        identity: Identity,
        mut answering: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, CredentialEnded> {
        // A call that is answered at once is never in the table.
        let (mut identity, mut entry) = (Some(identity), None);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            match (&entry, identity.take()) {
                (None, Some(identity)) => entry = Some(self.insert(identity, cx)),
                (Some(entry), _) if entry.note_poll(cx) => return Poll::Ready(Err(CredentialEnded)),
                _ => {}
            }
            Poll::Pending
        })
        .await
    }

    fn insert(&self, identity: Identity, cx: &Context<'_>) -> RevocableEntry<'_> {
        let call = RevocableCall { identity, waker: cx.waker().clone(), is_ended: false };
        let number = self.next.get();
        self.next.set(number + 1);
        self.calls.borrow_mut().insert(number, call);
        RevocableEntry { calls: self, number }
    }

    /// Ends the calls whose credential is not valid any more. Called once per tick and after each change of keys.
    pub fn sweep(&self, is_valid: impl Fn(&Identity) -> bool) {
        let mut calls = self.calls.borrow_mut();
        for call in calls.values_mut() {
            if !call.is_ended && !is_valid(&call.identity) {
                call.is_ended = true;
                call.waker.wake_by_ref();
            }
        }
        if calls.capacity() > ROOM_MIN && calls.len() < calls.capacity() / 4 {
            calls.shrink_to_fit();
        }
    }
}

impl RevocableEntry<'_> {
    /// Notes who is to be woken. Returns whether the credential has ended.
    fn note_poll(&self, cx: &Context<'_>) -> bool {
        let mut calls = self.calls.calls.borrow_mut();
        let Some(call) = calls.get_mut(&self.number) else { return false };
        call.waker.clone_from(cx.waker());
        call.is_ended
    }
}

impl Drop for RevocableEntry<'_> {
    fn drop(&mut self) {
        self.calls.calls.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_waiting_call_ends_with_its_credential() {
        let calls = RevocableCalls::default();
        let (kept, ended) = (Identity::sample("AAAAAAAAAAAA"), Identity::sample("BBBBBBBBBBBB"));
        let mut one = pin!(pending::<()>());
        let mut other = pin!(pending::<()>());
        let mut kept_call = pin!(calls.until_revoked(kept.clone(), one.as_mut()));
        let mut ended_call = pin!(calls.until_revoked(ended, other.as_mut()));
        for _ in 0..2 {
            assert!(poll(kept_call.as_mut()).is_pending() && poll(ended_call.as_mut()).is_pending());
        }
        calls.sweep(|identity| identity.key_id() == kept.key_id());
        assert_eq!(poll(ended_call.as_mut()), Poll::Ready(Err(CredentialEnded)));
        assert!(poll(kept_call.as_mut()).is_pending());
    }

    #[test]
    fn no_call_stays_in_the_table() {
        let calls = RevocableCalls::default();
        let identity = || Identity::sample("AAAAAAAAAAAA");
        {
            let mut answered = pin!(ready(7));
            let mut call = pin!(calls.until_revoked(identity(), answered.as_mut()));
            assert_eq!(poll(call.as_mut()), Poll::Ready(Ok(7)));
            let mut waiting = pin!(pending::<()>());
            let mut call = pin!(calls.until_revoked(identity(), waiting.as_mut()));
            assert!(poll(call.as_mut()).is_pending());
            assert_eq!(calls.calls.borrow().len(), 1);
        }
        assert!(calls.calls.borrow().is_empty());
    }
}
