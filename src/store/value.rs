//! What goes into a statement and comes out of it, the same for both engines.

use serde_json::Value as Json;
use uuid::Uuid;

use super::{Sealed, StoreError};

/// One bound value, or one field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// Every number there is: times, counters, versions.
    Int(i64),
    /// Text, and JSON, which both engines keep as written.
    Text(String),
    /// Sealed bytes.
    Blob(Vec<u8>),
    /// A UUID; text in SQLite.
    Uuid(Uuid),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Blob(bytes.to_owned())
    }
}

impl From<Uuid> for Value {
    fn from(id: Uuid) -> Self {
        Self::Uuid(id)
    }
}

impl From<u64> for Value {
    /// What no column holds stays at the largest that one does.
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Self {
        Self::Int(number.into())
    }
}

impl From<&Json> for Value {
    fn from(json: &Json) -> Self {
        Self::Text(json.to_string())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// PostgreSQL has no text with a NUL in it, so nobody has.
pub fn check(values: &[Value]) -> Result<(), StoreError> {
    let nul = |value: &Value| matches!(value, Value::Text(text) if text.contains('\0'));
    if values.iter().any(nul) {
        return Err(StoreError::Invalid("a text holds the character NUL".into()));
    }
    Ok(())
}

/// One row of an answer, taken field by field in the order of the statement's columns.
#[derive(Debug)]
pub struct Row {
    fields: std::vec::IntoIter<Value>,
    is_torn: bool,
}

impl Row {
    pub fn new(values: Vec<Value>) -> Self {
        Self { fields: values.into_iter(), is_torn: false }
    }

    /// One field of a row that is bound, or something else in place of one that cannot be read: somebody wrote it by hand,
    /// and no other row is to suffer for it. This one does not open then: see [`Row::sealed`].
    pub fn or<T>(&mut self, instead: T, read: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> T {
        read(self).unwrap_or_else(|_| {
            self.is_torn = true;
            instead
        })
    }

    /// What is sealed in a row of which that was read; nothing where something could not be.
    pub fn sealed(&self, sealed: Sealed) -> Sealed {
        if self.is_torn { Sealed { bytes: Vec::new(), ..sealed } } else { sealed }
    }

    pub fn int<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        self.optional_int()?.ok_or_else(|| unfit("a number"))
    }

    pub fn optional_int<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Int(number) => T::try_from(number).map(Some).map_err(|_| unfit("a number in range")),
            _ => Err(unfit("a number")),
        }
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(|| unfit("text"))
    }

    pub fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(unfit("text")),
        }
    }

    pub fn blob(&mut self) -> Result<Vec<u8>, StoreError> {
        self.optional_blob()?.ok_or_else(|| unfit("bytes"))
    }

    pub fn optional_blob(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Blob(bytes) => Ok(Some(bytes)),
            _ => Err(unfit("bytes")),
        }
    }

    pub fn uuid(&mut self) -> Result<Uuid, StoreError> {
        self.optional_uuid()?.ok_or_else(|| unfit("a UUID"))
    }

    pub fn optional_uuid(&mut self) -> Result<Option<Uuid>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Uuid(id) => Ok(Some(id)),
            Value::Text(text) => Uuid::parse_str(&text).map(Some).map_err(|_| unfit("a UUID")),
            _ => Err(unfit("a UUID")),
        }
    }

    pub fn json(&mut self) -> Result<Json, StoreError> {
        self.optional_json()?.ok_or_else(|| unfit("JSON"))
    }

    pub fn optional_json(&mut self) -> Result<Option<Json>, StoreError> {
        let text = self.optional_text()?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| unfit("JSON"))).transpose()
    }

    /// An array of strings; `None`: NULL.
    pub fn optional_list(&mut self) -> Result<Option<Vec<String>>, StoreError> {
        let text = self.optional_text()?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| unfit("an array of strings"))).transpose()
    }

    /// One of a closed set.
    pub fn word<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, StoreError> {
        parse(&self.text()?).ok_or_else(|| unfit("a word that this version knows"))
    }

    fn take(&mut self) -> Result<Value, StoreError> {
        self.fields.next().ok_or_else(|| unfit("a column"))
    }
}

/// As stored in a column that holds an array of strings.
pub fn list(strings: Option<&Vec<String>>) -> Value {
    strings.map(|strings| Json::from(strings.clone())).as_ref().into()
}

/// Somebody wrote it by hand: our own statements and the tables' checks allow nothing else.
fn unfit(expected: &str) -> StoreError {
    StoreError::Failed(format!("a row does not hold {expected} where it should"))
}

/// Declares a closed set that stands in a column as a word.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// As written in the table.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Takes exactly what `as_str` gives.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(super) use words;
