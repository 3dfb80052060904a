//! Property tests of the whole module: arbitrary bytes, and messages with one error.

use std::fmt::{self, Write};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;
use crate::frame::tokens::Parser;

/// Feeds bytes to every parser. Panics if an invariant does not hold.
fn exercise(bytes: &[u8]) {
    parser_agrees(bytes);
    match Scanner::new().scan(bytes) {
        Ok(envelope) => envelope_agrees(&envelope, bytes),
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
    events_are_bounded(bytes);
    if let Ok(text) = decode_header_value(bytes) {
        assert_eq!(decode_header_value(encode_header_value(&text).as_bytes()).as_deref(), Ok(&*text));
    }
}

/// The parser accepts exactly what `serde_json` accepts.
fn parser_agrees(bytes: &[u8]) {
    let theirs =
        std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    match Parser::new().parse(bytes) {
        Err(ScanError::Depth) => {}
        ours => assert_eq!(ours.is_ok(), theirs, "{}", String::from_utf8_lossy(bytes)),
    }
}

fn id_is_sound(id: IdSpan, bytes: &[u8]) {
    let raw = id.span.slice(bytes);
    match id.form {
        IdForm::String => assert!(serde_json::from_slice::<&RawValue>(raw).is_ok() && raw[0] == b'"'),
        IdForm::Number => assert!(raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')),
        IdForm::Null => assert_eq!(raw, b"null"),
    }
}

fn events_are_bounded(bytes: &[u8]) {
    let mut reader = EventReader::new();
    reader.push(Bytes::copy_from_slice(bytes));
    let mut read = 0;
    while let Ok(Some(event)) = reader.next() {
        read += event.raw.len();
    }
    assert!(read <= bytes.len());
    assert!(BoundaryTracker::new().feed(bytes) <= bytes.len());
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

const ENVELOPE: &[&str] = &["id", "method", "params", "result", "error", "x", "more"];
const PARAMS: &[&str] = &[
    "name",
    "uri",
    "cursor",
    "taskId",
    "level",
    "protocolVersion",
    "requestId",
    "progressToken",
    "ref",
    "requestState",
    "inputResponses",
    "arguments",
    "_meta",
    "x",
    "",
];
const META: &[&str] = &[
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "progressToken",
    "io.modelcontextprotocol/subscriptionId",
    "io.modelcontextprotocol/logLevel",
    "vendor/x",
];
const REF: &[&str] = &["name", "uri", "type", "x"];
const METHODS: &[&str] = &[
    "tools/call",
    "prompts/get",
    "resources/read",
    "tools/list",
    "initialize",
    "completion/complete",
    "notifications/progress",
    "notifications/cancelled",
    "tasks/get",
    "logging/setLevel",
    "custom/x",
];

fn space() -> impl Strategy<Value = &'static str> + Clone {
    prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t ")]
}

/// A text as a JSON string, some characters escaped without need; rarely in another case.
fn written(text: &'static str) -> impl Strategy<Value = String> {
    (vec(0..12_u8, text.len()), 0..60_u8).prop_map(move |(how, case)| {
        let mut json = String::from("\"");
        for (character, how) in text.chars().zip(how) {
            let character = match case {
                0 => character.to_ascii_uppercase(),
                1 if character == 's' => '\u{17f}',
                1 if character == 'k' => '\u{212a}',
                _ => character,
            };
            if how == 0 {
                let _ = write!(json, "\\u{:04X}", character as u32);
            } else {
                json.push(character);
            }
        }
        json + "\""
    })
}

/// Values at the edges of the grammar.
const TRICKY: &[&str] = &[
    "0",
    "-0",
    "7",
    "-12",
    "1.5",
    "1e3",
    "1E-400",
    "1e400",
    "123456789012345678901234567890",
    "true",
    "false",
    "null",
    r#""""#,
    r#""a b""#,
    r#""\"\\\/\b\f\n\r\t""#,
    r#""\u0061""#,
    r#""\ud83d\ude00""#,
    r#""\ud800""#,
    r#""😀é""#,
    r#""{\"id\":1}""#,
    r#"",""#,
];

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(TRICKY).prop_map(String::from),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_filter_map("finite", |number| serde_json::to_string(&number).ok()),
        1 => any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ]
}

fn object(
    names: &'static [&'static str],
    value: BoxedStrategy<String>,
    size: usize,
) -> BoxedStrategy<String> {
    let member = (select(names).prop_flat_map(written), space(), space(), value)
        .prop_map(|(name, before, after, value)| format!("{name}{before}:{after}{value}"));
    (vec(member, 0..=size), space(), space())
        .prop_map(|(members, inside, between)| {
            format!("{{{inside}{}{inside}}}", members.join(&format!("{between},")))
        })
        .boxed()
}

