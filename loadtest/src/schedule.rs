//! When each request is due.
//!
//! In the open loop the times are fixed before anything is sent: request `n` of all is due at `start + n / rate`,
//! and what it takes counts from then, whenever a connection was free for it. Otherwise a server that stalls would
//! not be asked while it does, and its stall would be in one latency instead of in those of all who would have
//! come (coordinated omission: G. Tene, "How NOT to Measure Latency"). Requests that are due wait in no queue: a
//! connection that comes free takes the next due time, so nothing grows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::tally::Tally;

/// Due times are rounded down to a multiple of this, so that a high rate does not wake a thread for each request.
pub const TICK: Duration = Duration::from_micros(250);

/// What was due shortly before the end is still sent, since to wake up takes time.
const GRACE: Duration = Duration::from_millis(250);

/// Who wants to end waits for it no longer.
const STOP_NOTICED: Duration = Duration::from_millis(250);

/// Which requests of a run one lane sends.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The first one is due, or the first connection may send.
    pub start: Instant,
    /// Nothing is due from here on.
    pub end: Instant,
    /// Over all lanes; `None`: closed loop.
    pub rate: Option<f64>,
    /// This lane's number.
    pub lane: u64,
    /// Their count.
    pub lanes: u64,
    /// Of this lane.
    pub requests_max: Option<u64>,
}

impl Plan {
    /// When the request of that number of this lane is due.
    fn due(&self, number: u64, rate: f64) -> Instant {
        // Exact for as many requests as a run can have.
        #[allow(clippy::cast_precision_loss)]
        let after = Duration::from_secs_f64((number * self.lanes + self.lane) as f64 / rate);
        let tick = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
        let into_tick = u64::try_from(after.as_nanos() % u128::from(tick)).unwrap_or(0);
        self.start + after.saturating_sub(Duration::from_nanos(into_tick))
    }

    /// How many are due before the end, in the open loop.
    fn due_by(&self, end: Instant, rate: f64) -> u64 {
        let (mut low, mut high) = (0, u64::MAX >> 16);
        let seconds = end.saturating_duration_since(self.start).as_secs_f64();
        // As far as a search has to look.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let guess = (seconds * rate) as u64 + 2;
        high = high.min(guess);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.due(middle, rate) < end { low = middle + 1 } else { high = middle }
        }
        self.requests_max.map_or(low, |max| low.min(max))
    }
}

/// Gives due times to the connections of one lane, in order.
pub struct Schedule {
    plan: Plan,
    turn: Mutex<Turn>,
    stop: Arc<AtomicBool>,
    tally: Arc<StdMutex<Tally>>,
}

struct Turn {
    taken: u64,
    pacer: Pacer,
}

impl Schedule {
    /// `stop`: somebody wants to end early.
    pub fn new(plan: Plan, pacer: Pacer, stop: Arc<AtomicBool>, tally: Arc<StdMutex<Tally>>) -> Self {
        Self { plan, turn: Mutex::new(Turn { taken: 0, pacer }), stop, tally }
    }

    /// Waits until the next request is due; gives since when it is. `None`: no more.
    pub async fn next(&self) -> Option<Instant> {
        let plan = &self.plan;
        let mut turn = self.turn.lock().await;
        if plan.requests_max.is_some_and(|max| turn.taken >= max) || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let due = match plan.rate {
            None => now.max(plan.start),
            Some(rate) => plan.due(turn.taken, rate),
        };
        if due >= plan.end || now >= plan.end + GRACE {
            // A run lasts its time, also when the last request was answered before.
            self.wait(&turn.pacer, plan.end).await;
            return None;
        }
        if due > now {
            self.wait(&turn.pacer, due).await;
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let late = Instant::now().saturating_duration_since(due);
            self.tally.lock().expect("nothing panics while it counts").woke_late(late);
        }
        turn.taken += 1;
        Some(due)
    }

    /// Until then, or until somebody wants to end.
    async fn wait(&self, pacer: &Pacer, until: Instant) {
        let mut now = Instant::now();
        while now < until && !self.stop.load(Ordering::Relaxed) {
            pacer.until(until.min(now + STOP_NOTICED)).await;
            now = Instant::now();
        }
    }

    /// What was due and not sent when everything has ended.
    pub async fn unsent(&self) -> u64 {
        let taken = self.turn.lock().await.taken;
        match self.plan.rate {
            Some(rate) if !self.stop.load(Ordering::Relaxed) => {
                self.plan.due_by(self.plan.end, rate).saturating_sub(taken)
            }
            _ => 0,
        }
    }
}

/// Waits until a time.
pub enum Pacer {
    /// By the timer of tokio, which is a millisecond coarse, and can be paused in tests.
    Timer,
    /// By a thread, which is some 0.1 ms late.
    Thread {
        /// Where it is told until when to wait.
        until: mpsc::Sender<Instant>,
        /// What it calls then.
        woken: Arc<Notify>,
    },
}

