use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Place, Report, Written, printable, quote};
use crate::admin::definition::bounds::Bound;
use crate::base::units;

/// `metamcp.toml` as it was written. Every value keeps its place in the text.
#[derive(Debug)]
pub(super) struct TomlFile<'a> {
    pub path: PathBuf,
    table: DeTable<'a>,
    /// Where each line ends: one search a value, not one reading of the file.
    line_ends: Vec<usize>,
}

/// One table of the file. A reader always gives a value: what is wrong goes to the report and the default
/// takes its place, so that reading goes on to the next mistake. (serde with `deny_unknown_fields` stops at
/// the first, which is why it does not read this file.)
pub(super) struct Section<'a> {
    file: Option<&'a TomlFile<'a>>,
    report: &'a Report,
    table: Option<&'a DeTable<'a>>,
    place: Place,
    /// Keys that were asked for; all others are unknown.
    known: RefCell<BTreeSet<&'static str>>,
}

type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> TomlFile<'a> {
    /// Parses the text. Several syntax errors are several mistakes; then nothing else is read from it.
    pub fn parse(path: PathBuf, text: &'a str, report: &Report) -> Option<Self> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let line_ends: Vec<_> = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
        let source = path.display().to_string();
        for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
            let line = error.span().map(|span| line_of(&line_ends, span.start));
            // The message alone: the error's `Display` quotes the line, which may hold a secret.
            report.mistake(&Place::file(&source, line, ""), format!("is not TOML: {}", error.message()));
        }
        errors.is_empty().then(|| Self { path, table: table.into_inner(), line_ends })
    }
}

impl<'a> Section<'a> {
    /// The whole file, or nothing where there is none.
    pub fn root(file: Option<&'a TomlFile<'a>>, report: &'a Report) -> Self {
        let source = file.map(|file| file.path.display().to_string()).unwrap_or_default();
        Self {
            file,
            report,
            table: file.map(|file| &file.table),
            place: Place::file(&source, None, ""),
            known: RefCell::default(),
        }
    }

    /// The table under `key`; an empty one where there is none.
    pub fn child(&self, key: &'static str) -> Self {
        let (value, place) = self.value(key).unzip();
        let table = value.and_then(|value| value.get_ref().as_table());
        let place = place.unwrap_or_else(|| self.place.below(key));
        if let Some(value) = value.filter(|_| table.is_none()) {
            self.report.mistake(&place, format!("is {}; write a table: [{key}]", kind(value)));
        }
        Self { file: self.file, report: self.report, table, place, known: RefCell::default() }
    }

    /// The tables of the table under `key`, each with the name chosen for it, in the order written.
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

    /// Every entry of the table under `key` as text, in the order written.
    pub fn text_map(&self, key: &'static str) -> Vec<(&'a str, Written<&'a str>)> {
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

    /// Whether the table is there at all.
    pub fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// The directory of the file.
    pub fn directory(&self) -> Option<&'a std::path::Path> {
        self.file.and_then(|file| file.path.parent())
    }

    /// Whether that key is there, whatever stands under it.
    pub fn has(&self, key: &'static str) -> bool {
        self.known.borrow_mut().insert(key);
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// Where this table begins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn text(&self, key: &'static str) -> Option<Written<&'a str>> {
        let (value, place) = self.value(key)?;
        self.text_at(value, place)
    }

