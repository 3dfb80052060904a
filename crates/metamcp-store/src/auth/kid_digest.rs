//! A short name for a token signing key.

use super::mac::hmac_sha256;

/// A digest of a kid, so that an identity can name the key that signed its token without an allocation. Only
/// administrators choose kids, so nobody looks for two with the same digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KidDigest([u8; DIGEST_BYTES]);

impl KidDigest {
    pub fn of(kid: &str) -> Self {
        let mac = hmac_sha256(kid.as_bytes(), b"metamcp/v1/kid-digest");
        Self(std::array::from_fn(|at| mac[at]))
    }
}

/// Two kids in a thousand have the same digest with a probability of less than 10^-13.
const DIGEST_BYTES: usize = 8;
