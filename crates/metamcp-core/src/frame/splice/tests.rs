use proptest::prelude::*;

use super::*;

fn joined(slices: SplicedMessage) -> String {
    slices.map(|part| String::from_utf8(part.to_vec()).expect("test texts are UTF-8")).collect()
}

/// Edits given as (start, end, replacement).
fn check(original: &str, edits: &[(u32, u32, &str)], expected: Result<&str, SpliceError>) {
    let bytes = Bytes::copy_from_slice(original.as_bytes());
    let edits: Vec<_> = edits
        .iter()
        .map(|&(start, end, text)| (Span { start, end }, Bytes::copy_from_slice(text.as_bytes())))
        .collect();
    let slices = splice(&bytes, &edits);
    if let Ok(slices) = &slices {
        let whole = expected.expect("an error was expected").len();
        assert_eq!(slices.remaining_bytes(), whole);
        assert_eq!(slices.clone().map(|part| part.len()).sum::<usize>(), whole);
        assert_eq!(slices.len(), slices.clone().count());
        assert!(slices.clone().all(|part| !part.is_empty()));
    }
    assert_eq!(slices.map(joined), expected.map(String::from));
}

#[test]
fn edits() {
    check("abcdef", &[], Ok("abcdef"));
    check("", &[], Ok(""));
    check("", &[(0, 0, "x")], Ok("x"));
    check("abcdef", &[(1, 3, "XYZ")], Ok("aXYZdef"));
    check("abcdef", &[(0, 6, "")], Ok(""));
    check("abcdef", &[(0, 0, "<"), (6, 6, ">")], Ok("<abcdef>"));
    check("abcdef", &[(0, 1, "1"), (1, 2, "2"), (2, 2, "+"), (5, 6, "")], Ok("12+cde"));
    check("abcdef", &[(0, 1, ""), (2, 3, ""), (4, 5, ""), (5, 6, "!")], Ok("bd!"));
}

#[test]
fn edits_refused() {
    check("abc", &[(0, 4, "")], Err(SpliceError::Bounds));
    check("abc", &[(2, 1, "")], Err(SpliceError::Bounds));
    check("abc", &[(u32::MAX, u32::MAX, "")], Err(SpliceError::Bounds));
    check("abc", &[(1, 2, ""), (0, 1, "")], Err(SpliceError::Order));
    check("abc", &[(0, 2, ""), (1, 3, "")], Err(SpliceError::Order));
    check("abc", &[(0, 0, ""); EDITS_MAX + 1], Err(SpliceError::TooMany));
}

/// An escaped tool name is replaced by its raw span.
#[test]
fn an_escaped_name_is_replaced_whole() {
    let message = Bytes::from_static(
        br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"b0__ech\u006f","arguments":{}}}"#,
    );
    let envelope = crate::frame::Scanner::new().scan(&message).expect("a call");
    let name = envelope.params.name.expect("a name");
    assert_eq!(name.decode(&message), "b0__echo");
    let slices = splice(&message, &[(name.span, json_string("echo"))]).expect("in bounds");
    assert_eq!(slices.len(), 3);
    let expected =
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;
    assert_eq!(slices.remaining_bytes(), expected.len());
    assert_eq!(joined(slices), expected);
}

#[test]
fn nothing_is_copied() {
    let message = Bytes::from("0123456789".repeat(100));
    let edit = (Span { start: 10, end: 20 }, Bytes::from_static(b"x"));
    let parts: Vec<Bytes> = splice(&message, &[edit]).expect("in bounds").collect();
    assert_eq!(parts[0].as_ptr(), message.as_ptr());
    assert_eq!(parts[2].as_ptr(), message[20..].as_ptr());
}

#[test]
fn strings() {
    for (text, json) in [
        ("", r#""""#),
        ("a\"b\\c/", r#""a\"b\\c/""#),
        ("\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}", "\"\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}\""),
        ("é😀\u{2028}", "\"é😀\u{2028}\""),
    ] {
        assert_eq!(json_string(text), json.as_bytes(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn strings_come_back(text in any::<String>()) {
        let json = json_string(&text);
        prop_assert_eq!(serde_json::from_slice::<String>(&json).expect("a JSON string"), text);
    }
}
