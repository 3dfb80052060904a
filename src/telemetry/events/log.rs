//! The newest events, and the positions of their readers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use metamcp_core::base::unix_seconds;
use tokio::sync::watch;

use super::event::Event;
use super::filter::EventFilter;
use super::logged_event::LoggedEvent;
use crate::telemetry::random::SplitMix64;

/// The newest events of this process, for any number of readers.
pub struct EventLog {
    /// Tells the ids of this process from those of others.
    instance: u32,
    kept: Mutex<KeptEvents>,
    /// The number of the newest event; 0 before the first.
    newest: watch::Sender<u64>,
    /// Until when events of calls are logged, in Unix seconds: 0 if nobody has read them lately, [`FOR_A_READER`] while
    /// somebody does.
    calls_until: AtomicU64,
    call_readers: Mutex<usize>,
}

/// The newest events, oldest first, with consecutive numbers.
#[derive(Default)]
struct KeptEvents {
    events: VecDeque<Arc<LoggedEvent>>,
    bytes: usize,
    /// The number of the newest event; 0 before the first.
    newest: u64,
}

/// Identifies an event over the restarts of gateways: `INSTANCE-NUMBER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    instance: u32,
    number: u64,
}

/// The position of a reader in the log.
pub struct EventReader {
    log: Arc<EventLog>,
    filter: EventFilter,
    /// The number of the last event that was looked at.
    position: u64,
    /// Whether what was before the position is not known to the reader: it comes from another process.
    is_lost: bool,
    newest: watch::Receiver<u64>,
    reads_calls: bool,
}

/// What a reader reads.
#[derive(Debug)]
pub enum EventRead {
    Event(Arc<LoggedEvent>),
    /// So many events were dropped before they were read, whether the filter admits them or not; `None` if the number is
    /// not known, because the reader's last event was of another process. `position` is the id of the last of them.
    Missed {
        count: Option<u64>,
        position: EventId,
    },
}

/// The bounds of what is kept: some minutes of a busy gateway, for a reader that is interrupted.
const EVENTS_MAX: usize = 16_384;
const BYTES_MAX: usize = 8 << 20;

/// Events that one read looks at while it holds the lock, so that a reader who filters nearly all does not delay those who add.
const LOOK_MAX: u64 = 256;

/// How long events of calls are still logged when their last reader has left: it may come back and ask for what it missed.
const AFTER_READER_S: u64 = 60;

const FOR_A_READER: u64 = u64::MAX;

impl Default for EventLog {
    fn default() -> Self {
        let instance = SplitMix64::from_system().map_or(0, |random| random.next());
        Self {
            // Half of it is enough to tell processes apart.
            instance: (instance >> 32) as u32,
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
            calls_until: AtomicU64::new(0),
            call_readers: Mutex::new(0),
        }
    }
}

impl EventLog {
    /// Whether events of calls are to be added. Costs one load while nobody reads them.
    pub fn wants_calls(&self) -> bool {
        match self.calls_until.load(Ordering::Relaxed) {
            0 => false,
            FOR_A_READER => true,
            until => self.is_before(until),
        }
    }

    #[cold]
    fn is_before(&self, until: u64) -> bool {
        if unix_seconds() < until {
            return true;
        }
        // A reader that begins meanwhile has written another value, which stays.
        let _ = self.calls_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
        false
    }

