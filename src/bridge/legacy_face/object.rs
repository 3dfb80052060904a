//! The members of a JSON object as they were written: found, told where they lie, and taken out.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::frame::Span;

/// Shows each member of an object, in order: its name, and its value as written. Of what is no object none.
/// The error says that what was shown is not all of it.
pub fn each<'a>(
    object: &'a [u8],
    show: impl FnMut(Cow<'a, str>, &'a RawValue),
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

    serde_json::Deserializer::from_slice(object).deserialize_map(Members(show))
}

/// A member of an object: its value, and what is to be taken out of the message so that the object has it no
/// more.
pub struct Found<'a> {
    /// Its value as written.
    pub value: &'a RawValue,
    /// From the name to the comma that goes with it.
    pub cut: Span,
}

/// The first member of that name in the object that is `object` of `message`.
pub fn find<'a>(message: &'a [u8], object: Span, name: &str) -> Option<Found<'a>> {
    let mut found = None;
    // Behind the brace, then behind the value of the member before.
    let mut behind = object.start.checked_add(1)?;
    let mut is_first = true;
    each(object.of(message), |other, value| {
        let Some(span) = Span::within(message, value.get().as_bytes()) else { return };
        if found.is_none() && other == name {
            let end = if is_first { behind_comma(message, span.end) } else { span.end };
            found = Some(Found { value, cut: Span { start: behind, end } });
        }
        behind = span.end;
        is_first = false;
    })
    .ok()?;
    found
}

/// Behind the comma that follows, when one does.
fn behind_comma(message: &[u8], at: u32) -> u32 {
    let rest = message.get(at as usize..).unwrap_or_default();
    let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let is_comma = rest.get(blank) == Some(&b',');
    if is_comma { at.saturating_add(u32::try_from(blank + 1).unwrap_or(u32::MAX)) } else { at }
}

/// The bytes of a part of a message, shared.
pub fn shared(message: &Bytes, span: Span) -> Bytes {
    message.slice(span.start as usize..span.end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::splice;

    #[test]
    fn a_member_is_found_and_taken_out() {
        let check = |object: &'static str, expected: Option<(&str, &str)>| {
            let message = Bytes::from(format!("{{\"r\": {object} }}"));
            let span = Span { start: 6, end: 6 + u32::try_from(object.len()).unwrap() };
            let found = find(&message, span, "x").map(|found| {
                let left = splice(&message, &[(found.cut, Bytes::new())]).unwrap();
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
