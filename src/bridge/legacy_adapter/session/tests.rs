use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::protocol::{ClientCapabilities, Revision};

use super::filter::{URI_BYTES_MAX, URIS_BYTES_MAX, URIS_MAX};
use super::state::lock;
use super::{ClientIntroduction, Session, SessionFeatures};
use crate::upstream::UpstreamId;

/// Creates a session of a client that declared these capabilities.
pub fn session(declared: &'static str) -> Arc<Session> {
    let introduction = ClientIntroduction {
        revision: Revision::LEGACY_LATEST,
        capabilities: ClientCapabilities::from_json(declared.as_bytes()).unwrap(),
        declared: declared.into(),
        client_info: Some(Bytes::from_static(br#"{"name":"c","version":"1"}"#)),
    };
    Session::new(UpstreamId(0), Arc::new(introduction), None, SessionFeatures::default())
}

#[tokio::test(start_paused = true)]
async fn a_call_is_cancelled_by_its_own_id() {
    let session = session("{}");
    let check = async |id: &'static str, cancels: &[u8], expected: bool| {
        let mut call = session.begin_call(id.into());
        session.cancel_call(cancels);
        let waits = tokio::time::timeout(std::time::Duration::from_secs(1), call.cancelled());
        assert_eq!(waits.await.is_ok(), expected, "{id}");
    };
    check("1", b"1", true).await;
    check("1", b"\"1\"", false).await;
    check("\"a\"", b"\"\\u0061\"", true).await;
    let mut call = session.begin_call("2".into());
    session.end();
    call.cancelled().await;
    session.begin_call("3".into()).cancelled().await;
    assert_eq!(session.expect_input("x".into()).response().await, None);
}

#[test]
fn a_response_is_delivered_once() {
    let session = session("{}");
    let input = session.expect_input("q1".into());
    assert!(!session.deliver_input("q2", "{}".into()));
    assert!(session.deliver_input("q1", "{}".into()));
    assert!(!session.deliver_input("q1", "{}".into()), "it was answered before");
    drop(input);
    drop(session.expect_input("q3".into()));
    assert!(!session.deliver_input("q3", "{}".into()), "no input request waits");
}

#[test]
fn filter_versions_are_counted_and_uris_are_bounded() {
    let session = session("{}");
    assert_eq!(session.subscribe("a"), Some(1));
    assert_eq!(session.subscribe("a"), Some(1), "nothing new");
    assert_eq!(session.subscribe("b"), Some(2));
    assert_eq!(session.unsubscribe("a"), 3);
    assert_eq!(session.unsubscribe("a"), 3);
    assert_eq!(session.subscribed_uris(), (3, vec!["b".to_owned()]));
    let taken = (0..2 * URIS_MAX).filter(|n| session.subscribe(&n.to_string()).is_some()).count();
    assert_eq!(taken, URIS_MAX - 1);
    assert_eq!(session.subscribe(&"x".repeat(URI_BYTES_MAX + 1)), None);
    let session = self::session("{}");
    let long = |n: usize| format!("{n:0>URI_BYTES_MAX$}");
    let taken = (0..URIS_MAX).filter(|n| session.subscribe(&long(*n)).is_some()).count();
    assert_eq!(taken, URIS_BYTES_MAX / URI_BYTES_MAX);
    assert!(session.subscribe(&long(0)).is_some(), "it is subscribed already");
}

#[test]
fn empty_optional_state_is_freed() {
    let session = session("{}");
    let is_spare = || lock(&session.state).optional.is_none();
    assert_eq!(session.subscribe(&"x".repeat(URI_BYTES_MAX + 1)), None);
    assert!(is_spare());
    let input = session.expect_input("q1".into());
    session.subscribe("a");
    session.unsubscribe("a");
    assert!(!is_spare(), "somebody waits for an answer");
    drop(input);
    assert!(is_spare());
    session.set_log_level("\"info\"".into());
    drop(session.expect_input("q2".into()));
    assert_eq!(session.log_level().as_deref(), Some(&b"\"info\""[..]));
}
