//! The header `traceparent` (W3C Trace Context, level 2).

use std::fmt::Write as _;

/// The id of a trace. Not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub(super) [u8; 16]);

/// The id of a span. Not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub(super) [u8; 8]);

/// The identity of a span, as it is passed from one process to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: TraceId,
    pub span: SpanId,
    /// [`SAMPLED`] and [`RANDOM`]; unknown flags are cleared.
    pub flags: u8,
}

/// The flag of a span that its process records.
pub const SAMPLED: u8 = 1;

/// The flag of a trace id whose last seven bytes are random.
pub const RANDOM: u8 = 2;

/// The length of version 00: `00-` trace id `-` span id `-` flags.
pub const TRACEPARENT_BYTES: usize = 55;

impl TraceId {
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TraceContext {
    /// Parses the value of `traceparent`. `None` for an invalid value, which is treated as a missing one: a new trace starts.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (fixed, rest) = value.split_at_checked(TRACEPARENT_BYTES)?;
        //= https://www.w3.org/TR/trace-context-2/#versioning-of-traceparent
        //# vendors MUST attempt to parse a higher version of the traceparent
        let [version] = parse_hex(&fixed[..2])?;
        let is_well_formed = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        if !is_well_formed || [fixed[2], fixed[35], fixed[52]] != *b"---" {
            return None;
        }
        let (trace, span, [flags]) =
            (parse_hex(&fixed[3..35])?, parse_hex(&fixed[36..52])?, parse_hex(&fixed[53..])?);
        let is_valid = trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// Whether the process that sent the context records the span.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Formats the value of `traceparent` in version 00. Fields of later versions are not passed on: they described the parent.
    pub fn traceparent(self) -> String {
        let mut text = String::with_capacity(TRACEPARENT_BYTES);
        text.push_str("00-");
        push_hex(&mut text, &self.trace.0);
        text.push('-');
        push_hex(&mut text, &self.span.0);
        text.push('-');
        push_hex(&mut text, &[self.flags]);
        text
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

/// Parses lower-case hexadecimal digits; the specification allows no others.
fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
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
        let found = TraceContext::parse(value.as_bytes()).map(TraceContext::traceparent);
        assert_eq!(found.as_deref(), expected, "{value}");
    }

    #[test]
    fn valid_values_are_parsed() {
        check(VALID, Some(VALID));
        let with_flags = |flags: &str| VALID.replace("-01", &format!("-{flags}"));
        for (flags, known) in [("00", "00"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00")] {
            check(&with_flags(flags), Some(&with_flags(known)));
        }
        // A later version may have further fields.
        for version in ["01", "cc", "fe"] {
            let later = VALID.replacen("00", version, 1);
            check(&later, Some(VALID));
            check(&format!("{later}-what-the-future-will-be-like"), Some(VALID));
            check(&format!("{later}-"), Some(VALID));
            check(&format!("{later}."), None);
        }
    }

    #[test]
    fn invalid_values_are_rejected() {
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
            assert_eq!(TraceContext::parse(&value), None, "at {at}");
        }
    }
}
