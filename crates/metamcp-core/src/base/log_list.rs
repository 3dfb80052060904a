//! Lists as fields of log events.

use std::fmt::{Debug, Display, Formatter, Result};

/// Items as the value of a log field, recorded as `?LogList(&items)`: the text `"a, b"` in lines of text, and an array of
/// strings in lines of JSON.
pub struct LogList<'a, T>(pub &'a [T]);

/// What a list begins with in the alternate format (`{:#?}`), in front of its JSON. By this, the writer of JSON lines tells
/// a list from a text.
pub const LOG_LIST_MARK: &str = "\u{1}list:";

impl<T: Display> Debug for LogList<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let items: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        if f.alternate() {
            write!(f, "{LOG_LIST_MARK}{}", serde_json::Value::from(items))
        } else {
            Debug::fmt(&items.join(", "), f)
        }
    }
}
