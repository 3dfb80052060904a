//! Calls that wait for input of their client, and the sealed `requestState` by which a retry finds them.
//!
//! ```text
//! sealed: format 1 | process 16 | hold 16 | expires 8 (Unix s, big endian)
//! with:   the key, the server, the method, and the digest of the params, which the retry has to repeat
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::responder::ClientResponder;
use arc_swap::ArcSwap;
use metamcp_config::sections::BridgeConfig;
use metamcp_core::base::{CredentialLifetime, KeyId, unix_seconds};
use metamcp_core::protocol::ClientCapabilities;
use metamcp_store::auth::{Purpose, Sealer};

pub struct HeldCalls {
    sealer: Arc<Sealer>,
    /// Distinguishes this process from all others.
    process: [u8; 16],
    config: Arc<ArcSwap<BridgeConfig>>,
    /// Guards the table; a few lines at a time.
    calls: Mutex<HashMap<[u8; 16], HeldCall>>,
}

struct HeldCall {
    owner: Option<KeyId>,
    resume: oneshot::Sender<CallResumption>,
}

/// A client that came back with input.
pub struct CallResumption {
    /// Receives the response from now on.
    pub client: ClientResponder,
    /// The raw results by the keys of their requests.
    pub responses: HashMap<String, Bytes>,
    /// The credential that the retry was sent with.
    pub credential: Option<Arc<dyn CredentialLifetime>>,
    /// The capabilities that the retry declared.
    pub capabilities: ClientCapabilities,
}

/// The permit of a held call. Dropping it releases the call.
pub struct HoldPermit {
    held_calls: Arc<HeldCalls>,
    id: [u8; 16],
    /// The `requestState` that the client has to send back.
    pub state: String,
    /// Receives the client when it comes back.
    pub resumed: oneshot::Receiver<CallResumption>,
    /// How long the call is held.
    pub timeout: Duration,
}

/// As many calls are held as allowed.
#[derive(Debug)]
pub struct HoldLimitReached;

/// Why a `requestState` finds no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeError {
    /// Not issued by the gateway, altered, of another key, or of another call. The client does not learn
    /// which.
    Unknown,
    /// The call is held by another replica, or was held before a restart.
    Elsewhere,
    /// The call was not answered in time.
    Expired,
    /// The call was answered before, or has ended since.
    Ended,
}

const FORMAT: u8 = 1;

/// Longer than any state that the gateway issues. Longer texts are not decoded.
const TEXT_BYTES_MAX: usize = 256;

impl ResumeError {
    /// Returns the text for the client.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => {
                "this requestState does not belong to this call; repeat the request with the same name and arguments and the \
                 unchanged requestState, or send the call again without it"
            }
            Self::Elsewhere => {
                "the call that waited for this input is held by another replica, or ended with a restart; send the call \
                 again without requestState"
            }
            Self::Expired => {
                "the call that waited for this input timed out; send the call again without requestState"
            }
            Self::Ended => {
                "the call that waited for this input was answered already, or has ended; send the call again without requestState"
            }
        }
    }
}

impl HeldCalls {
    /// Creates an empty table.
    pub fn new(config: Arc<ArcSwap<BridgeConfig>>, sealer: Arc<Sealer>) -> Self {
        let mut process = [0; 16];
        // Without randomness, the seal and the table still distinguish states of an earlier process.
        let _ = getrandom::fill(&mut process);
        Self { sealer, process, config, calls: Mutex::default() }
    }

