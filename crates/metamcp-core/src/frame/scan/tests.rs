use std::fmt::Write;

use super::*;
use crate::frame::{DEPTH_MAX, MEMBERS_MAX, SCRATCH_BYTES_KEPT};

/// Scans a message and describes the result in one line: kind and members with a value, or code, error and
/// id.
fn describe_result(message: &[u8]) -> String {
    match Scanner::new().scan(message) {
        Ok(envelope) => describe_envelope(&envelope, message),
        Err(ScanRejection { error, id }) => {
            let id = id.map_or("-", |id| std::str::from_utf8(id.span.slice(message)).expect("ids are UTF-8"));
            format!("{} {} id={id}", error.code(), describe_error(error))
        }
    }
}

fn describe_error(error: ScanError) -> String {
    match error {
        ScanError::Type { member, object, expected } => format!("Type {object}.{member} {expected}"),
        ScanError::CaseVariant { member, object } => format!("CaseVariant {object}.{member}"),
        ScanError::Duplicate { object } => format!("Duplicate {object}"),
        ScanError::Members { object } => format!("Members {object}"),
        ScanError::Surrogate { object } => format!("Surrogate {object}"),
        other => format!("{other:?}"),
    }
}

fn describe_envelope(envelope: &Envelope, message: &[u8]) -> String {
    let Envelope { kind, id, method, outcome, params } = envelope;
    let meta = &params.meta;
    let mut told = format!("{kind:?}");
    let raw =
        |span: Span| String::from_utf8(span.slice(message).to_vec()).expect("spans end between characters");
    for (name, id) in [
        ("id", id),
        ("requestId", &params.request_id),
        ("token", &params.progress_token),
        ("meta.token", &meta.progress_token),
        ("meta.sub", &meta.subscription_id),
    ] {
        if let Some(id) = id {
            let _ = write!(told, " {name}={:?}:{}", id.form, raw(id.span));
        }
    }
    for (name, text) in [
        ("method", &envelope.method),
        ("name", &params.name),
        ("uri", &params.uri),
        ("cursor", &params.cursor),
        ("taskId", &params.task_id),
        ("level", &params.level),
        ("version", &params.protocol_version),
        ("ref.name", &params.ref_name),
        ("ref.uri", &params.ref_uri),
        ("state", &params.request_state),
        ("meta.version", &meta.protocol_version),
        ("meta.level", &meta.log_level),
    ] {
        if let Some(text) = text {
            let _ = write!(told, " {name}={}", text.decode(message));
        }
    }
    assert!(method.is_some() != outcome.is_some());
    for (name, span) in [
        ("outcome", *outcome),
        ("arguments", params.arguments),
        ("params", params.object),
        ("meta", meta.object),
        ("capabilities", meta.client_capabilities),
    ] {
        if let Some(span) = span {
            let _ = write!(told, " {name}={}", raw(span));
        }
    }
    if params.has_input_responses {
        told.push_str(" responses");
    }
    if meta.client_capabilities.is_some() && !meta.client_capabilities_is_object {
        told.push_str(" (no object)");
    }
    told
}

fn check(message: impl AsRef<[u8]>, expected: &str) {
    let message = message.as_ref();
    assert_eq!(describe_result(message), expected, "{}", String::from_utf8_lossy(message));
    check_truncations(message);
}

/// A proper prefix of a message is never taken for a message.
fn check_truncations(message: &[u8]) {
    let whole = message.trim_ascii_end().len();
    let mut scanner = Scanner::new();
    for end in (0..whole).filter(|_| whole < 4096) {
        let cut = scanner.scan(&message[..end]);
        assert!(cut.is_err(), "accepted the first {end} bytes of {}", String::from_utf8_lossy(message));
    }
}

