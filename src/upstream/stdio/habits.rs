//! What programs were seen to do, which decides who shares their processes (`sharing = "auto"`): whether they
//! send requests to clients, and log messages that nobody requested. Kept over restarts in a file of the data
//! directory. It holds no secret, and the gateway works without it: a program is then observed again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use metamcp_config::server::Program;
use metamcp_core::base::ServerName;
use metamcp_core::protocol::ClientCapabilities;

/// What one program was seen to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramHabits {
    elicitation: RequestHabit,
    sampling: RequestHabit,
    roots: RequestHabit,
    /// Whether it sent a client what belongs to no call, such as a log message, although no client had set a
    /// log level.
    #[serde(default)]
    pub sends_unrequested: bool,
}

/// Whether a program sends one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RequestHabit {
    /// It has sent one, which is never forgotten.
    was_sent: bool,
    /// Sessions of clients that could be asked, with at least one call.
    sessions: u32,
    /// Calls in such sessions.
    calls: u32,
}

/// The habits of all programs of a gateway.
#[derive(Debug, Default)]
pub struct HabitStore {
    /// `None` if nothing is kept over restarts.
    path: Option<PathBuf>,
    /// Guards the table, and writing the file, which happens a few times in the life of a program.
    habits: Mutex<HabitTable>,
}

type HabitTable = BTreeMap<String, ProgramHabits>;

/// A program that served so many sessions of clients that it could ask, and asked nothing, is taken not to
/// ask. A tool that asks is not called in every session.
const SESSIONS_MIN: u32 = 10;

/// Likewise, calls in these sessions.
const CALLS_MIN: u32 = 100;

/// Programs in the file: more than one gateway runs, even over years.
const PROGRAMS_MAX: usize = 1024;

/// A file of so many programs is smaller. What is longer was not written by a gateway.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl RequestHabit {
    /// Whether the program is known not to send such requests.
    fn is_absent(self) -> bool {
        !self.was_sent && self.sessions >= SESSIONS_MIN && self.calls >= CALLS_MIN
    }

    fn merge(&mut self, other: Self) {
        self.was_sent |= other.was_sent;
        self.sessions = self.sessions.max(other.sessions);
        self.calls = self.calls.max(other.calls);
    }
}

impl ProgramHabits {
    /// Whether the session of a client must have a process to itself: the program may send it what names no
    /// call, and then only the process tells whom it is for.
    pub fn needs_own_process(&self, capabilities: ClientCapabilities) -> bool {
        let may_ask = |(can_be_asked, habit): (bool, RequestHabit)| can_be_asked && !habit.is_absent();
        self.sends_unrequested
            || self.copies().zip(can_be_asked(capabilities)).any(|(habit, asked)| may_ask((asked, habit)))
    }

    /// Whether the program has sent a client any request.
    pub fn has_sent_request(&self) -> bool {
        self.copies().any(|habit| habit.was_sent)
    }

    /// Notes a request of the program. Methods that are none of the three kinds count as elicitation.
    pub fn note_request(&mut self, method: &str) {
        let habit = match method {
            "roots/list" => &mut self.roots,
            "sampling/createMessage" => &mut self.sampling,
            _ => &mut self.elicitation,
        };
        habit.was_sent = true;
    }

    /// Notes a call of a client that can be asked, and whether it is the first of its session.
    pub fn note_call(&mut self, capabilities: ClientCapabilities, is_first: bool) {
        let habits = [&mut self.elicitation, &mut self.sampling, &mut self.roots];
        for (habit, _) in habits.into_iter().zip(can_be_asked(capabilities)).filter(|(_, asked)| *asked) {
            habit.calls = habit.calls.saturating_add(1).min(CALLS_MIN);
            habit.sessions = habit.sessions.saturating_add(u32::from(is_first)).min(SESSIONS_MIN);
        }
    }

    fn copies(&self) -> impl Iterator<Item = RequestHabit> {
        [self.elicitation, self.sampling, self.roots].into_iter()
    }

