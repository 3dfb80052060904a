//! A place in a trace, as it goes over the wire (W3C Trace Context, level 2).

use std::fmt::Write as _;

/// Of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub(super) [u8; 16]);

/// Of a span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub(super) [u8; 8]);

/// A span, as others refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace that it is part of.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// Of these, [`SAMPLED`] and [`RANDOM`] are known.
    pub flags: u8,
}

/// Whoever said so recorded the span.
pub const SAMPLED: u8 = 1;

/// The last seven bytes of the trace's id are random.
pub const RANDOM: u8 = 2;

/// `00-` trace id `-` span id `-` flags.
pub const TRACEPARENT_BYTES: usize = 55;

impl Context {
    /// Reads the value of `traceparent`. What is not of the form means that there is none: a trace is begun anew.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(TRACEPARENT_BYTES)?;
        //= https://www.w3.org/TR/trace-context-2/#versioning-of-traceparent
        //# vendors MUST attempt to parse a higher version of the traceparent
        let [version] = hex(&known[..2])?;
        let is_of_form = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        if !is_of_form || [known[2], known[35], known[52]] != *b"---" {
            return None;
        }
        let (trace, span, [flags]) = (hex(&known[3..35])?, hex(&known[36..52])?, hex(&known[53..])?);
        let is_valid = trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// Whether whoever said so recorded the span.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of `traceparent`, in version 00: what is beyond it is not known to be true of this span.
    pub fn traceparent(self) -> String {
        let mut text = String::with_capacity(TRACEPARENT_BYTES);
        text.push_str("00-");
        put_hex(&mut text, &self.trace.0);
        text.push('-');
        put_hex(&mut text, &self.span.0);
        text.push('-');
        put_hex(&mut text, &[self.flags]);
        text
    }
}

fn put_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

/// In lower case: the specification knows no other.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        let found = Context::parse(value.as_bytes()).map(Context::traceparent);
        assert_eq!(found.as_deref(), expected, "{value}");
    }

    #[test]
    fn what_is_valid_is_read() {
        check(VALID, Some(VALID));
        let with_flags = |flags: &str| VALID.replace("-01", &format!("-{flags}"));
        for (flags, known) in [("00", "00"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00")] {
            check(&with_flags(flags), Some(&with_flags(known)));
        }
        // A version that is not known yet may have more behind.
        for version in ["01", "cc", "fe"] {
            let later = VALID.replacen("00", version, 1);
            check(&later, Some(VALID));
            check(&format!("{later}-what-the-future-will-be-like"), Some(VALID));
            check(&format!("{later}-"), Some(VALID));
            check(&format!("{later}."), None);
        }
    }

    #[test]
    fn what_is_not_valid_is_none() {
        for value in [
            "",
            "00",
            &VALID[..54],
            &format!("{VALID}-"),
            &format!("{VALID}-00"),
            &format!("{VALID} "),
            &format!(" {VALID}"),
            &format!("{VALID}, {VALID}"),
            &VALID.to_uppercase(),
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("00", "0g", 1),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &VALID.replace("00f067aa0ba902b7", "0000000000000000"),
            &VALID.replace("4bf9", "4BF9"),
            &VALID.replace("4bf9", ".bf9"),
            &VALID.replace("4bf9", "4bf9a"),
            &VALID.replace('-', "_"),
            &VALID.replace("-01", "-0A"),
            &VALID.replace("-01", "- 1"),
            &"\u{e4}".repeat(55),
            &"0".repeat(100_000),
        ] {
            check(value, None);
        }
        for at in 0..TRACEPARENT_BYTES {
            let mut value = VALID.as_bytes().to_vec();
            value[at] = 0xff;
            assert_eq!(Context::parse(&value), None, "at {at}");
        }
    }
}
