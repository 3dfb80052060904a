//! Names and comments that a stranger understands.

use crate::none;
use crate::source::{Source, sources};

/// Participles that do not end in `ed`. As the name of a type they say what happened, not what the thing is.
const PARTICIPLES: [&str; 26] = [
    "Begun", "Done", "Found", "Given", "Gone", "Heard", "Held", "Kept", "Known", "Left", "Lost", "Made",
    "Meant", "Met", "Put", "Said", "Seen", "Sent", "Shown", "Sought", "Spoken", "Taken", "Thrown", "Told",
    "Woken", "Written",
];

/// Nouns in `ing`. Other names of one word that end so say what happens, not what the thing is.
const NOUNS_IN_ING: [&str; 9] =
    ["Finding", "Framing", "Keyring", "Listing", "Metering", "Parking", "Sharing", "String", "Warning"];

/// A documentation comment of one line with so few words says no more than the name.
const SHORT_DOC_WORDS: usize = 3;

/// The types that a file defines outside tests: name and offset.
fn types(source: &Source) -> impl Iterator<Item = (&str, usize)> {
    ["struct", "enum", "trait", "union", "type"]
        .into_iter()
        .flat_map(|keyword| source.words(keyword))
        .filter_map(|at| {
            let rest = source.code[at..].split_once(' ')?.1;
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
            name.starts_with(char::is_uppercase).then_some((name, at))
        })
}

fn is_participle(name: &str) -> bool {
    let is_one_word = !name[1..].contains(char::is_uppercase);
    let is_in_ing = name.ends_with("ing") && !NOUNS_IN_ING.contains(&name);
    PARTICIPLES.contains(&name) || (is_one_word && (is_in_ing || (name.ends_with("ed") && name != "Seed")))
}

#[test]
fn types_are_nouns() {
    let mut found = Vec::new();
    for source in sources(&["src", "crates", "tools", "loadtest"]) {
        let names = types(&source).filter(|(name, _)| is_participle(name));
        found.extend(names.map(|(name, at)| format!("{}: {name}", source.at(at))));
    }
    none(&found, "name what the thing is, not what happened to it:");
}

#[test]
fn documentation_says_more_than_the_name() {
    let is_doc = |line: Option<&&str>| line.is_some_and(|line| line.trim_start().starts_with("///"));
    let mut found = Vec::new();
    for source in sources(&["src", "crates", "tools", "loadtest"]) {
        let lines: Vec<_> = source.raw.lines().collect();
        let mut offset = 0;
        for (number, line) in lines.iter().enumerate() {
            let before = number.checked_sub(1).and_then(|number| lines.get(number));
            let is_single = is_doc(Some(line)) && !is_doc(before) && !is_doc(lines.get(number + 1));
            let words = line.split_whitespace().skip(1).count();
            if is_single && (1..=SHORT_DOC_WORDS).contains(&words) && !source.is_test(offset) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
            offset += line.len() + 1;
        }
    }
    none(&found, "say what and why in more than three words, or leave it out:");
}
