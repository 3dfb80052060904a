//! Reading an object member by member, so that one mistake does not hide the next.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::bounds::Bound;
use crate::base::units;

/// One thing that is wrong with what was sent. Never quotes a value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: a JSON pointer into the body (RFC 6901), or the name of a query parameter after a `?`.
    pub pointer: String,
    /// What is wrong, and what to write instead.
    pub detail: String,
}

/// An object being read.
pub struct Fields<'a> {
    members: &'a Map<String, Value>,
    pointer: String,
    known: BTreeSet<&'static str>,
}

/// Where mistakes are gathered.
pub type Errors = Vec<FieldError>;

impl FieldError {
    /// At a pointer.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// The pointer to a member of what `pointer` points to.
pub fn below(pointer: &str, key: &str) -> String {
    let key: String = key.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl<'a> Fields<'a> {
    /// Of an object at `pointer`; what is none is told.
    pub fn of(value: &'a Value, pointer: &str, errors: &mut Errors) -> Option<Self> {
        let Some(members) = value.as_object() else {
            errors.push(FieldError::new(pointer, "is not an object; write {...}"));
            return None;
        };
        Some(Self { members, pointer: pointer.to_owned(), known: BTreeSet::new() })
    }

    /// Where a member is.
    pub fn at(&self, key: &str) -> String {
        below(&self.pointer, key)
    }

    /// A member that is there and not null.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.members.get(key).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&mut self, key: &'static str, errors: &mut Errors) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            errors.push(FieldError::new(self.at(key), "is not a text; write \"...\""));
        }
        text
    }

    /// A text that has to be there.
    pub fn required(&mut self, key: &'static str, errors: &mut Errors) -> Option<&'a str> {
        if self.value(key).is_none() {
            errors.push(FieldError::new(self.at(key), "is missing"));
        }
        self.text(key, errors)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, errors: &mut Errors) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            errors.push(FieldError::new(self.at(key), "is neither true nor false"));
        }
        flag
    }

    /// A whole number within its bounds.
    pub fn count(&mut self, key: &'static str, bound: Bound<usize>, errors: &mut Errors) -> Option<usize> {
        let number = self.value(key)?.as_u64().and_then(|number| usize::try_from(number).ok());
        let fit = number.filter(|number| (bound.min..=bound.max).contains(number));
        if fit.is_none() {
            let detail = format!("is not a whole number from {} to {}", bound.min, bound.max);
            errors.push(FieldError::new(self.at(key), detail));
        }
        fit
    }

    /// A duration with a unit within its bounds.
    pub fn duration(
        &mut self,
        key: &'static str,
        bound: Bound<Duration>,
        errors: &mut Errors,
    ) -> Option<Duration> {
        let text = self.text(key, errors)?;
        let fit = units::duration(text).ok().filter(|found| (bound.min..=bound.max).contains(found));
        if fit.is_none() {
            let (min, max) = (units::duration_text(bound.min), units::duration_text(bound.max));
            let detail =
                format!("is not a duration from {min} to {max}; write a number with ms, s, m, h or d");
            errors.push(FieldError::new(self.at(key), detail));
        }
        fit
    }

    /// One of a closed set of words.
    pub fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        errors: &mut Errors,
    ) -> Option<T> {
        let text = self.text(key, errors)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            errors.push(FieldError::new(self.at(key), format!("is none of: {}", known.join(", "))));
        }
        found
    }

    /// An array; empty where there is none.
    pub fn array(&mut self, key: &'static str, items_max: usize, errors: &mut Errors) -> &'a [Value] {
        let Some(value) = self.value(key) else { return &[] };
        match value.as_array() {
            Some(items) if items.len() <= items_max => items,
            Some(_) => {
                errors.push(FieldError::new(self.at(key), format!("has more than {items_max} items")));
                &[]
            }
            None => {
                errors.push(FieldError::new(self.at(key), "is not an array; write [...]"));
                &[]
            }
        }
    }

    /// An array of texts.
    pub fn texts(&mut self, key: &'static str, items_max: usize, errors: &mut Errors) -> Vec<&'a str> {
        let (items, pointer) = (self.array(key, items_max, errors), self.at(key));
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text),
                None => errors.push(FieldError::new(format!("{pointer}/{index}"), "is not a text")),
            }
        }
        texts
    }

    /// An object of texts, by name.
    pub fn text_map(
        &mut self,
        key: &'static str,
        members_max: usize,
        errors: &mut Errors,
    ) -> Vec<(&'a str, &'a str)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pointer = self.at(key);
        let Some(members) = value.as_object() else {
            errors.push(FieldError::new(pointer, "is not an object of texts; write {\"name\": \"value\"}"));
            return Vec::new();
        };
        if members.len() > members_max {
            errors.push(FieldError::new(pointer, format!("has more than {members_max} members")));
            return Vec::new();
        }
        let mut texts = Vec::with_capacity(members.len());
        for (name, value) in members {
            match value.as_str() {
                Some(text) => texts.push((name.as_str(), text)),
                None => errors.push(FieldError::new(below(&pointer, name), "is not a text")),
            }
        }
        texts
    }

    /// What only the gateway writes: taken and left out, so that what was read can be sent back as it is.
    pub fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Tells of every member that nobody asked for.
    pub fn finish(self, errors: &mut Errors) {
        for key in self.members.keys().filter(|key| !self.known.contains(key.as_str())).take(UNKNOWN_TOLD_MAX)
        {
            let known: Vec<&str> = self.known.iter().copied().collect();
            let detail = format!("is unknown; known here: {}", known.join(", "));
            errors.push(FieldError::new(below(&self.pointer, key), detail));
        }
    }
}

/// A pointer names a member; a megabyte of name is not repeated.
const SHOWN_CHARS_MAX: usize = 128;

/// Whoever has more unknown members sent something else altogether.
const UNKNOWN_TOLD_MAX: usize = 20;
