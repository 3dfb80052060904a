//! Answers that are not those of the call: under another id, further ones, and texts that are no answers (A15).

use serde_json::Value;

use crate::faults::{check_error, send, ways};
use crate::support::{Client, Gateway, Peer, Response, answer, chunk, events, result};

/// The result with this text under this id, in the forms that servers write.
fn forms(id: &str, text: &str) -> Vec<String> {
    let outcome = format!(r#"{{"content":[],"id":5,"resultType":"complete","text":"\"id\":5,{text}"}}"#);
    vec![
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{outcome}}}"#),
        format!(r#"{{"result":{outcome},"jsonrpc":"2.0","id":{id}}}"#),
        // Python's `json.dumps`.
        format!(r#"{{"jsonrpc": "2.0", "id": {id}, "result": {outcome}}}"#),
        format!(r#"{{"result": {outcome}, "id": {id}, "jsonrpc": "2.0"}}"#),
        format!(r#"{{"id":{id},"jsonrpc":"2.0","result":{outcome}}}"#),
        format!(r#"{{"\u0069d":{id},"jsonrpc":"2.0","r\u0065sult":{outcome}}}"#),
    ]
}

/// A body of a response, with its length and in chunks, and as an event, in parts that the gateway sees as one or several.
fn responses(message: &str) -> Vec<Vec<u8>> {
    let in_chunks = |head: &[u8], body: &str, size: usize| {
        let parts = body.as_bytes().chunks(size).map(|part| chunk(std::str::from_utf8(part).unwrap()));
        [head, &parts.collect::<Vec<_>>().concat(), &chunk("")].concat()
    };
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let event = format!("event: message\nid: 7\ndata: {message}\n\n");
    vec![
        answer("200 OK", message),
        in_chunks(head, message, 60_000),
        in_chunks(&events(), &event, usize::MAX),
        in_chunks(&events(), &event, 60_000),
    ]
}

/// Whether the client is told that its call failed, under its id, or sees that the response is incomplete.
fn is_error_or_incomplete(response: &Response) -> bool {
    let text = response.text();
    let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
    let told: Value = serde_json::from_str(last).unwrap_or_default();
    !response.whole || (told["id"] == 1 && told["error"].is_object())
}

/// Whatever form an answer has, it is handed on if its id is that of the call, and not otherwise.
#[test]
fn only_the_answer_under_the_id_of_the_call_passes() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let long = "x".repeat(200 << 10);
    let long_id = format!("\"{}\"", "1".repeat(300));
    for (what, request) in ways(&gateway) {
        for pad in ["", &long] {
            for id in ["1", "2", "\"1\"", "1.5", "null", "[1]", &long_id] {
                for (message, sent) in forms(id, pad).into_iter().flat_map(|message| {
                    responses(&message).into_iter().map(move |sent| (message.clone(), sent))
                }) {
                    peer.push([vec![send(sent.clone())]]);
                    let response = Client::once(gateway.address, &request);
                    let what =
                        format!("{what}: {:.80} of {:.300}", response.text(), String::from_utf8_lossy(&sent));
                    let text = response.text();
                    let passes = |message: &Value| message["result"]["text"].is_string();
                    let is_result = response.whole
                        && (response.events().iter().any(passes)
                            || serde_json::from_str(&text).is_ok_and(|json| passes(&json)));
                    assert_eq!(is_result, id == "1", "{what}");
                    if id == "1" && text.starts_with('{') {
                        assert_eq!(text, message, "{what}");
                    }
                }
            }
        }
    }
}

/// Of a long answer and a further one, the first passes, in whatever form they are.
#[test]
fn no_form_of_an_answer_passes_twice() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let long = "x".repeat(100 << 10);
    for (what, request) in ways(&gateway) {
        for (first, second) in forms("1", &long).into_iter().zip(forms("1", &long).into_iter().rev()) {
            for size in [usize::MAX, 60_000] {
                let text = format!("data: {first}\n\ndata: {second}\n\ndata: {{}}\n\n");
                let parts =
                    text.as_bytes().chunks(size).map(|part| chunk(std::str::from_utf8(part).unwrap()));
                peer.push([vec![send([events(), parts.collect::<Vec<_>>().concat(), chunk("")].concat())]]);
                let response = Client::once(gateway.address, &request);
                let answers = response.events().iter().filter(|message| message["id"] == 1).count();
                assert_eq!(answers, 1, "{what} {size} {:.100}", response.text());
            }
        }
    }
}

/// An answer that ends too early, whichever form it has, is an error of the gateway or visibly broken off: the client does
/// not wait for the rest.
#[test]
fn no_part_of_an_answer_counts_as_one() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (what, request) in ways(&gateway) {
        for text in [String::new(), "x".repeat(100 << 10)] {
            for form in forms("1", &text) {
                for sent in responses(&form[..form.len() - 1]) {
                    peer.push([vec![send(sent)]]);
                    let response = Client::once(gateway.address, &request);
                    assert!(is_error_or_incomplete(&response), "{what} {form:.60}: {:.200}", response.text());
                }
            }
        }
    }
}

/// An error without an id that is too long to be given one does not leave the client waiting.
#[test]
fn a_long_error_without_an_id_is_broken_off() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let text = "x".repeat(100 << 10);
    for (what, request) in ways(&gateway) {
        for start in [r#"{"id":null,"#, "{"] {
            for sent in responses(&format!(r#"{start}"error":{{"code":1,"message":"{text}"}}}}"#)) {
                peer.push([vec![send(sent)]]);
                let response = Client::once(gateway.address, &request);
                assert!(is_error_or_incomplete(&response), "{what} {start}: {:.200}", response.text());
            }
        }
    }
}

/// What is no answer is not handed on in the place of one.
#[test]
fn a_body_without_an_answer_is_an_error() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let other = result("2", "foreign");
    for (what, request) in ways(&gateway) {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","method":"m","id":1,"result":{"text":"foreign"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"text":"foreign"},"id":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"text":"foreign"},"ID":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"text":"foreign"}"#,
            r#"{"id":1,"jsonrpc":"2.0","result":{"text":"foreign"}"#,
            r#"{"jsonrpc":"2.0","result":{"text":"foreign"}}"#,
            "foreign",
            "[]",
            "{}",
            &format!("[{other}]"),
            &format!("[{},{other}]", result("1", "own")),
        ] {
            peer.push([vec![send(answer("200 OK", body))]]);
            let response = Client::once(gateway.address, &request);
            check_error(&format!("{what} {body}"), &response, "answered");
            assert!(!response.text().contains("foreign"), "{what} {body}: {}", response.text());
        }
        // An error that cannot name its call is that of this one.
        for id in ["", r#""id":null,"#] {
            let body = format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32700,"message":"unread"}}}}"#);
            let event = [events(), chunk(&format!("data: {body}\n\n")), chunk("")].concat();
            for sent in [answer("200 OK", &body), event] {
                peer.push([vec![send(sent)]]);
                let response = Client::once(gateway.address, &request);
                let text = response.text();
                let message = response.events().pop().unwrap_or_else(|| response.json());
                assert_eq!(
                    (&message["id"], &message["error"]["message"]),
                    (&1.into(), &"unread".into()),
                    "{what} {text}"
                );
                assert_eq!(text.matches("\"error\"").count(), 1, "{what} {text}");
            }
        }
    }
}

