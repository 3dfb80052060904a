use std::future::poll_fn;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::thread;

use tokio::time::Instant;

use super::super::session::DedicatedStream;
use super::super::session::tests::session;
use super::*;
use metamcp_http::multiplex::{EventSource, event_channel_with_capacity};

/// Events that a client's stream has room for.
const EVENTS_MAX: usize = 8;

/// One step of a test.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The client of a session opens a stream.
    Open(usize),
    /// The client goes away.
    Go(usize),
    /// The session ends.
    End(usize),
    /// The session gets a stream of its own, and still receives the shared events.
    Dedicate(usize),
    /// The session leaves the shared subscription.
    Leave(usize),
    /// The shared subscription looks for members.
    Sweep,
    /// The task of the shared subscription ends.
    Drop,
}

/// Sessions with equal subscription keys.
struct TestGroup {
    subscriptions: Arc<SharedSubscriptions>,
    sessions: Vec<Arc<Session>>,
    streams: Vec<Option<EventSource>>,
    dedicated: Vec<Option<DedicatedStream>>,
    shared: Option<SharedSubscription>,
    created: usize,
}

fn open_stream(session: &Session) -> EventSource {
    let (sink, events) = event_channel_with_capacity(EVENTS_MAX);
    session.park_stream(session.take_stream(), sink);
    events
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Returns how many events arrived, and whether the stream has ended.
fn drain(events: &mut EventSource) -> (usize, bool) {
    let mut count = 0;
    loop {
        match events.poll_next(&mut context()) {
            Poll::Pending => return (count, false),
            Poll::Ready(None) => return (count, true),
            Poll::Ready(Some(event)) => count += usize::from(event.is_ok()),
        }
    }
}

impl TestGroup {
    fn new(sessions: usize) -> Self {
        let sessions: Vec<_> = (0..sessions).map(|_| session("{}")).collect();
        let streams = sessions.iter().map(|_| None).collect();
        let dedicated = sessions.iter().map(|_| None).collect();
        Self { subscriptions: Arc::default(), sessions, streams, dedicated, shared: None, created: 0 }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open(at) => {
                self.streams[at] = Some(open_stream(&self.sessions[at]));
                if let Some(shared) = self.subscriptions.join(&self.sessions[at]) {
                    self.created += 1;
                    assert!(self.shared.replace(shared).is_none_or(|before| before.is_over.get()));
                }
            }
            Step::Go(at) => self.streams[at] = None,
            Step::End(at) => self.sessions[at].end(),
            Step::Dedicate(at) => {
                let before = self.dedicated[at].take();
                self.dedicated[at] = self.sessions[at].take_dedicated_stream(EVENTS_MAX).or(before);
            }
            Step::Leave(at) => {
                let stream = self.dedicated[at].as_ref().map_or(0, |dedicated| dedicated.stream);
                self.sessions[at].leave_shared(stream);
            }
            Step::Sweep => {
                let shared = self.shared.as_ref().unwrap();
                let _ = pin!(shared.emptied()).poll(&mut context());
            }
            Step::Drop => self.shared = None,
        }
    }

    /// Returns the number of members that the subscriptions have listed.
    fn members(&self) -> usize {
        self.subscriptions.lock().values().map(|members| members.sessions.len()).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn members_receive_each_event_once() {
    use Step::{Dedicate, Drop, End, Go, Leave, Open, Sweep};
    // `expected` has a letter for each session: it received the event once `1`, never `0`, or its stream has
    // ended `-`. `created` counts the shared subscriptions.
    let check = |steps: &[Step], expected: &str, created: usize| {
        let mut group = TestGroup::new(3);
        for step in steps {
            group.step(*step);
        }
        if let Some(shared) = &group.shared {
            shared.broadcast(&"x".into());
        }
        let received = (0..3).map(|at| {
            // A session with a dedicated stream receives the shared events in addition.
            let relayed = group.dedicated[at]
                .as_mut()
                .and_then(|dedicated| dedicated.shared_events.as_mut())
                .map_or((0, false), drain);
            match (relayed.0, group.streams[at].as_mut().map(drain)) {
                (0, Some((0, true))) => "-".to_owned(),
                (count, stream) => (count + stream.unwrap_or_default().0).to_string(),
            }
        });
        assert_eq!((received.collect::<String>().as_str(), group.created), (expected, created), "{steps:?}");
    };
    check(&[Open(0)], "100", 1);
    check(&[Open(0), Open(1), Open(2)], "111", 1);
    // The newest stream receives the events.
    check(&[Open(0), Open(1), Open(0)], "110", 1);
    check(&[Open(0), Open(1), Sweep, Open(1)], "110", 1);
    // Some members leave.
    check(&[Open(0), Open(1), Go(0)], "010", 1);
    check(&[Open(0), Open(1), Go(0), Sweep, Open(0)], "110", 1);
    check(&[Open(0), Open(1), End(1)], "1-0", 1);
    // All members have left, before and after it was noticed.
    check(&[Open(0), Go(0), Open(1)], "010", 1);
    check(&[Open(0), Go(0), Sweep, Open(1)], "010", 2);
    check(&[Open(0), Open(1), End(0), End(1), Sweep], "--0", 1);
    check(&[Open(0), Open(1), End(0), Go(1), Sweep, Open(1), Open(2)], "-11", 2);
    // One subscription is over, and another takes its place.
    check(&[Open(0), Go(0), Sweep, Open(1), Open(0)], "110", 2);
    // The task of the subscription ends.
    check(&[Open(0), Open(1), Drop], "--0", 1);
    check(&[Open(0), Open(1), Drop, Open(1)], "-10", 2);
    check(&[Open(0), Open(1), Drop, Open(1), Open(0), Open(2)], "111", 2);
    check(&[Open(0), Go(0), Sweep, Drop, Open(1)], "010", 2);
    // A session with a dedicated stream receives events until it leaves, and joins again with its next
    // stream.
    check(&[Open(0), Open(1), Dedicate(0)], "110", 1);
    check(&[Open(0), Open(1), Dedicate(0), Dedicate(0)], "110", 1);
    check(&[Open(0), Dedicate(0), Sweep, Open(1)], "110", 1);
    check(&[Open(0), Open(1), Dedicate(0), Leave(0)], "010", 1);
    check(&[Open(0), Dedicate(0), Leave(0), Sweep, Open(1)], "010", 2);
    check(&[Open(0), Open(1), Dedicate(0), Leave(0), Open(0)], "110", 1);
    check(&[Open(0), Open(1), Dedicate(0), Open(0)], "110", 1);
    check(&[Open(0), Open(1), Dedicate(0), Open(0), Leave(0)], "110", 1);
    check(&[Open(0), Open(1), Dedicate(0), Drop], "0-0", 1);
}

#[test]
fn sessions_with_different_keys_share_nothing() {
    let subscriptions = Arc::new(SharedSubscriptions::default());
    let (one, other) = (session("{}"), session(r#"{"roots":{}}"#));
    let (mut events_one, mut events_other) = (open_stream(&one), open_stream(&other));
    let shared = subscriptions.join(&one).unwrap();
    let _other = subscriptions.join(&other).unwrap();
    shared.broadcast(&"x".into());
    assert_eq!((drain(&mut events_one).0, drain(&mut events_other).0), (1, 0));
    assert!(subscriptions.join(&session("{}")).is_none(), "it has no stream");
    assert_eq!(subscriptions.lock().values().map(|members| members.sessions.len()).sum::<usize>(), 2);
}

#[test]
fn a_client_that_does_not_read_delays_nobody() {
    let mut group = TestGroup::new(2);
    group.step(Step::Open(0));
    group.step(Step::Open(1));
    let shared = group.shared.take().unwrap();
    let reads = group.streams[1].as_mut().unwrap();
    for _ in 0..10 * EVENTS_MAX {
        shared.broadcast(&"x".into());
        assert_eq!(drain(reads).0, 1);
    }
    let waiting = drain(group.streams[0].as_mut().unwrap()).0;
    assert!((1..=EVENTS_MAX).contains(&waiting), "{waiting}");
    // The client reads again.
    shared.broadcast(&"x".into());
    assert_eq!(drain(group.streams[0].as_mut().unwrap()).0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_ends_when_all_have_left() {
    use Step::{Dedicate, End, Go, Leave};
    // `expected` is how long it takes to notice.
    let check = async |steps: &[Step], expected: Duration| {
        let mut group = TestGroup::new(3);
        (0..3).for_each(|at| group.step(Step::Open(at)));
        let shared = group.shared.take().unwrap();
        let begin = Instant::now();
        let mut left = pin!(shared.emptied());
        assert!(poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx))).await.is_pending());
        for step in steps {
            group.step(*step);
        }
        left.await;
        assert_eq!(begin.elapsed(), expected, "{steps:?}");
        assert_eq!(group.members(), 0, "{steps:?}");
    };
    check(&[End(0), End(1), End(2)], Duration::ZERO).await;
    check(&[Dedicate(0), Leave(0), End(1), End(2)], Duration::ZERO).await;
    check(&[Go(0), Go(1), Go(2)], SWEEP_INTERVAL).await;
    check(&[End(0), Go(1), Go(2)], SWEEP_INTERVAL).await;
    check(&[Go(0), End(1), End(2)], Duration::ZERO).await;
}

/// Leaving costs the same however many members there are: all are visited only when half of them have left.
#[tokio::test(start_paused = true)]
async fn leaving_does_not_walk_over_all_members() {
    const SESSIONS: usize = 1000;
    let mut group = TestGroup::new(SESSIONS);
    (0..SESSIONS).for_each(|at| group.step(Step::Open(at)));
    let shared = group.shared.take().unwrap();
    let mut left = pin!(shared.emptied());
    let (mut walks, mut visited, mut before) = (0, 0, SESSIONS);
    for at in 0..SESSIONS {
        assert!(poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx))).await.is_pending(), "{at}");
        if group.members() < before {
            (walks, visited, before) = (walks + 1, visited + before, group.members());
        }
        group.step(Step::End(at));
    }
    left.await;
    assert!(visited <= 2 * SESSIONS, "{visited} in {walks} walks");
    assert!(walks > 5, "each walk halves the members");
}

