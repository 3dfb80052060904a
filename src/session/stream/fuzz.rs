//! The body of the fuzz target for event ids, as clients send them in `Last-Event-ID`.

use metamcp_core::fuzz::{Choices, alter};
use metamcp_store::auth::fuzz::unguessable_sealer;

use super::event_id::{EventId, StreamOwner, loss_notice_line, seal_label, write_id_line};
use crate::session::claims::SessionKey;
use crate::session::fuzz::claims;

/// Parses any text as an event id, and one that was valid before it was altered. Only what was issued is accepted, in the
/// session that it was issued to.
pub fn event_id(bytes: &[u8]) {
    let sealer = unguessable_sealer();
    let mut choices = Choices::new(bytes);
    let claims = claims(&mut choices);
    assert_eq!(EventId::parse(bytes, sealer, &claims), None, "it was never issued");
    assert_eq!(
        EventId::parse(claims.to_id(sealer).as_bytes(), sealer, &claims),
        None,
        "a session id is none"
    );
    let (process, stream) = (u64::from(choices.byte()), u64::from(choices.byte()));
    let sequence = u64::from(choices.byte()) << choices.below(56);
    let request_id = choices.take(16);
    let label = seal_label(sealer, &StreamOwner::new(&claims), process, stream, request_id);
    let mut line = Vec::new();
    write_id_line(&label, sequence, &mut line);
    let id = line.strip_prefix(b"id: ").and_then(|line| line.strip_suffix(b"\n")).expect("it is an id line");
    let parsed = EventId::parse(id, sealer, &claims).expect("it was issued");
    assert_eq!((parsed.process, parsed.stream, parsed.sequence), (process, stream, sequence));
    assert_eq!(parsed.request_id.as_deref().unwrap_or_default(), request_id);
    assert_eq!(parsed.loss_notice_line(), loss_notice_line(&label));
    let mut other = claims.clone();
    other.key = SessionKey(claims.key.0.map(|byte| !byte));
    assert_eq!(EventId::parse(id, sealer, &other), None, "another session");
    let altered = alter(id, &mut choices);
    if let Some(found) = EventId::parse(&altered, sealer, &claims) {
        assert!(altered.starts_with(label.as_bytes()), "only the number may be another");
        assert_eq!((found.process, found.stream, found.request_id), (process, stream, parsed.request_id));
    }
}
