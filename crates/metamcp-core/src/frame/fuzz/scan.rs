//! The scanner beside `serde_json`, which reads the same bytes in its own way.

use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::frame::tokens::Parser;
use crate::frame::{
    Envelope, IdForm, IdSpan, MEMBERS_MAX, MessageKind, MessageParams, Outline, OutlineId, OutlineReader,
    ParamsForm, ScanError, Scanner, StringSpan, decode_header_value, encode_header_value,
};

/// Scans a message, as one and as a batch. Every span is what `serde_json` finds under that name, and both accept the same
/// texts. Returns whether the message was accepted. Panics if an invariant does not hold.
pub fn scan(bytes: &[u8]) -> bool {
    parser_agrees(bytes);
    outlines_agree(bytes);
    let envelope = Scanner::new().scan(bytes);
    match &envelope {
        Ok(envelope) => {
            envelope_agrees(envelope, bytes);
            outline_agrees(envelope, bytes);
        }
        Err(rejection) => {
            assert!(matches!(rejection.error.code(), -32700 | -32602 | -32600));
            if let Some(id) = rejection.id {
                id_is_sound(id, bytes);
            }
        }
    }
    if let Ok(items) = Scanner::new().batch_items(bytes) {
        let read: Vec<&RawValue> = serde_json::from_slice(bytes).expect("accepted as a batch");
        let spans: Vec<&[u8]> = items.iter().map(|span| span.slice(bytes)).collect();
        assert_eq!(spans, read.iter().map(|item| item.get().as_bytes()).collect::<Vec<_>>());
    }
    if let Ok(text) = decode_header_value(bytes) {
        assert_eq!(decode_header_value(encode_header_value(&text).as_bytes()).as_deref(), Ok(&*text));
    }
    envelope.is_ok()
}

/// The parser accepts exactly what `serde_json` accepts.
pub fn parser_agrees(bytes: &[u8]) {
    let theirs =
        std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    match Parser::new().parse(bytes) {
        Err(ScanError::Depth) => {}
        ours => assert_eq!(ours.is_ok(), theirs, "{}", String::from_utf8_lossy(bytes)),
    }
}

/// The outlines of the messages in a text, and whether it is complete. `None` if it is none.
fn outlines(parts: std::slice::Chunks<'_, u8>, id_bytes_max: usize) -> Option<(Vec<Outline>, bool)> {
    let (mut reader, mut outlines) = (OutlineReader::new(id_bytes_max), Vec::new());
    for part in parts {
        reader.push(part, |outline| outlines.push(outline));
    }
    (!reader.is_invalid()).then(|| (outlines, reader.is_complete()))
}

/// Where a text is cut makes no difference to its outlines.
fn outlines_agree(bytes: &[u8]) {
    let whole = outlines(bytes.chunks(bytes.len().max(1)), bytes.len());
    for at_a_time in [1, 2, 7] {
        assert_eq!(outlines(bytes.chunks(at_a_time), bytes.len()), whole, "{at_a_time} bytes at a time");
    }
}

/// The outline of a message says the same as its envelope.
fn outline_agrees(envelope: &Envelope, bytes: &[u8]) {
    let Some((read, true)) = outlines(bytes.chunks(bytes.len()), bytes.len()) else {
        panic!("the outline of a message was not read");
    };
    let is_error = envelope.kind == MessageKind::Error;
    let id = envelope.id.map(|id| OutlineId::Raw(id.span.slice(bytes).to_vec()));
    let expected = Outline {
        id: id.unwrap_or_default(),
        has_method: envelope.method.is_some(),
        has_result: envelope.outcome.is_some() && !is_error,
        has_error: is_error,
    };
    assert_eq!(read, [expected]);
}

