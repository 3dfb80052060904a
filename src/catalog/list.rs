//! The lists of one server, and their items.

use bytes::Bytes;

use crate::session::ServerFeatures;

/// The four lists of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

/// The lists of one server.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServerLists {
    pub features: ServerFeatures,
    /// The items, by [`ListKind::index`].
    pub items: [Vec<ListItem>; 4],
    /// How long the lists are fresh, if the server says so.
    pub ttl_ms: Option<u64>,
    /// Whether the server says that the lists are for this client alone.
    pub private: bool,
}

/// One item as the server wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListItem {
    /// The decoded name, URI, or URI template.
    pub key: String,
    /// The JSON of the item, byte for byte.
    pub raw: Bytes,
    /// The offset in `raw` of the key's JSON string, quotes included.
    pub key_start: usize,
    /// The offset of its end.
    pub key_end: usize,
}

/// The longest name of a tool or prompt, as the specification limits it (MCP 2026-07-28, tools).
pub const NAME_BYTES_MAX: usize = 128;

/// The longest URI. Longer ones are hidden: cursors contain a key, and request lines are bounded too.
pub const KEY_BYTES_MAX: usize = 2048;

impl ListKind {
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// Returns the index in arrays.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the member of a result that holds the items.
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// Returns the letter that cursors of the list begin with.
    pub const fn cursor_letter(self) -> char {
        match self {
            Self::Tools => 't',
            Self::Prompts => 'p',
            Self::Resources => 'r',
            Self::Templates => 'u',
        }
    }

    /// Whether items are renamed on an endpoint with prefixes.
    pub const fn has_names(self) -> bool {
        matches!(self, Self::Tools | Self::Prompts)
    }
}