    pub fn texts(&self, key: &'static str) -> Option<Vec<Written<&'a str>>> {
        let (value, place) = self.value(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.report.mistake(&place, format!("is {}; write a list of texts: [\"...\"]", kind(value)));
            return None;
        };
        let text = |item: &'a Spanned<DeValue<'a>>| self.text_at(item, self.place_of(key, item.span().start));
        Some(items.iter().filter_map(text).collect())
    }

    /// A list whose items are texts or lists of texts; a text is the same as a list of it alone.
    pub fn text_lists(&self, key: &'static str) -> Vec<Written<Vec<&'a str>>> {
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
            Some(Written { value: words, place })
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

    pub fn integer(&self, key: &'static str) -> Option<Written<i128>> {
        let (value, place) = self.value(key)?;
        let number =
            value.get_ref().as_integer().and_then(|n| i128::from_str_radix(n.as_str(), n.radix()).ok());
        if number.is_none() {
            self.report.mistake(&place, format!("is {}; write a whole number", kind(value)));
        }
        Some(Written { value: number?, place })
    }

    pub fn fraction(&self, key: &'static str) -> Option<Written<f64>> {
        let (value, place) = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.report.mistake(&place, format!("is {}; write a fraction: 0.5", kind(value)));
        }
        Some(Written { value: number?, place })
    }

    pub fn count(&self, key: &'static str, bound: Bound<usize>) -> usize {
        let Some(Written { value, place }) = self.integer(key) else { return bound.default };
        self.within(usize::try_from(value).ok(), &place, bound, |n| n.to_string())
    }

    pub fn size(&self, key: &'static str, bound: Bound<usize>) -> usize {
        let Some((value, place)) = self.value(key) else { return bound.default };
        let bytes = match value.get_ref() {
            DeValue::Integer(n) => {
                i128::from_str_radix(n.as_str(), n.radix()).map(|n| usize::try_from(n).ok()).ok()
            }
            DeValue::String(text) => units::size(text).ok().map(Some),
            _ => None,
        };
        match bytes {
            Some(bytes) => self.within(bytes, &place, bound, units::size_text),
            None => self.wrong(&place, units::SIZE_FORM, bound.default),
        }
    }

    pub fn duration(&self, key: &'static str, bound: Bound<Duration>) -> Duration {
        let Some((value, place)) = self.value(key) else { return bound.default };
        match value.get_ref().as_str().map(units::duration) {
            Some(Ok(duration)) => self.within(Some(duration), &place, bound, units::duration_text),
            _ => self.wrong(&place, units::DURATION_FORM, bound.default),
        }
    }

    /// One of a closed set of words.
    pub fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let Some(Written { value, place }) = self.text(key) else { return default };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => *meaning,
            None => self.wrong(&place, &one_of(words.iter().map(|(word, _)| word)), default),
        }
    }

    /// Says which keys nobody asked for. To be called when all known ones were.
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

    fn value(&self, key: &'static str) -> Option<(Value<'a>, Place)> {
        self.known.borrow_mut().insert(key);
        let (_, value) = self.table?.get_key_value(key)?;
        Some((value, self.place_of(key, value.span().start)))
    }

    fn text_at(&self, value: Value<'a>, place: Place) -> Option<Written<&'a str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.report.mistake(&place, format!("is {}; write a text: \"...\"", kind(value)));
        }
        Some(Written { value: text?, place })
    }

    fn place_of(&self, key: &str, offset: usize) -> Place {
        let place = self.place.below(key);
        match self.file {
            Some(file) => place.on_line(line_of(&file.line_ends, offset)),
            None => place,
        }
    }

    fn within<T: Copy + PartialOrd>(
        &self,
        value: Option<T>,
        place: &Place,
        bound: Bound<T>,
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

    fn wrong<T>(&self, place: &Place, text: &str, instead: T) -> T {
        self.report.mistake(place, text);
        instead
    }
}

/// `write "a", "b" or "c"`.
pub(super) fn one_of(words: impl Iterator<Item = impl Display>) -> String {
    let mut words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { format!("write {last}") } else { format!("write {} or {last}", words.join(", ")) }
}

/// `did you mean "port"?`, else what is known.
pub(super) fn suggest(name: &str, known: &BTreeSet<&str>) -> String {
    let near = known.iter().map(|word| (distance(name, word), word)).min();
    match near {
        Some((distance, word)) if distance <= 2 && distance < word.len() => {
            format!("did you mean {}?", quote(word))
        }
        _ if known.is_empty() => "nothing is known here".to_owned(),
        _ => {
            let shown: Vec<_> = known.iter().take(SUGGESTED_MAX).map(|word| printable(word)).collect();
            let more = if known.len() > SUGGESTED_MAX { ", ..." } else { "" };
            format!("known here: {}{more}", shown.join(", "))
        }
    }
}

/// Levenshtein, over bytes. Longer names are never near: that bounds the work.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > SUGGEST_BYTES_MAX || b.len() > SUGGEST_BYTES_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// What a value is, with its article.
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

/// One mistake in a bracket makes an error of each line after it.
const SYNTAX_ERRORS_MAX: usize = 20;

/// More than the keys of any table; of servers there may be thousands.
const SUGGESTED_MAX: usize = 40;

/// The longest key has under 30.
const SUGGEST_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near() {
        let known = BTreeSet::from(["host", "port", "workers"]);
        let check = |name: &str, expected: &str| assert_eq!(suggest(name, &known), expected, "{name}");
        check("prot", "did you mean \"port\"?");
        check("worker", "did you mean \"workers\"?");
        check("hosts", "did you mean \"host\"?");
        check("retries", "known here: host, port, workers");
        check("", "known here: host, port, workers");
        check(&"x".repeat(100_000), "known here: host, port, workers");
    }
}
