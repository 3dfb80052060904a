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
pub struct ProgramBehavior {
    elicitation: RequestBehavior,
    sampling: RequestBehavior,
    roots: RequestBehavior,
    /// Whether it sent a client what belongs to no call, such as a log message, although no client had set a
    /// log level.
    #[serde(default)]
    pub sends_unrequested: bool,
}

/// Whether a program sends one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RequestBehavior {
    /// It has sent one, which is never forgotten.
    was_sent: bool,
    /// Sessions of clients that could be asked, with at least one call.
    sessions: u32,
    /// Calls in such sessions.
    calls: u32,
}

/// The behavior of all programs of a gateway.
#[derive(Debug, Default)]
pub struct BehaviorStore {
    /// `None` if nothing is kept over restarts.
    path: Option<PathBuf>,
    /// Guards the table, and writing the file, which happens a few times in the life of a program.
    behavior: Mutex<BehaviorTable>,
}

type BehaviorTable = BTreeMap<String, ProgramBehavior>;

/// A program that served so many sessions of clients that it could ask, and asked nothing, is taken not to
/// ask. A tool that asks is not called in every session.
const SESSIONS_MIN: u32 = 10;

/// Likewise, calls in these sessions.
const CALLS_MIN: u32 = 100;

/// Programs in the file: more than one gateway runs, even over years.
const PROGRAMS_MAX: usize = 1024;

/// A file of so many programs is smaller. What is longer was not written by a gateway.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl RequestBehavior {
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

impl ProgramBehavior {
    /// Whether the session of a client must have a process to itself: the program may send it what names no
    /// call, and then only the process tells whom it is for.
    pub fn needs_own_process(&self, capabilities: ClientCapabilities) -> bool {
        let may_ask =
            |(can_be_asked, behavior): (bool, RequestBehavior)| can_be_asked && !behavior.is_absent();
        self.sends_unrequested
            || self
                .copies()
                .zip(can_be_asked(capabilities))
                .any(|(behavior, asked)| may_ask((asked, behavior)))
    }

    /// Whether the program has sent a client any request.
    pub fn has_sent_request(&self) -> bool {
        self.copies().any(|behavior| behavior.was_sent)
    }

    /// Notes a request of the program. Methods that are none of the three kinds count as elicitation.
    pub fn note_request(&mut self, method: &str) {
        let behavior = match method {
            "roots/list" => &mut self.roots,
            "sampling/createMessage" => &mut self.sampling,
            _ => &mut self.elicitation,
        };
        behavior.was_sent = true;
    }

    /// Notes a call of a client that can be asked, and whether it is the first of its session.
    pub fn note_call(&mut self, capabilities: ClientCapabilities, is_first: bool) {
        let behavior = [&mut self.elicitation, &mut self.sampling, &mut self.roots];
        for (behavior, _) in behavior.into_iter().zip(can_be_asked(capabilities)).filter(|(_, asked)| *asked)
        {
            behavior.calls = behavior.calls.saturating_add(1).min(CALLS_MIN);
            behavior.sessions = behavior.sessions.saturating_add(u32::from(is_first)).min(SESSIONS_MIN);
        }
    }

    fn copies(&self) -> impl Iterator<Item = RequestBehavior> {
        [self.elicitation, self.sampling, self.roots].into_iter()
    }

    fn merge(&mut self, other: Self) {
        self.elicitation.merge(other.elicitation);
        self.sampling.merge(other.sampling);
        self.roots.merge(other.roots);
        self.sends_unrequested |= other.sends_unrequested;
    }
}

/// The behavior of one program, as its processes show it.
pub struct BehaviorRecorder {
    store: Arc<BehaviorStore>,
    key: String,
    current: Cell<ProgramBehavior>,
    is_saved: Cell<bool>,
}

impl BehaviorRecorder {
    pub fn new(store: Arc<BehaviorStore>, key: String) -> Self {
        let current = Cell::new(store.find(&key));
        Self { store, key, current, is_saved: Cell::new(true) }
    }

    pub fn current(&self) -> ProgramBehavior {
        self.current.get()
    }

    /// Notes what the program did.
    pub fn update(&self, note: impl FnOnce(&mut ProgramBehavior)) {
        let before = self.current.get();
        let mut behavior = before;
        note(&mut behavior);
        if behavior != before {
            self.current.set(behavior);
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

/// Whether a client declared that it can be sent requests of this method. Those of no known capability may be of an extension.
pub fn declares(capabilities: ClientCapabilities, method: &str) -> bool {
    let [elicitation, sampling, roots] = can_be_asked(capabilities);
    match method {
        "elicitation/create" => elicitation,
        "sampling/createMessage" => sampling,
        "roots/list" => roots,
        _ => true,
    }
}

/// Identifies a program in the file: the name of the server, and a digest of what is run, so that another
/// program under the same name is observed anew.
pub fn behavior_key(name: &ServerName, program: &Program) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&program.command).chain(&program.args) {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize().iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte));
    format!("{name} {digest:016x}")
}

