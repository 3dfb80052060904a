//! Calls that wait for their client's input, and the sealed `requestState` by which they are found again.
//!
//! ```text
//! sealed: format 1 | process 16 | hold 16 | expires 8 (Unix s, big endian)
//! with:   the key, the server, the method, and the digest of what is asked, which the retry has to repeat
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::Config;
use super::client::Client;
use crate::auth::{KeyId, Purpose, Sealer};
use crate::base::unix_s;
use crate::protocol::ClientCapabilities;

/// All calls that wait.
pub struct Holds {
    sealer: Arc<Sealer>,
    /// Tells this process from every other.
    process: [u8; 16],
    timeout: Duration,
    max: usize,
    per_key_max: usize,
    /// Guards the table; a few lines at a time.
    held: Mutex<HashMap<[u8; 16], Held>>,
}

struct Held {
    owner: Option<KeyId>,
    resume: oneshot::Sender<Resume>,
}

/// A client that has come back with input.
pub struct Resume {
    /// Where the answer goes from now on.
    pub client: Client,
    /// The raw results, by the keys of the requests that they answer.
    pub responses: HashMap<String, Bytes>,
    /// What it declared this time.
    pub capabilities: ClientCapabilities,
}

/// A place among those that wait, given up when dropped.
pub struct Place {
    holds: Arc<Holds>,
    id: [u8; 16],
    /// What the client has to come back with.
    pub state: String,
    /// Where it does.
    pub resumed: oneshot::Receiver<Resume>,
    /// Until then.
    pub timeout: Duration,
}

/// There is no room.
#[derive(Debug)]
pub struct Full;

/// Why a `requestState` leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Not one of ours, altered, of another key, or of another call; which of these is nobody's business.
    Unknown,
    /// The call was held by another replica, or before a restart.
    Elsewhere,
    /// Its time is over.
    Expired,
    /// It was answered before, or has ended since.
    Over,
}

const FORMAT: u8 = 1;

/// Longer than any of ours can be; longer texts are not decoded.
const TEXT_BYTES_MAX: usize = 256;

impl Stale {
    /// For the client.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => {
                "this requestState is not one of this call: repeat the request with the same name and arguments and the \
                 requestState as it was given, or call anew without it"
            }
            Self::Elsewhere => {
                "the call that waited for this input is held by another replica, or ended with a restart: call anew \
                 without requestState"
            }
            Self::Expired => {
                "the call that waited for this input was given up, for its time is over: call anew without requestState"
            }
            Self::Over => {
                "the call that waited for this input was answered before, or has ended: call anew without requestState"
            }
        }
    }
}

impl Holds {
    /// None waits.
    pub fn new(config: &Config, sealer: Arc<Sealer>) -> Self {
        let mut process = [0; 16];
        // Without chance, a state of an earlier process is told from one of this by its seal and the table.
        let _ = getrandom::fill(&mut process);
        Self {
            sealer,
            process,
            timeout: config.hold_timeout,
            max: config.holds_max,
            per_key_max: config.holds_per_key_max,
            held: Mutex::default(),
        }
    }

