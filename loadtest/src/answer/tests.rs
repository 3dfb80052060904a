use super::*;

const JSON: &str = "application/json; charset=utf-8";
const SSE: &str = "text/event-stream";

fn expected(era: Era) -> Expected {
    let checks = Checks { echoes: true, answer_bytes_min: 20, progress_min: 0, items_min: 1 };
    Expected { id: 5, canary: message::canary(1, 5), checks, era }
}

fn read(content_type: &str, pieces: &[&[u8]], expected: &Expected) -> Result<u64, Kind> {
    let mut reader = Reader::new(content_type, expected.clone()).expect("a type of MCP");
    for piece in pieces {
        reader.feed(piece).map_err(|wrong| wrong.kind)?;
    }
    reader.end().map_err(|wrong| wrong.kind)
}

/// The same verdict whole and byte by byte, as JSON and as an event; `None`: right.
#[track_caller]
fn check(era: Era, message: &str, verdict: Option<Kind>) {
    let message = message.replace("OWN", &message::canary(1, 5)).replace("OTHER", &message::canary(1, 6));
    let stream = format!("id: 1\ndata: {message}\n\n");
    for (content_type, body) in [(JSON, &message), (SSE, &stream)] {
        let right = verdict.map_or(Ok(body.len() as u64), Err);
        let bytes = body.as_bytes();
        assert_eq!(read(content_type, &[bytes], &expected(era)), right, "{body}");
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(content_type, &single, &expected(era)), right, "{body} byte by byte");
    }
}

const RIGHT: &str =
    r#"{"jsonrpc":"2.0","id":5,"result":{"resultType":"complete","content":[{"text":"OWN"}]}}"#;

#[test]
fn answers() {
    let (modern, legacy) = (Era::Modern, Era::Legacy);
    check(modern, RIGHT, None);
    check(legacy, RIGHT, None);
    let with = |from: &str, to: &str| RIGHT.replace(from, to);
    check(legacy, &with(r#""resultType":"complete","#, ""), None);
    check(modern, &with(r#""resultType":"complete","#, ""), Some(Kind::Malformed));
    check(modern, &with("complete", "input_required"), Some(Kind::Result));
    check(modern, &with(r#""content""#, r#""isError":true,"content""#), Some(Kind::Result));
    check(modern, &with(":5", ":6"), Some(Kind::WrongId));
    check(modern, &with(":5", r#":"5""#), Some(Kind::WrongId));
    check(modern, &with("OWN", "OTHER"), Some(Kind::ForeignCanary));
    check(modern, &with("OWN", "OWN OTHER"), Some(Kind::ForeignCanary));
    check(modern, &with("OWN", "none"), Some(Kind::LostCanary));
    check(modern, &with(r#"{"text":"OWN"}"#, "").replace("[]", r#"[],"x":"OWN""#), Some(Kind::Short));
    check(modern, &with("2.0", "1.0"), Some(Kind::Malformed));
    check(modern, "hello", Some(Kind::Malformed));
    check(modern, "[]", Some(Kind::Malformed));
    check(modern, r#"{"jsonrpc":"2.0","id":5}"#, Some(Kind::Malformed));
    let error = r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32602,"message":"no"}}"#;
    check(modern, &error.replace("ID", "5"), Some(Kind::Rpc(-32602)));
    check(modern, &error.replace("ID", "null"), Some(Kind::Rpc(-32602)));
    check(modern, &error.replace("ID", "6"), Some(Kind::WrongId));
}

/// Whatever the offset, a stream that ends early is cut, never right and never a panic.
#[test]
fn streams_cut_at_any_byte() {
    let own = expected(Era::Modern);
    let stream = format!(": hello\n\nevent: message\ndata: {}\n\n", RIGHT.replace("OWN", &own.canary));
    for cut in 0..stream.len() {
        assert_eq!(read(SSE, &[&stream.as_bytes()[..cut]], &own), Err(Kind::Cut), "cut at {cut}");
    }
    assert!(read(SSE, &[stream.as_bytes()], &own).is_ok());
}

#[test]
fn progress_counts_by_its_token() {
    let mut own = expected(Era::Modern);
    own.checks.progress_min = 2;
    let event = |token: &str| {
        let params = format!(r#"{{"progressToken":{token},"progress":1}}"#);
        format!("data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{params}}}\n\n")
    };
    let mine = event(&format!("\"{}\"", own.canary));
    let answer = format!("data: {}\n\n", RIGHT.replace("OWN", &own.canary));
    let verdict = |parts: &[&str]| read(SSE, &[parts.concat().as_bytes()], &own).map(drop);
    assert_eq!(verdict(&[&mine, &mine, &answer]), Ok(()));
    assert_eq!(verdict(&[&mine, &event("7"), &answer]), Err(Kind::Short));
    let foreign = event(&format!("\"{}\"", message::canary(1, 6)));
    assert_eq!(verdict(&[&mine, &foreign, &answer]), Err(Kind::ForeignCanary));
    assert_eq!(verdict(&[&mine, &mine, &answer, &answer]), Err(Kind::Doubled));
}

#[test]
fn other_types_are_not_mcp() {
    assert!(Reader::new("text/html", expected(Era::Modern)).is_none());
    assert!(Reader::new("", expected(Era::Modern)).is_none());
}