impl BehaviorStore {
    /// Reads the file, or begins with nothing known if there is none or it is malformed.
    pub fn open(path: PathBuf) -> Arc<Self> {
        let behavior = match read(&path) {
            Ok(behavior) => behavior,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BehaviorTable::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "ignoring what was learnt about programs");
                BehaviorTable::default()
            }
        };
        Arc::new(Self { path: Some(path), behavior: Mutex::new(behavior) })
    }

    /// Returns what is known of a program.
    pub fn find(&self, key: &str) -> ProgramBehavior {
        self.lock().get(key).copied().unwrap_or_default()
    }

    /// Keeps what was learnt about a program. Blocks on the disk for a small file.
    pub fn save(&self, key: &str, learnt: ProgramBehavior) {
        let mut behavior = self.lock();
        if let Some(path) = &self.path {
            // Another gateway may use the same directory (`metamcp stdio`).
            for (key, other) in read(path).unwrap_or_default() {
                behavior.entry(key).or_default().merge(other);
            }
        }
        behavior.entry(key.to_owned()).or_default().merge(learnt);
        while behavior.len() > PROGRAMS_MAX {
            let other = behavior.keys().find(|other| *other != key).cloned();
            other.map(|other| behavior.remove(&other));
        }
        let written = self.path.as_ref().map(|path| {
            let draft = path.with_extension(format!("{:x}", std::process::id()));
            let json = serde_json::to_vec(&*behavior)?;
            fs::write(&draft, json).and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
                // A full disk must not keep a partial file.
                drop(fs::remove_file(&draft));
            })
        });
        if let Some(Err(error)) = written {
            tracing::warn!(%error, "what was learnt about a program is not kept over a restart");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BehaviorTable> {
        // No panic can leave a partial change behind.
        self.behavior.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &PathBuf) -> io::Result<BehaviorTable> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let behavior: BehaviorTable = serde_json::from_slice(&bytes)?;
    if behavior.len() > PROGRAMS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many programs"));
    }
    Ok(behavior)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ClientCapabilities = ClientCapabilities::ALL;
    const NONE: ClientCapabilities = ClientCapabilities::ROOTS.without(ClientCapabilities::ROOTS);

    /// Behavior after sessions with this many calls in all.
    fn after(sessions: u32, calls: u32, capabilities: ClientCapabilities) -> ProgramBehavior {
        let mut behavior = ProgramBehavior::default();
        (0..calls).for_each(|call| behavior.note_call(capabilities, call < sessions));
        behavior
    }

    #[test]
    fn sessions_share_with_programs_that_are_known_not_to_ask() {
        let check = |behavior: ProgramBehavior, capabilities, expected: bool| {
            assert_eq!(behavior.needs_own_process(capabilities), expected, "{behavior:?} {capabilities:?}");
        };
        check(ProgramBehavior::default(), NONE, false);
        check(ProgramBehavior::default(), ALL, true);
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
            let mut behavior = after(SESSIONS_MIN, CALLS_MIN, ALL);
            behavior.note_request(method);
            check(behavior, asked, true);
            check(behavior, ALL.without(asked).without(ClientCapabilities::ELICITATION_URL), false);
            (0..1000).for_each(|_| behavior.note_call(ALL, true));
            check(behavior, asked, true);
        }
        let sends_unrequested = true;
        check(ProgramBehavior { sends_unrequested, ..after(SESSIONS_MIN, CALLS_MIN, ALL) }, NONE, true);
    }

    #[test]
    fn behavior_is_kept_over_restarts() {
        let path = std::env::temp_dir().join(format!("metamcp-behavior-{}", std::process::id()));
        let mut asks = ProgramBehavior::default();
        asks.note_request("roots/list");
        let [one, other] = [(); 2].map(|()| BehaviorStore::open(path.clone()));
        one.save("a", asks);
        other.save("b", after(3, 5, ALL));
        one.save("b", after(2, 7, ALL));
        let store = BehaviorStore::open(path.clone());
        assert_eq!(store.find("a"), asks);
        let mut both = after(3, 5, ALL);
        both.merge(after(2, 7, ALL));
        assert_eq!((store.find("b"), store.find("c")), (both, ProgramBehavior::default()));
        // What is known to ask stays so, whoever writes.
        store.save("a", ProgramBehavior::default());
        assert_eq!(BehaviorStore::open(path.clone()).find("a"), asks);
        for malformed in ["", "{", "[]", r#"{"a":3}"#, "\u{0}"] {
            fs::write(&path, malformed).expect("written");
            assert_eq!(
                BehaviorStore::open(path.clone()).find("a"),
                ProgramBehavior::default(),
                "{malformed}"
            );
        }
        let many = (0..PROGRAMS_MAX + 10).map(|number| (format!("z{number}"), asks));
        store.lock().extend(many);
        store.save("y", asks);
        let kept = BehaviorStore::open(path.clone());
        assert_eq!(kept.find("y"), asks);
        assert_eq!(kept.lock().len(), PROGRAMS_MAX);
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn another_program_is_observed_anew() {
        let name = ServerName::new("a").expect("valid");
        let key = |args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            behavior_key(&name, &Program { args, ..Program::sample() })
        };
        assert_eq!(key(&["x", "y"]), key(&["x", "y"]));
        assert_ne!(key(&["x", "y"]), key(&["xy"]));
        assert!(key(&["hunter2"]).starts_with("a ") && !key(&["hunter2"]).contains("hunter2"));
    }
}
