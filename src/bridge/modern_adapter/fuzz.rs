//! The body of the fuzz target for `requestState`. It panics if an invariant does not hold.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metamcp_config::sections::BridgeConfig;
use metamcp_core::fuzz::{Choices, alter};
use metamcp_store::auth::fuzz::unguessable_sealer;

use super::held_calls::{HeldCalls, ResumeError};

/// Takes a held call with any text, with a state of another call, and with one that was valid before it was altered. Only
/// the state that was issued finds its call, and once.
pub fn request_state(bytes: &[u8]) {
    let config = BridgeConfig {
        hold_timeout: Duration::from_mins(1),
        holds_max: 2,
        holds_per_key_max: 2,
        sessions_max: 1,
        sessions_per_key_max: 1,
        session_idle_timeout: Duration::from_secs(1),
        discover: true,
    };
    let held_calls = Arc::new(HeldCalls::new(
        Arc::new(ArcSwap::from_pointee(config)),
        Arc::new(unguessable_sealer().clone()),
    ));
    let take = |state: &[u8], binding: &[u8]| held_calls.take(&String::from_utf8_lossy(state), binding).err();
    let mut choices = Choices::new(bytes);
    let binding = choices.take(8);
    let permit = held_calls.hold(None, binding).expect("there is room");
    let state = permit.state.as_bytes();
    assert_eq!(take(bytes, binding), Some(ResumeError::Unknown), "it was never issued");
    assert_eq!(take(state, &[binding, b"x"].concat()), Some(ResumeError::Unknown), "another call");
    let altered = alter(state, &mut choices);
    let expected = (altered != state).then_some(ResumeError::Unknown);
    assert_eq!(take(&altered, binding), expected, "{} is altered", altered.escape_ascii());
    if expected.is_some() {
        assert_eq!(take(state, binding), None);
    }
    assert_eq!(take(state, binding), Some(ResumeError::Ended));
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        metamcp_core::fuzz::run_corpus("request_state", super::request_state);
    }
}
