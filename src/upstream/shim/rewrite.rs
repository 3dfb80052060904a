//! Messages of JSON-RPC on their way: with parts replaced, and as events of a stream.

use bytes::{BufMut, Bytes, BytesMut};

use metamcp_core::frame::Span;

/// A message with parts replaced. Edits are in ascending order.
pub fn rewritten(message: &[u8], edits: &[(Span, &[u8])]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + REPLACED_BYTES);
    replace(message, edits, &mut out);
    out.freeze()
}

/// The same as an event of a stream (WHATWG HTML, 9.2.6).
pub fn event(message: &[u8], edits: &[(Span, &[u8])]) -> Bytes {
    const HEAD: &[u8] = b"event: message\ndata: ";
    let mut out = BytesMut::with_capacity(HEAD.len() + message.len() + REPLACED_BYTES);
    out.put_slice(HEAD);
    replace(message, edits, &mut out);
    flatten(&mut out[HEAD.len()..]);
    out.put_slice(b"\n\n");
    out.freeze()
}

/// What a usual id and token are longer than ours, and the end of an event.
const REPLACED_BYTES: usize = 96;

/// Appends a message with parts replaced. Edits are in ascending order.
pub fn replace(message: &[u8], edits: &[(Span, &[u8])], out: &mut BytesMut) {
    let mut copied = 0;
    for (span, with) in edits {
        let start = (span.start as usize).clamp(copied, message.len());
        out.put_slice(&message[copied..start]);
        out.put_slice(with);
        copied = (span.end as usize).clamp(start, message.len());
    }
    out.put_slice(&message[copied..]);
}

/// Brings what is on several lines onto one.
///
/// A raw line end within a message is white space between its tokens, for in a string it would be written as
/// an escape (RFC 8259, section 7): a space is as good.
pub fn flatten(line: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &line[at..]) {
        line[at + found] = b' ';
        at += found + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites() {
        let check = |message: &str, edits: &[(u32, u32, &str)], expected: &str| {
            let edits: Vec<_> = edits
                .iter()
                .map(|(start, end, with)| (Span { start: *start, end: *end }, with.as_bytes()))
                .collect();
            let event = event(message.as_bytes(), &edits);
            assert_eq!(event, format!("event: message\ndata: {expected}\n\n").as_bytes());
        };
        check("{}", &[], "{}");
        check("{\r\n \"a\":\n1}", &[], "{   \"a\": 1}");
        check(r#"{"id":"one"}"#, &[(6, 11, "7")], r#"{"id":7}"#);
        check("abcdef", &[(1, 2, "BB"), (4, 5, "")], "aBBcdf");
        // Edits that do not fit are never made; if they were, nothing would panic.
        check("abc", &[(2, 9, "x"), (0, 1, "y")], "abxy");
        assert_eq!(rewritten(b"ab\nc", &[(Span { start: 0, end: 1 }, b"z")]), "zb\nc");
    }
}
