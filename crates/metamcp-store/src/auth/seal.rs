//! Authenticated encryption, at rest and for state that clients carry.
//!
//! ```text
//! sealed = version (1 byte) | nonce (24 bytes, random) | ciphertext | tag (16 bytes)
//! ```
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): its nonce is long enough to be random. Each purpose and version has
//! its own sub-key, derived once by HKDF-SHA256 (RFC 5869), so that a value sealed for one purpose never opens for
//! another.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::config::EncryptionKey;
use super::mac::MacKey;
use super::secrets::random_bytes;

/// The use of a sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The row of an API key, with the verifier of its secret.
    KeyRow,
    /// An MCP session id.
    Session,
    /// The `requestState` of a call that waits for input.
    RequestState,
    /// The id of an event in a resumable stream.
    EventId,
    /// The keyring snapshot on disk.
    KeyringSnapshot,
    /// The snapshot of servers and endpoints on disk.
    TopologySnapshot,
    /// The row of a server, with its headers and environment.
    ServerSecrets,
    /// The row of a token signing key, with its secret.
    JwtKey,
    /// The row of an endpoint.
    EndpointRow,
    /// The row of a server's approved tools.
    ToolPins,
    /// The snapshot on disk of what keys with a quota used.
    QuotaSnapshot,
}

impl Purpose {
    const ALL: [Self; 11] = [
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
        Self::QuotaSnapshot,
    ];

    /// Part of the stored format: must never change.
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
            Self::QuotaSnapshot => b"metamcp/v1/quota-snapshot",
        }
    }
}

/// Seals under the first of its key versions, opens under all of them. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    versions: Arc<[VersionedKeys]>,
}

/// The keys derived from one version of `ENCRYPTION_KEY`.
struct VersionedKeys {
    number: u8,
    ciphers: [XChaCha20Poly1305; Purpose::ALL.len()],
    mac_key: MacKey,
}

impl Sealer {
    /// Derives all sub-keys, so that sealing and opening derive none.
    pub fn new(keys: &[EncryptionKey]) -> Result<Self, SealerError> {
        if keys.is_empty() {
            return Err(SealerError::NoKey);
        }
        let mut versions: Vec<VersionedKeys> = Vec::with_capacity(keys.len());
        for key in keys {
            if versions.iter().any(|version| version.number == key.version) {
                return Err(SealerError::DuplicateVersion(key.version));
            }
            let mac_key = MacKey::from_bytes(&derive_sub_key(key, MAC_LABEL)[..]);
            versions.push(VersionedKeys {
                number: key.version,
                ciphers: Purpose::ALL.map(|p| derive_cipher(key, p)),
                mac_key,
            });
        }
        Ok(Self { versions: versions.into() })
    }

    /// Encrypts `plaintext`. `aad` is authenticated but not encrypted, and must be the same when opening.
    pub fn seal(&self, purpose: Purpose, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let version = &self.versions[0];
        let nonce = random_bytes::<NONCE_BYTES>();
        let ciphertext = version.ciphers[purpose as usize]
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad })
            .expect("the cipher accepts up to 256 GiB, far more than any value here");
        let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + ciphertext.len());
        sealed.push(version.number);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Decrypts a value sealed with the same purpose and `aad`. Every failure is the same error.
    pub fn open(&self, purpose: Purpose, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, UnsealError> {
        let (&number, rest) = sealed.split_first().ok_or(UnsealError)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(UnsealError)?;
        let version = self.versions.iter().find(|version| version.number == number).ok_or(UnsealError)?;
        version.ciphers[purpose as usize]
            .decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad })
            .map_err(|_| UnsealError)
    }

    /// Authenticates a text that clients carry in the clear. Deterministic while the first version stays: a client that
    /// is given the same text twice gets the same MAC.
    pub fn mac(&self, text: &[u8]) -> [u8; MAC_BYTES] {
        self.versions[0].mac(text)
    }

    /// Whether `mac` is the MAC of `text` under any version.
    pub fn verify_mac(&self, text: &[u8], mac: &[u8]) -> bool {
        let version =
            mac.first().and_then(|number| self.versions.iter().find(|known| known.number == *number));
        version.is_some_and(|version| version.mac(text).ct_eq(mac).into())
    }

    /// Whether this version of `ENCRYPTION_KEY` was given.
    pub fn has_key_version(&self, version: u8) -> bool {
        self.versions.iter().any(|known| known.number == version)
    }

    /// The version that seals.
    pub fn current_version(&self) -> u8 {
        self.versions[0].number
    }
}

impl VersionedKeys {
    /// The version's number, then the first 128 bits of HMAC-SHA256.
    fn mac(&self, text: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = [self.number; MAC_BYTES];
        mac[1..].copy_from_slice(&self.mac_key.tag(text).as_ref()[..MAC_BYTES - 1]);
        mac
    }
}

/// One byte of version and 16 of tag.
const MAC_BYTES: usize = 17;

/// Part of what clients hold: must never change.
const MAC_LABEL: &[u8] = b"metamcp/v1/mark";

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.versions.iter().map(|version| version.number)).finish()
    }
}

