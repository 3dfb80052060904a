//! Replaced names: the result is the same message but for the replaced parts.

use bytes::Bytes;

use crate::frame::{EDITS_MAX, Envelope, Scanner, Span, SpliceError, json_string};
use crate::fuzz::Choices;

/// Replaces the name, the uri and the method of a message by other texts, and parts of the bytes at decided places.
pub fn splice(bytes: &[u8]) {
    replace_names(bytes);
    replace_anywhere(bytes);
}

/// All other bytes stay, the result is accepted, and the name is the new one.
fn replace_names(bytes: &[u8]) {
    let Ok(envelope) = Scanner::new().scan(bytes) else { return };
    let text = String::from_utf8_lossy(&bytes[bytes.len() / 2..]).into_owned();
    let original = Bytes::copy_from_slice(bytes);
    for part in names(&envelope).into_iter().flatten() {
        let replaced = spliced(&original, &[(part, json_string(&text))]).expect("the span is in the message");
        let (start, end) = (part.start as usize, part.end as usize);
        let expected = [&bytes[..start], &json_string(&text)[..], &bytes[end..]].concat();
        assert_eq!(replaced, expected);
        let other = Scanner::new().scan(&replaced);
        // Another method has other rules for the types of its members.
        if envelope.method.is_some_and(|method| method.span == part) {
            continue;
        }
        let other = other.expect("a message with another name is a message");
        assert_eq!(other.kind, envelope.kind);
        let name = names(&other).into_iter().flatten().find(|span| span.start == part.start);
        let name = name.map(|span| span.slice(&replaced)).expect("the name is where it was");
        assert_eq!(serde_json::from_slice::<String>(name).expect("it is a string"), text);
        assert_eq!(
            other.id.map(|id| id.span.slice(&replaced)),
            envelope.id.map(|id| id.span.slice(bytes)),
            "the id is the same"
        );
    }
}

fn names(envelope: &Envelope) -> [Option<Span>; 3] {
    let params = &envelope.params;
    [params.name, params.uri, envelope.method].map(|text| text.map(|text| text.span))
}

/// Edits at any places: what they leave is what a plain copy gives, or the edits do not fit.
fn replace_anywhere(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let edits: Vec<_> = (0..choices.below(EDITS_MAX + 2))
        .map(|_| {
            let (start, length) = (u32::from(choices.byte()), u32::from(choices.byte() % 32));
            let count = choices.below(5);
            let replacement = Bytes::copy_from_slice(choices.take(count));
            (Span { start, end: (start + length).saturating_sub(1) }, replacement)
        })
        .collect();
    let original = Bytes::copy_from_slice(bytes);
    let (mut expected, mut copied) = (Vec::new(), 0);
    let mut is_sound = edits.len() <= EDITS_MAX;
    for (Span { start, end }, replacement) in &edits {
        let (start, end) = (*start as usize, *end as usize);
        is_sound &= copied <= start && start <= end && end <= bytes.len();
        if is_sound {
            expected.extend_from_slice(&bytes[copied..start]);
            expected.extend_from_slice(replacement);
            copied = end;
        }
    }
    expected.extend_from_slice(&bytes[copied..]);
    let spliced = spliced(&original, &edits);
    assert_eq!(spliced.is_ok(), is_sound, "{edits:?} of {} bytes", bytes.len());
    if let Ok(spliced) = spliced {
        assert_eq!(spliced, expected);
    }
}

fn spliced(original: &Bytes, edits: &[(Span, Bytes)]) -> Result<Vec<u8>, SpliceError> {
    let message = crate::frame::splice(original, edits)?;
    let length = message.remaining_bytes();
    let whole: Vec<u8> = message.flatten().collect();
    assert_eq!(whole.len(), length);
    Ok(whole)
}
