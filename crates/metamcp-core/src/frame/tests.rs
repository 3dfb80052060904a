//! Property tests of the whole module: arbitrary bytes, and messages with one error.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;

use super::*;
use crate::frame::fuzz::generator::{META, METHODS, PARAMS, REF};
use crate::frame::fuzz::{event_stream, parser_agrees, scan};

const ENVELOPE: &[&str] = &["id", "method", "params", "result", "error", "x", "more"];

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
        scan(message.as_bytes());
    }

    #[test]
    fn messages_cut(message in message(), cut in any::<prop::sample::Index>()) {
        let message = message.trim_ascii_end().as_bytes();
        let cut = &message[..cut.index(message.len())];
        scan(cut);
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
        scan(&message);
    }

    #[test]
    fn values_in_arrays(values in vec(any_value(), 0..5)) {
        scan(format!("[{}]", values.join(" ,")).as_bytes());
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        scan(&bytes);
        event_stream(&bytes);
    }

    #[test]
    fn meaningful_bytes(bytes in vec(select(MEANINGFUL), 0..24)) {
        scan(&bytes);
        event_stream(&bytes);
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
