//! The text form of an API key.
//!
//! ```text
//! mcp_ 0123456789AB _ 0123456789012345678901234567890123456789012 012345
//!      key id         secret, 256 bit                             CRC32 of everything before it
//! ```
//!
//! A key imported from MetaMCP keeps its form, `sk_mt_` and 64 base62 characters. Its id is derived from the whole key.
//!
//! The checksum is no protection. It lets a truncated or mistyped key be refused at no cost, and lets scanners for
//! leaked secrets recognize a key.

use std::fmt;

use zeroize::Zeroizing;

use super::mac::hmac_sha256;
use super::secrets::random_bytes;
use metamcp_core::base::{KEY_ID_BYTES, KeyId, is_base62};

/// A whole API key, just created. Shown once, wiped from memory when dropped.
pub struct ApiKey {
    text: Zeroizing<String>,
}

impl ApiKey {
    /// Creates a key from the operating system's random source.
    pub fn generate() -> Self {
        let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES));
        text.push_str(PREFIX);
        push_random(&mut text, KEY_ID_BYTES);
        text.push('_');
        push_random(&mut text, SECRET_BYTES);
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.map(char::from));
        Self { text }
    }

    /// Checks length, alphabet and checksum, in this order. Does not tell whether the key exists.
    pub fn parse(text: &str) -> Result<ParsedApiKey<'_>, MalformedApiKey> {
        if text.starts_with(IMPORTED_PREFIX) {
            return Self::parse_imported(text);
        }
        let bytes = text.as_bytes();
        if bytes.len() != KEY_BYTES {
            return Err(MalformedApiKey::Length);
        }
        let alphabet = bytes.iter().enumerate().all(|(at, &byte)| match at {
            0..PREFIX_BYTES => byte == PREFIX.as_bytes()[at],
            SEPARATOR_AT => byte == b'_',
            _ => is_base62(byte),
        });
        if !alphabet {
            return Err(MalformedApiKey::Alphabet);
        }
        if bytes[CHECKSUM_AT..] != checksum(&bytes[..CHECKSUM_AT]) {
            return Err(MalformedApiKey::Checksum);
        }
        let key_id = KeyId::parse(&text[PREFIX_BYTES..SEPARATOR_AT]).ok_or(MalformedApiKey::Alphabet)?;
        Ok(ParsedApiKey { key_id, text, secret: &bytes[SECRET_AT..CHECKSUM_AT] })
    }

    fn parse_imported(text: &str) -> Result<ParsedApiKey<'_>, MalformedApiKey> {
        let secret = &text.as_bytes()[IMPORTED_PREFIX.len()..];
        if secret.len() != IMPORTED_SECRET_BYTES {
            return Err(MalformedApiKey::Length);
        }
        if !secret.iter().copied().all(is_base62) {
            return Err(MalformedApiKey::Alphabet);
        }
        // The id has 71 bits, derived from 381 random ones: it reveals nothing of use.
        let digest = hmac_sha256(text.as_bytes(), b"metamcp/v1/imported-key-id");
        let id: String =
            digest[..KEY_ID_BYTES].iter().map(|byte| char::from(BASE62[usize::from(byte % 62)])).collect();
        let key_id = KeyId::parse(&id).ok_or(MalformedApiKey::Alphabet)?;
        Ok(ParsedApiKey { key_id, text, secret })
    }

    /// Whether a text begins like an API key, native or imported.
    pub(super) fn has_key_prefix(bytes: &[u8]) -> bool {
        [PREFIX, IMPORTED_PREFIX].iter().any(|prefix| bytes.starts_with(prefix.as_bytes()))
    }

    /// The raw key, to be shown to the person who requested it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    #[cfg(test)]
    pub(super) fn with_checksum(body: &str) -> String {
        body.chars().chain(checksum(body.as_bytes()).map(char::from)).collect()
    }

    pub(super) fn parsed(&self) -> ParsedApiKey<'_> {
        Self::parse(&self.text).expect("a generated key is well formed")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parsed().fmt(f)
    }
}

/// A text in the form of an API key. Nothing is verified yet.
#[derive(Clone, Copy)]
pub struct ParsedApiKey<'a> {
    key_id: KeyId,
    text: &'a str,
    secret: &'a [u8],
}

impl<'a> ParsedApiKey<'a> {
    /// The key that the credential claims to be.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The part that argon2 hashes.
    pub(super) fn secret(&self) -> &'a [u8] {
        self.secret
    }

    pub(super) fn as_bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for ParsedApiKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({PREFIX}{}_…)", self.key_id)
    }
}

/// Why a text is not an API key. For tests and logs: clients learn only that the key is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedApiKey {
    /// The key is truncated, or followed by more text.
    #[error("an API key has {KEY_BYTES} characters")]
    Length,
    /// A character stands where no key has it.
    #[error("an API key is `{PREFIX}`, letters and digits, `_`, letters and digits")]
    Alphabet,
    /// The key was mistyped.
    #[error("the checksum of the API key does not match: it was mistyped or altered")]
    Checksum,
}