/// The answer to another call, with its content, is not handed to the client.
#[test]
fn a15_an_answer_under_another_id() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    for (what, request) in ways(&gateway) {
        for id in ["2", "\"1\"", "11"] {
            peer.push([vec![send(answer("200 OK", &result(id, "foreign")))]]);
            let response = Client::once(gateway.address, &request);
            check_error(&what, &response, "under the id of another call");
            assert!(!response.text().contains("foreign"), "{what}");
        }
        // Its own id, wherever it stands.
        let last = r#"{"result":{"content":[],"resultType":"complete"},"jsonrpc":"2.0","id":1}"#;
        for own in [result("1", "own"), last.to_owned(), last.replace("\"id\":1", " \"id\" : 1 ")] {
            peer.push([vec![send(answer("200 OK", &own))]]);
            let response = Client::once(gateway.address, &request);
            assert_eq!(response.json()["id"], 1, "{what}: {}", response.text());
            assert!(response.json()["result"].is_object(), "{what}: {}", response.text());
        }
    }
}

/// A long answer is not kept to be read. Its id is checked where servers write it: first or last.
#[test]
fn a15_a_long_answer_under_another_id() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let text = "x".repeat(200 << 10);
    let content =
        format!(r#""result":{{"content":[{{"type":"text","text":"{text}"}}],"resultType":"complete"}}"#);
    let first = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},{content}}}"#);
    let last = |id: &str| format!(r#"{{{content},"jsonrpc":"2.0","id":{id}}}"#);
    let chunked = |message: &str| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head.as_bytes(), &chunk(message), &chunk("")].concat()
    };
    for (what, request) in ways(&gateway) {
        for (message, is_own) in
            [(first("1"), true), (last("1"), true), (first("2"), false), (last("2"), false)]
        {
            for whole in [answer("200 OK", &message), chunked(&message)] {
                peer.push([vec![send(whole)]]);
                let response = Client::once(gateway.address, &request);
                let is_result = response.whole && response.text().contains("\"result\"");
                assert_eq!(is_result, is_own, "{what}: {:.80}", response.text());
                if response.whole && !is_own {
                    check_error(&what, &response, "under the id of another call");
                }
            }
        }
    }
}

