//! Lists as fields of log events.

use std::fmt::{Debug, Display, Formatter, Result};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

/// Items as the value of a log field, recorded as `?LogList(&items)`: the text `"a, b"` in lines of text, and an array of
/// strings in lines of JSON.
pub struct LogList<'a, T>(pub &'a [T]);

/// What a list begins with in the alternate format (`{:#?}`), in front of its JSON. By this, the writer of JSON lines tells
/// a list from a text. Random for each process and never written to a log, so that no text from outside begins with it.
pub fn log_list_mark() -> &'static str {
    static MARK: LazyLock<String> = LazyLock::new(|| {
        // The standard library has no other access to the random numbers of the system.
        let [first, second] = [0, 1].map(|number| RandomState::new().hash_one(number));
        format!("\u{1}list:{first:016x}{second:016x}:")
    });
    &MARK
}

impl<T: Display> Debug for LogList<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let items: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        if f.alternate() {
            write!(f, "{}{}", log_list_mark(), serde_json::Value::from(items))
        } else {
            Debug::fmt(&items.join(", "), f)
        }
    }
}