    fn merge(&mut self, other: Self) {
        self.elicitation.merge(other.elicitation);
        self.sampling.merge(other.sampling);
        self.roots.merge(other.roots);
        self.sends_unrequested |= other.sends_unrequested;
    }
}

/// The habits of one program, as its processes show them.
pub struct HabitRecorder {
    store: Arc<HabitStore>,
    key: String,
    current: Cell<ProgramHabits>,
    is_saved: Cell<bool>,
}

impl HabitRecorder {
    pub fn new(store: Arc<HabitStore>, key: String) -> Self {
        let current = Cell::new(store.find(&key));
        Self { store, key, current, is_saved: Cell::new(true) }
    }

    pub fn current(&self) -> ProgramHabits {
        self.current.get()
    }

    /// Notes what the program did.
    pub fn update(&self, note: impl FnOnce(&mut ProgramHabits)) {
        let before = self.current.get();
        let mut habits = before;
        note(&mut habits);
        if habits != before {
            self.current.set(habits);
            self.is_saved.set(false);
        }
    }

    /// Saves what was noted since the last time, if anything.
    pub fn save(&self) {
        if !self.is_saved.replace(true) {
            self.store.save(&self.key, self.current.get());
        }
    }
}

/// Whether a client can be sent elicitations, sampling requests and requests for its roots.
fn can_be_asked(capabilities: ClientCapabilities) -> [bool; 3] {
    let has = |capability| capabilities.has(capability);
    let elicitation = has(ClientCapabilities::ELICITATION_FORM) || has(ClientCapabilities::ELICITATION_URL);
    [elicitation, has(ClientCapabilities::SAMPLING), has(ClientCapabilities::ROOTS)]
}

/// Identifies a program in the file: the name of the server, and a digest of what is run, so that another
/// program under the same name is observed anew.
pub fn habit_key(name: &ServerName, program: &Program) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&program.command).chain(&program.args) {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize().iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte));
    format!("{name} {digest:016x}")
}