fn id_is_sound(id: IdSpan, bytes: &[u8]) {
    let raw = id.span.slice(bytes);
    match id.form {
        IdForm::String => assert!(serde_json::from_slice::<&RawValue>(raw).is_ok() && raw[0] == b'"'),
        IdForm::Number => assert!(raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')),
        IdForm::Null => assert_eq!(raw, b"null"),
    }
}

/// The members of an object in the order in which they were written, as `serde_json` reads them.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

impl<'a> Members<'a> {
    fn of(object: &'a [u8]) -> Self {
        let read: Self = serde_json::from_slice(object).expect("what we accept is an object to others");
        let mut names: Vec<_> = read.0.iter().map(|(name, _)| name).collect();
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a duplicate was accepted");
        assert!(names.len() <= MEMBERS_MAX);
        read
    }

    /// The one member that a reader which ignores case takes for `name`.
    fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let fold = |name: &str| name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase();
        let mut found = self.0.iter().filter(|(other, _)| fold(other) == fold(name));
        let member = found.next()?;
        assert_eq!(member.0, name, "a case variant was accepted");
        assert!(found.next().is_none(), "a case variant was accepted");
        Some(member.1.get().as_bytes())
    }

    fn text_agrees(&self, name: &str, ours: Option<StringSpan>, bytes: &[u8]) {
        let theirs = self.raw(name).filter(|raw| raw[0] == b'"');
        assert_eq!(ours.map(|text| text.span.slice(bytes)), theirs, "{name}");
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            let theirs: String = serde_json::from_slice(theirs).expect("no lone surrogates");
            assert_eq!(ours.decode(bytes), theirs);
        }
    }

    fn id_agrees(&self, name: &str, ours: Option<IdSpan>, bytes: &[u8]) {
        let is_id = |raw: &&[u8]| {
            raw[0] == b'"' || raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') || *raw == b"null"
        };
        let theirs = self.raw(name).filter(is_id).filter(|raw| name == "id" || *raw != b"null");
        assert_eq!(ours.map(|id| id.span.slice(bytes)), theirs, "{name}");
        if let Some(id) = ours {
            id_is_sound(id, bytes);
        }
    }
}

/// Every span is the value that `serde_json` finds under that name.
fn envelope_agrees(envelope: &Envelope, bytes: &[u8]) {
    let members = Members::of(bytes);
    members.id_agrees("id", envelope.id, bytes);
    members.text_agrees("method", envelope.method, bytes);
    let outcome = members.raw("result").or(members.raw("error"));
    assert_eq!(envelope.outcome.map(|span| span.slice(bytes)), outcome);
    let kind = match (envelope.method, envelope.id, members.raw("result")) {
        (Some(_), Some(_), None) => MessageKind::Request,
        (Some(_), None, None) => MessageKind::Notification,
        (None, Some(_), Some(_)) => MessageKind::Response,
        _ => MessageKind::Error,
    };
    assert_eq!(envelope.kind, kind);
    let object = members.raw("params");
    let params = &envelope.params;
    assert_eq!(params.object.map(|span| span.slice(bytes)), object);
    assert_eq!(params.form == ParamsForm::Object, object.is_some());
    if let Some(object) = object {
        params_agree(params, object, bytes);
    }
}

fn params_agree(params: &MessageParams, object: &[u8], bytes: &[u8]) {
    let members = Members::of(object);
    for (name, text) in [
        ("name", params.name),
        ("uri", params.uri),
        ("cursor", params.cursor),
        ("taskId", params.task_id),
        ("level", params.level),
        ("protocolVersion", params.protocol_version),
        ("requestState", params.request_state),
    ] {
        members.text_agrees(name, text, bytes);
    }
    members.id_agrees("requestId", params.request_id, bytes);
    members.id_agrees("progressToken", params.progress_token, bytes);
    assert_eq!(params.has_input_responses, members.raw("inputResponses").is_some());
    assert_eq!(params.arguments.map(|span| span.slice(bytes)), members.raw("arguments"));
    if let Some(object) = members.raw("ref").filter(|raw| raw[0] == b'{') {
        let members = Members::of(object);
        members.text_agrees("name", params.ref_name, bytes);
        members.text_agrees("uri", params.ref_uri, bytes);
    }
    let meta = &params.meta;
    let object = members.raw("_meta").filter(|raw| *raw != b"null");
    assert_eq!(meta.object.map(|span| span.slice(bytes)), object);
    assert_eq!(meta.present, object.is_some());
    let Some(object) = object else { return };
    let members = Members::of(object);
    members.text_agrees("io.modelcontextprotocol/protocolVersion", meta.protocol_version, bytes);
    members.text_agrees("io.modelcontextprotocol/logLevel", meta.log_level, bytes);
    members.id_agrees("progressToken", meta.progress_token, bytes);
    members.id_agrees("io.modelcontextprotocol/subscriptionId", meta.subscription_id, bytes);
    let capabilities = members.raw("io.modelcontextprotocol/clientCapabilities");
    assert_eq!(meta.client_capabilities.map(|span| span.slice(bytes)), capabilities);
    assert_eq!(meta.client_capabilities_is_object, capabilities.is_some_and(|raw| raw[0] == b'{'));
}
