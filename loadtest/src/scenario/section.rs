//! Reads a table of a scenario key by key, and collects all errors instead of returning the first.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// Errors that are reported; nobody reads more.
const ERRORS_MAX: usize = 100;

/// The errors of a scenario. Each names file and key, and says what to write.
#[derive(Debug)]
pub struct ScenarioErrors {
    file: String,
    errors: Vec<(String, String)>,
}

impl ScenarioErrors {
    /// Creates an empty list for a file.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), errors: Vec::new() }
    }

    /// Creates a list with one error about the whole file.
    pub fn single(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), errors: vec![(String::new(), text.to_owned())] }
    }

    pub fn add(&mut self, key: &str, text: &str) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push((key.to_owned(), text.to_owned()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether there is an error about a key.
    pub fn has_key(&self, key: &str) -> bool {
        self.errors.iter().any(|(known, _)| known == key)
    }
}

impl Display for ScenarioErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, text)) in self.errors.iter().enumerate() {
            let line = if index == 0 { "" } else { "\n" };
            let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
            write!(f, "{line}{}: {key}{text}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ScenarioErrors {}

/// A table whose keys are taken one by one. [`finish`](Self::finish) reports the keys that are left.
#[derive(Default)]
pub struct SectionReader {
    path: String,
    table: toml::Table,
    /// The keys that were asked for.
    known: Vec<&'static str>,
}

impl SectionReader {
    /// `path` is the prefix of the keys in errors, with a trailing dot.
    pub fn new(path: &str, table: toml::Table) -> Self {
        Self { path: path.to_owned(), table, known: Vec::new() }
    }

    /// The full path of a key.
    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn take(&mut self, key: &'static str) -> Option<toml::Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Takes a text that is not empty.
    pub fn text(&mut self, key: &'static str, errors: &mut ScenarioErrors) -> Option<String> {
        match self.take(key)? {
            toml::Value::String(text) if !text.is_empty() => Some(text),
            other => {
                errors.add(&self.path(key), &format!("is {}; write a text in quotes", format_value(&other)));
                None
            }
        }
    }

    /// Takes one of the given texts.
    pub fn choice(
        &mut self,
        key: &'static str,
        choices: &[&str],
        errors: &mut ScenarioErrors,
    ) -> Option<String> {
        let value = self.take(key)?;
        if let Some(text) = value.as_str().filter(|text| choices.contains(text)) {
            return Some(text.to_owned());
        }
        let choices = choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(", ");
        errors.add(&self.path(key), &format!("is {}; write one of {choices}", format_value(&value)));
        None
    }

    pub fn flag(&mut self, key: &'static str, errors: &mut ScenarioErrors) -> Option<bool> {
        let value = self.take(key)?;
        if value.as_bool().is_none() {
            errors.add(&self.path(key), &format!("is {}; write true or false", format_value(&value)));
        }
        value.as_bool()
    }

    /// Takes a whole number.
    pub fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        errors: &mut ScenarioErrors,
    ) -> Option<u64> {
        let value = self.take(key)?;
        let found = value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        if found.is_none() {
            let text = format!(
                "is {}; write a whole number from {} to {}",
                format_value(&value),
                range.start(),
                range.end()
            );
            errors.add(&self.path(key), &text);
        }
        found
    }

    /// Takes a whole number that counts things in memory.
    pub fn count(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        errors: &mut ScenarioErrors,
    ) -> Option<usize> {
        self.integer(key, range, errors).and_then(|count| usize::try_from(count).ok())
    }

    /// Takes a number, whole or not.
    pub fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        errors: &mut ScenarioErrors,
    ) -> Option<f64> {
        let value = self.take(key)?;
        // An integer that a float cannot hold exactly is far outside every range.
        #[allow(clippy::cast_precision_loss)]
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        let found = number.filter(|n| range.contains(n));
        if found.is_none() {
            let text = format!(
                "is {}; write a number from {} to {}",
                format_value(&value),
                range.start(),
                range.end()
            );
            errors.add(&self.path(key), &text);
        }
        found
    }

    pub fn section(&mut self, key: &'static str, errors: &mut ScenarioErrors) -> Option<Self> {
        let path = self.path(key);
        match self.take(key)? {
            toml::Value::Table(table) => Some(Self::new(&format!("{path}."), table)),
            other => {
                errors.add(&path, &format!("is {}; write a table, as in [{path}]", format_value(&other)));
                None
            }
        }
    }

    /// Takes a list of tables.
    pub fn sections(&mut self, key: &'static str, errors: &mut ScenarioErrors) -> Vec<Self> {
        let path = self.path(key);
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(toml::Value::Array(values)) => values,
            Some(other) => {
                errors.add(&path, &format!("is {}; write [[{path}]]", format_value(&other)));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            match value {
                toml::Value::Table(table) => sections.push(Self::new(&format!("{path}[{index}]."), table)),
                other => errors.add(&path, &format!("holds {}; write [[{path}]]", format_value(&other))),
            }
        }
        sections
    }

    /// Takes a table, and converts it to JSON.
    pub fn json(&mut self, key: &'static str, errors: &mut ScenarioErrors) -> Option<Map<String, Value>> {
        let path = self.path(key);
        match self.take(key)? {
            toml::Value::Table(table) => {
                Some(table.into_iter().map(|(key, value)| (key, to_json(value))).collect())
            }
            other => {
                let text = format!(
                    "is {}; write a table, as in {key} = {{ text = \"hello\" }}",
                    format_value(&other)
                );
                errors.add(&path, &text);
                None
            }
        }
    }

    /// Reports the keys that nothing took.
    pub fn finish(self, errors: &mut ScenarioErrors) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            errors.add(&self.path(key), &format!("is not known; write one of {known}"));
        }
    }
}

/// Recursive: the TOML parser bounds the depth.
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, to_json(value))).collect())
        }
    }
}

/// Formats a value for an error, truncated.
fn format_value(value: &toml::Value) -> String {
    /// Enough to find the value in the file.
    const CHARS_MAX: usize = 40;
    let text = match value {
        toml::Value::Table(_) => "a table".to_owned(),
        toml::Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
