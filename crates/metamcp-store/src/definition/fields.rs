//! Reads a JSON object member by member and collects every error.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use metamcp_core::base::units;

/// One invalid field of a request. Never quotes a value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body (RFC 6901), or `?` and the name of a query parameter.
    pub pointer: String,
    /// What is wrong, and what to write instead.
    pub detail: String,
}

/// A JSON object that is being read.
pub struct ObjectReader<'a> {
    members: &'a Map<String, Value>,
    pointer: String,
    known: BTreeSet<&'static str>,
}

pub type FieldErrors = Vec<FieldError>;

impl FieldError {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Appends a member to a JSON pointer.
pub fn child_pointer(pointer: &str, key: &str) -> String {
    let key: String = key.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl<'a> ObjectReader<'a> {
    /// Starts reading the object at `pointer`. Reports an error if `value` is not an object.
    pub fn new(value: &'a Value, pointer: &str, errors: &mut FieldErrors) -> Option<Self> {
        let Some(members) = value.as_object() else {
            errors.push(FieldError::new(pointer, "is not an object; write {...}"));
            return None;
        };
        Some(Self { members, pointer: pointer.to_owned(), known: BTreeSet::new() })
    }

    /// Returns the pointer of a member.
    pub fn pointer_to(&self, key: &str) -> String {
        child_pointer(&self.pointer, key)
    }

    /// Returns a member unless it is missing or null.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.members.get(key).filter(|value| !value.is_null())
    }

    /// Returns a string member.
    pub fn text(&mut self, key: &'static str, errors: &mut FieldErrors) -> Option<&'a str> {
        let value = self.value(key)?;
        let text = value.as_str();
        if text.is_none() {
            errors.push(FieldError::new(self.pointer_to(key), "is not a string; write \"...\""));
        }
        text
    }

    /// Returns a string member, and reports an error if it is missing.
    pub fn required(&mut self, key: &'static str, errors: &mut FieldErrors) -> Option<&'a str> {
        if self.value(key).is_none() {
            errors.push(FieldError::new(self.pointer_to(key), "is missing"));
        }
        self.text(key, errors)
    }

    /// Returns a boolean member.
    pub fn flag(&mut self, key: &'static str, errors: &mut FieldErrors) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            errors.push(FieldError::new(self.pointer_to(key), "is neither true nor false"));
        }
        flag
    }

    /// Returns a whole number within `range`.
    pub fn count(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<usize> {
        let number = self.value(key)?.as_u64().and_then(|number| usize::try_from(number).ok());
        let valid = number.filter(|number| range.contains(number));
        if valid.is_none() {
            let detail = format!("is not a whole number from {} to {}", range.start(), range.end());
            errors.push(FieldError::new(self.pointer_to(key), detail));
        }
        valid
    }

    /// Returns a duration, written with a unit, within `range`.
    pub fn duration(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<Duration>,
        errors: &mut FieldErrors,
    ) -> Option<Duration> {
        let text = self.text(key, errors)?;
        let valid = units::parse_duration(text).ok().filter(|value| range.contains(value));
        if valid.is_none() {
            let (min, max) = (units::format_duration(*range.start()), units::format_duration(*range.end()));
            let detail =
                format!("is not a duration from {min} to {max}; write a number with ms, s, m, h or d");
            errors.push(FieldError::new(self.pointer_to(key), detail));
        }
        valid
    }

    /// Returns the value of a member that takes one of `keywords`.
    pub fn keyword<T: Copy>(
        &mut self,
        key: &'static str,
        keywords: &[(&str, T)],
        errors: &mut FieldErrors,
    ) -> Option<T> {
        let text = self.text(key, errors)?;
        let value = keywords.iter().find(|(keyword, _)| *keyword == text).map(|(_, value)| *value);
        if value.is_none() {
            let known: Vec<&str> = keywords.iter().map(|(keyword, _)| *keyword).collect();
            errors
                .push(FieldError::new(self.pointer_to(key), format!("is not one of: {}", known.join(", "))));
        }
        value
    }

    /// Returns an array member; empty if it is missing.
    pub fn array(&mut self, key: &'static str, items_max: usize, errors: &mut FieldErrors) -> &'a [Value] {
        let Some(value) = self.value(key) else { return &[] };
        match value.as_array() {
            Some(items) if items.len() <= items_max => items,
            Some(_) => {
                errors
                    .push(FieldError::new(self.pointer_to(key), format!("has more than {items_max} items")));
                &[]
            }
            None => {
                errors.push(FieldError::new(self.pointer_to(key), "is not an array; write [...]"));
                &[]
            }
        }
    }

    /// Returns an array of strings. Items of other types are reported and left out.
    pub fn texts(&mut self, key: &'static str, items_max: usize, errors: &mut FieldErrors) -> Vec<&'a str> {
        let (items, pointer) = (self.array(key, items_max, errors), self.pointer_to(key));
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text),
                None => errors.push(FieldError::new(format!("{pointer}/{index}"), "is not a string")),
            }
        }
        texts
    }

    /// Returns the members of an object of strings. Members of other types are reported and left out.
    pub fn text_map(
        &mut self,
        key: &'static str,
        members_max: usize,
        errors: &mut FieldErrors,
    ) -> Vec<(&'a str, &'a str)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pointer = self.pointer_to(key);
        let Some(members) = value.as_object() else {
            errors.push(FieldError::new(pointer, "is not an object of strings; write {\"name\": \"value\"}"));
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
                None => errors.push(FieldError::new(child_pointer(&pointer, name), "is not a string")),
            }
        }
        texts
    }

    /// Accepts these members without reading them.
    pub fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// Reports every member that was neither read nor ignored.
    pub fn finish(self, errors: &mut FieldErrors) {
        for key in
            self.members.keys().filter(|key| !self.known.contains(key.as_str())).take(UNKNOWN_REPORTED_MAX)
        {
            let known: Vec<&str> = self.known.iter().copied().collect();
            let detail = format!("is unknown; known members: {}", known.join(", "));
            errors.push(FieldError::new(child_pointer(&self.pointer, key), detail));
        }
    }
}

/// Keeps pointers in errors short.
const SHOWN_CHARS_MAX: usize = 128;

/// A body with more unknown members than this was probably meant for something else.
const UNKNOWN_REPORTED_MAX: usize = 20;
