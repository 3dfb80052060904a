//! A JSON parser that rejects duplicate members. Readers differ in which of two members of one name they use,
//! so such an object is ambiguous.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text was rejected. Never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrictJsonError {
    /// The text is not JSON, or is nested more than 128 levels deep.
    Malformed { line: usize, column: usize },
    /// A member occurs twice. Holds the keys and array indexes that lead to it.
    DuplicateMember(Vec<String>),
}

/// Parses a complete text.
pub fn parse(text: &[u8]) -> Result<Value, StrictJsonError> {
    let duplicate_path = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value =
        UniqueMembersSeed { duplicate_path: &duplicate_path }.deserialize(&mut reader).and_then(|value| {
            reader.end()?;
            Ok(value)
        });
    value.map_err(|error| {
        let mut path = duplicate_path.into_inner();
        if path.is_empty() {
            return StrictJsonError::Malformed { line: error.line(), column: error.column() };
        }
        path.reverse();
        StrictJsonError::DuplicateMember(path)
    })
}

/// Deserializes one JSON value, and rejects objects with duplicate members.
#[derive(Clone, Copy)]
struct UniqueMembersSeed<'a> {
    /// The path to the duplicate member, innermost key first. Empty as long as there is none.
    duplicate_path: &'a RefCell<Vec<String>>,
}

impl UniqueMembersSeed<'_> {
    /// Adds the key of an enclosing value to the path, once a duplicate was found.
    fn push_ancestor(self, key: &impl ToString) {
        let mut path = self.duplicate_path.borrow_mut();
        if !path.is_empty() {
            path.push(key.to_string());
        }
    }
}

impl<'de> DeserializeSeed<'de> for UniqueMembersSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueMembersSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(item) =
            items.next_element_seed(self).inspect_err(|_| self.push_ancestor(&values.len()))?
        {
            values.push(item);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if values.contains_key(&key) {
                self.duplicate_path.borrow_mut().push(key);
                return Err(A::Error::custom("duplicate member"));
            }
            let value = members.next_value_seed(self).inspect_err(|_| self.push_ancestor(&key))?;
            values.insert(key, value);
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&[&str]>) {
        let read = parse(text.as_bytes());
        match expected {
            None => assert_eq!(read.ok(), serde_json::from_str(text).ok(), "{text}"),
            Some(path) => {
                let path = path.iter().map(ToString::to_string).collect();
                assert_eq!(read, Err(StrictJsonError::DuplicateMember(path)), "{text}");
            }
        }
    }

    #[test]
    fn agrees_with_serde_json_except_for_duplicates() {
        for text in [
            r#"{"a":[1,-1,1.5,true,false,null,"\u00e4\n",{}],"":{"b":{}}}"#,
            "7",
            "18446744073709551615",
            "1e400",
            "",
            "{",
            "{} {}",
            r#"{"a":1,}"#,
            r#"{"a":[1}"#,
            "\u{e4}",
        ] {
            check(text, None);
        }
        check(r#"{"a":1,"a":1}"#, Some(&["a"]));
        check(r#"{"a":1,"\u0061":2}"#, Some(&["a"]));
        check(r#"{"x":{"a":[0,{"b":1,"b":2}]},"x":1}"#, Some(&["x", "a", "1", "b"]));
        check(r#"{"a":{"":1,"":2}}"#, Some(&["a", ""]));
        // Names that differ in case are different names.
        check(r#"{"a":1,"A":1}"#, None);
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert!(matches!(parse(deep.as_bytes()), Err(StrictJsonError::Malformed { .. })));
    }

    #[test]
    fn a_syntax_error_has_a_position() {
        assert_eq!(parse(b"{\n  x"), Err(StrictJsonError::Malformed { line: 2, column: 3 }));
    }
}
