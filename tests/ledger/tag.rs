//! What marks a call: its tag and its canary.

use std::fmt;

use crate::random::mix;

/// Names a call: the client that sends it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    pub client: u32,
    pub sequence: u32,
}

impl Tag {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (client, sequence) = text.split_once('.')?;
        Some(Self { client: client.parse().ok()?, sequence: sequence.parse().ok()? })
    }

    /// Stands for the client itself, in what belongs to no call.
    pub fn of_client(client: u32) -> Self {
        Self { client, sequence: u32::MAX }
    }

    /// The bytes that nobody but this call's client may receive.
    pub fn canary(self, seed: u64) -> Canary {
        Canary(
            mix(seed ^ (u64::from(self.client) << 32 | u64::from(self.sequence)).wrapping_mul(0x9E37_79B9)),
        )
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client, self.sequence)
    }
}

/// A mark that is found in any text: [`Canary::PREFIX`] and 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Canary(pub u64);

impl Canary {
    pub const PREFIX: &str = "cny-";
    const DIGITS: usize = 16;

    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        (digits.len() == Self::DIGITS).then(|| u64::from_str_radix(digits, 16).ok().map(Self))?
    }

    /// All marks in these bytes; one that is cut off at the end is left out.
    pub fn find_all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        memchr::memmem::find_iter(bytes, Self::PREFIX).filter_map(|at| {
            let text = bytes.get(at..at + Self::PREFIX.len() + Self::DIGITS)?;
            Self::parse(std::str::from_utf8(text).ok()?)
        })
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:016x}", Self::PREFIX, self.0)
    }
}