fn any_value() -> BoxedStrategy<String> {
    scalar()
        .prop_recursive(4, 24, 4, |inner| {
            let array = (vec(inner.clone(), 0..4), space())
                .prop_map(|(items, space)| format!("[{space}{}]", items.join(&format!("{space},"))));
            prop_oneof![array, object(PARAMS, inner.boxed(), 4)]
        })
        .boxed()
}

/// Messages, most of them valid, with the members that we read in any order.
fn message() -> impl Strategy<Value = String> {
    let meta = prop_oneof![6 => object(META, prop_oneof![any_value(), Just("\"v\"".to_owned())].boxed(), 3), 1 => any_value()];
    let reference = prop_oneof![6 => object(REF, scalar().boxed(), 2), 1 => any_value()];
    let params_value = prop_oneof![3 => scalar(), 1 => any_value(), 2 => meta, 1 => reference];
    let params = prop_oneof![8 => object(PARAMS, params_value.boxed(), 4), 1 => any_value()];
    let method = prop_oneof![12 => select(METHODS).prop_flat_map(written), 1 => scalar()];
    let request = (method, scalar(), params, any_value(), 0..32_u8);
    let extra = object(ENVELOPE, any_value(), 1);
    (request, extra, any::<prop::sample::Index>(), space()).prop_map(
        |((method, id, params, outcome, shape), extra, order, space)| {
            let mut members = vec![r#""jsonrpc":"2.0""#.to_owned()];
            let mut add = |bit: u8, name: &str, value: &str| {
                if shape & bit != 0 {
                    members.push(format!("{name}:{space}{value}{space}"));
                }
            };
            add(1, r#""id""#, &id);
            if shape & 2 != 0 {
                add(2, r#""me\u0074hod""#, &method);
                add(4, r#""params""#, &params);
            } else {
                add(4, r#""result""#, &outcome);
                add(8, r#""error""#, &outcome);
            }
            if shape & 16 != 0 && extra.len() > 2 {
                members.push(extra[1..extra.len() - 1].to_owned());
            }
            let first = order.index(members.len());
            members.rotate_left(first);
            format!("{space}{{{}}}{space}", members.join(","))
        },
    )
}

/// Bytes that are significant to one of the parsers.
const MEANINGFUL: &[u8] = b"{}[]:,\"\\ueE+-.019tfn \n\r\t\x00\x0c\x1f\x7f\xef\xbb\xbf\xed\xa0\xff";

proptest! {
    #[test]
    fn messages(message in message()) {
        exercise(message.as_bytes());
    }

    #[test]
    fn messages_cut(message in message(), cut in any::<prop::sample::Index>()) {
        let message = message.trim_ascii_end().as_bytes();
        let cut = &message[..cut.index(message.len())];
        exercise(cut);
        prop_assert!(Scanner::new().scan(cut).is_err());
    }

    #[test]
    fn messages_spoilt(message in message(), spoil in vec((any::<prop::sample::Index>(), select(MEANINGFUL), 0..3_u8), 1..4)) {
        let mut message = message.into_bytes();
        for (at, byte, how) in spoil {
            let at = at.index(message.len());
            match how {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                _ => _ = message.remove(at),
            }
            if message.is_empty() {
                break;
            }
        }
        exercise(&message);
    }

    #[test]
    fn values_in_arrays(values in vec(any_value(), 0..5)) {
        exercise(format!("[{}]", values.join(" ,")).as_bytes());
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        exercise(&bytes);
    }

    #[test]
    fn meaningful_bytes(bytes in vec(select(MEANINGFUL), 0..24)) {
        exercise(&bytes);
    }
}

/// simd-json processes blocks of 64 bytes: every byte at every offset of a block, inside and outside strings.
#[test]
fn every_byte_at_every_offset() {
    for offset in 0..70 {
        for byte in 0..=u8::MAX {
            for (head, tail) in [("[1", "1]"), ("[1,", "]"), ("[\"a", "b\"]"), ("[1 ", ",1]"), ("[tru", "]")]
            {
                let head = [" ".repeat(offset).as_bytes(), head.as_bytes()].concat();
                parser_agrees(&[head.as_slice(), &[byte], tail.as_bytes()].concat());
            }
        }
    }
}

/// Checks that enough of the generated messages are accepted for the tests above to be meaningful.
#[test]
fn generated_messages_are_mostly_sound() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut scanner = Scanner::new();
    let accepted = (0..1000).filter(|_| {
        let message = message().new_tree(&mut runner).expect("no filter fails").current();
        scanner.scan(message.as_bytes()).is_ok()
    });
    let accepted = accepted.count();
    assert!((200..900).contains(&accepted), "{accepted} of 1000");
}