    /// A place for a call of that key. `binding` is what the retry has to repeat.
    pub fn hold(self: &Arc<Self>, owner: Option<KeyId>, binding: &[u8]) -> Result<Place, Full> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| Full)?;
        let (resume, resumed) = oneshot::channel();
        let mut held = self.lock();
        let of_key = held.values().filter(|held| held.owner == owner).count();
        if held.len() >= self.max || of_key >= self.per_key_max {
            return Err(Full);
        }
        held.insert(id, Held { owner, resume });
        drop(held);
        let mut plain = vec![FORMAT];
        plain.extend_from_slice(&self.process);
        plain.extend_from_slice(&id);
        plain.extend_from_slice(&unix_s().saturating_add(self.timeout.as_secs()).to_be_bytes());
        let state = URL_SAFE_NO_PAD.encode(self.sealer.seal(Purpose::RequestState, binding, &plain));
        Ok(Place { holds: Arc::clone(self), id, state, resumed, timeout: self.timeout })
    }

    /// The call that waits under a state, once.
    pub fn take(&self, state: &str, binding: &[u8]) -> Result<oneshot::Sender<Resume>, Stale> {
        if state.len() > TEXT_BYTES_MAX {
            return Err(Stale::Unknown);
        }
        let sealed = URL_SAFE_NO_PAD.decode(state).map_err(|_| Stale::Unknown)?;
        let plain = self.sealer.open(Purpose::RequestState, binding, &sealed).map_err(|_| Stale::Unknown)?;
        let (process, id, expires_s) = read(&plain).ok_or(Stale::Unknown)?;
        if process != self.process {
            return Err(Stale::Elsewhere);
        }
        match self.lock().remove(&id) {
            Some(held) => Ok(held.resume),
            None if unix_s() >= expires_s => Err(Stale::Expired),
            None => Err(Stale::Over),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(plain: &[u8]) -> Option<([u8; 16], [u8; 16], u64)> {
    let (format, rest) = plain.split_first()?;
    let (process, rest) = rest.split_first_chunk::<16>()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let expires_s = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    (*format == FORMAT).then_some((*process, *id, expires_s))
}

impl Drop for Place {
    fn drop(&mut self) {
        self.holds.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::auth::EncryptionKey;

    fn holds(timeout_s: u64) -> Arc<Holds> {
        let key = EncryptionKey { version: 1, key: Zeroizing::new([7; 32]) };
        let config = Config {
            hold_timeout: Duration::from_secs(timeout_s),
            holds_max: 3,
            holds_per_key_max: 2,
            sessions_max: 1,
            sessions_per_key_max: 1,
            session_idle_timeout: Duration::from_secs(1),
            discover: true,
        };
        Arc::new(Holds::new(&config, Arc::new(Sealer::new(&[key]).expect("a key"))))
    }

    fn key(letter: &str) -> Option<KeyId> {
        KeyId::parse(&letter.repeat(12))
    }

    #[test]
    fn a_state_leads_to_its_call_once() {
        let holds = holds(60);
        let place = holds.hold(key("A"), b"call").expect("there is room");
        let check = |state: &str, binding: &[u8], expected: Option<Stale>| {
            assert_eq!(holds.take(state, binding).err(), expected, "{state}");
        };
        check(&place.state, b"another call", Some(Stale::Unknown));
        check("", b"call", Some(Stale::Unknown));
        check(&"A".repeat(10_000), b"call", Some(Stale::Unknown));
        // The last letter has bits that mean nothing.
        for at in 0..place.state.len() - 1 {
            let mut altered = place.state.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("ASCII");
            check(&altered, b"call", Some(Stale::Unknown));
        }
        check(&place.state, b"call", None);
        check(&place.state, b"call", Some(Stale::Over));
    }

    #[test]
    fn other_processes_and_times_are_told_apart() {
        let (one, other) = (holds(60), holds(0));
        let there = one.hold(key("A"), b"call").expect("there is room");
        assert_eq!(other.take(&there.state, b"call").err(), Some(Stale::Elsewhere));
        let place = other.hold(key("A"), b"call").expect("there is room");
        let state = place.state.clone();
        drop(place);
        assert_eq!(other.take(&state, b"call").err(), Some(Stale::Expired));
        let state = there.state.clone();
        drop(there);
        assert_eq!(one.take(&state, b"call").err(), Some(Stale::Over));
    }

    #[test]
    fn places_are_bounded() {
        let holds = holds(60);
        let mut places: Vec<_> = (0..2).filter_map(|_| holds.hold(key("A"), b"").ok()).collect();
        assert!(holds.hold(key("A"), b"").is_err(), "the key has as many as it may");
        places.push(holds.hold(key("B"), b"").expect("there is room"));
        assert!(holds.hold(key("C"), b"").is_err(), "there are as many as may be");
        places.remove(0);
        assert!(holds.hold(key("A"), b"").is_ok(), "one was given up");
    }
}