    /// Adds an event. Drops the oldest if there are too many.
    pub fn add(&self, event: Event) {
        let members = event.json_members();
        let Event { kind, severity, server, endpoint, key, .. } = event;
        let mut kept = lock(&self.kept);
        kept.newest += 1;
        let id = self.id(kept.newest);
        let json = Bytes::from([format!("{{\"id\":\"{id}\",").as_bytes(), &members].concat());
        kept.bytes += json.len();
        let number = kept.newest;
        kept.events.push_back(Arc::new(LoggedEvent { number, kind, severity, server, endpoint, key, json }));
        while kept.events.len() > EVENTS_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.json.len();
        }
        // With the lock, so that the number never goes back.
        self.newest.send_replace(number);
    }

    /// A reader of what follows `after`, or of what happens from now on.
    pub fn read(self: &Arc<Self>, filter: EventFilter, after: Option<EventId>) -> EventReader {
        let reads_calls = filter.wants_calls();
        if reads_calls {
            let mut readers = lock(&self.call_readers);
            *readers += 1;
            self.calls_until.store(FOR_A_READER, Ordering::Relaxed);
        }
        let newest = lock(&self.kept).newest;
        let (position, is_lost) = match after {
            None => (newest, false),
            Some(after) if after.instance == self.instance => (after.number.min(newest), false),
            // All that this process has is new to the reader.
            Some(_) => (0, true),
        };
        EventReader {
            log: Arc::clone(self),
            filter,
            position,
            is_lost,
            newest: self.newest.subscribe(),
            reads_calls,
        }
    }

    fn id(&self, number: u64) -> EventId {
        EventId { instance: self.instance, number }
    }
}

