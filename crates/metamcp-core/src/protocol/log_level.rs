//! Severity levels of log messages (MCP, logging; RFC 5424).

/// A log level. A more severe one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLevel(u8);

const NAMES: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl LogLevel {
    /// Parses the name of a level. `None` if MCP has no such level.
    pub fn parse(name: &str) -> Option<Self> {
        (0..).zip(NAMES).find(|(_, known)| *known == name).map(|(level, _)| Self(level))
    }

    /// Returns the name on the wire.
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_order() {
        let levels: Vec<_> = NAMES.iter().filter_map(|name| LogLevel::parse(name)).collect();
        assert!(levels.is_sorted() && levels.len() == 8);
        for name in NAMES {
            assert_eq!(LogLevel::parse(name).map(LogLevel::name), Some(name));
        }
        for name in ["Debug", "", "loud", "debug "] {
            assert_eq!(LogLevel::parse(name), None, "{name:?}");
        }
    }
}
