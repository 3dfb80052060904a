//! Reads `metamcp.toml` table by table, and keeps the position of every value.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Diagnostics, SourceLocation, WithLocation, quote};
use super::suggest::suggest;
use crate::server::settings::{Keywords, SettingRange, SettingSource};
use metamcp_core::base::units;

/// A parsed `metamcp.toml`. Every value keeps its position in the text.
#[derive(Debug)]
pub(super) struct TomlFile<'a> {
    pub path: PathBuf,
    table: DeTable<'a>,
    /// The offset of each line end, so that the line of a value is found by binary search.
    line_ends: Vec<usize>,
}

/// One table of the file. Readers always return a value: an error is reported and the default returned, so
/// that reading continues to the next error. (serde with `deny_unknown_fields` stops at the first error, so
/// it is not used here.)
pub(super) struct Section<'a> {
    file: Option<&'a TomlFile<'a>>,
    report: &'a Diagnostics,
    table: Option<&'a DeTable<'a>>,
    place: SourceLocation,
    /// The keys that were read. All others are unknown.
    known: RefCell<BTreeSet<&'static str>>,
}

type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> TomlFile<'a> {
    /// Parses the file. Reports every syntax error; after one, nothing is read from the file.
    pub fn parse(path: PathBuf, text: &'a str, report: &Diagnostics) -> Option<Self> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let line_ends: Vec<_> = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
        let source = path.display().to_string();
        // The end of the table that is there twice.
        let mut twin_end = 0;
        for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
            let line = error.span().map(|span| line_of(&line_ends, span.start));
            let place = SourceLocation::file(&source, line, "");
            // Only the message: the error's `Display` quotes the line, which may contain a secret.
            let Some(span) = error.span().filter(|_| error.message() == DUPLICATE_KEY) else {
                report.mistake(&place, format!("is not TOML: {}", error.message()));
                continue;
            };
            // Its keys are duplicates as well.
            if span.start < twin_end {
                continue;
            }
            let name = text.get(span.clone()).unwrap_or_default();
            report.mistake(&place, format!("{} is there twice; leave one of them out", quote(name)));
            let line_start = text[..span.start].rfind('\n').map_or(0, |end| end + 1);
            if text[line_start..].trim_start().starts_with('[') {
                twin_end = text[span.end..].find("\n[").map_or(text.len(), |next| span.end + next);
            }
        }
        errors.is_empty().then(|| Self { path, table: table.into_inner(), line_ends })
    }
}

impl<'a> Section<'a> {
    /// The root table; an empty one if there is no file.
    pub fn root(file: Option<&'a TomlFile<'a>>, report: &'a Diagnostics) -> Self {
        let source = file.map(|file| file.path.display().to_string()).unwrap_or_default();
        Self {
            file,
            report,
            table: file.map(|file| &file.table),
            place: SourceLocation::file(&source, None, ""),
            known: RefCell::default(),
        }
    }

    /// The table at `key`; an empty one if it is missing.
    pub fn child(&self, key: &'static str) -> Self {
        let (value, place) = self.value(key).unzip();
        let table = value.and_then(|value| value.get_ref().as_table());
        let place = place.unwrap_or_else(|| self.place.below(key));
        if let Some(value) = value.filter(|_| table.is_none()) {
            self.report.mistake(&place, format!("is {}; write a table: [{key}]", kind(value)));
        }
        Self { file: self.file, report: self.report, table, place, known: RefCell::default() }
    }