/// In an event stream, the answer to another call is dropped, and the own answer passes.
#[test]
fn a15_foreign_answers_in_a_stream() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let last = r#"{"result":{"content":[],"text":"foreign"},"jsonrpc":"2.0","id":2}"#;
    let foreign = [result("2", "foreign"), result("\"1\"", "foreign"), last.to_owned()];
    let event = |message: &str, end: &str| format!("data: {message}{end}{end}");
    for (what, request) in ways(&gateway) {
        for (foreign, end) in
            foreign.iter().flat_map(|foreign| ["\n", "\r\n", "\r"].map(|end| (foreign, end)))
        {
            let own = result("1", "own");
            let events_of = |own: &[&str]| {
                let messages = [&[note, foreign.as_str(), note][..], own].concat();
                messages.into_iter().map(|message| event(message, end)).collect::<String>()
            };
            // Together and byte by byte; with the own answer and without it.
            for own in [&[own.as_str()][..], &[]] {
                let text = events_of(own);
                for size in [text.len(), 1] {
                    let parts =
                        text.as_bytes().chunks(size).map(|part| chunk(std::str::from_utf8(part).unwrap()));
                    let sent = [events(), parts.collect::<Vec<_>>().concat(), chunk("")].concat();
                    peer.push([vec![send(sent)]]);
                    let response = Client::once(gateway.address, &request);
                    let what = format!("{what} {end:?} {size}: {}", response.text());
                    assert!(!response.text().contains("foreign"), "{what}");
                    let messages = response.events();
                    assert_eq!(messages.len(), 3, "{what}");
                    assert_eq!(messages[2]["id"], 1, "{what}");
                    assert_eq!(messages[2]["result"].is_object(), !own.is_empty(), "{what}");
                }
            }
        }
    }
}

/// Of several answers in an event stream, the first one to the call passes. They come together, in parts, and with texts that
/// are too long to be held back; the id is the first member or the last.
#[test]
fn a15_further_answers_in_a_stream() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let last = |id: &str, text: &str| {
        format!(
            r#"{{"result":{{"content":[],"resultType":"complete","text":"{text}"}},"jsonrpc":"2.0","id":{id}}}"#
        )
    };
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let long = "x".repeat(200 << 10);
    for (what, request) in ways(&gateway) {
        for (answer, pad) in
            [(&result as &dyn Fn(&str, &str) -> String, ""), (&last, ""), (&result, &long), (&last, &long)]
        {
            let text = |text: &str| format!("{text} {pad}");
            let mut messages = vec![note.to_owned()];
            // That of another call ends a stream that passes it on in parts, unless its id comes first.
            if pad.is_empty() || answer("", "").contains("\"id\":,") {
                messages.push(answer("999", &text("foreign")));
            }
            messages.extend([answer("1", &text("own")), answer("1", &text("again")), note.to_owned()]);
            messages.push(answer("2", &text("late")));
            let text =
                messages.iter().fold(String::new(), |text, message| text + "data: " + message + "\n\n");
            for size in [text.len(), 60_000, 100].into_iter().take(if pad.is_empty() { 3 } else { 2 }) {
                let parts =
                    text.as_bytes().chunks(size).map(|part| chunk(std::str::from_utf8(part).unwrap()));
                peer.push([vec![send([events(), parts.collect::<Vec<_>>().concat(), chunk("")].concat())]]);
                let response = Client::once(gateway.address, &request);
                let what = format!("{what} {size} {:.300}", response.text());
                assert!(response.whole, "{what}");
                let told = response.events();
                assert_eq!(told.len(), 3, "{what}");
                assert!(told[1]["result"].to_string().contains("own"), "{what}");
                assert_eq!(
                    (&told[0]["method"], &told[2]),
                    (&"notifications/message".into(), &told[0]),
                    "{what}"
                );
            }
        }
    }
}

/// The id of an answer that was passed on in parts comes last, and is another call's: the client sees that it is incomplete.
#[test]
fn a15_a_long_foreign_answer_in_a_stream() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let text = "x".repeat(200 << 10);
    for (what, request) in ways(&gateway) {
        for (id, is_own) in [("1", true), ("2", false), ("\"1\"", false)] {
            let message = format!(
                r#"{{"result":{{"content":[],"resultType":"complete","text":"{text}"}},"jsonrpc":"2.0","id":{id}}}"#
            );
            peer.push([vec![send([events(), chunk(&format!("data: {message}\n\n")), chunk("")].concat())]]);
            let response = Client::once(gateway.address, &request);
            let passed = response.whole && response.events().iter().any(|event| event["result"].is_object());
            assert_eq!(passed, is_own, "{what} {id}: {:.80}", response.text());
        }
    }
}
