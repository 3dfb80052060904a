//! What is stored of a key's secret, in order to verify it later.
//!
//! ```text
//! verifier  = 1 (version) | salt (16 random bytes) | prefilter tag (2 bytes) | argon2id as a PHC string
//! prefilter = the first bytes of HMAC-SHA256 (RFC 2104) of the secret under the salt
//! ```
//!
//! The verifier is sealed together with the key's row.
//!
//! The prefilter tag rejects guesses without argon2: 65,535 of 65,536 wrong secrets fail it. It does not
//! weaken the hash. Without `ENCRYPTION_KEY` it is as unreadable as the hash next to it. With it, it reveals
//! 16 bits of a secret that has 256 random bits. An attacker who measures whether argon2 ran for a guess
//! learns that the guess has the secret's tag under a salt that is never disclosed, which says nothing about
//! the next guess.

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::mac::hmac_sha256;
use super::secrets::random_bytes;

/// Verifies the secret of one key.
#[derive(Clone)]
pub struct SecretVerifier {
    salt: [u8; SALT_BYTES],
    prefilter: [u8; PREFILTER_BYTES],
    /// argon2id, as a PHC string.
    hash: Zeroizing<String>,
}

impl SecretVerifier {
    /// Hashes a secret with argon2id under random salts, with the crate's parameters (19 MiB, 2 passes, 1
    /// lane: the first choice of OWASP's password storage cheat sheet). Blocks for about 50 ms.
    pub fn from_secret(secret: &[u8]) -> Result<Self, argon2::password_hash::Error> {
        let hash = Zeroizing::new(Argon2::default().hash_password(secret)?.to_string());
        let salt = random_bytes();
        Ok(Self { salt, prefilter: prefilter_tag(&salt, secret), hash })
    }

    /// The stored form, in the clear: to be sealed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&[VERSION][..], &self.salt, &self.prefilter, self.hash.as_bytes()].concat())
    }

    /// Reads the stored form, once unsealed.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (prefilter, hash) = rest.split_first_chunk()?;
        let hash = Zeroizing::new(std::str::from_utf8(hash).ok()?.to_owned());
        Some(Self { salt: *salt, prefilter: *prefilter, hash })
    }

    /// Whether the secret may be the right one. Takes about a microsecond.
    pub fn passes_prefilter(&self, secret: &[u8]) -> bool {
        prefilter_tag(&self.salt, secret).ct_eq(&self.prefilter).into()
    }

    /// Whether the secret is the right one, by argon2 with the parameters in the hash. Blocks for about 50 ms.
    pub fn matches(&self, secret: &[u8]) -> bool {
        PasswordHash::new(&self.hash)
            .is_ok_and(|hash| Argon2::default().verify_password(secret, &hash).is_ok())
    }
}

fn prefilter_tag(salt: &[u8], secret: &[u8]) -> [u8; PREFILTER_BYTES] {
    *hmac_sha256(salt, secret).first_chunk().expect("a digest is longer than a prefilter tag")
}

/// The only version so far.
const VERSION: u8 = 1;

/// Large enough that no two keys share a salt.
const SALT_BYTES: usize = 16;

/// With two bytes, a thousand guesses a second cause one argon2 run a minute. A third byte would reveal more
/// of the secret and save next to nothing.
const PREFILTER_BYTES: usize = 2;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A well-formed verifier of no secret.
    pub fn sample_bytes() -> Vec<u8> {
        [&[VERSION][..], &[7; SALT_BYTES + PREFILTER_BYTES], b"$argon2id$"].concat()
    }

    /// `verifier` with the prefilter tag of another secret.
    pub fn with_prefilter_of(verifier: &SecretVerifier, secret: &[u8]) -> SecretVerifier {
        SecretVerifier { prefilter: prefilter_tag(&verifier.salt, secret), ..verifier.clone() }
    }

    /// Compares whether a secret passes the prefilter, and whether it matches.
    #[track_caller]
    fn check(verifier: &SecretVerifier, secret: &[u8], expected: (bool, bool)) {
        assert_eq!((verifier.passes_prefilter(secret), verifier.matches(secret)), expected);
    }

    #[test]
    fn only_the_right_secret_matches_and_few_others_pass_the_prefilter() {
        let verifier = SecretVerifier::from_secret(b"right").unwrap();
        let again = SecretVerifier::from_bytes(&verifier.to_bytes()).unwrap();
        check(&verifier, b"right", (true, true));
        check(&again, b"right", (true, true));
        let lookalike = with_prefilter_of(&again, b"other");
        check(&lookalike, b"other", (true, false));
        let guesses = (0..2_000_u32).filter(|guess| verifier.passes_prefilter(&guess.to_le_bytes())).count();
        assert!(guesses < 5, "{guesses} of 2000 wrong secrets pass");
        assert_ne!(verifier.salt, SecretVerifier::from_secret(b"right").unwrap().salt);
    }

    #[test]
    fn only_complete_bytes_of_this_version_are_read() {
        assert!(SecretVerifier::from_bytes(&sample_bytes()).is_some());
        for end in 0..=SALT_BYTES + PREFILTER_BYTES {
            assert!(SecretVerifier::from_bytes(&sample_bytes()[..end]).is_none(), "{end} bytes");
        }
        for version in (0..=u8::MAX).filter(|version| *version != VERSION) {
            let mut other = sample_bytes();
            other[0] = version;
            assert!(SecretVerifier::from_bytes(&other).is_none(), "version {version}");
        }
        assert!(SecretVerifier::from_bytes(&[&sample_bytes()[..], &[0xff]].concat()).is_none());
    }
}
