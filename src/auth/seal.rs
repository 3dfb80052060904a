//! Authenticated encryption at rest and of what clients carry for us.
//!
//! ```text
//! sealed = version (1 byte) | nonce (24 bytes, random) | ciphertext | tag (16 bytes)
//! ```
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): its nonce is long enough to be random. Each purpose and
//! version has a sub-key of its own, derived once by HKDF-SHA256 (RFC 5869), so that what was sealed for one
//! purpose can never be opened for another.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::EncryptionKey;
use super::secrets::random_bytes;
use super::tag::Tagger;

/// What a sealed value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An API key in the store, with the hash of its secret.
    KeyRow,
    /// A session id.
    Session,
    /// `requestState` of a call that waits for input.
    RequestState,
    /// The id of an event in a resumable stream.
    EventId,
    /// The last keyring, on disk.
    KeyringSnapshot,
    /// The last servers and endpoints of the store, on disk.
    TopologySnapshot,
    /// A server in the store, with its headers and environment.
    ServerSecrets,
    /// A key that signs tokens, in the store.
    JwtKey,
    /// An endpoint in the store.
    EndpointRow,
    /// What was approved of a server's tools, in the store.
    ToolPins,
}

impl Purpose {
    const ALL: [Self; 10] = [
        Self::KeyRow,
        Self::Session,
        Self::RequestState,
        Self::EventId,
        Self::KeyringSnapshot,
        Self::TopologySnapshot,
        Self::ServerSecrets,
        Self::JwtKey,
        Self::EndpointRow,
        Self::ToolPins,
    ];

    /// Part of what is at rest: never to be changed.
    fn label(self) -> &'static [u8] {
        match self {
            Self::KeyRow => b"metamcp/v1/key-row",
            Self::Session => b"metamcp/v1/session",
            Self::RequestState => b"metamcp/v1/request-state",
            Self::EventId => b"metamcp/v1/event-id",
            Self::KeyringSnapshot => b"metamcp/v1/keyring-snapshot",
            Self::TopologySnapshot => b"metamcp/v1/fleet-snapshot",
            Self::ServerSecrets => b"metamcp/v1/server-secrets",
            Self::JwtKey => b"metamcp/v1/jwt-key",
            Self::EndpointRow => b"metamcp/v1/endpoint-row",
            Self::ToolPins => b"metamcp/v1/tool-pins",
        }
    }
}

/// Seals under the first version given, opens what any version sealed. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    versions: Arc<[Version]>,
}

struct Version {
    number: u8,
    ciphers: [XChaCha20Poly1305; Purpose::ALL.len()],
    marks: Tagger,
}

impl Sealer {
    /// Derives all sub-keys; sealing and opening derive none.
    pub fn new(keys: &[EncryptionKey]) -> Result<Self, SealerError> {
        if keys.is_empty() {
            return Err(SealerError::NoKey);
        }
        let mut versions: Vec<Version> = Vec::with_capacity(keys.len());
        for key in keys {
            if versions.iter().any(|version| version.number == key.version) {
                return Err(SealerError::TwiceTheVersion(key.version));
            }
            let marks = Tagger::with_key(&sub_key(key, MARK_LABEL)[..]);
            versions.push(Version {
                number: key.version,
                ciphers: Purpose::ALL.map(|p| cipher(key, p)),
                marks,
            });
        }
        Ok(Self { versions: versions.into() })
    }

    /// `aad` is not encrypted, but must be the same when opening.
    pub fn seal(&self, purpose: Purpose, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let version = &self.versions[0];
        let nonce = random_bytes::<NONCE_BYTES>();
        let ciphertext = version.ciphers[purpose as usize]
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad })
            .expect("the cipher takes 256 GiB, and nothing we hold comes near");
        let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + ciphertext.len());
        sealed.push(version.number);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Gives back what was sealed with the same purpose and `aad`; anything else is one and the same error.
    pub fn open(&self, purpose: Purpose, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (&number, rest) = sealed.split_first().ok_or(Unsealable)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Unsealable)?;
        let version = self.versions.iter().find(|version| version.number == number).ok_or(Unsealable)?;
        version.ciphers[purpose as usize]
            .decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad })
            .map_err(|_| Unsealable)
    }

    /// A mark by which a text is known again as one of ours. The same text has the same mark, as long as the first version
    /// stays, so a client that was told it twice is told the same.
    pub fn mark(&self, text: &[u8]) -> [u8; MARK_BYTES] {
        self.versions[0].mark(text)
    }

    /// Whether a text bears the mark that any version gives it.
    pub fn bears(&self, text: &[u8], mark: &[u8]) -> bool {
        let version =
            mark.first().and_then(|number| self.versions.iter().find(|known| known.number == *number));
        version.is_some_and(|version| version.mark(text).ct_eq(mark).into())
    }

    /// Whether this version was given.
    pub fn knows(&self, version: u8) -> bool {
        self.versions.iter().any(|known| known.number == version)
    }

    /// The version that seals.
    pub fn version(&self) -> u8 {
        self.versions[0].number
    }
}

impl Version {
    /// The version's number, and the first 128 bits of HMAC-SHA256.
    fn mark(&self, text: &[u8]) -> [u8; MARK_BYTES] {
        let mut mark = [self.number; MARK_BYTES];
        mark[1..].copy_from_slice(&self.marks.tag(text).as_ref()[..MARK_BYTES - 1]);
        mark
    }
}

/// Of a mark.
const MARK_BYTES: usize = 17;