impl Pacer {
    /// With a thread that ends with it.
    pub fn thread() -> std::io::Result<Self> {
        let (until, times) = mpsc::channel();
        let woken = Arc::new(Notify::new());
        let notify = Arc::clone(&woken);
        std::thread::Builder::new().name("pacer".to_owned()).spawn(move || pace(&times, &notify))?;
        Ok(Self::Thread { until, woken })
    }

    async fn until(&self, time: Instant) {
        match self {
            Self::Timer => tokio::time::sleep_until(time).await,
            Self::Thread { until, woken } => {
                while Instant::now() < time && until.send(time).is_ok() {
                    woken.notified().await;
                }
            }
        }
    }
}

fn pace(times: &mpsc::Receiver<Instant>, woken: &Notify) {
    let mut next = times.recv().ok();
    while let Some(time) = next {
        match times.recv_timeout(time.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {
                woken.notify_one();
                next = times.recv().ok();
            }
            // Only if the one who waited was dropped; somebody else waits now.
            Ok(other) => next = Some(other),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When requests of all lanes are taken, in microseconds after the start, if each is answered at once.
    #[track_caller]
    fn check(rate: Option<f64>, lanes: u64, seconds: f64, requests_max: Option<u64>, expected: &[u64]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let found = runtime.unwrap().block_on(async {
            let start = Instant::now();
            let end = start + Duration::from_secs_f64(seconds);
            let mut found = Vec::new();
            for lane in 0..lanes {
                let plan = Plan { start, end, rate, lane, lanes, requests_max };
                let tally = Arc::new(StdMutex::new(Tally::new(1)));
                let schedule = Schedule::new(plan, Pacer::Timer, Arc::default(), tally);
                while found.len() < 100
                    && let Some(due) = schedule.next().await
                {
                    found.push(u64::try_from((due - start).as_micros()).unwrap());
                }
                assert_eq!(schedule.unsent().await, 0);
            }
            found.sort_unstable();
            found
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn requests_are_due_at_even_distances() {
        check(Some(10.0), 1, 0.35, None, &[0, 100_000, 200_000, 300_000]);
        check(Some(10.0), 1, 0.3, None, &[0, 100_000, 200_000]);
        check(Some(10.0), 1, 10.0, Some(2), &[0, 100_000]);
        // No more than one wake-up a tick.
        check(Some(8000.0), 1, 0.0006, None, &[0, 0, 250, 250, 500, 500]);
        check(None, 1, 1.0, Some(3), &[0, 0, 0]);
    }

    #[test]
    fn lanes_share_the_rate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let start = Instant::now();
            let end = start + Duration::from_secs(1);
            let plan = |lane| Plan { start, end, rate: Some(10.0), lane, lanes: 3, requests_max: None };
            let due = |lane, number| plan(lane).due(number, 10.0).duration_since(start).as_millis();
            assert_eq!([due(0, 0), due(1, 0), due(2, 0), due(0, 1)], [0, 100, 200, 300]);
            let counts = [0, 1, 2].map(|lane| plan(lane).due_by(end, 10.0));
            assert_eq!(counts, [4, 3, 3]);
        });
    }

    /// A stop is noticed long before the next request is due.
    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let start = Instant::now();
        let end = start + Duration::from_hours(1);
        let plan = Plan { start, end, rate: Some(0.01), lane: 0, lanes: 1, requests_max: None };
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(StdMutex::new(Tally::new(1))));
        let schedule = Schedule::new(plan, Pacer::Timer, Arc::clone(&stop), tally);
        assert!(schedule.next().await.is_some());
        let ask = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.store(true, Ordering::Relaxed);
        };
        let (next, ()) = tokio::join!(schedule.next(), ask);
        assert!(next.is_none());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(schedule.unsent().await, 0);
    }

    /// Who was slow to come back gets the times that passed meanwhile, not those from then on.
    #[tokio::test(start_paused = true)]
    async fn a_stall_does_not_move_what_is_due() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let plan = Plan { start, end, rate: Some(100.0), lane: 0, lanes: 1, requests_max: None };
        let tally = Arc::new(StdMutex::new(Tally::new(1)));
        let schedule = Schedule::new(plan, Pacer::Timer, Arc::default(), tally);
        let mut dues = Vec::new();
        while let Some(due) = schedule.next().await {
            if dues.is_empty() {
                tokio::time::advance(Duration::from_millis(500)).await;
            }
            dues.push((due - start).as_millis());
        }
        let even: Vec<_> = (0..100).map(|number| number * 10).collect();
        assert_eq!(dues, even);
        assert_eq!(schedule.unsent().await, 0);
        // One that never comes back leaves the rest unsent.
        let plan = Plan { start: Instant::now(), end: Instant::now() + Duration::from_secs(1), ..plan };
        let schedule =
            Schedule::new(plan, Pacer::Timer, Arc::default(), Arc::new(StdMutex::new(Tally::new(1))));
        assert!(schedule.next().await.is_some());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(schedule.next().await.is_none());
        assert_eq!(schedule.unsent().await, 99);
    }
}
