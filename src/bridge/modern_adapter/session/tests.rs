use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metamcp_core::frame::Scanner;
use metamcp_core::protocol::{ClientCapabilities, McpMethod};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::error::TryRecvError;

use super::super::event_queue::WAITING_MAX;
use super::{AdapterSession, AdapterSessionKey, ClientSlot};
use crate::upstream::UpstreamId;

fn session() -> Arc<AdapterSession> {
    let capabilities = ClientCapabilities::ALL;
    AdapterSession::new(AdapterSessionKey { owner: None, upstream: UpstreamId(0), capabilities, index: 0 })
}

/// Checks which of the slots receive a message.
#[track_caller]
fn check(session: &Arc<AdapterSession>, slots: &mut [&mut ClientSlot], message: &str, expected: &[usize]) {
    let message = Bytes::from(message.to_owned());
    let envelope = Scanner::new().scan(&message).expect("a message");
    let is_taken = session.route(&message, &envelope);
    let received: Vec<_> = slots
        .iter_mut()
        .enumerate()
        .filter_map(|(at, slot)| slot.events.try_recv().ok().map(|_| at))
        .collect();
    assert_eq!(received, expected, "{message:?}");
    assert!(is_taken || expected.is_empty(), "{message:?}");
}

#[test]
fn messages_go_to_the_call_they_are_certainly_meant_for() {
    let session = session();
    let ask = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let progress = |token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
        )
    };
    check(&session, &mut [], ask, &[]);
    let mut one = session.begin_call(true).expect("the session is live");
    assert!(session.is_only_call(one.number));
    for message in [ask, log, &progress("1")] {
        check(&session, &mut [&mut one], message, &[0]);
    }
    let mut other = session.begin_call(true).expect("the session is live");
    assert!(!session.is_only_call(one.number) && !session.is_only_call(other.number));
    for message in [ask, log, &progress("\"1\""), &progress("3"), &progress("-1")] {
        check(&session, &mut [&mut one, &mut other], message, &[]);
    }
    check(&session, &mut [&mut one, &mut other], &progress("1"), &[0]);
    check(&session, &mut [&mut one, &mut other], &progress("2"), &[1]);
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#;
    check(&session, &mut [&mut one, &mut other], cancelled, &[0, 1]);
    drop(one);
    check(&session, &mut [&mut other], ask, &[0]);
    // A call that does not read misses messages, and does not delay others.
    let message = Bytes::from_static(log.as_bytes());
    let envelope = Scanner::new().scan(&message).expect("a message");
    let taken = (0..2 * WAITING_MAX).filter(|_| session.route(&message, &envelope)).count();
    assert_eq!(taken, WAITING_MAX);
}

#[test]
fn unsolicited_requests_wait_for_a_call_that_allows_input() {
    let ask = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#);
    let envelope = Scanner::new().scan(&ask).expect("a message");
    let permits = Arc::new(Semaphore::new(10));
    let check = |calls: &[bool], is_routed: bool, is_queued: bool| {
        let session = session();
        let slots: Vec<_> =
            calls.iter().map(|may| session.begin_call(*may).expect("the session is live")).collect();
        assert_eq!(session.route(&ask, &envelope), is_routed, "{calls:?}");
        let permit = Arc::clone(&permits).try_acquire_owned().expect("there is room");
        let wait_max = Duration::from_secs(1);
        assert_eq!(session.queue_unsolicited(&ask, &envelope, wait_max, permit), is_queued, "{calls:?}");
        assert_eq!(session.take_unsolicited().len(), usize::from(is_queued), "{calls:?}");
        drop(slots);
    };
    check(&[], false, true);
    check(&[false], false, true);
    // Like two callers that open the session together.
    check(&[false, false], false, true);
    check(&[true], true, false);
    check(&[false, true], false, false);
    check(&[true, true], false, false);
}

#[test]
fn notifications_go_to_their_listeners() {
    let session = session();
    let uris = |uris: &[&str]| uris.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (mut one, new) = session
        .add_listener(vec![McpMethod::ToolsListChanged], uris(&["a", "b"]))
        .expect("the session is live");
    assert_eq!(new, ["a", "b"]);
    let (mut other, new) = session.add_listener(Vec::new(), uris(&["b"])).expect("the session is live");
    assert!(new.is_empty() && session.has_listeners());
    let updated = |uri: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{uri}"}}}}"#
        )
    };
    let mut slots = [&mut one, &mut other];
    check(&session, &mut slots, &updated("a"), &[0]);
    check(&session, &mut slots, &updated("b"), &[0, 1]);
    check(&session, &mut slots, &updated("c"), &[]);
    let changed = |list: &str| format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#);
    check(&session, &mut slots, &changed("tools"), &[0]);
    check(&session, &mut slots, &changed("prompts"), &[]);
    assert_eq!(session.remove_listener(one.number), ["a"]);
    assert_eq!(session.remove_listener(one.number), Vec::<String>::new());
    assert_eq!(one.events.try_recv(), Err(TryRecvError::Disconnected));
    assert!(!session.end_if_idle(Duration::ZERO), "somebody listens");
    assert_eq!(session.remove_listener(other.number), ["b"]);
    assert!(session.end_if_idle(Duration::ZERO) && session.begin_call(true).is_none());
}
