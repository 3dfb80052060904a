//! JSON-RPC messages with parts replaced, as they are or as events of a stream.

use bytes::{BufMut, Bytes, BytesMut};
use metamcp_core::frame::Span;

/// Returns a message with parts replaced. Edits are in ascending order.
pub fn splice(message: &[u8], edits: &[(Span, &[u8])]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + SPARE_BYTES);
    splice_into(message, edits, &mut out);
    out.freeze()
}

/// Returns a message with parts replaced, as an event of a stream (WHATWG HTML, 9.2.6).
pub fn splice_event(message: &[u8], edits: &[(Span, &[u8])]) -> Bytes {
    const HEAD: &[u8] = b"event: message\ndata: ";
    let mut out = BytesMut::with_capacity(HEAD.len() + message.len() + SPARE_BYTES);
    out.put_slice(HEAD);
    splice_into(message, edits, &mut out);
    replace_line_breaks(&mut out[HEAD.len()..]);
    out.put_slice(b"\n\n");
    out.freeze()
}

/// Room for the end of an event, and for common ids and tokens, which are longer than ours.
const SPARE_BYTES: usize = 96;

/// Appends a message with parts replaced. Edits are in ascending order.
pub fn splice_into(message: &[u8], edits: &[(Span, &[u8])], out: &mut BytesMut) {
    let mut copied = 0;
    for (span, replacement) in edits {
        let start = (span.start as usize).clamp(copied, message.len());
        out.put_slice(&message[copied..start]);
        out.put_slice(replacement);
        copied = (span.end as usize).clamp(start, message.len());
    }
    out.put_slice(&message[copied..]);
}

/// Puts a message on one line.
///
/// A raw line break within a message is white space between its tokens, because a string would contain it as
/// an escape (RFC 8259, section 7). A space means the same.
pub fn replace_line_breaks(message: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &message[at..]) {
        message[at + found] = b' ';
        at += found + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_parts() {
        let check = |message: &str, edits: &[(u32, u32, &str)], expected: &str| {
            let edits: Vec<_> = edits
                .iter()
                .map(|(start, end, with)| (Span { start: *start, end: *end }, with.as_bytes()))
                .collect();
            let event = splice_event(message.as_bytes(), &edits);
            assert_eq!(event, format!("event: message\ndata: {expected}\n\n").as_bytes());
        };
        check("{}", &[], "{}");
        check("{\r\n \"a\":\n1}", &[], "{   \"a\": 1}");
        check(r#"{"id":"one"}"#, &[(6, 11, "7")], r#"{"id":7}"#);
        check("abcdef", &[(1, 2, "BB"), (4, 5, "")], "aBBcdf");
        // Edits that do not fit are never made; if they were, nothing would panic.
        check("abc", &[(2, 9, "x"), (0, 1, "y")], "abxy");
        assert_eq!(splice(b"ab\nc", &[(Span { start: 0, end: 1 }, b"z")]), "zb\nc");
    }
}