    /// Holds a call of that key. `binding` is what the retry has to repeat.
    pub fn hold(
        self: &Arc<Self>,
        owner: Option<KeyId>,
        binding: &[u8],
    ) -> Result<HoldPermit, HoldLimitReached> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| HoldLimitReached)?;
        let (resume, resumed) = oneshot::channel();
        let config = self.config.load();
        let mut calls = self.lock();
        let key_count = calls.values().filter(|call| call.owner == owner).count();
        if calls.len() >= config.holds_max || key_count >= config.holds_per_key_max {
            return Err(HoldLimitReached);
        }
        calls.insert(id, HeldCall { owner, resume });
        drop(calls);
        let mut plain = vec![FORMAT];
        plain.extend_from_slice(&self.process);
        plain.extend_from_slice(&id);
        plain.extend_from_slice(&unix_seconds().saturating_add(config.hold_timeout.as_secs()).to_be_bytes());
        let state = URL_SAFE_NO_PAD.encode(self.sealer.seal(Purpose::RequestState, binding, &plain));
        Ok(HoldPermit { held_calls: Arc::clone(self), id, state, resumed, timeout: config.hold_timeout })
    }

    /// Takes the call that is held under a state. Succeeds once.
    pub fn take(&self, state: &str, binding: &[u8]) -> Result<oneshot::Sender<CallResumption>, ResumeError> {
        if state.len() > TEXT_BYTES_MAX {
            return Err(ResumeError::Unknown);
        }
        let sealed = URL_SAFE_NO_PAD.decode(state).map_err(|_| ResumeError::Unknown)?;
        let plain =
            self.sealer.open(Purpose::RequestState, binding, &sealed).map_err(|_| ResumeError::Unknown)?;
        let (process, id, expires_s) = parse_state(&plain).ok_or(ResumeError::Unknown)?;
        if process != self.process {
            return Err(ResumeError::Elsewhere);
        }
        match self.lock().remove(&id) {
            Some(call) => Ok(call.resume),
            None if unix_seconds() >= expires_s => Err(ResumeError::Expired),
            None => Err(ResumeError::Ended),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], HeldCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_state(plain: &[u8]) -> Option<([u8; 16], [u8; 16], u64)> {
    let (format, rest) = plain.split_first()?;
    let (process, rest) = rest.split_first_chunk::<16>()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let expires_s = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    (*format == FORMAT).then_some((*process, *id, expires_s))
}

impl Drop for HoldPermit {
    fn drop(&mut self) {
        self.held_calls.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use metamcp_store::auth::EncryptionKey;

    fn held_calls(timeout_s: u64) -> Arc<HeldCalls> {
        let key = EncryptionKey { version: 1, key: Zeroizing::new([7; 32]) };
        let config = BridgeConfig {
            hold_timeout: Duration::from_secs(timeout_s),
            holds_max: 3,
            holds_per_key_max: 2,
            sessions_max: 1,
            sessions_per_key_max: 1,
            session_idle_timeout: Duration::from_secs(1),
            discover: true,
        };
        Arc::new(HeldCalls::new(
            Arc::new(ArcSwap::from_pointee(config)),
            Arc::new(Sealer::new(&[key]).expect("a key")),
        ))
    }

    fn key(letter: &str) -> Option<KeyId> {
        KeyId::parse(&letter.repeat(12))
    }

    #[test]
    fn a_state_finds_its_call_once() {
        let held_calls = held_calls(60);
        let permit = held_calls.hold(key("A"), b"call").expect("there is room");
        let check = |state: &str, binding: &[u8], expected: Option<ResumeError>| {
            assert_eq!(held_calls.take(state, binding).err(), expected, "{state}");
        };
        check(&permit.state, b"another call", Some(ResumeError::Unknown));
        check("", b"call", Some(ResumeError::Unknown));
        check(&"A".repeat(10_000), b"call", Some(ResumeError::Unknown));
        // The last letter has bits without meaning.
        for at in 0..permit.state.len() - 1 {
            let mut altered = permit.state.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("ASCII");
            check(&altered, b"call", Some(ResumeError::Unknown));
        }
        check(&permit.state, b"call", None);
        check(&permit.state, b"call", Some(ResumeError::Ended));
    }

    #[test]
    fn other_processes_and_expired_states_are_distinguished() {
        let (one, other) = (held_calls(60), held_calls(0));
        let there = one.hold(key("A"), b"call").expect("there is room");
        assert_eq!(other.take(&there.state, b"call").err(), Some(ResumeError::Elsewhere));
        let permit = other.hold(key("A"), b"call").expect("there is room");
        let state = permit.state.clone();
        drop(permit);
        assert_eq!(other.take(&state, b"call").err(), Some(ResumeError::Expired));
        let state = there.state.clone();
        drop(there);
        assert_eq!(one.take(&state, b"call").err(), Some(ResumeError::Ended));
    }

    #[test]
    fn held_calls_are_bounded() {
        let held_calls = held_calls(60);
        let mut permits: Vec<_> = (0..2).filter_map(|_| held_calls.hold(key("A"), b"").ok()).collect();
        assert!(held_calls.hold(key("A"), b"").is_err(), "the key has reached its limit");
        permits.push(held_calls.hold(key("B"), b"").expect("there is room"));
        assert!(held_calls.hold(key("C"), b"").is_err(), "the total limit is reached");
        permits.remove(0);
        assert!(held_calls.hold(key("A"), b"").is_ok(), "a permit was released");
    }
}
