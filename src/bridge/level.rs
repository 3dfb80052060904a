//! How grave a log message is (MCP, logging; RFC 5424).

/// A level; the graver, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(usize);

const NAMES: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl Level {
    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES[self.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_in_order() {
        let levels: Vec<_> = NAMES.iter().filter_map(|name| Level::parse(name)).collect();
        assert!(levels.is_sorted() && levels.len() == 8);
        assert_eq!(Level::parse("warning").map(Level::name), Some("warning"));
        assert_eq!((Level::parse("Debug"), Level::parse("")), (None, None));
    }
}
