//! Values bound to statements and returned in rows, the same for both engines.

use serde_json::Value as Json;
use uuid::Uuid;

use super::error::StoreError;
use super::sealed_value::SealedValue;

/// A bound value, or a field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// All numbers: times, counters, versions.
    Int(i64),
    /// Text, and JSON, which both engines store as written.
    Text(String),
    Blob(Vec<u8>),
    /// A UUID; stored as text in SQLite.
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
    /// A number that no column can hold becomes the largest that one can.
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

/// Refuses text with a NUL character, which PostgreSQL cannot store.
pub fn check_values(values: &[Value]) -> Result<(), StoreError> {
    let nul = |value: &Value| matches!(value, Value::Text(text) if text.contains('\0'));
    if values.iter().any(nul) {
        return Err(StoreError::Invalid("a text holds the character NUL".into()));
    }
    Ok(())
}

/// A row of a result. Its fields are taken one by one, in the order of the statement's columns.
#[derive(Debug)]
pub struct Row {
    fields: std::vec::IntoIter<Value>,
    is_malformed: bool,
}

impl Row {
    pub fn new(values: Vec<Value>) -> Self {
        Self { fields: values.into_iter(), is_malformed: false }
    }

    /// Reads a field of a sealed row, or returns `default` if it cannot be read: somebody wrote it by hand, and the other
    /// rows must stay readable. Such a row does not open: see [`Row::seal_if_intact`].
    pub fn field_or<T>(&mut self, default: T, read: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> T {
        read(self).unwrap_or_else(|_| {
            self.is_malformed = true;
            default
        })
    }

    /// The sealed value of a row that was read; empty bytes, which never open, if a field could not be read.
    pub fn seal_if_intact(&self, sealed: SealedValue) -> SealedValue {
        if self.is_malformed { SealedValue { bytes: Vec::new(), ..sealed } } else { sealed }
    }

    pub fn int<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        self.optional_int()?.ok_or_else(|| malformed("a number"))
    }

    pub fn optional_int<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Int(number) => T::try_from(number).map(Some).map_err(|_| malformed("a number in range")),
            _ => Err(malformed("a number")),
        }
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(|| malformed("text"))
    }

    pub fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(malformed("text")),
        }
    }

    pub fn blob(&mut self) -> Result<Vec<u8>, StoreError> {
        self.optional_blob()?.ok_or_else(|| malformed("bytes"))
    }

    pub fn optional_blob(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Blob(bytes) => Ok(Some(bytes)),
            _ => Err(malformed("bytes")),
        }
    }

    pub fn uuid(&mut self) -> Result<Uuid, StoreError> {
        self.optional_uuid()?.ok_or_else(|| malformed("a UUID"))
    }

    pub fn optional_uuid(&mut self) -> Result<Option<Uuid>, StoreError> {
        match self.take()? {
            Value::Null => Ok(None),
            Value::Uuid(id) => Ok(Some(id)),
            Value::Text(text) => Uuid::parse_str(&text).map(Some).map_err(|_| malformed("a UUID")),
            _ => Err(malformed("a UUID")),
        }
    }

    pub fn json(&mut self) -> Result<Json, StoreError> {
        self.optional_json()?.ok_or_else(|| malformed("JSON"))
    }

    pub fn optional_json(&mut self) -> Result<Option<Json>, StoreError> {
        let text = self.optional_text()?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| malformed("JSON"))).transpose()
    }

    /// An array of strings; `None` for NULL.
    pub fn optional_list(&mut self) -> Result<Option<Vec<String>>, StoreError> {
        let text = self.optional_text()?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| malformed("an array of strings"))).transpose()
    }

    /// A value of a closed set; see `column_enum!`.
    pub fn word<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, StoreError> {
        parse(&self.text()?).ok_or_else(|| malformed("a word that this version knows"))
    }

    fn take(&mut self) -> Result<Value, StoreError> {
        self.fields.next().ok_or_else(|| malformed("a column"))
    }
}

/// The value of a column that holds a JSON array of strings.
pub fn json_list(strings: Option<&Vec<String>>) -> Value {
    strings.map(|strings| Json::from(strings.clone())).as_ref().into()
}

/// A field of the wrong type. Only a row written by hand has one: our statements and the tables' checks allow no other.
fn malformed(expected: &str) -> StoreError {
    StoreError::Failed(format!("a row does not hold {expected} where it should"))
}

/// Declares an enum that is stored in a column as a word.
macro_rules! column_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// The word in the column.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Accepts exactly the words that `as_str` returns.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(super) use column_enum;
