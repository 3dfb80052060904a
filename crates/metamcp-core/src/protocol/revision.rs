use std::fmt;

/// A revision of MCP. The order is that of their dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// First release: stdio, and HTTP with server-sent events.
    V2024_11_05,
    /// Adds Streamable HTTP and batches.
    V2025_03_26,
    /// Removes batches; adds the header `MCP-Protocol-Version`.
    V2025_06_18,
    /// Adds tasks, URL elicitation and polling of streams.
    V2025_11_25,
    /// Stateless: no handshake, no session.
    V2026_07_28,
}

/// The two families of revisions (MCP 2026-07-28, versioning).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// Up to 2025-11-25: sessions that `initialize` opens.
    Legacy,
    /// From 2026-07-28: stateless requests.
    Modern,
}

impl Revision {
    /// All supported revisions, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The newest Legacy revision. Offered to a client that requests an unknown one.
    pub const LEGACY_LATEST: Self = Self::V2025_11_25;

    /// The newest Modern revision.
    pub const MODERN_LATEST: Self = Self::V2026_07_28;

    /// The revision of a Legacy request without the version header (MCP 2025-06-18, transports).
    pub const FALLBACK: Self = Self::V2025_03_26;

    /// Parses a revision's date.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str().as_bytes() == text)
    }

    /// The date, as in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    pub const fn era(self) -> Era {
        match self {
            Self::V2026_07_28 => Era::Modern,
            _ => Era::Legacy,
        }
    }

    /// Encodes the revision as one byte for sealed ids.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// Decodes what `as_byte` encodes.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_parse() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str().as_bytes()), Some(revision));
            assert_eq!(Revision::from_byte(revision.to_byte()), Some(revision));
        }
        assert_eq!(Revision::parse(b"2024-10-07"), None);
        assert_eq!(Revision::from_byte(5), None);
    }
}
