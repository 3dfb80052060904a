//! The bytes that each part of an HTTP/1.1 request may have, and why a request is refused.

/// Why a request is refused: it cannot be parsed, or two parsers might read it in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedRequest {
    RequestLine,
    Connect,
    /// A line feed or a carriage return alone.
    LineEnd,
    FoldedLine,
    FieldName,
    FieldValue,
    /// No Host, several, or an invalid one.
    Host,
    /// `Content-Length` or `Transfer-Encoding` is invalid, repeated or contradicted.
    Framing,
    ChunkSize,
    ChunkExtension,
    ChunkEnd,
    Trailers,
}

impl MalformedRequest {
    /// The reason as the log states it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestLine => "malformed request line",
            Self::Connect => "CONNECT is not supported",
            Self::LineEnd => "a line does not end with CRLF",
            Self::FoldedLine => "folded field line",
            Self::FieldName => "malformed field name",
            Self::FieldValue => "malformed field value",
            Self::Host => "not exactly one valid Host",
            Self::Framing => "invalid or ambiguous Content-Length or Transfer-Encoding",
            Self::ChunkSize => "malformed chunk size",
            Self::ChunkExtension => "malformed or long chunk extension",
            Self::ChunkEnd => "a chunk does not end with CRLF",
            Self::Trailers => "malformed or long trailers",
        }
    }
}

/// `tchar` (RFC 9110, section 5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Part of a field value (RFC 9110, section 5.5): no control character but the tab.
pub fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
