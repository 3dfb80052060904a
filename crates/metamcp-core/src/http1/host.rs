//! The value of a Host field: `uri-host [ ":" port ]` (RFC 9110, section 7.2; RFC 3986, section 3.2.2).

/// Follows one value, byte by byte.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HostReader {
    state: HostState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum HostState {
    #[default]
    Start,
    /// A name or an IPv4 address.
    Name,
    /// After a percent sign: how many hexadecimal digits must follow.
    Percent(u8),
    /// An IPv6 address, or one of a later version, in brackets.
    Literal,
    LiteralEnd,
    Port,
    /// Blanks behind the value, which are not part of it.
    End,
    Invalid,
}

impl HostReader {
    /// Reads a byte. Returns whether the value may still be valid.
    pub fn push(&mut self, byte: u8) -> bool {
        use HostState as S;
        self.state = match (self.state, byte) {
            (S::Start, b'[') => S::Literal,
            (S::Start | S::Name, b'%') => S::Percent(2),
            (S::Start | S::Name, _) if is_name_byte(byte) => S::Name,
            (S::Percent(2), _) if byte.is_ascii_hexdigit() => S::Percent(1),
            (S::Percent(_), _) if byte.is_ascii_hexdigit() => S::Name,
            (S::Literal, b']') => S::LiteralEnd,
            (S::Literal, _) if byte == b':' || is_name_byte(byte) => S::Literal,
            (S::Name | S::LiteralEnd, b':') => S::Port,
            (S::Port, b'0'..=b'9') => S::Port,
            (S::Name | S::LiteralEnd | S::Port | S::End, b' ' | b'\t') => S::End,
            _ => S::Invalid,
        };
        self.state != S::Invalid
    }

    /// Whether what was read is a whole value. The name must not be empty: `http` and `https` have none without it
    /// (RFC 9110, section 4.2.1).
    pub fn is_valid(self) -> bool {
        matches!(self.state, HostState::Name | HostState::LiteralEnd | HostState::Port | HostState::End)
    }
}

/// Whether this is a valid value of a Host field.
pub fn is_valid_host(value: &[u8]) -> bool {
    // Nearly all are a plain name or an address with a port.
    let name_bytes =
        value.iter().take_while(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')).count();
    match &value[name_bytes..] {
        [] if name_bytes > 0 => return true,
        [b':', port @ ..] if name_bytes > 0 && port.iter().all(u8::is_ascii_digit) => return true,
        _ => {}
    }
    let mut reader = HostReader::default();
    value.iter().all(|byte| reader.push(*byte)) && reader.is_valid()
}

/// `unreserved / sub-delims` (RFC 3986, section 2), but no comma: a parser may join several Hosts with it (RFC 9110,
/// section 5.3), and no name has one.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in [
            "a",
            "localhost:1",
            "127.0.0.1:80",
            "a.b-c_d.:",
            "[::1]",
            "[::1]:80",
            "[v1.a:b]:",
            "%c3%A9",
            "a \t",
        ] {
            assert!(is_valid_host(host.as_bytes()), "{host:?}");
        }
        let invalid = [
            "", " ", ":80", "a b", "a,b", "a:b", "a:1:2", "u@a", "a/b", "a?b", "a#b", "[::1", "::1",
            "[::1]a", "%c", "%cg", "http://a", "a\\b", "\"a\"", "<a>", "\u{e9}", "a:80,b",
        ];
        for host in invalid {
            assert!(!is_valid_host(host.as_bytes()), "{host:?}");
        }
    }
}
