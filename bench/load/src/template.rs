//! Bytes that differ between calls only in the id, which has a fixed number of digits.

/// Bytes with the id of a call in some places.
pub struct CallTemplate {
    bytes: Vec<u8>,
    /// The offsets of the id, in ascending order. Invariant: each plus [`ID_DIGITS`] is at most `bytes.len()`.
    offsets: Vec<usize>,
}

/// The digits of the run, the connection and the call.
pub const ID_DIGITS: usize = RUN_DIGITS + CONNECTION_DIGITS + CALL_DIGITS;
/// The first one is not 0, since an id may be a number.
pub const RUN_DIGITS: usize = 4;
const CONNECTION_DIGITS: usize = 3;
/// An hour on one connection makes some ten million calls.
const CALL_DIGITS: usize = 8;

impl CallTemplate {
    /// Creates a template. `id` is the placeholder in `bytes`.
    pub fn new(bytes: Vec<u8>, id: &str) -> Self {
        let offsets = memchr::memmem::find_iter(&bytes, id).collect();
        Self { bytes, offsets }
    }

    /// Fills in the id of a call.
    pub fn set_id(&mut self, run: &str, connection: u16, call: u32) {
        let id = format!("{run}{connection:0CONNECTION_DIGITS$}{call:0CALL_DIGITS$}");
        for &offset in &self.offsets {
            self.bytes[offset..offset + ID_DIGITS].copy_from_slice(id.as_bytes());
        }
    }

    /// The bytes with the current id.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_set_everywhere() {
        let check = |text: &str, expected: &str| {
            let mut template = CallTemplate::new(text.into(), "100000000000000");
            template.set_id("4321", 7, 65);
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
