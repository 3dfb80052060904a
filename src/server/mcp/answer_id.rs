//! Whether a message is the answer to a call.

use std::cell::RefCell;

use bytes::Bytes;

use metamcp_core::frame::{MessageKind, Scanner};
use metamcp_core::protocol::is_same_id;

/// Whether a server's message may be passed on as the answer to the call with the raw id `id` (JSON-RPC 2.0, section 5).
/// An error may have no id, if the server could not read the request. A text that cannot be read is passed on as it is, for
/// the client to judge.
pub fn is_answer(scanner: &RefCell<Scanner>, message: &Bytes, id: &[u8]) -> bool {
    if begins_with_id(message, id) || ends_with_id(message, id) {
        return true;
    }
    let Ok(envelope) = scanner.borrow_mut().scan(message) else { return true };
    match (envelope.kind, envelope.id) {
        (MessageKind::Error, None) => true,
        (MessageKind::Error, Some(id)) if id.span.slice(message) == b"null" => true,
        (MessageKind::Response | MessageKind::Error, Some(found)) => {
            is_same_id(found.span.slice(message), id)
        }
        _ => false,
    }
}

/// Whether the id comes first, as most servers write it.
fn begins_with_id(message: &[u8], id: &[u8]) -> bool {
    let rest = message.strip_prefix(br#"{"jsonrpc":"2.0","id":"#).and_then(|rest| rest.strip_prefix(id));
    rest.is_some_and(|rest| matches!(rest.first(), Some(b',')))
}

/// Whether the id comes last, as the TypeScript SDK writes it. What precedes the last brace of a JSON object is its own
/// member; a comma in a string would be followed by an escaped quote.
fn ends_with_id(message: &[u8], id: &[u8]) -> bool {
    let rest = message.strip_suffix(b"}").and_then(|rest| rest.strip_suffix(id));
    rest.is_some_and(|rest| rest.ends_with(br#","id":"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, id: &str, expected: bool) {
        let message = Bytes::copy_from_slice(message.as_bytes());
        assert_eq!(is_answer(&RefCell::default(), &message, id.as_bytes()), expected, "{message:?} {id}");
    }

    #[test]
    fn answers_have_the_id_of_the_call() {
        let result = |id: &str| {
            [
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#),
                format!(r#"{{"result":{{"id":7}},"jsonrpc":"2.0","id":{id}}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"m"}}}}"#),
                format!(" {{ \"id\" : {id} , \"jsonrpc\" : \"2.0\", \"result\" : {{ }} }} "),
            ]
        };
        for (id, other) in
            [("1", "2"), ("1", "11"), ("11", "1"), ("\"a\"", "\"b\""), ("1", "\"1\""), ("\"1\"", "1")]
        {
            for message in result(id) {
                check(&message, id, true);
                check(&message, other, false);
            }
        }
        for message in result(r#""\u0061""#) {
            check(&message, "\"a\"", true);
        }
    }

    #[test]
    fn an_error_may_lack_an_id_and_nothing_else_may() {
        check(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#, "1", true);
        check(r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#, "1", true);
        check(r#"{"jsonrpc":"2.0","method":"notifications/message"}"#, "1", false);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "2", false);
        // No messages: the client judges them.
        check(r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, "1", true);
        check("<html>", "1", true);
        check("", "1", true);
    }

    #[test]
    fn an_id_in_a_string_is_none() {
        check(r#"{"jsonrpc":"2.0","result":{"x":",\"id\":1}"},"id":2}"#, "1", false);
        check(r#"{"jsonrpc":"2.0","id":2,"result":{"x":[{"id":1}]}}"#, "1", false);
        check(r#"{"jsonrpc":"2.0","id":2,"result":{"a":0,"id":1}}"#, "1", false);
    }
}
