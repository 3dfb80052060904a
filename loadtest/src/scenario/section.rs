//! One table of a scenario, key by key; what is wrong is collected, not thrown.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// More than this is not read to its end anyway.
const MISTAKES_MAX: usize = 100;

/// What is wrong with a scenario, each with file, key and what to write.
#[derive(Debug)]
pub struct Mistakes {
    file: String,
    found: Vec<(String, String)>,
}

impl Mistakes {
    /// None yet.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), found: Vec::new() }
    }

    /// The file as a whole is wrong.
    pub fn one(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), found: vec![(String::new(), text.to_owned())] }
    }

    /// One more.
    pub fn add(&mut self, key: &str, text: &str) {
        if self.found.len() < MISTAKES_MAX {
            self.found.push((key.to_owned(), text.to_owned()));
        }
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// One about this key is there.
    pub fn names(&self, key: &str) -> bool {
        self.found.iter().any(|(found, _)| found == key)
    }
}

impl Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, text)) in self.found.iter().enumerate() {
            let line = if at == 0 { "" } else { "\n" };
            let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
            write!(f, "{line}{}: {key}{text}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What is left of a table, and which keys it could have had.
#[derive(Default)]
pub struct Section {
    path: String,
    table: toml::Table,
    known: Vec<&'static str>,
}

impl Section {
    /// `path`: how its keys begin in mistakes, with the dot.
    pub fn new(path: &str, table: toml::Table) -> Self {
        Self { path: path.to_owned(), table, known: Vec::new() }
    }

    /// The whole name of a key.
    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn take(&mut self, key: &'static str) -> Option<toml::Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A text that is not empty.
    pub fn text(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<String> {
        match self.take(key)? {
            toml::Value::String(text) if !text.is_empty() => Some(text),
            other => {
                mistakes.add(&self.path(key), &format!("is {}; write a text in quotes", shown(&other)));
                None
            }
        }
    }

    /// One of these.
    pub fn choice(&mut self, key: &'static str, of: &[&str], mistakes: &mut Mistakes) -> Option<String> {
        let value = self.take(key)?;
        if let Some(text) = value.as_str().filter(|text| of.contains(text)) {
            return Some(text.to_owned());
        }
        let of = of.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        mistakes.add(&self.path(key), &format!("is {}; write one of {of}", shown(&value)));
        None
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<bool> {
        let value = self.take(key)?;
        if value.as_bool().is_none() {
            mistakes.add(&self.path(key), &format!("is {}; write true or false", shown(&value)));
        }
        value.as_bool()
    }

    /// A whole number.
    pub fn whole(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        mistakes: &mut Mistakes,
    ) -> Option<u64> {
        let value = self.take(key)?;
        let found = value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        if found.is_none() {
            let text = format!(
                "is {}; write a whole number from {} to {}",
                shown(&value),
                range.start(),
                range.end()
            );
            mistakes.add(&self.path(key), &text);
        }
        found
    }

    /// A whole number that counts things in memory.
    pub fn count(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        mistakes: &mut Mistakes,
    ) -> Option<usize> {
        self.whole(key, range, mistakes).and_then(|count| usize::try_from(count).ok())
    }

    /// A number, whole or not.
    pub fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        mistakes: &mut Mistakes,
    ) -> Option<f64> {
        let value = self.take(key)?;
        // A whole number that a float cannot hold exactly is far outside of every range here.
        #[allow(clippy::cast_precision_loss)]
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        let found = number.filter(|n| range.contains(n));
        if found.is_none() {
            let text =
                format!("is {}; write a number from {} to {}", shown(&value), range.start(), range.end());
            mistakes.add(&self.path(key), &text);
        }
        found
    }

    /// A table with keys of its own.
    pub fn section(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<Self> {
        let path = self.path(key);
        match self.take(key)? {
            toml::Value::Table(table) => Some(Self::new(&format!("{path}."), table)),
            other => {
                mistakes.add(&path, &format!("is {}; write a table, as in [{path}]", shown(&other)));
                None
            }
        }
    }

    /// A list of such.
    pub fn sections(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Vec<Self> {
        let path = self.path(key);
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(toml::Value::Array(values)) => values,
            Some(other) => {
                mistakes.add(&path, &format!("is {}; write [[{path}]]", shown(&other)));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (at, value) in values.into_iter().enumerate() {
            match value {
                toml::Value::Table(table) => sections.push(Self::new(&format!("{path}[{at}]."), table)),
                other => mistakes.add(&path, &format!("holds {}; write [[{path}]]", shown(&other))),
            }
        }
        sections
    }

    /// A table that is sent as JSON.
    pub fn json(&mut self, key: &'static str, mistakes: &mut Mistakes) -> Option<Map<String, Value>> {
        let path = self.path(key);
        match self.take(key)? {
            toml::Value::Table(table) => {
                Some(table.into_iter().map(|(key, value)| (key, json(value))).collect())
            }
            other => {
                let text =
                    format!("is {}; write a table, as in {key} = {{ text = \"hello\" }}", shown(&other));
                mistakes.add(&path, &text);
                None
            }
        }
    }

    /// What is left was not asked for.
    pub fn finish(self, mistakes: &mut Mistakes) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            mistakes.add(&self.path(key), &format!("is not known; write one of {known}"));
        }
    }
}

/// As deep as the TOML reader allows.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect())
        }
    }
}

/// A value in a mistake, not all of a long one.
fn shown(value: &toml::Value) -> String {
    /// Enough to find it again.
    const SHOWN_MAX: usize = 40;
    let text = match value {
        toml::Value::Table(_) => "a table".to_owned(),
        toml::Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
