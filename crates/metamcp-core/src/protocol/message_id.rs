/// Whether two raw JSON ids are equal (JSON-RPC 2.0, section 4). A string may be escaped in several ways.
pub fn is_same_id(one: &[u8], other: &[u8]) -> bool {
    let text = |raw| serde_json::from_slice::<String>(raw).ok();
    one == other || text(one).is_some_and(|one| text(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_compared_by_value() {
        let check = |one: &str, other: &str, expected: bool| {
            assert_eq!(is_same_id(one.as_bytes(), other.as_bytes()), expected, "{one} {other}");
        };
        check("1", "1", true);
        check("1", "\"1\"", false);
        check(r#""a""#, r#""\u0061""#, true);
        check(r#""a""#, r#""b""#, false);
        check("", "", true);
    }
}
