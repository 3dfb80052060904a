//! Bytes that differ from call to call in nothing but the id, which always has as many digits.

/// See [`Template`].
pub struct Template {
    bytes: Vec<u8>,
    /// Where the id stands, in ascending order. Invariant: each plus [`ID_DIGITS`] is at most `bytes.len()`.
    places: Vec<usize>,
}

/// Of the run, of the connection and of the call, one behind the other.
pub const ID_DIGITS: usize = RUN_DIGITS + CONNECTION_DIGITS + CALL_DIGITS;
/// Four, of which the first is not 0: an id may be a number.
pub const RUN_DIGITS: usize = 4;
const CONNECTION_DIGITS: usize = 3;
/// An hour on one connection makes some ten million calls.
const CALL_DIGITS: usize = 8;

impl Template {
    /// Of bytes in which `id` stands for the call.
    pub fn new(bytes: Vec<u8>, id: &str) -> Self {
        let places = memchr::memmem::find_iter(&bytes, id).collect();
        Self { bytes, places }
    }

    /// Makes it that of a call.
    pub fn put_id(&mut self, run: &str, connection: u16, call: u32) {
        let id = format!("{run}{connection:0CONNECTION_DIGITS$}{call:0CALL_DIGITS$}");
        for &place in &self.places {
            self.bytes[place..place + ID_DIGITS].copy_from_slice(id.as_bytes());
        }
    }

    /// As it was made last.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_the_id_everywhere() {
        let check = |text: &str, expected: &str| {
            let mut template = Template::new(text.into(), "100000000000000");
            template.put_id("4321", 7, 65);
            assert_eq!(String::from_utf8_lossy(template.bytes()), expected);
        };
        check("100000000000000", "432100700000065");
        check(
            r#"{"id":100000000000000,"x":"call 100000000000000"}"#,
            r#"{"id":432100700000065,"x":"call 432100700000065"}"#,
        );
        check("10000000000000", "10000000000000");
        check("", "");
    }
}
