//! The body of the fuzz target for session ids. It panics if an invariant does not hold.

use std::sync::Arc;

use metamcp_core::base::KeyId;
use metamcp_core::fuzz::{Choices, alter};
use metamcp_core::protocol::{ClientCapabilities, Revision};
use metamcp_store::auth::fuzz::unguessable_sealer;
use metamcp_store::auth::{Purpose, Sealer};

use super::claims::{SessionClaims, SessionKey};

pub use super::stream::fuzz::event_id;

/// Opens any text as a session id, and one that was valid before it was altered. Only what was issued opens.
pub fn session_id(bytes: &[u8]) {
    let sealer = unguessable_sealer();
    assert_eq!(SessionClaims::from_id(bytes, sealer), None, "it was never issued");
    let mut choices = Choices::new(bytes);
    let claims = claims(&mut choices);
    let id = claims.to_id(sealer);
    assert!(
        id.bytes().all(|byte| byte.is_ascii_graphic()),
        "an id is visible ASCII (MCP, session management)"
    );
    assert_eq!(SessionClaims::from_id(id.as_bytes(), sealer).as_ref(), Some(&claims));
    let altered = alter(id.as_bytes(), &mut choices);
    let expected = (altered == id.as_bytes()).then_some(claims);
    assert_eq!(SessionClaims::from_id(&altered, sealer), expected, "{} is altered", altered.escape_ascii());
    sealed_contents(bytes, sealer);
}

/// Claims of any content, with a valid scope.
pub fn claims(choices: &mut Choices<'_>) -> SessionClaims {
    let mut key = [0; 16];
    let bytes = choices.take(16);
    key[..bytes.len()].copy_from_slice(bytes);
    let key_id = KeyId::parse(choices.pick(&["AAAAAAAAAAAA", "0123456789zZ"]));
    let scope: Arc<str> = choices.pick(&["e/default", "s/a", ""]).into();
    SessionClaims {
        key_id: key_id.unwrap_or(KeyId::ANONYMOUS),
        revision: choices.pick(&Revision::ALL),
        capabilities: ClientCapabilities::from_byte(choices.byte()),
        created_s: u64::from(choices.byte()) << choices.below(56),
        key: SessionKey(key),
        scope,
    }
}

/// Any contents under a valid seal, as of another version of the gateway: they are read without fail, and as written.
fn sealed_contents(bytes: &[u8], sealer: &Sealer) {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let id = URL_SAFE_NO_PAD.encode(sealer.seal(Purpose::Session, &[], bytes));
    if let Some(claims) = SessionClaims::from_id(id.as_bytes(), sealer) {
        let again = SessionClaims::from_id(claims.to_id(sealer).as_bytes(), sealer);
        assert_eq!(again, Some(claims));
    }
    let other = URL_SAFE_NO_PAD.encode(sealer.seal(Purpose::EventId, &[], bytes));
    assert_eq!(SessionClaims::from_id(other.as_bytes(), sealer), None, "another purpose");
}

#[cfg(test)]
mod tests {
    use metamcp_core::fuzz::run_corpus;

    #[test]
    fn corpora() {
        run_corpus("session_id", super::session_id);
        run_corpus("event_id", super::event_id);
    }
}
