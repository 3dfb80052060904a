//! Severity levels of log messages (MCP, logging; RFC 5424).

/// A log level. A more severe one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLevel(usize);

const NAMES: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl LogLevel {
    /// Parses the name of a level.
    pub fn parse(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(Self)
    }

    /// Returns the name on the wire.
    pub fn name(self) -> &'static str {
        NAMES[self.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_order() {
        let levels: Vec<_> = NAMES.iter().filter_map(|name| LogLevel::parse(name)).collect();
        assert!(levels.is_sorted() && levels.len() == 8);
        assert_eq!(LogLevel::parse("warning").map(LogLevel::name), Some("warning"));
        assert_eq!((LogLevel::parse("Debug"), LogLevel::parse("")), (None, None));
    }
}
