//! Server names for entries of `mcp.json`, whose names can be any text.

use metamcp_core::base::ServerName;

/// Derives a valid server name from any text. A pure function of the text, so that the name is the same at every
/// start.
pub fn derive_server_name(written: &str) -> String {
    let mut name = String::with_capacity(written.len().min(64));
    for c in written.chars() {
        let c = if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        // Repeated separators are merged; `__` in particular separates server from tool.
        if !(matches!(c, '-' | '_') && name.ends_with(['-', '_'])) {
            name.push(c);
        }
        if name.len() > NAME_BYTES_MAX + 1 {
            break;
        }
    }
    let name = name.trim_matches(['-', '_']);
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(name).trim_end_matches(['-', '_']);
    if name.is_empty() {
        format!("server-{:08x}", crc32fast::hash(written.as_bytes()))
    } else {
        name.to_owned()
    }
}

/// Returns the server name of an entry: its own name if that is valid, and a derived one otherwise.
pub fn server_name_for(written: &str) -> String {
    if ServerName::new(written).is_ok() { written.to_owned() } else { derive_server_name(written) }
}

/// The longest server name (`base::ServerName`); a test compares the two.
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_are_valid() {
        let check = |written: &str, expected: &str| {
            assert_eq!(derive_server_name(written), expected, "{written:?}");
            assert!(ServerName::new(&derive_server_name(written)).is_ok(), "{written:?}");
        };
        check("my server", "my-server");
        check("a__b", "a_b");
        check("_a_", "a");
        check("@scope/pkg.name", "scope-pkg-name");
        check("a _ b", "a-b");
        check("日本", "server-c7b7cdcc");
        check("", "server-00000000");
        check(&"x".repeat(100), &"x".repeat(64));
        check(&format!("{}_y", "x".repeat(63)), &"x".repeat(63));
    }
}