/// The value was not sealed by this installation for this purpose with this associated data, or it was altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not sealed by this installation for this purpose, or altered since")]
pub struct UnsealError;

/// Encryption keys that cannot be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealerError {
    #[error("no ENCRYPTION_KEY; make one with `openssl rand -base64 32`")]
    NoKey,
    /// Two keys share a version, so which of them opens a value would be undefined.
    #[error("ENCRYPTION_KEY names version {0} twice; give each key a version of its own")]
    DuplicateVersion(u8),
}

fn derive_cipher(key: &EncryptionKey, purpose: Purpose) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(*derive_sub_key(key, purpose.label())).into())
}

fn derive_sub_key(key: &EncryptionKey, label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut sub_key = Zeroizing::new([0; 32]);
    // The version is part of the derivation: the same key under another number opens nothing.
    Hkdf::<Sha256>::new(None, &key.key[..])
        .expand_multi_info(&[label, &[0, key.version]], &mut sub_key[..])
        .expect("32 bytes are one of the 255 blocks that HKDF can give");
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
    fn check(
        sealer: &Sealer,
        purpose: Purpose,
        aad: &str,
        boxed: &[u8],
        expected: Result<&str, UnsealError>,
    ) {
        let opened = sealer.open(purpose, aad.as_bytes(), boxed);
        assert_eq!(opened, expected.map(|text| text.as_bytes().to_vec()));
    }

    #[test]
    fn only_the_same_purpose_data_and_key_open() {
        let one = Sealer::new(&[key(1, 7)]).unwrap();
        let boxed = one.seal(Purpose::Session, b"row", b"secret");
        check(&one, Purpose::Session, "row", &boxed, Ok("secret"));
        check(&one, Purpose::Session, "other row", &boxed, Err(UnsealError));
        for other in Purpose::ALL.into_iter().filter(|other| *other != Purpose::Session) {
            check(&one, other, "row", &boxed, Err(UnsealError));
        }
        let both = Sealer::new(&[key(2, 9), key(1, 7)]).unwrap();
        check(&both, Purpose::Session, "row", &boxed, Ok("secret"));
        assert_eq!(both.seal(Purpose::Session, b"", b"")[0], 2);
        check(&Sealer::new(&[key(2, 7)]).unwrap(), Purpose::Session, "row", &boxed, Err(UnsealError));
        check(&Sealer::new(&[key(1, 8)]).unwrap(), Purpose::Session, "row", &boxed, Err(UnsealError));
        let mut renumbered = boxed.clone();
        renumbered[0] = 2;
        let same_key_twice = Sealer::new(&[key(1, 7), key(2, 7)]).unwrap();
        check(&same_key_twice, Purpose::Session, "row", &renumbered, Err(UnsealError));
    }

    #[test]
    fn no_altered_or_truncated_value_opens() {
        let sealer = Sealer::new(&[key(1, 7), key(0, 9), key(3, 11)]).unwrap();
        let boxed = sealer.seal(Purpose::KeyRow, b"row", b"secret");
        for at in 0..boxed.len() {
            check(&sealer, Purpose::KeyRow, "row", &boxed[..at], Err(UnsealError));
            for bit in 0..8 {
                let mut altered = boxed.clone();
                altered[at] ^= 1 << bit;
                check(&sealer, Purpose::KeyRow, "row", &altered, Err(UnsealError));
            }
        }
        check(&sealer, Purpose::KeyRow, "row", &[&boxed[..], &[0]].concat(), Err(UnsealError));
    }

    #[test]
    fn the_same_text_is_sealed_differently_each_time() {
        let sealer = Sealer::new(&[key(1, 7)]).unwrap();
        assert_ne!(sealer.seal(Purpose::Session, b"", b"x"), sealer.seal(Purpose::Session, b"", b"x"));
    }

    #[test]
    fn encryption_keys_that_contradict_each_other_are_refused() {
        assert_eq!(Sealer::new(&[]).unwrap_err(), SealerError::NoKey);
        assert_eq!(Sealer::new(&[key(3, 1), key(3, 2)]).unwrap_err(), SealerError::DuplicateVersion(3));
    }

    #[test]
    fn each_purpose_is_the_index_of_its_cipher() {
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose as usize, at);
        }
    }

    #[test]
    fn a_mac_verifies_one_text_under_one_key() {
        let sealer = Sealer::new(&[key(2, 2), key(1, 1)]).unwrap();
        let before = Sealer::new(&[key(1, 1)]).unwrap();
        let (mac, old) = (sealer.mac(b"text"), before.mac(b"text"));
        assert_eq!(mac, sealer.mac(b"text"));
        let check = |text: &[u8], mac: &[u8], expected: bool| {
            assert_eq!(sealer.verify_mac(text, mac), expected, "{} {mac:?}", text.escape_ascii());
        };
        check(b"text", &mac, true);
        check(b"text", &old, true);
        check(b"tex", &mac, false);
        check(b"text", &mac[..16], false);
        check(b"text", &[], false);
        check(b"text", &[&[1], &mac[1..]].concat(), false);
        check(b"text", &Sealer::new(&[key(2, 3)]).unwrap().mac(b"text"), false);
    }
}
