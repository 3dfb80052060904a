//! How a `tools/call` is answered.

use std::time::Duration;

/// How a `tools/call` is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// The size of the body, or as few as it takes; of an event stream, that of its last message.
    pub bytes: usize,
    /// Messages of progress before the answer; with any, the answer is an event stream.
    pub events: usize,
    /// Before each event; none: all are written at once.
    pub delay: Duration,
}

/// What a gateway might still take; the padding is made once for the largest.
pub const BYTES_MAX: usize = 16 << 20;
/// As many as make a stream long; each is an allocation where they come apart.
const EVENTS_MAX: usize = 10_000;
/// A stream of the most events then ends within a day.
const DELAY_MS_MAX: u64 = 1000;

/// The mode that a query says; `None` when it says anything else.
pub fn parse(query: &str) -> Option<Mode> {
    let mut mode = Mode::default();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "bytes" => mode.bytes = parse_bytes(value).ok()?,
            "events" => mode.events = value.parse().ok().filter(|events| *events <= EVENTS_MAX)?,
            "delay_ms" => {
                let delay = value.parse().ok().filter(|delay| *delay <= DELAY_MS_MAX)?;
                mode.delay = Duration::from_millis(delay);
            }
            _ => return None,
        }
    }
    Some(mode)
}

/// The size of a body.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|bytes| *bytes <= BYTES_MAX);
    number.ok_or_else(|| format!("write a number up to {BYTES_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: Option<(usize, usize, u128)>) {
        let mode = parse(query).map(|mode| (mode.bytes, mode.events, mode.delay.as_millis()));
        assert_eq!(mode, expected, "{query:?}");
    }

    #[test]
    fn queries() {
        check("", Some((0, 0, 0)));
        check("bytes=65536", Some((65536, 0, 0)));
        check("events=100&delay_ms=5", Some((0, 100, 5)));
        check("bytes=16777217", None);
        check("events=10001", None);
        check("delay_ms=1001", None);
        check("bytes=-1", None);
        check("other=1", None);
    }
}
