//! The response mode of `tools/call`.

use std::time::Duration;

/// The response mode of `tools/call`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// The size of the body, or of the last message of an event stream. At least that of the smallest body.
    pub bytes: usize,
    /// Progress notifications before the response. If not 0, the response is an event stream.
    pub events: usize,
    /// The delay before each event. Zero: all events are written at once.
    pub delay: Duration,
}

/// The largest body that a gateway may accept. The padding is allocated once for it.
pub const BYTES_MAX: usize = 16 << 20;
/// Events per stream. With a delay, each event is an allocation.
const EVENTS_MAX: usize = 10_000;
/// With this delay, a stream with the most events ends within a day.
const DELAY_MS_MAX: u64 = 1000;

/// Parses a query string. `None` if it has an unknown or invalid parameter.
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

/// Parses the size of a body.
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
    fn queries_are_parsed() {
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
