use super::*;

const JSON: &str = "application/json; charset=utf-8";
const SSE: &str = "text/event-stream";

fn expected(era: Era) -> ExpectedResponse {
    let checks = ResponseChecks { echoes: true, answer_bytes_min: 20, progress_min: 0, items_min: 1 };
    ExpectedResponse { id: 5, canary: message::canary(1, 5), checks, era }
}

fn read(content_type: &str, chunks: &[&[u8]], expected: &ExpectedResponse) -> Result<u64, ErrorKind> {
    let mut reader = ResponseReader::new(content_type, expected.clone()).expect("a content type of MCP");
    for chunk in chunks {
        reader.feed(chunk).map_err(|error| error.kind)?;
    }
    reader.finish().map_err(|error| error.kind)
}

/// Checks the verdict as JSON and as an event, whole and byte by byte. `None` means correct.
#[track_caller]
fn check(era: Era, message: &str, verdict: Option<ErrorKind>) {
    let message = message.replace("OWN", &message::canary(1, 5)).replace("OTHER", &message::canary(1, 6));
    let stream = format!("id: 1\ndata: {message}\n\n");
    for (content_type, body) in [(JSON, &message), (SSE, &stream)] {
        let expected_verdict = verdict.map_or(Ok(body.len() as u64), Err);
        let bytes = body.as_bytes();
        assert_eq!(read(content_type, &[bytes], &expected(era)), expected_verdict, "{body}");
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(content_type, &single, &expected(era)), expected_verdict, "{body} byte by byte");
    }
}

const CORRECT: &str =
    r#"{"jsonrpc":"2.0","id":5,"result":{"resultType":"complete","content":[{"text":"OWN"}]}}"#;

#[test]
fn responses_are_validated() {
    let (modern, legacy) = (Era::Modern, Era::Legacy);
    check(modern, CORRECT, None);
    check(legacy, CORRECT, None);
    let with = |from: &str, to: &str| CORRECT.replace(from, to);
    check(legacy, &with(r#""resultType":"complete","#, ""), None);
    check(modern, &with(r#""resultType":"complete","#, ""), Some(ErrorKind::Malformed));
    check(modern, &with("complete", "input_required"), Some(ErrorKind::ErrorResult));
    check(modern, &with(r#""content""#, r#""isError":true,"content""#), Some(ErrorKind::ErrorResult));
    check(modern, &with(":5", ":6"), Some(ErrorKind::WrongId));
    check(modern, &with(":5", r#":"5""#), Some(ErrorKind::WrongId));
    check(modern, &with("OWN", "OTHER"), Some(ErrorKind::ForeignCanary));
    check(modern, &with("OWN", "OWN OTHER"), Some(ErrorKind::ForeignCanary));
    check(modern, &with("OWN", "none"), Some(ErrorKind::LostCanary));
    check(modern, &with(r#"{"text":"OWN"}"#, "").replace("[]", r#"[],"x":"OWN""#), Some(ErrorKind::TooShort));
    check(modern, &with("2.0", "1.0"), Some(ErrorKind::Malformed));
    check(modern, "hello", Some(ErrorKind::Malformed));
    check(modern, "[]", Some(ErrorKind::Malformed));
    check(modern, r#"{"jsonrpc":"2.0","id":5}"#, Some(ErrorKind::Malformed));
    let error = r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32602,"message":"no"}}"#;
    check(modern, &error.replace("ID", "5"), Some(ErrorKind::Rpc(-32602)));
    check(modern, &error.replace("ID", "null"), Some(ErrorKind::Rpc(-32602)));
    check(modern, &error.replace("ID", "6"), Some(ErrorKind::WrongId));
}

/// A stream that ends early is truncated, whatever the offset: never correct, and never a panic.
#[test]
fn streams_truncated_at_any_byte() {
    let own = expected(Era::Modern);
    let stream = format!(": hello\n\nevent: message\ndata: {}\n\n", CORRECT.replace("OWN", &own.canary));
    for cut in 0..stream.len() {
        assert_eq!(read(SSE, &[&stream.as_bytes()[..cut]], &own), Err(ErrorKind::Truncated), "cut at {cut}");
    }
    assert!(read(SSE, &[stream.as_bytes()], &own).is_ok());
}

#[test]
fn progress_is_matched_by_token() {
    let mut own = expected(Era::Modern);
    own.checks.progress_min = 2;
    let event = |token: &str| {
        let params = format!(r#"{{"progressToken":{token},"progress":1}}"#);
        format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{params}}}\n\n")
    };
    let mine = event(&format!("\"{}\"", own.canary));
    let answer = format!("data: {}\n\n", CORRECT.replace("OWN", &own.canary));
    let verdict = |parts: &[&str]| read(SSE, &[parts.concat().as_bytes()], &own).map(drop);
    assert_eq!(verdict(&[&mine, &mine, &answer]), Ok(()));
    assert_eq!(verdict(&[&mine, &event("7"), &answer]), Err(ErrorKind::TooShort));
    let foreign = event(&format!("\"{}\"", message::canary(1, 6)));
    assert_eq!(verdict(&[&mine, &foreign, &answer]), Err(ErrorKind::ForeignCanary));
    assert_eq!(verdict(&[&mine, &mine, &answer, &answer]), Err(ErrorKind::Duplicate));
}

#[test]
fn other_content_types_are_rejected() {
    assert!(ResponseReader::new("text/html", expected(Era::Modern)).is_none());
    assert!(ResponseReader::new("", expected(Era::Modern)).is_none());
}