/// While a subscription is dropped, its sessions open streams again and again on another thread. In the end
/// each has a stream that ended or receives the events of the next subscription. A session that is in no
/// subscription but looks like a member would stay that way.
#[test]
fn sessions_that_reopen_during_a_drop_receive_events() {
    const SESSIONS: usize = 64;
    for _ in 0..500 {
        let mut group = TestGroup::new(SESSIONS);
        (0..SESSIONS).for_each(|at| group.step(Step::Open(at)));
        let (shared, begin, is_dropped) = (group.shared.take(), Barrier::new(2), AtomicBool::new(false));
        let mut next: Vec<SharedSubscription> = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                drop(shared);
                is_dropped.store(true, Ordering::Relaxed);
            });
            begin.wait();
            while !is_dropped.load(Ordering::Relaxed) {
                for (session, stream) in group.sessions.iter().zip(&mut group.streams) {
                    *stream = Some(open_stream(session));
                    next.extend(group.subscriptions.join(session));
                }
            }
        });
        assert!(next.len() <= 1);
        for shared in &next {
            shared.broadcast(&"x".into());
        }
        for (at, stream) in group.streams.iter_mut().enumerate() {
            let (received, is_ended) = drain(stream.as_mut().unwrap());
            assert_eq!(received, usize::from(!is_ended), "{at}");
        }
    }
}