    /// The named tables below `key`, in the order of the file.
    pub fn named(&self, key: &'static str) -> Vec<(&'a str, Self)> {
        let outer = self.child(key);
        let mut entries: Vec<_> = outer.table.into_iter().flatten().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut sections = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let name_text = name.get_ref().as_ref();
            let place = outer.place_of(name_text, name.span().start);
            let Some(table) = value.get_ref().as_table() else {
                outer.report.mistake(&place, format!("is {}; write a table: [{key}.NAME]", kind(value)));
                continue;
            };
            let known = RefCell::default();
            sections.push((
                name_text,
                Self { file: self.file, report: self.report, table: Some(table), place, known },
            ));
        }
        sections
    }

    /// The tables of the list at `key`, written `[[key]]`.
    pub fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some((value, place)) = self.value(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.report.mistake(&place, format!("is {}; write tables: [[{}]]", kind(value), place.key()));
            return Vec::new();
        };
        let table = |item: &'a Spanned<DeValue<'a>>| {
            let place = self.place_of(key, item.span().start);
            let table = item.get_ref().as_table();
            if table.is_none() {
                self.report.mistake(&place, format!("is {}; write a table: [[{}]]", kind(item), place.key()));
            }
            let (file, report, known) = (self.file, self.report, RefCell::default());
            Some(Self { file, report, table: Some(table?), place, known })
        };
        items.iter().filter_map(table).collect()
    }

    /// The strings of the table at `key`, in the order of the file.
    pub fn text_map(&self, key: &'static str) -> Vec<(&'a str, WithLocation<&'a str>)> {
        let child = self.child(key);
        let mut entries: Vec<_> = child.table.into_iter().flatten().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let text = |(name, value): (&'a Spanned<_>, Value<'a>)| {
            let name: &'a std::borrow::Cow<'a, str> = name.get_ref();
            let place = child.place_of(name, value.span().start);
            Some((name.as_ref(), child.text_at(value, place)?))
        };
        entries.into_iter().filter_map(text).collect()
    }

    /// Whether the table exists in the file.
    pub fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// The directory of the file.
    pub fn directory(&self) -> Option<&'a std::path::Path> {
        self.file.and_then(|file| file.path.parent())
    }

    /// Whether the key exists, whatever its value.
    pub fn has(&self, key: &'static str) -> bool {
        self.known.borrow_mut().insert(key);
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// The location of the table.
    pub fn place(&self) -> &SourceLocation {
        &self.place
    }

    pub fn text(&self, key: &'static str) -> Option<WithLocation<&'a str>> {
        let (value, place) = self.value(key)?;
        self.text_at(value, place)
    }

    pub fn texts(&self, key: &'static str) -> Option<Vec<WithLocation<&'a str>>> {
        let (value, place) = self.value(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.report.mistake(&place, format!("is {}; write a list of texts: [\"...\"]", kind(value)));
            return None;
        };
        let text = |item: &'a Spanned<DeValue<'a>>| self.text_at(item, self.place_of(key, item.span().start));
        Some(items.iter().filter_map(text).collect())
    }

    /// Reads a list of strings or lists of strings. A string is the same as a list with that string only.
    pub fn text_lists(&self, key: &'static str) -> Vec<WithLocation<Vec<&'a str>>> {
        let Some((value, place)) = self.value(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.report.mistake(&place, format!("is {}; write a list: [\"...\"]", kind(value)));
            return Vec::new();
        };
        let words = |item: &'a Spanned<DeValue<'a>>| {
            let place = self.place_of(key, item.span().start);
            let words = match item.get_ref().as_array() {
                None => vec![self.text_at(item, place.clone())?.value],
                Some(words) => {
                    let read = words.iter().map(|word| Some(self.text_at(word, place.clone())?.value));
                    read.collect::<Option<_>>()?
                }
            };
            Some(WithLocation { value: words, place })
        };
        items.iter().filter_map(words).collect()
    }

    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let (value, place) = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.report.mistake(&place, format!("is {}; write true or false", kind(value)));
        }
        flag
    }

    pub fn integer(&self, key: &'static str) -> Option<WithLocation<i128>> {
        let (value, place) = self.value(key)?;
        let number =
            value.get_ref().as_integer().and_then(|n| i128::from_str_radix(n.as_str(), n.radix()).ok());
        if number.is_none() {
            self.report.mistake(&place, format!("is {}; write a whole number", kind(value)));
        }
        Some(WithLocation { value: number?, place })
    }

    pub fn fraction(&self, key: &'static str) -> Option<WithLocation<f64>> {
        let (value, place) = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.report.mistake(&place, format!("is {}; write a fraction: 0.5", kind(value)));
        }
        Some(WithLocation { value: number?, place })
    }

    pub fn count(&self, key: &'static str, bound: SettingRange<usize>) -> usize {
        let Some(WithLocation { value, place }) = self.integer(key) else { return bound.default };
        self.within(usize::try_from(value).ok(), &place, bound, |n| n.to_string())
    }

    pub fn size(&self, key: &'static str, bound: SettingRange<usize>) -> usize {
        let Some((value, place)) = self.value(key) else { return bound.default };
        let bytes = match value.get_ref() {
            DeValue::Integer(n) => {
                i128::from_str_radix(n.as_str(), n.radix()).map(|n| usize::try_from(n).ok()).ok()
            }
            DeValue::String(text) => units::parse_size(text).ok().map(Some),
            _ => None,
        };
        match bytes {
            Some(bytes) => self.within(bytes, &place, bound, units::format_size),
            None => self.wrong(&place, units::SIZE_SYNTAX, bound.default),
        }
    }

    /// As [`Self::size`]. `auto` returns the value if the text is `"auto"`, and if there is none. It is called only then.
    pub fn size_or_auto(
        &self,
        key: &'static str,
        bound: SettingRange<usize>,
        auto: impl FnOnce() -> usize,
    ) -> usize {
        match self.value(key).map(|(value, _)| value.get_ref().as_str()) {
            None | Some(Some("auto")) => auto(),
            Some(Some(text)) if units::parse_size(text).is_err() => {
                let place = self.place().below(key);
                self.wrong(&place, &format!("{}, or \"auto\"", units::SIZE_SYNTAX), bound.default)
            }
            Some(_) => self.size(key, bound),
        }
    }

    pub fn duration(&self, key: &'static str, bound: SettingRange<Duration>) -> Duration {
        let Some((value, place)) = self.value(key) else { return bound.default };
        match value.get_ref().as_str().map(units::parse_duration) {
            Some(Ok(duration)) => self.within(Some(duration), &place, bound, units::format_duration),
            _ => self.wrong(&place, units::DURATION_SYNTAX, bound.default),
        }
    }

    /// Reads a value that is one of `keywords`.
    pub fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let Some(WithLocation { value, place }) = self.text(key) else { return default };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => *meaning,
            None => self.wrong(&place, &one_of(words.iter().map(|(word, _)| word)), default),
        }
    }

    /// Reports the keys that were not read. To be called once all known keys were read.
    pub fn finish(self) {
        let known = self.known.borrow();
        for (key, value) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if !known.contains(name) {
                let place = self.place_of(name, value.span().start.min(key.span().start));
                self.report.mistake(&place, format!("is unknown; {}", suggest(name, &known)));
            }
        }
    }

    fn value(&self, key: &'static str) -> Option<(Value<'a>, SourceLocation)> {
        self.known.borrow_mut().insert(key);
        let (_, value) = self.table?.get_key_value(key)?;
        Some((value, self.place_of(key, value.span().start)))
    }

    fn text_at(&self, value: Value<'a>, place: SourceLocation) -> Option<WithLocation<&'a str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.report.mistake(&place, format!("is {}; write a text: \"...\"", kind(value)));
        }
        Some(WithLocation { value: text?, place })
    }

    fn place_of(&self, key: &str, offset: usize) -> SourceLocation {
        let place = self.place.below(key);
        match self.file {
            Some(file) => place.on_line(line_of(&file.line_ends, offset)),
            None => place,
        }
    }

    fn within<T: Copy + PartialOrd>(
        &self,
        value: Option<T>,
        place: &SourceLocation,
        bound: SettingRange<T>,
        text: impl Fn(T) -> String,
    ) -> T {
        match value {
            Some(value) if value >= bound.min && value <= bound.max => value,
            _ => {
                let range = format!("is out of range; write {} to {}", text(bound.min), text(bound.max));
                self.wrong(place, &range, bound.default)
            }
        }
    }

    fn wrong<T>(&self, place: &SourceLocation, text: &str, instead: T) -> T {
        self.report.mistake(place, text);
        instead
    }
}

