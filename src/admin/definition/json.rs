//! JSON of which no part is passed over: an object with two members of one name means two things, and readers differ in
//! which of them they take.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text is not taken. Never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is not JSON, or is nested deeper than 128 times.
    Malformed {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A member is there twice: the keys and places in arrays that lead to it.
    Twice(Vec<String>),
}

/// Reads a whole text.
pub fn read(text: &[u8]) -> Result<Value, Refused> {
    let twice = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Once { twice: &twice }.deserialize(&mut reader).and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    value.map_err(|error| {
        let mut path = twice.into_inner();
        if path.is_empty() {
            return Refused::Malformed { line: error.line(), column: error.column() };
        }
        path.reverse();
        Refused::Twice(path)
    })
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Once<'a> {
    /// The way to what is there twice, from there outwards.
    twice: &'a RefCell<Vec<String>>,
}

impl Once<'_> {
    /// What is said is that it is there twice; each value around it adds where in it that is.
    fn note(self, key: &impl ToString) {
        let mut twice = self.twice.borrow_mut();
        if !twice.is_empty() {
            twice.push(key.to_string());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Once<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once<'_> {
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
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(self).inspect_err(|_| self.note(&read.len()))? {
            read.push(item);
        }
        Ok(read.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if read.contains_key(&key) {
                self.twice.borrow_mut().push(key);
                return Err(A::Error::custom("a member is there twice"));
            }
            let value = members.next_value_seed(self).inspect_err(|_| self.note(&key))?;
            read.insert(key, value);
        }
        Ok(read.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&[&str]>) {
        let read = read(text.as_bytes());
        match expected {
            None => assert_eq!(read.ok(), serde_json::from_str(text).ok(), "{text}"),
            Some(path) => {
                let path = path.iter().map(ToString::to_string).collect();
                assert_eq!(read, Err(Refused::Twice(path)), "{text}");
            }
        }
    }

    #[test]
    fn reads_what_serde_json_reads_and_no_member_twice() {
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
        // By letter case they are two.
        check(r#"{"a":1,"A":1}"#, None);
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert!(matches!(read(deep.as_bytes()), Err(Refused::Malformed { .. })));
    }

    #[test]
    fn a_mistake_has_a_place() {
        assert_eq!(read(b"{\n  x"), Err(Refused::Malformed { line: 2, column: 3 }));
    }
}
