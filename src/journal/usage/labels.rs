//! The labels of a counter: key, server, and tool, prompt or resource.

use metamcp_core::base::USAGE_LABEL_BYTES_MAX;

/// Stands for every key, server or tool that is not counted separately, because its name is too long or no slot is left.
pub use metamcp_core::base::OTHER;

/// The longest key label. A key id has 12 characters; another principal may be a little longer.
pub(super) const KEY_BYTES_MAX: usize = 32;
/// The longest server label, as for [`metamcp_core::base::ServerName`].
pub(super) const SERVER_BYTES_MAX: usize = 64;
/// The longest label of a tool, prompt or resource. MCP's limit for tools is 128 characters, which need not be ASCII.
pub(super) const TOOL_BYTES_MAX: usize = USAGE_LABEL_BYTES_MAX;

/// Key, server and tool, concatenated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CounterLabels {
    text: Box<str>,
    /// The ends of the key and of the server.
    ends: [usize; 2],
}

impl CounterLabels {
    pub fn new(key: &str, server: &str, tool: &str) -> Self {
        let text = [key, server, tool].concat().into();
        Self { text, ends: [key.len(), key.len() + server.len()] }
    }

    pub fn other() -> Self {
        Self::new(OTHER, OTHER, OTHER)
    }

    /// Splits `text`, unless a length falls within a character or beyond the end.
    pub fn split(text: Box<str>, [key, server]: [usize; 2]) -> Option<Self> {
        let ends = [key, key + server];
        let is_valid = ends.iter().all(|end| text.is_char_boundary(*end));
        is_valid.then_some(Self { text, ends })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The key, the server and the tool.
    pub fn parts(&self) -> [&str; 3] {
        let [key, server] = self.ends;
        [&self.text[..key], &self.text[key..server], &self.text[server..]]
    }

    pub fn lengths(&self) -> [u16; 3] {
        // Bounded by the size of a slot.
        self.parts().map(|part| u16::try_from(part.len()).unwrap_or(u16::MAX))
    }

    /// The lengths and a CRC over lengths and text, in one word.
    pub fn packed_lengths(&self) -> u64 {
        let [key, server, tool] = self.lengths().map(u64::from);
        let lengths = key & 0xff | (server & 0xff) << 8 | tool << 16;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&lengths.to_le_bytes());
        hasher.update(self.text.as_bytes());
        lengths | u64::from(hasher.finalize()) << 32
    }
}
