//! Log events as lines of JSON.
//!
//! The formatter of `tracing-subscriber` writes every list as a text.

use std::fmt::{self, Debug, Write as _};

use metamcp_core::base::log_list_mark;
use serde_json::Value;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};

/// Writes `{"timestamp":"…","level":"…","message":"…",…}` with the fields of the event in their order.
pub(super) struct JsonLines;

/// The members of a line.
struct Members(String);

impl Members {
    fn push(&mut self, name: &str, value: &Value) {
        let separator = if self.0.is_empty() { '{' } else { ',' };
        // Writing to a string does not fail.
        let _ = write!(self.0, "{separator}{}:{value}", Value::from(name));
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field.name(), &value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field.name(), &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field.name(), &value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field.name(), &value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field.name(), &value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Added to events of the `log` crate, about the source of a library.
        if field.name().starts_with("log.") {
            return;
        }
        let text = format!("{value:#?}");
        let list: Option<Vec<String>> =
            text.strip_prefix(log_list_mark()).and_then(|json| serde_json::from_str(json).ok());
        self.push(field.name(), &list.map_or_else(|| format!("{value:?}").into(), Value::from));
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut members = Members(String::new());
        members.push("timestamp", &time.into());
        members.push("level", &event.metadata().level().as_str().into());
        event.record(&mut members);
        writeln!(writer, "{}}}", members.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use metamcp_core::base::LogList;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn check(log: impl FnOnce(), expected: &str) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(JsonLines).finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().expect("no test panics with it").clone();
        let text = String::from_utf8(bytes).expect("it is text");
        let mut line: Value = serde_json::from_str(text.trim_end()).expect("it is one line of JSON");
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
        line.as_object_mut().expect("it is an object").remove("timestamp");
        assert_eq!(line, serde_json::from_str::<Value>(expected).expect("it is JSON"), "{text}");
    }

    #[test]
    fn events_are_lines_of_json() {
        check(|| tracing::info!("plain"), r#"{"level":"INFO","message":"plain"}"#);
        check(
            || tracing::warn!(count = 2, ratio = 0.5, is_new = true, name = "a\"b\n", "with {}", "fields"),
            r#"{"level":"WARN","message":"with fields","count":2,"ratio":0.5,"is_new":true,"name":"a\"b\n"}"#,
        );
        let names = ["a", "b\""];
        check(
            || tracing::info!(names = ?LogList(&names), none = ?LogList::<&str>(&[]), debug = ?names, "lists"),
            r#"{"level":"INFO","message":"lists","names":["a","b\""],"none":[],"debug":"[\"a\", \"b\\\"\"]"}"#,
        );
        // Texts that look like lists.
        let forged = "\u{1}list:[\"a\"]";
        check(
            || tracing::info!(%forged, "x"),
            r#"{"level":"INFO","message":"x","forged":"\u0001list:[\"a\"]"}"#,
        );
        let object = format!("{}{{}}", log_list_mark());
        let mut expected = serde_json::json!({"level": "INFO", "message": "x"});
        expected["object"] = Value::from(&*object);
        check(|| tracing::info!(%object, "x"), &expected.to_string());
        // What is absent has no member, as in lines of text.
        let absent: Option<&str> = None;
        check(|| tracing::info!(absent, "x"), r#"{"level":"INFO","message":"x"}"#);
    }
}
