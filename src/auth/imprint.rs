//! What is kept of a key's secret, to recognise it by.
//!
//! ```text
//! imprint = 1 (version) | salt (16 bytes, random) | mark (2 bytes) | argon2id, as a PHC string    sealed for the key id
//! mark    = the first bytes of HMAC-SHA256 (RFC 2104) of the secret under the salt
//! ```
//!
//! The mark is for those who guess: 65,535 of 65,536 wrong secrets are refused by it, and argon2 need not run. It gives
//! nothing away. Without `ENCRYPTION_KEY` it is as shut as the hash beside it; with it, it tells 16 bits of a secret that
//! was drawn from 2^256. Whoever measures whether argon2 ran for a guess learns that it has the mark of the secret under
//! a salt that nobody outside knows, which says nothing about the next guess.

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::secrets::random_bytes;
use super::tag::derive;

/// What a secret is recognised by.
#[derive(Clone)]
pub struct Imprint {
    salt: [u8; SALT_BYTES],
    mark: [u8; MARK_BYTES],
    /// argon2id, as a PHC string.
    hash: Zeroizing<String>,
}

impl Imprint {
    /// Of a secret, under argon2id with the crate's parameters (19 MiB, 2 passes, 1 lane: the first choice of OWASP's
    /// cheat sheet) and random salts. Blocks for some 50 ms.
    pub fn of(secret: &[u8]) -> Result<Self, argon2::password_hash::Error> {
        let hash = Zeroizing::new(Argon2::default().hash_password(secret)?.to_string());
        let salt = random_bytes();
        Ok(Self { salt, mark: mark(&salt, secret), hash })
    }

    /// As it is sealed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&[VERSION][..], &self.salt, &self.mark, self.hash.as_bytes()].concat())
    }

    /// As it was sealed.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (mark, hash) = rest.split_first_chunk()?;
        let hash = Zeroizing::new(std::str::from_utf8(hash).ok()?.to_owned());
        Some(Self { salt: *salt, mark: *mark, hash })
    }

    /// Whether a secret could be the one, which takes a microsecond to say.
    pub fn may_be(&self, secret: &[u8]) -> bool {
        mark(&self.salt, secret).ct_eq(&self.mark).into()
    }

    /// Whether a secret is the one, by argon2 with the parameters that stand in the hash. Blocks for some 50 ms.
    pub fn is(&self, secret: &[u8]) -> bool {
        PasswordHash::new(&self.hash)
            .is_ok_and(|hash| Argon2::default().verify_password(secret, &hash).is_ok())
    }
}

fn mark(salt: &[u8], secret: &[u8]) -> [u8; MARK_BYTES] {
    *derive(salt, secret).first_chunk().expect("a digest is longer than a mark")
}

/// There was none before.
const VERSION: u8 = 1;

/// No two keys have the same.
const SALT_BYTES: usize = 16;

/// A thousand guesses a second have argon2 run once a minute; another byte would tell more and spare nothing.
const MARK_BYTES: usize = 2;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Of no secret at all.
    pub fn any() -> Vec<u8> {
        [&[VERSION][..], &[7; SALT_BYTES + MARK_BYTES], b"$argon2id$"].concat()
    }

    /// `imprint` with the mark of another secret.
    pub fn marked(imprint: &Imprint, secret: &[u8]) -> Imprint {
        Imprint { mark: mark(&imprint.salt, secret), ..imprint.clone() }
    }

    /// Whether a secret could be the one, and whether it is.
    #[track_caller]
    fn check(imprint: &Imprint, secret: &[u8], expected: (bool, bool)) {
        assert_eq!((imprint.may_be(secret), imprint.is(secret)), expected);
    }

    #[test]
    fn one_secret_is_the_one_and_few_others_could_be() {
        let imprint = Imprint::of(b"right").unwrap();
        let again = Imprint::read(&imprint.to_bytes()).unwrap();
        check(&imprint, b"right", (true, true));
        check(&again, b"right", (true, true));
        let lookalike = marked(&again, b"other");
        check(&lookalike, b"other", (true, false));
        let guesses = (0..2_000_u32).filter(|guess| imprint.may_be(&guess.to_le_bytes())).count();
        assert!(guesses < 5, "{guesses} of 2000 wrong secrets pass");
        assert_ne!(imprint.salt, Imprint::of(b"right").unwrap().salt);
    }

    #[test]
    fn only_what_is_whole_and_of_this_version_is_read() {
        assert!(Imprint::read(&any()).is_some());
        for end in 0..=SALT_BYTES + MARK_BYTES {
            assert!(Imprint::read(&any()[..end]).is_none(), "{end} bytes");
        }
        for version in (0..=u8::MAX).filter(|version| *version != VERSION) {
            let mut other = any();
            other[0] = version;
            assert!(Imprint::read(&other).is_none(), "version {version}");
        }
        assert!(Imprint::read(&[&any()[..], &[0xff]].concat()).is_none());
    }
}
