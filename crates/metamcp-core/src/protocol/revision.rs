use std::fmt;

/// A revision of the protocol, in order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// First release; stdio and HTTP with server-sent events.
    V2024_11_05,
    /// Streamable HTTP; batches.
    V2025_03_26,
    /// No batches; the `MCP-Protocol-Version` header.
    V2025_06_18,
    /// Tasks, URL elicitation, polling of streams.
    V2025_11_25,
    /// Stateless: no handshake, no session.
    V2026_07_28,
}

/// The two families of revisions (MCP 2026-07-28, versioning).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// Up to 2025-11-25: opened by `initialize`.
    Legacy,
    /// From 2026-07-28: every request stands alone.
    Modern,
}

impl Revision {
    /// Every revision that is spoken here, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The newest that opens with `initialize`: what a Legacy client is offered when it asks for one unknown.
    pub const LEGACY_LATEST: Self = Self::V2025_11_25;

    /// The newest of all.
    pub const MODERN_LATEST: Self = Self::V2026_07_28;

    /// What a Legacy request without the version header is taken for (MCP 2025-06-18, transports).
    pub const FALLBACK: Self = Self::V2025_03_26;

    /// Reads the date form used on the wire.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str().as_bytes() == text)
    }

    /// The date form used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The family it belongs to.
    pub const fn era(self) -> Era {
        match self {
            Self::V2026_07_28 => Era::Modern,
            _ => Era::Legacy,
        }
    }

    /// One byte for sealed ids.
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// Back from that byte.
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
    fn every_revision_reads_back() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str().as_bytes()), Some(revision));
            assert_eq!(Revision::from_byte(revision.to_byte()), Some(revision));
        }
        assert_eq!(Revision::parse(b"2024-10-07"), None);
        assert_eq!(Revision::from_byte(5), None);
    }
}