impl EventReader {
    /// Waits for the next event that the filter admits. Cancel safe.
    pub async fn next(&mut self) -> EventRead {
        loop {
            let newest = *self.newest.borrow_and_update();
            while self.is_lost || self.position < newest {
                if let Some(read) = self.look() {
                    return read;
                }
            }
            // The log is never dropped while it has a reader.
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next event if there is one.
    pub fn try_next(&mut self) -> Option<EventRead> {
        let newest = *self.newest.borrow_and_update();
        while self.is_lost || self.position < newest {
            if let Some(read) = self.look() {
                return Some(read);
            }
        }
        None
    }

    pub fn id_of(&self, event: &LoggedEvent) -> EventId {
        self.log.id(event.number)
    }

    /// Looks at some events after the position, and moves it.
    fn look(&mut self) -> Option<EventRead> {
        let kept = lock(&self.log.kept);
        let oldest = kept.newest - kept.events.len() as u64 + 1;
        if self.is_lost || self.position + 1 < oldest {
            let count = oldest - 1 - self.position;
            let count = (!std::mem::take(&mut self.is_lost)).then_some(count);
            self.position = oldest - 1;
            return Some(EventRead::Missed { count, position: self.log.id(self.position) });
        }
        let last = kept.newest.min(self.position + LOOK_MAX);
        while self.position < last {
            self.position += 1;
            let event = usize::try_from(self.position - oldest).ok().and_then(|at| kept.events.get(at));
            if let Some(event) = event.filter(|event| self.filter.admits(event)) {
                return Some(EventRead::Event(Arc::clone(event)));
            }
        }
        None
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        if self.reads_calls {
            let mut readers = lock(&self.log.call_readers);
            *readers -= 1;
            if *readers == 0 {
                self.log.calls_until.store(unix_seconds() + AFTER_READER_S, Ordering::Relaxed);
            }
        }
    }
}

impl EventId {
    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (instance, number) = text.split_once('-')?;
        // Both parsers accept a sign.
        let is_plain = instance.len() == 8 && !instance.starts_with('+') && !number.starts_with('+');
        let instance = u32::from_str_radix(instance, 16).ok().filter(|_| is_plain)?;
        Some(Self { instance, number: number.parse().ok()? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.instance, self.number)
    }
}

/// A panic inside these short critical sections leaves the value intact, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use metamcp_core::base::{EventKind, ServerName};

    use super::*;

    fn event(kind: EventKind, server: &str) -> Event {
        Event::of_server(kind, &ServerName::new(server).expect("a name"))
    }

    fn filter(kinds: &str) -> EventFilter {
        let mut filter = EventFilter::default();
        filter.set_kinds(kinds).expect("kinds");
        filter
    }

    /// What a reader reads now: the numbers of events, and `missed N`.
    fn read_all(reader: &mut EventReader) -> Vec<String> {
        let reads = std::iter::from_fn(|| reader.try_next());
        let text = |read| match read {
            EventRead::Event(event) => event.number.to_string(),
            EventRead::Missed { count, position } => format!("missed {count:?} to {}", position.number),
        };
        reads.map(text).collect()
    }

    #[test]
    fn each_reader_has_a_position_and_a_filter() {
        let log = Arc::new(EventLog::default());
        log.add(event(EventKind::ServerHealthy, "a"));
        let mut all = log.read(EventFilter::default(), None);
        let mut failures = log.read(filter("server.failed,server.breaker_opened"), None);
        assert!(read_all(&mut all).is_empty(), "what happened before is not told");
        for kind in [EventKind::ServerFailed, EventKind::ServerHealthy, EventKind::ServerBreakerOpened] {
            log.add(event(kind, "a"));
        }
        assert_eq!(read_all(&mut all), ["2", "3", "4"]);
        assert_eq!(read_all(&mut failures), ["2", "4"]);
        assert!(read_all(&mut all).is_empty() && read_all(&mut failures).is_empty());
        let mut again = log.read(EventFilter::default(), Some(log.id(3)));
        assert_eq!(read_all(&mut again), ["4"]);
        let mut ahead = log.read(EventFilter::default(), Some(log.id(99)));
        assert!(read_all(&mut ahead).is_empty());
    }

    #[test]
    fn a_reader_is_told_what_it_missed() {
        let log = Arc::new(EventLog::default());
        let mut slow = log.read(filter("server.failed"), None);
        // One more, as the last event needs room, too.
        let dropped = 10;
        for _ in 0..EVENTS_MAX + dropped {
            log.add(event(EventKind::ServerHealthy, "a"));
        }
        log.add(event(EventKind::ServerFailed, "a"));
        let last = EVENTS_MAX + dropped + 1;
        assert_eq!(
            read_all(&mut slow),
            [format!("missed Some({}) to {}", dropped + 1, dropped + 1), last.to_string()]
        );
        // The id that came with it continues there.
        let mut again = log.read(filter("server.failed"), Some(log.id(11)));
        assert_eq!(read_all(&mut again), [last.to_string()]);
        let other = EventId { instance: log.instance.wrapping_add(1), number: 5 };
        let mut from_elsewhere = log.read(filter("server.failed"), Some(other));
        assert_eq!(read_all(&mut from_elsewhere), ["missed None to 11".to_owned(), last.to_string()]);
    }

    #[test]
    fn the_bytes_of_the_log_are_bounded() {
        let log = EventLog::default();
        let reason = "x".repeat(10_000);
        for _ in 0..EVENTS_MAX {
            log.add(event(EventKind::ServerFailed, "a").with("reason", reason.as_str()));
        }
        let kept = lock(&log.kept);
        assert!(
            kept.bytes <= BYTES_MAX
                && kept.bytes == kept.events.iter().map(|event| event.json.len()).sum::<usize>()
        );
        assert!(kept.events.iter().all(|event| event.json.len() < 1_000), "texts are cut");
    }

    #[test]
    fn calls_are_wanted_while_somebody_reads_them() {
        let log = Arc::new(EventLog::default());
        assert!(!log.wants_calls());
        let servers = log.read(filter("server.*"), None);
        assert!(!log.wants_calls());
        let (one, two) = (log.read(filter("call.ended"), None), log.read(EventFilter::default(), None));
        assert!(log.wants_calls());
        drop((servers, one));
        assert!(log.wants_calls());
        drop(two);
        assert!(log.wants_calls(), "the reader may come back");
        log.calls_until.store(unix_seconds() - 1, Ordering::Relaxed);
        assert!(!log.wants_calls());
        assert_eq!(log.calls_until.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ids_are_read_strictly() {
        let id = EventId { instance: 0xab, number: 7 };
        assert_eq!((id.to_string().as_str(), EventId::parse("000000ab-7")), ("000000ab-7", Some(id)));
        for text in [
            "",
            "-",
            "ab-7",
            "000000ab-",
            "000000ab7",
            "+00000ab-7",
            "000000ab-+7",
            "000000ag-7",
            "000000ab-7 ",
        ] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }
}
