//! What a call asked for, as usage counts it.

use std::borrow::Cow;

/// Stands for every name that is not counted by itself. The parentheses keep it from being a real name.
pub const OTHER: &str = "(other)";

/// What a call asked for. Written as one label: the name of a tool alone, prompts and resources after a word and a blank,
/// which no name of a tool has (MCP 2026-07-28, tools).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageLabel<'a> {
    /// A request for none of the others.
    None,
    Tool(Cow<'a, str>),
    Prompt(Cow<'a, str>),
    /// A resource, by its URI.
    Resource(Cow<'a, str>),
}

const PROMPT: &str = "prompt ";
const RESOURCE: &str = "resource ";

/// The longest label in bytes, as the usage journal stores it.
pub const USAGE_LABEL_BYTES_MAX: usize = 256;

impl<'a> UsageLabel<'a> {
    /// The inverse of [`UsageLabel::into_text`].
    pub fn parse(text: &'a str) -> Self {
        match (text, text.strip_prefix(PROMPT), text.strip_prefix(RESOURCE)) {
            ("", ..) => Self::None,
            (_, Some(name), _) => Self::Prompt(name.into()),
            (_, _, Some(uri)) => Self::Resource(uri.into()),
            _ => Self::Tool(text.into()),
        }
    }

    /// The label. A name that is too long, or has blanks or control characters, is replaced by [`OTHER`].
    pub fn into_text(self) -> Cow<'a, str> {
        let (prefix, name) = match self {
            Self::None => return Cow::Borrowed(""),
            Self::Tool(name) => ("", name),
            Self::Prompt(name) => (PROMPT, name),
            Self::Resource(uri) => (RESOURCE, uri),
        };
        let is_plain = name.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        let is_named = is_plain && prefix.len() + name.len() <= USAGE_LABEL_BYTES_MAX;
        let name = if is_named { name } else { Cow::Borrowed(OTHER) };
        if prefix.is_empty() { name } else { Cow::Owned([prefix, &name].concat()) }
    }

    /// The label of all of its kind that have none of their own.
    #[must_use]
    pub fn into_other(self) -> Self {
        let other = Cow::Borrowed(OTHER);
        match self {
            Self::None => Self::None,
            Self::Tool(_) => Self::Tool(other),
            Self::Prompt(_) => Self::Prompt(other),
            Self::Resource(_) => Self::Resource(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(label: UsageLabel<'_>, text: &str, parsed: &UsageLabel<'_>) {
        assert_eq!(label.into_text(), text);
        assert_eq!(UsageLabel::parse(text), *parsed);
    }

    #[test]
    fn labels_name_what_was_asked_for() {
        use UsageLabel::{None, Prompt, Resource, Tool};
        let long = "x".repeat(USAGE_LABEL_BYTES_MAX);
        check(None, "", &None);
        check(Tool("echo".into()), "echo", &Tool("echo".into()));
        check(Prompt("greet".into()), "prompt greet", &Prompt("greet".into()));
        check(Resource("file:///a".into()), "resource file:///a", &Resource("file:///a".into()));
        check(Tool("prompt greet".into()), "(other)", &Tool(OTHER.into()));
        check(Prompt("a b".into()), "prompt (other)", &Prompt(OTHER.into()));
        check(Resource("x:\n".into()), "resource (other)", &Resource(OTHER.into()));
        check(Tool(long.as_str().into()), &long, &Tool(long.as_str().into()));
        check(Resource(long.as_str().into()), "resource (other)", &Resource(OTHER.into()));
        check(Resource("x:y".into()).into_other(), "resource (other)", &Resource(OTHER.into()));
    }
}
