//! Access to the members of a raw JSON object, without parsing their values.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use metamcp_core::frame::Span;

/// Visits each member of an object, in order: its name, and its value as written. A value that is not an
/// object has none.
pub fn for_each_member<'a>(
    object: &'a [u8],
    visit: impl FnMut(Cow<'a, str>, &'a RawValue),
) -> Result<(), serde_json::Error> {
    struct Members<F>(F);

    impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Members<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                (self.0)(name, value);
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_slice(object).deserialize_map(Members(visit))
}

/// A member of an object.
pub struct ObjectMember<'a> {
    /// The raw JSON value.
    pub value: &'a RawValue,
    /// The bytes to cut out of the message to remove the member: from the name to the comma that belongs to
    /// it.
    pub removal: Span,
}

/// Finds the first member with that name in the object at the span `object` of `message`.
pub fn find_member<'a>(message: &'a [u8], object: Span, name: &str) -> Option<ObjectMember<'a>> {
    let mut found = None;
    // The end of the brace, then of the previous member's value.
    let mut previous_end = object.start.checked_add(1)?;
    let mut is_first = true;
    for_each_member(object.slice(message), |other, value| {
        let Some(span) = Span::locate(message, value.get().as_bytes()) else { return };
        if found.is_none() && other == name {
            let end = if is_first { skip_comma(message, span.end) } else { span.end };
            found = Some(ObjectMember { value, removal: Span { start: previous_end, end } });
        }
        previous_end = span.end;
        is_first = false;
    })
    .ok()?;
    found
}

/// Returns the offset after the comma that follows, or `at` if none follows.
fn skip_comma(message: &[u8], at: u32) -> u32 {
    let rest = message.get(at as usize..).unwrap_or_default();
    let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let is_comma = rest.get(blank) == Some(&b',');
    if is_comma { at.saturating_add(u32::try_from(blank + 1).unwrap_or(u32::MAX)) } else { at }
}

/// Returns the bytes at a span, without copying.
pub fn slice_of(message: &Bytes, span: Span) -> Bytes {
    message.slice(span.start as usize..span.end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_core::frame::splice;

    #[test]
    fn a_member_is_found_and_removed() {
        let check = |object: &'static str, expected: Option<(&str, &str)>| {
            let message = Bytes::from(format!("{{\"r\": {object} }}"));
            let span = Span { start: 6, end: 6 + u32::try_from(object.len()).unwrap() };
            let found = find_member(&message, span, "x").map(|found| {
                let left = splice(&message, &[(found.removal, Bytes::new())]).unwrap();
                let left: Vec<u8> = left.flat_map(|slice| slice.to_vec()).collect();
                (found.value.get().to_owned(), String::from_utf8(left).unwrap())
            });
            let expected = expected.map(|(value, left)| (value.to_owned(), format!("{{\"r\": {left} }}")));
            assert_eq!(found, expected, "{object}");
        };
        check(r#"{"x":1}"#, Some(("1", "{}")));
        check(r#"{ "x" : "a" , "b":2}"#, Some(("\"a\"", r#"{ "b":2}"#)));
        check(r#"{"a":{"x":3}, "x": [1] }"#, Some(("[1]", r#"{"a":{"x":3} }"#)));
        check(r#"{"a":1,"\u0078":null,"b":2}"#, Some(("null", r#"{"a":1,"b":2}"#)));
        check(r#"{"a":"\"x\":1"}"#, None);
        check("{}", None);
        check(r#"["x"]"#, None);
        check("7", None);
    }
}