fn push_random(text: &mut String, count: usize) {
    let end = text.len() + count;
    while text.len() < end {
        let bytes = Zeroizing::new(random_bytes::<64>());
        // Bytes beyond the last whole multiple of 62 would make the first letters more likely.
        let letters = bytes.iter().filter(|&&byte| byte < 248).map(|&byte| BASE62[usize::from(byte % 62)]);
        text.extend(letters.take(end - text.len()).map(char::from));
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut rest = crc32fast::hash(bytes);
    let mut digits = [b'0'; CHECKSUM_BYTES];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// The prefix of keys that MetaMCP created.
const IMPORTED_PREFIX: &str = "sk_mt_";
const IMPORTED_SECRET_BYTES: usize = 64;

const PREFIX: &str = "mcp_";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX_BYTES: usize = PREFIX.len();
const SEPARATOR_AT: usize = PREFIX_BYTES + KEY_ID_BYTES;
const SECRET_AT: usize = SEPARATOR_AT + 1;
/// 62^43 is just over 2^256.
const SECRET_BYTES: usize = 43;
const CHECKSUM_AT: usize = SECRET_AT + SECRET_BYTES;
/// 62^6 is over 2^32.
const CHECKSUM_BYTES: usize = 6;
const KEY_BYTES: usize = CHECKSUM_AT + CHECKSUM_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, MalformedApiKey>) {
        let parsed = ApiKey::parse(text);
        assert_eq!(
            parsed.as_ref().map(|key| key.key_id.as_str()).map_err(|error| *error),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn keys_are_told_from_what_only_looks_like_one() {
        let secret = "s".repeat(SECRET_BYTES);
        let good = ApiKey::with_checksum(&format!("mcp_0123456789Az_{secret}"));
        check(&good, Ok("0123456789Az"));
        check("", Err(MalformedApiKey::Length));
        check("mcp_", Err(MalformedApiKey::Length));
        check(&good[..KEY_BYTES - 1], Err(MalformedApiKey::Length));
        check(&format!("{good}0"), Err(MalformedApiKey::Length));
        check(&format!("{good}\n"), Err(MalformedApiKey::Length));
        check(&"é".repeat(KEY_BYTES / 2), Err(MalformedApiKey::Alphabet));
        check(&ApiKey::with_checksum(&format!("MCP_0123456789Az_{secret}")), Err(MalformedApiKey::Alphabet));
        check(&ApiKey::with_checksum(&format!("mcp_0123456789A-_{secret}")), Err(MalformedApiKey::Alphabet));
        check(&ApiKey::with_checksum(&format!("mcp_0123456789Az-{secret}")), Err(MalformedApiKey::Alphabet));
        check(
            &ApiKey::with_checksum(&format!("mcp_0123456789Az_{} ", "s".repeat(42))),
            Err(MalformedApiKey::Alphabet),
        );
        check(&format!("{}000000", &good[..CHECKSUM_AT]), Err(MalformedApiKey::Checksum));
    }

    #[test]
    fn imported_keys_keep_their_form_and_get_an_id_that_is_always_the_same() {
        let good = format!("sk_mt_{}", "aZ9".repeat(22).split_at(64).0);
        let id = ApiKey::parse(&good).unwrap().key_id;
        check(&good, Ok(id.as_str()));
        assert_eq!(ApiKey::parse(&good).unwrap().secret(), &good.as_bytes()[6..]);
        assert_ne!(ApiKey::parse(&good.replace('Z', "z")).unwrap().key_id, id);
        check("sk_mt_", Err(MalformedApiKey::Length));
        check(&good[..69], Err(MalformedApiKey::Length));
        check(&format!("{good}0"), Err(MalformedApiKey::Length));
        check(&good.replace('9', "-"), Err(MalformedApiKey::Alphabet));
        check(&format!("sk_mt_{}", "é".repeat(32)), Err(MalformedApiKey::Alphabet));
    }

    #[test]
    fn no_key_with_one_altered_byte_passes() {
        let key = ApiKey::generate();
        for at in 0..KEY_BYTES {
            for bit in 0..8 {
                let mut bytes = key.expose().as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(text) = std::str::from_utf8(&bytes) {
                    assert!(ApiKey::parse(text).is_err(), "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn keys_are_new_each_time_and_use_the_whole_alphabet() {
        let mut seen = std::collections::HashSet::new();
        let mut letters = std::collections::HashSet::new();
        for _ in 0..1_000 {
            let key = ApiKey::generate();
            assert!(ApiKey::parse(key.expose()).is_ok());
            letters.extend(key.parsed().secret().to_vec());
            assert!(seen.insert(key.parsed().key_id()));
        }
        assert_eq!(letters.len(), 62);
    }

    #[test]
    fn debug_shows_the_id_and_never_the_secret() {
        let key = ApiKey::generate();
        let id = key.parsed().key_id();
        assert_eq!(format!("{key:?} {:?}", key.parsed()), format!("ApiKey(mcp_{id}_…) ApiKey(mcp_{id}_…)"));
    }
}