#[test]
fn kinds() {
    check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "Request id=Number:1 method=ping");
    check(r#"{"jsonrpc":"2.0","method":"a/b"}"#, "Notification method=a/b");
    check(r#"{"jsonrpc":"2.0","id":"x","result":{"a":[1]}}"#, "Response id=String:\"x\" outcome={\"a\":[1]}");
    check(r#"{"jsonrpc":"2.0","id":"x","result":7 }"#, "Response id=String:\"x\" outcome=7");
    check(r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, "Error id=Null:null outcome={}");
    check(r#"{"jsonrpc":"2.0","error":{"code":1}}"#, "Error outcome={\"code\":1}");
    check(
        " \r\n\t{ \"id\" : 1 , \"method\" :\t\"m\"\n, \"jsonrpc\":\"2.0\" } \n",
        "Request id=Number:1 method=m",
    );
    check(r#"{"jsonrpc":"\u0032.0","method":"m","more":{"id":[]}}"#, "Notification method=m");
}

#[test]
fn kinds_refused() {
    let rows = [
        (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, "-32600 Version id=1"),
        (r#"{"id":1,"method":"m"}"#, "-32600 Version id=1"),
        (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, "-32600 Version id=1"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "-32600 Shape id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#, "-32600 Shape id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"method":"m"}"#, "-32600 Shape id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"error":{},"method":"m"}"#, "-32600 Shape id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"params":{}}"#, "-32600 Shape id=1"),
        (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, "-32600 NullId id=-"),
        (r#"{"jsonrpc":"2.0","id":null,"result":1}"#, "-32600 NullId id=-"),
        (r#"{"jsonrpc":"2.0","result":1}"#, "-32600 NoId id=-"),
        (r#"{"jsonrpc":"2.0","id":1,"error":"bad"}"#, "-32600 Type the message.error an object id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "-32600 Type the message.method a string id=1"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#,
            "-32600 Type the message.params an object id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#,
            "-32600 Type the message.params an object id=1",
        ),
        ("[]", "-32600 Batch id=-"),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"m"}]"#, "-32600 Batch id=-"),
        ("1", "-32600 NotObject id=-"),
        ("null", "-32600 NotObject id=-"),
        (r#""x""#, "-32600 NotObject id=-"),
    ];
    for (message, expected) in rows {
        assert_eq!(describe_result(message.as_bytes()), expected, "{message}");
    }
}

#[test]
fn ids() {
    let wrong = "-32600 Type the message.id a string or an integer id=-";
    let long = format!("1{}", "0".repeat(40));
    for (id, form) in [
        ("0", Some("Number")),
        ("-7", Some("Number")),
        ("9007199254740993", Some("Number")),
        ("18446744073709551616", Some("Number")),
        (long.as_str(), Some("Number")),
        (r#""""#, Some("String")),
        (r#""a\"\u0062 é""#, Some("String")),
        ("1.0", None),
        ("1e3", None),
        ("1E400", None),
        ("-1.5e-3", None),
        ("true", None),
        ("{}", None),
        (r#"["a"]"#, None),
    ] {
        let message = format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"m"}}"#);
        match form {
            Some(form) => check(message, &format!("Request id={form}:{id} method=m")),
            None => check(message, wrong),
        }
    }
}

#[test]
fn members() {
    let call =
        |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    let plain = r#"{"name":"b__echo","arguments":{"name":"x","a":[{}]}}"#;
    check(
        call(plain),
        &format!(
            r#"Request id=Number:1 method=tools/call name=b__echo arguments={{"name":"x","a":[{{}}]}} params={plain}"#
        ),
    );
    let modern = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"progressToken":5,"io.modelcontextprotocol/subscriptionId":"s","io.modelcontextprotocol/logLevel":"debug","x":1},"name":"e","requestState":"q","inputResponses":{}}"#;
    check(
        call(modern),
        &format!(
            "Request id=Number:1 meta.token=Number:5 meta.sub=String:\"s\" method=tools/call name=e state=q \
             meta.version=2026-07-28 meta.level=debug params={modern} meta={} capabilities={{\"roots\":{{}}}} responses",
            &modern[9..modern.find(r#","name""#).expect("it is there")]
        ),
    );
    for (method, params, expected) in [
        ("resources/read", r#"{"uri":"file:\/\/\u0061"}"#, "uri=file://a"),
        ("tools/list", r#"{"cursor":""}"#, "cursor="),
        ("tasks/get", r#"{"taskId":"t"}"#, "taskId=t"),
        ("logging/setLevel", r#"{"level":"info"}"#, "level=info"),
        ("initialize", r#"{"protocolVersion":"2025-11-25"}"#, "version=2025-11-25"),
        ("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"p"}}"#, "ref.name=p"),
        ("completion/complete", r#"{"ref":{"uri":"u"}}"#, "ref.uri=u"),
    ] {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        check(message, &format!("Request id=Number:1 method={method} {expected} params={params}"));
    }
    for (method, params, expected) in [
        ("notifications/cancelled", r#"{"requestId":"r"}"#, "requestId=String:\"r\""),
        ("notifications/progress", r#"{"progressToken":-1}"#, "token=Number:-1"),
    ] {
        let message = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        check(message, &format!("Notification {expected} method={method} params={params}"));
    }
}

/// Values of the wrong type are rejected if routing depends on them, and ignored elsewhere.
#[test]
fn types() {
    for (method, params, expected) in [
        ("tools/call", r#"{"name":1}"#, "-32602 Type params.name a string id=1"),
        ("prompts/get", r#"{"name":null}"#, "-32602 Type params.name a string id=1"),
        ("resources/read", r#"{"uri":{}}"#, "-32602 Type params.uri a string id=1"),
        ("tools/list", r#"{"cursor":1}"#, "-32602 Type params.cursor a string id=1"),
        ("tasks/get", r#"{"taskId":[]}"#, "-32602 Type params.taskId a string id=1"),
        ("initialize", r#"{"protocolVersion":1}"#, "-32602 Type params.protocolVersion a string id=1"),
        ("completion/complete", r#"{"ref":"x"}"#, "-32602 Type params.ref an object id=1"),
        ("completion/complete", r#"{"ref":{"uri":1}}"#, "-32602 Type params.ref.uri a string id=1"),
        (
            "notifications/progress",
            r#"{"progressToken":1.5}"#,
            "-32602 Type params.progressToken a string or an integer id=1",
        ),
        ("x", r#"{"_meta":[]}"#, "-32602 Type params._meta an object id=1"),
        (
            "x",
            r#"{"_meta":{"progressToken":{}}}"#,
            "-32602 Type params._meta.progressToken a string or an integer id=1",
        ),
        (
            "x",
            r#"{"name":1,"uri":1,"level":1,"ref":1}"#,
            r#"Request id=Number:1 method=x params={"name":1,"uri":1,"level":1,"ref":1}"#,
        ),
        (
            "tools/list",
            r#"{"cursor":null}"#,
            r#"Request id=Number:1 method=tools/list params={"cursor":null}"#,
        ),
        ("x", r#"{"_meta":null}"#, r#"Request id=Number:1 method=x params={"_meta":null}"#),
    ] {
        // The method follows the params, so their types are checked once it is known.
        check(format!(r#"{{"jsonrpc":"2.0","params":{params},"id":1,"method":"{method}"}}"#), expected);
    }
    check(
        r#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":3}}}"#,
        r#"Notification method=x params={"_meta":{"io.modelcontextprotocol/clientCapabilities":3}} meta={"io.modelcontextprotocol/clientCapabilities":3} capabilities=3 (no object)"#,
    );
}

/// T1 and T2: a message that two parsers read differently.
#[test]
fn smuggling() {
    // Envoy AI Gateway, GHSA-4gph-2hhr-5mwg.
    check(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"backend__greet","Name":"backend__secretTool"}}"#,
        "-32600 CaseVariant params.name id=1",
    );
    check(
        r#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"t\u006fols/call","params":{"n\u0061me":"b__ech\u006f"}}"#,
        r#"Request id=Number:1 method=tools/call name=b__echo params={"n\u0061me":"b__ech\u006f"}"#,
    );
}

/// T1 and T2, for each member.
#[test]
fn smuggling_members() {
    for (message, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, "-32600 Duplicate the message id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, "-32600 Duplicate the message id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"a"}"#, "-32600 Duplicate the message id=-"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1,"\u0078":2}"#, "-32600 Duplicate the message id=1"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","\u0078":1,"\u0078":2}"#,
            "-32600 Duplicate the message id=1",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","ID":1}"#, "-32600 CaseVariant the message.id id=-"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":1}"#, "-32600 CaseVariant the message.method id=1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","paramſ":1}"#, "-32600 CaseVariant the message.params id=1"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a","\u0050arams":1}"#,
            "-32600 CaseVariant the message.params id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"name":"x","\u006eame":"y"},"id":1}"#,
            "-32600 Duplicate params id=1",
        ),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"z":1,"z":1},"id":1}"#, "-32600 Duplicate params id=1"),
        (
            "{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{\"tas\u{212a}Id\":1},\"id\":1}",
            "-32600 CaseVariant params.taskId id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"TA\u017f\u212aid":1},"id":1}"#,
            "-32600 CaseVariant params.taskId id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"tasKId":1},"id":1}"#,
            "-32600 CaseVariant params.taskId id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"_meta":{"x":1,"x":2}},"id":1}"#,
            "-32600 Duplicate params._meta id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"_META":{}},"id":1}"#,
            "-32600 CaseVariant params._meta id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"_meta":{"io.modelcontextprotocol/protocolversion":""}},"id":1}"#,
            "-32600 CaseVariant params._meta.io.modelcontextprotocol/protocolVersion id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"ref":{"name":"x","name":"y"}},"id":1}"#,
            "-32600 Duplicate params.ref id=1",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"ref":{"URI":"x"}},"id":1}"#,
            "-32600 CaseVariant params.ref.uri id=1",
        ),
        (r#"{"jsonrpc":"2.0","method":"a","params":{"\ud800":1},"id":1}"#, "-32600 Surrogate params id=1"),
        (r#"{"jsonrpc":"2.0","method":"\udc00","id":1}"#, "-32600 Surrogate the message id=1"),
        (
            r#"{"jsonrpc":"2.0","method":"a","params":{"name":"\ud800\ud800"},"id":1}"#,
            "-32600 Surrogate params id=1",
        ),
    ] {
        check(message, expected);
    }
    // Members that the gateway does not read may have any form.
    check(
        r#"{"jsonrpc":"2.0","method":"a","x":{"a":1,"a":2,"s":"\ud800"},"params":{"arguments":{"b":1,"b":2,"B":3}}}"#,
        r#"Notification method=a arguments={"b":1,"b":2,"B":3} params={"arguments":{"b":1,"b":2,"B":3}}"#,
    );
}

/// A10: input that is not JSON, and JSON beyond the parser's limits.
#[test]
fn json() {
    let syntax = "-32700 Syntax id=-";
    let around = |value: &[u8]| [br#"{"jsonrpc":"2.0","method":"m","x":"#, value, b"}"].concat();
    let wrong: [&[u8]; 39] = [
        b"",
        b"NaN",
        b"nan",
        b"Infinity",
        b"-",
        b"01",
        b"-01",
        b"1.",
        b".5",
        b"1e",
        b"1e+",
        b"+1",
        b"0x1",
        b"1 2",
        b"tru",
        b"truex",
        b"nulll",
        b"'a'",
        b"\"a",
        b"\"\\x\"",
        b"\"\\u12g4\"",
        b"\"\x01\"",
        b"\"\n\"",
        b"\"\xff\"",
        b"\"\xc3\"",
        b"\"\xed\xa0\x80\"",
        b"[1,]",
        b"[,1]",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{\"a\"}",
        b"[1}",
        b"1\x0c",
        b"11111111111111111111x",
        b"00000000000000000000",
        b"-0123456789012345678901",
        b"12345678901234567890.",
        b"12345678901234567890e+",
        b"[1e400 1]",
    ];
    for value in wrong {
        check(around(value), syntax);
    }
    let right: [&[u8]; 10] = [
        b"1e400",
        b"-1E+9999",
        b"123456789012345678901234567890",
        b"-0",
        b"0.00000000000000000000000000001",
        b"\"\\ud800\"",
        b"\"\\\\ud800\"",
        b"\"\\udc00\\ud800\\ud83d\\ude00\"",
        b"\"\\\\\\ud800\"",
        "\"é😀\"".as_bytes(),
    ];
    for value in right {
        check(around(value), "Notification method=m");
    }
    let message = around(b"1");
    for (head, tail) in [("\u{feff}", ""), ("", "x"), ("", "{}"), ("", "\0"), ("", "]"), (",", ""), ("", ",")]
    {
        let text = [head.as_bytes(), &message, tail.as_bytes()].concat();
        assert_eq!(describe_result(&text), syntax, "{head:?} {tail:?}");
    }
    check("", syntax);
    check("  ", syntax);
    check("{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"a\":1e400,\"b\":tru}", syntax);
}

/// C12, T22: bounds.
#[test]
fn bounds() {
    let nested = |depth: usize, open: &str, close: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"m","x":{}1{}}}"#,
            open.repeat(depth - 1),
            close.repeat(depth - 1)
        )
    };
    let fine = "Notification method=m";
    check(nested(DEPTH_MAX, "[", "]"), fine);
    check(nested(DEPTH_MAX, r#"{"a":"#, "}"), fine);
    check(nested(DEPTH_MAX + 1, "[", "]"), "-32600 Depth id=-");
    check(nested(DEPTH_MAX + 1, r#"{"a":"#, "}"), "-32600 Depth id=-");
    check(nested(1_000_000, "[", "]"), "-32600 Depth id=-");
    check("[".repeat(1_000_000), "-32600 Depth id=-");
    check("{\"a\":".repeat(1_000_000), "-32600 Depth id=-");
    let many = |count: usize| (0..count).map(|n| format!(r#""k{n}":{n}"#)).collect::<Vec<_>>().join(",");
    check(format!(r#"{{"jsonrpc":"2.0","method":"m",{}}}"#, many(MEMBERS_MAX - 2)), fine);
    check(
        format!(r#"{{"jsonrpc":"2.0","method":"m",{}}}"#, many(MEMBERS_MAX - 1)),
        "-32600 Members the message id=-",
    );
    for (object, place) in
        [("%", "params"), (r#"{"_meta":%}"#, "params._meta"), (r#"{"ref":%}"#, "params.ref")]
    {
        let message = |count| {
            let params = object.replace('%', &format!("{{{}}}", many(count)));
            format!(r#"{{"jsonrpc":"2.0","method":"m","params":{params},"id":1}}"#)
        };
        assert!(describe_result(message(MEMBERS_MAX).as_bytes()).starts_with("Request"));
        check(message(MEMBERS_MAX + 1), &format!("-32600 Members {place} id=1"));
        check(message(100_000), &format!("-32600 Members {place} id=1"));
    }
    let arguments = format!(r#"{{"arguments":{{{}}}}}"#, many(100_000));
    assert!(
        describe_result(format!(r#"{{"jsonrpc":"2.0","method":"m","params":{arguments}}}"#).as_bytes())
            .starts_with("Noti")
    );
    for big in [
        "9".repeat(1_000_000),
        format!("0.{}e-5", "3".repeat(1_000_000)),
        format!("\"{}\"", "\\u0000".repeat(1 << 20)),
    ] {
        check(format!(r#"{{"jsonrpc":"2.0","method":"m","x":{big}}}"#), fine);
    }
}

#[test]
fn large_buffers_are_freed() {
    let mut scanner = Scanner::new();
    for body in ["a".repeat(2 * SCRATCH_BYTES_KEPT), "1,".repeat(SCRATCH_BYTES_KEPT / 2)] {
        let message = format!(r#"{{"jsonrpc":"2.0","method":"m","x":["{body}",{body}1]}}"#);
        let _ = scanner.scan(message.as_bytes());
        assert_eq!(scanner.parser.held_bytes(), 0);
    }
    let small = br#"{"jsonrpc":"2.0","method":"m"}"#;
    assert!(scanner.scan(small).is_ok());
    let held = scanner.parser.held_bytes();
    assert!(held > 0);
    assert!(scanner.scan(small).is_ok());
    assert_eq!(scanner.parser.held_bytes(), held);
}

#[test]
fn batches() {
    let items = |batch: &str| {
        Scanner::new().batch_items(batch.as_bytes()).map(|items| {
            items
                .iter()
                .map(|span| String::from_utf8_lossy(span.slice(batch.as_bytes())).into_owned())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        items(r#" [ {"a":[1,2]} , 3,"x" ]"#),
        Ok(vec![r#"{"a":[1,2]}"#.into(), "3".into(), r#""x""#.into()])
    );
    assert_eq!(
        items(&format!("[{}1]", "1,".repeat(BATCH_ITEMS_MAX - 1))).map(|all| all.len()),
        Ok(BATCH_ITEMS_MAX)
    );
    assert_eq!(items(&format!("[{}1]", "1,".repeat(BATCH_ITEMS_MAX))), Err(ScanError::BatchSize));
    assert_eq!(items("[]"), Err(ScanError::BatchSize));
    assert_eq!(items("{}"), Err(ScanError::BatchSize));
    assert_eq!(items("[1"), Err(ScanError::Syntax));
}

#[test]
fn error_texts_do_not_quote_the_message() {
    let refused = Scanner::new().scan(br#"{"jsonrpc":"2.0","id":1,"method":"a","secret":1,"secret":2}"#);
    let text = refused.expect_err("a duplicate").to_string();
    assert_eq!(text, "Invalid Request: a member is written twice in the message; send each once");
    let refused =
        Scanner::new().scan(br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#);
    let text = refused.expect_err("not a string").to_string();
    assert_eq!(text, "Invalid params: `name` in params must be a string");
}