/// Part of what clients hold: never to be changed.
const MARK_LABEL: &[u8] = b"metamcp/v1/mark";

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.versions.iter().map(|version| version.number)).finish()
    }
}

/// Not sealed by us, for this purpose, with this associated data; or altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not sealed by this installation for this purpose, or altered since")]
pub struct Unsealable;

/// Encryption keys that cannot be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealerError {
    /// None given.
    #[error("no ENCRYPTION_KEY; make one with `openssl rand -base64 32`")]
    NoKey,
    /// Which of the two opens what is at rest?
    #[error("ENCRYPTION_KEY names version {0} twice; give each key a version of its own")]
    TwiceTheVersion(u8),
}

fn cipher(key: &EncryptionKey, purpose: Purpose) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(*sub_key(key, purpose.label())).into())
}

fn sub_key(key: &EncryptionKey, label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut sub_key = Zeroizing::new([0; 32]);
    // The version is bound as well: the same key under another number opens nothing.
    Hkdf::<Sha256>::new(None, &key.key[..])
        .expand_multi_info(&[label, &[0, key.version]], &mut sub_key[..])
        .expect("32 bytes are one block of the 255 that HKDF gives");
    sub_key
}

const NONCE_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(version: u8, fill: u8) -> EncryptionKey {
        EncryptionKey { version, key: Zeroizing::new([fill; 32]) }
    }

    #[track_caller]
    fn check(sealer: &Sealer, purpose: Purpose, aad: &str, boxed: &[u8], expected: Result<&str, Unsealable>) {
        let opened = sealer.open(purpose, aad.as_bytes(), boxed);
        assert_eq!(opened, expected.map(|text| text.as_bytes().to_vec()));
    }

    #[test]
    fn only_the_same_purpose_data_and_key_open() {
        let one = Sealer::new(&[key(1, 7)]).unwrap();
        let boxed = one.seal(Purpose::Session, b"row", b"secret");
        check(&one, Purpose::Session, "row", &boxed, Ok("secret"));
        check(&one, Purpose::Session, "other row", &boxed, Err(Unsealable));
        for other in Purpose::ALL.into_iter().filter(|other| *other != Purpose::Session) {
            check(&one, other, "row", &boxed, Err(Unsealable));
        }
        let both = Sealer::new(&[key(2, 9), key(1, 7)]).unwrap();
        check(&both, Purpose::Session, "row", &boxed, Ok("secret"));
        assert_eq!(both.seal(Purpose::Session, b"", b"")[0], 2);
        check(&Sealer::new(&[key(2, 7)]).unwrap(), Purpose::Session, "row", &boxed, Err(Unsealable));
        check(&Sealer::new(&[key(1, 8)]).unwrap(), Purpose::Session, "row", &boxed, Err(Unsealable));
        let mut renumbered = boxed.clone();
        renumbered[0] = 2;
        let same_key_twice = Sealer::new(&[key(1, 7), key(2, 7)]).unwrap();
        check(&same_key_twice, Purpose::Session, "row", &renumbered, Err(Unsealable));
    }

    #[test]
    fn nothing_altered_or_cut_opens_at_any_offset() {
        let sealer = Sealer::new(&[key(1, 7), key(0, 9), key(3, 11)]).unwrap();
        let boxed = sealer.seal(Purpose::KeyRow, b"row", b"secret");
        for at in 0..boxed.len() {
            check(&sealer, Purpose::KeyRow, "row", &boxed[..at], Err(Unsealable));
            for bit in 0..8 {
                let mut altered = boxed.clone();
                altered[at] ^= 1 << bit;
                check(&sealer, Purpose::KeyRow, "row", &altered, Err(Unsealable));
            }
        }
        check(&sealer, Purpose::KeyRow, "row", &[&boxed[..], &[0]].concat(), Err(Unsealable));
    }

    #[test]
    fn the_same_text_is_sealed_differently_each_time() {
        let sealer = Sealer::new(&[key(1, 7)]).unwrap();
        assert_ne!(sealer.seal(Purpose::Session, b"", b"x"), sealer.seal(Purpose::Session, b"", b"x"));
    }

    #[test]
    fn encryption_keys_that_contradict_each_other_are_refused() {
        assert_eq!(Sealer::new(&[]).unwrap_err(), SealerError::NoKey);
        assert_eq!(Sealer::new(&[key(3, 1), key(3, 2)]).unwrap_err(), SealerError::TwiceTheVersion(3));
    }

    #[test]
    fn each_purpose_has_the_place_it_is_looked_up_at() {
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose as usize, at);
        }
    }

    #[test]
    fn a_mark_is_of_one_text_under_one_key() {
        let sealer = Sealer::new(&[key(2, 2), key(1, 1)]).unwrap();
        let before = Sealer::new(&[key(1, 1)]).unwrap();
        let (mark, old) = (sealer.mark(b"text"), before.mark(b"text"));
        assert_eq!(mark, sealer.mark(b"text"));
        let check = |text: &[u8], mark: &[u8], expected: bool| {
            assert_eq!(sealer.bears(text, mark), expected, "{} {mark:?}", text.escape_ascii());
        };
        check(b"text", &mark, true);
        check(b"text", &old, true);
        check(b"tex", &mark, false);
        check(b"text", &mark[..16], false);
        check(b"text", &[], false);
        check(b"text", &[&[1], &mark[1..]].concat(), false);
        check(b"text", &Sealer::new(&[key(2, 3)]).unwrap().mark(b"text"), false);
    }
}
