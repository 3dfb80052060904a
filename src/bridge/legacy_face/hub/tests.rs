use std::future::poll_fn;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::thread;

use tokio::time::Instant;

use super::super::session::Own;
use super::super::session::tests::session;
use super::*;
use crate::upstream::shim::{Events, stream_of};

/// What a client's stream has room for.
const ROOM: usize = 8;

/// What happens to a session.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Its client opens a stream.
    Come(usize),
    /// Its client goes without a word.
    Go(usize),
    /// It ends.
    End(usize),
    /// It listens for itself, and is told by the hub all the same.
    Part(usize),
    /// The hub is left for that.
    Leave(usize),
    /// The hub looks whether anybody is there.
    Look,
    /// Who listens for the hub does so no more.
    Drop,
}

/// Some sessions that are alike, and one that is not.
struct Room {
    hubs: Arc<Hubs>,
    sessions: Vec<Arc<Session>>,
    streams: Vec<Option<Events>>,
    owns: Vec<Option<Own>>,
    hub: Option<Hub>,
    hubs_made: usize,
}

fn come(session: &Session) -> Events {
    let (outlet, events) = stream_of(ROOM);
    session.keep_still(session.take_stream(), outlet);
    events
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// How many events came, and whether the stream has ended.
fn drain(events: &mut Events) -> (usize, bool) {
    let mut count = 0;
    loop {
        match events.poll_next(&mut context()) {
            Poll::Pending => return (count, false),
            Poll::Ready(None) => return (count, true),
            Poll::Ready(Some(event)) => count += usize::from(event.is_ok()),
        }
    }
}

impl Room {
    fn new(sessions: usize) -> Self {
        let sessions: Vec<_> = (0..sessions).map(|_| session("{}")).collect();
        let streams = sessions.iter().map(|_| None).collect();
        let owns = sessions.iter().map(|_| None).collect();
        Self { hubs: Arc::default(), sessions, streams, owns, hub: None, hubs_made: 0 }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Come(at) => {
                self.streams[at] = Some(come(&self.sessions[at]));
                if let Some(hub) = self.hubs.join(&self.sessions[at]) {
                    self.hubs_made += 1;
                    assert!(self.hub.replace(hub).is_none_or(|before| before.is_over.get()));
                }
            }
            Step::Go(at) => self.streams[at] = None,
            Step::End(at) => self.sessions[at].end(),
            Step::Part(at) => {
                let before = self.owns[at].take();
                self.owns[at] = self.sessions[at].go_alone(ROOM).or(before);
            }
            Step::Leave(at) => {
                let stream = self.owns[at].as_ref().map_or(0, |own| own.stream);
                self.sessions[at].leave_hub(stream);
            }
            Step::Look => {
                let hub = self.hub.as_ref().unwrap();
                let _ = pin!(hub.left()).poll(&mut context());
            }
            Step::Drop => self.hub = None,
        }
    }

    /// How many members the hub's list has.
    fn members(&self) -> usize {
        self.hubs.lock().values().map(|members| members.sessions.len()).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_there_is_told_once() {
    use Step::{Come, Drop, End, Go, Leave, Look, Part};
    // The sessions that hear what is told after that, one letter each: once `1`, never `0`, their stream has ended `-`; and
    // how often somebody began to listen.
    let check = |steps: &[Step], expected: &str, hubs_made: usize| {
        let mut room = Room::new(3);
        for step in steps {
            room.step(*step);
        }
        if let Some(hub) = &room.hub {
            hub.tell(&"x".into());
        }
        let heard = (0..3).map(|at| {
            // One that listens for itself has what the hub tells beside.
            let beside = room.owns[at].as_mut().and_then(|own| own.hub.as_mut()).map_or((0, false), drain);
            match (beside.0, room.streams[at].as_mut().map(drain)) {
                (0, Some((0, true))) => "-".to_owned(),
                (count, stream) => (count + stream.unwrap_or_default().0).to_string(),
            }
        });
        assert_eq!((heard.collect::<String>().as_str(), room.hubs_made), (expected, hubs_made), "{steps:?}");
    };
    check(&[Come(0)], "100", 1);
    check(&[Come(0), Come(1), Come(2)], "111", 1);
    // On its newest stream.
    check(&[Come(0), Come(1), Come(0)], "110", 1);
    check(&[Come(0), Come(1), Look, Come(1)], "110", 1);
    // Some leave.
    check(&[Come(0), Come(1), Go(0)], "010", 1);
    check(&[Come(0), Come(1), Go(0), Look, Come(0)], "110", 1);
    check(&[Come(0), Come(1), End(1)], "1-0", 1);
    // All have left, which is noticed or is not.
    check(&[Come(0), Go(0), Come(1)], "010", 1);
    check(&[Come(0), Go(0), Look, Come(1)], "010", 2);
    check(&[Come(0), Come(1), End(0), End(1), Look], "--0", 1);
    check(&[Come(0), Come(1), End(0), Go(1), Look, Come(1), Come(2)], "-11", 2);
    // One is over, and another in its place.
    check(&[Come(0), Go(0), Look, Come(1), Come(0)], "110", 2);
    // Nobody listens for them any more.
    check(&[Come(0), Come(1), Drop], "--0", 1);
    check(&[Come(0), Come(1), Drop, Come(1)], "-10", 2);
    check(&[Come(0), Come(1), Drop, Come(1), Come(0), Come(2)], "111", 2);
    check(&[Come(0), Go(0), Look, Drop, Come(1)], "010", 2);
    // One listens for itself: it is told until it has left, and comes again with its next stream.
    check(&[Come(0), Come(1), Part(0)], "110", 1);
    check(&[Come(0), Come(1), Part(0), Part(0)], "110", 1);
    check(&[Come(0), Part(0), Look, Come(1)], "110", 1);
    check(&[Come(0), Come(1), Part(0), Leave(0)], "010", 1);
    check(&[Come(0), Part(0), Leave(0), Look, Come(1)], "010", 2);
    check(&[Come(0), Come(1), Part(0), Leave(0), Come(0)], "110", 1);
    check(&[Come(0), Come(1), Part(0), Come(0)], "110", 1);
    check(&[Come(0), Come(1), Part(0), Come(0), Leave(0)], "110", 1);
    check(&[Come(0), Come(1), Part(0), Drop], "0-0", 1);
}

#[test]
fn those_that_are_not_alike_share_nothing() {
    let hubs = Arc::new(Hubs::default());
    let (one, other) = (session("{}"), session(r#"{"roots":{}}"#));
    let (mut heard_one, mut heard_other) = (come(&one), come(&other));
    let hub = hubs.join(&one).unwrap();
    let _other = hubs.join(&other).unwrap();
    hub.tell(&"x".into());
    assert_eq!((drain(&mut heard_one).0, drain(&mut heard_other).0), (1, 0));
    assert!(hubs.join(&session("{}")).is_none(), "it has no stream");
    assert_eq!(hubs.lock().values().map(|members| members.sessions.len()).sum::<usize>(), 2);
}

#[test]
fn one_that_does_not_read_is_not_waited_for() {
    let mut room = Room::new(2);
    room.step(Step::Come(0));
    room.step(Step::Come(1));
    let hub = room.hub.take().unwrap();
    let reads = room.streams[1].as_mut().unwrap();
    for _ in 0..10 * ROOM {
        hub.tell(&"x".into());
        assert_eq!(drain(reads).0, 1);
    }
    let kept = drain(room.streams[0].as_mut().unwrap()).0;
    assert!((1..=ROOM).contains(&kept), "{kept}");
    // It reads again.
    hub.tell(&"x".into());
    assert_eq!(drain(room.streams[0].as_mut().unwrap()).0, 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_over_when_all_have_left() {
    use Step::{End, Go, Leave, Part};
    // How long it takes to notice it.
    let check = async |steps: &[Step], expected: Duration| {
        let mut room = Room::new(3);
        (0..3).for_each(|at| room.step(Step::Come(at)));
        let hub = room.hub.take().unwrap();
        let begin = Instant::now();
        let mut left = pin!(hub.left());
        assert!(poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx))).await.is_pending());
        for step in steps {
            room.step(*step);
        }
        left.await;
        assert_eq!(begin.elapsed(), expected, "{steps:?}");
        assert_eq!(room.members(), 0, "{steps:?}");
    };
    check(&[End(0), End(1), End(2)], Duration::ZERO).await;
    check(&[Part(0), Leave(0), End(1), End(2)], Duration::ZERO).await;
    check(&[Go(0), Go(1), Go(2)], TIDY_EVERY).await;
    check(&[End(0), Go(1), Go(2)], TIDY_EVERY).await;
    check(&[Go(0), End(1), End(2)], Duration::ZERO).await;
}

/// To leave costs the same however many there are: all are looked at only when half of them have left.
#[tokio::test(start_paused = true)]
async fn leaving_is_no_walk_over_all() {
    const SESSIONS: usize = 1000;
    let mut room = Room::new(SESSIONS);
    (0..SESSIONS).for_each(|at| room.step(Step::Come(at)));
    let hub = room.hub.take().unwrap();
    let mut left = pin!(hub.left());
    let (mut walks, mut looked_at, mut before) = (0, 0, SESSIONS);
    for at in 0..SESSIONS {
        assert!(poll_fn(|cx| Poll::Ready(left.as_mut().poll(cx))).await.is_pending(), "{at}");
        if room.members() < before {
            (walks, looked_at, before) = (walks + 1, looked_at + before, room.members());
        }
        room.step(Step::End(at));
    }
    left.await;
    assert!(looked_at <= 2 * SESSIONS, "{looked_at} in {walks} walks");
    assert!(walks > 5, "half of those that are there are fewer each time");
}

/// The sessions of a hub that is dropped come again and again meanwhile, on another thread: in the end each has a stream
/// that ended, or is told by the next hub. A session that was left in no hub, and taken for one that is in one, stays so.
#[test]
fn nobody_who_comes_again_is_left_with_no_one_who_tells() {
    const SESSIONS: usize = 64;
    for _ in 0..500 {
        let mut room = Room::new(SESSIONS);
        (0..SESSIONS).for_each(|at| room.step(Step::Come(at)));
        let (hub, begin, is_dropped) = (room.hub.take(), Barrier::new(2), AtomicBool::new(false));
        let mut next: Vec<Hub> = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                drop(hub);
                is_dropped.store(true, Ordering::Relaxed);
            });
            begin.wait();
            while !is_dropped.load(Ordering::Relaxed) {
                for (session, stream) in room.sessions.iter().zip(&mut room.streams) {
                    *stream = Some(come(session));
                    next.extend(room.hubs.join(session));
                }
            }
        });
        assert!(next.len() <= 1);
        for hub in &next {
            hub.tell(&"x".into());
        }
        for (at, stream) in room.streams.iter_mut().enumerate() {
            let (heard, is_ended) = drain(stream.as_mut().unwrap());
            assert_eq!(heard, usize::from(!is_ended), "{at}");
        }
    }
}