impl HabitStore {
    /// Reads the file, or begins without habits if there is none or it is malformed.
    pub fn open(path: PathBuf) -> Arc<Self> {
        let habits = match read(&path) {
            Ok(habits) => habits,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HabitTable::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "ignoring what was learnt about programs");
                HabitTable::default()
            }
        };
        Arc::new(Self { path: Some(path), habits: Mutex::new(habits) })
    }

    /// Returns what is known of a program.
    pub fn find(&self, key: &str) -> ProgramHabits {
        self.lock().get(key).copied().unwrap_or_default()
    }

    /// Keeps what was learnt about a program. Blocks on the disk for a small file.
    pub fn save(&self, key: &str, learnt: ProgramHabits) {
        let mut habits = self.lock();
        if let Some(path) = &self.path {
            // Another gateway may use the same directory (`metamcp stdio`).
            for (key, other) in read(path).unwrap_or_default() {
                habits.entry(key).or_default().merge(other);
            }
        }
        habits.entry(key.to_owned()).or_default().merge(learnt);
        while habits.len() > PROGRAMS_MAX {
            let other = habits.keys().find(|other| *other != key).cloned();
            other.map(|other| habits.remove(&other));
        }
        let written = self.path.as_ref().map(|path| {
            let draft = path.with_extension(format!("{:x}", std::process::id()));
            let json = serde_json::to_vec(&*habits)?;
            fs::write(&draft, json).and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
                // A full disk must not keep a partial file.
                drop(fs::remove_file(&draft));
            })
        });
        if let Some(Err(error)) = written {
            tracing::warn!(%error, "what was learnt about a program is not kept over a restart");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HabitTable> {
        // No panic can leave a partial change behind.
        self.habits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &PathBuf) -> io::Result<HabitTable> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let habits: HabitTable = serde_json::from_slice(&bytes)?;
    if habits.len() > PROGRAMS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many programs"));
    }
    Ok(habits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ClientCapabilities = ClientCapabilities::ALL;
    const NONE: ClientCapabilities = ClientCapabilities::ROOTS.without(ClientCapabilities::ROOTS);

    /// Habits after sessions with this many calls in all.
    fn after(sessions: u32, calls: u32, capabilities: ClientCapabilities) -> ProgramHabits {
        let mut habits = ProgramHabits::default();
        (0..calls).for_each(|call| habits.note_call(capabilities, call < sessions));
        habits
    }

    #[test]
    fn sessions_share_with_programs_that_are_known_not_to_ask() {
        let check = |habits: ProgramHabits, capabilities, expected: bool| {
            assert_eq!(habits.needs_own_process(capabilities), expected, "{habits:?} {capabilities:?}");
        };
        check(ProgramHabits::default(), NONE, false);
        check(ProgramHabits::default(), ALL, true);
        check(after(SESSIONS_MIN - 1, CALLS_MIN, ALL), ALL, true);
        check(after(SESSIONS_MIN, CALLS_MIN - 1, ALL), ALL, true);
        check(after(SESSIONS_MIN, CALLS_MIN, ALL), ALL, false);
        // It was never able to ask for roots alone.
        let roots = ClientCapabilities::ROOTS;
        check(after(SESSIONS_MIN, CALLS_MIN, ALL.without(roots)), ALL, true);
        check(after(SESSIONS_MIN, CALLS_MIN, roots), roots, false);
        for (method, asked) in [
            ("roots/list", roots),
            ("sampling/createMessage", ClientCapabilities::SAMPLING),
            ("elicitation/create", ClientCapabilities::ELICITATION_FORM),
        ] {
            let mut habits = after(SESSIONS_MIN, CALLS_MIN, ALL);
            habits.note_request(method);
            check(habits, asked, true);
            check(habits, ALL.without(asked).without(ClientCapabilities::ELICITATION_URL), false);
            (0..1000).for_each(|_| habits.note_call(ALL, true));
            check(habits, asked, true);
        }
        let sends_unrequested = true;
        check(ProgramHabits { sends_unrequested, ..after(SESSIONS_MIN, CALLS_MIN, ALL) }, NONE, true);
    }

    #[test]
    fn keeps_habits_over_restarts() {
        let path = std::env::temp_dir().join(format!("metamcp-habits-{}", std::process::id()));
        let mut asks = ProgramHabits::default();
        asks.note_request("roots/list");
        let [one, other] = [(); 2].map(|()| HabitStore::open(path.clone()));
        one.save("a", asks);
        other.save("b", after(3, 5, ALL));
        one.save("b", after(2, 7, ALL));
        let store = HabitStore::open(path.clone());
        assert_eq!(store.find("a"), asks);
        let mut both = after(3, 5, ALL);
        both.merge(after(2, 7, ALL));
        assert_eq!((store.find("b"), store.find("c")), (both, ProgramHabits::default()));
        // What is known to ask stays so, whoever writes.
        store.save("a", ProgramHabits::default());
        assert_eq!(HabitStore::open(path.clone()).find("a"), asks);
        for malformed in ["", "{", "[]", r#"{"a":3}"#, "\u{0}"] {
            fs::write(&path, malformed).expect("written");
            assert_eq!(HabitStore::open(path.clone()).find("a"), ProgramHabits::default(), "{malformed}");
        }
        let many = (0..PROGRAMS_MAX + 10).map(|number| (format!("z{number}"), asks));
        store.lock().extend(many);
        store.save("y", asks);
        let kept = HabitStore::open(path.clone());
        assert_eq!(kept.find("y"), asks);
        assert_eq!(kept.lock().len(), PROGRAMS_MAX);
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn another_program_is_observed_anew() {
        let name = ServerName::new("a").expect("valid");
        let key = |args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            habit_key(&name, &Program { args, ..Program::sample() })
        };
        assert_eq!(key(&["x", "y"]), key(&["x", "y"]));
        assert_ne!(key(&["x", "y"]), key(&["xy"]));
        assert!(key(&["hunter2"]).starts_with("a ") && !key(&["hunter2"]).contains("hunter2"));
    }
}