impl SettingSource for Section<'_> {
    fn duration(&mut self, key: &'static str, range: &RangeInclusive<Duration>, value: &mut Duration) {
        *value = Section::duration(self, key, SettingRange::new(range, *value));
    }

    fn count(&mut self, key: &'static str, range: &RangeInclusive<usize>, value: &mut usize) {
        *value = Section::count(self, key, SettingRange::new(range, *value));
    }

    fn keyword<T: Copy>(&mut self, key: &'static str, keywords: Keywords<T>, value: &mut T) {
        *value = self.word(key, keywords, *value);
    }

    fn flag(&mut self, key: &'static str, value: &mut bool) {
        *value = Section::flag(self, key).unwrap_or(*value);
    }
}

/// Formats `write "a", "b" or "c"`.
pub(super) fn one_of(words: impl Iterator<Item = impl Display>) -> String {
    let mut words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { format!("write {last}") } else { format!("write {} or {last}", words.join(", ")) }
}

/// The type of a value, with its article.
fn kind(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn line_of(line_ends: &[usize], offset: usize) -> usize {
    1 + line_ends.partition_point(|end| *end < offset)
}

/// One missing bracket causes an error in every line after it.
const SYNTAX_ERRORS_MAX: usize = 20;

/// The message of the parser for a key that is there twice.
const DUPLICATE_KEY: &str = "duplicate key";
