//! Configuration of authentication, ready to use: parsed and checked by the caller.

use std::time::Duration;

use metamcp_config::sections::AuthMode;
use zeroize::Zeroizing;

/// How requests are authenticated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether clients must present a credential.
    pub mode: AuthMode,
    /// The versions of `ENCRYPTION_KEY`, newest first. They encrypt at rest and seal ids. The first one
    /// seals; all of them open.
    pub encryption_keys: Vec<EncryptionKey>,
    /// Becomes the first token signing key (HS256) when the store holds none. Without it, a random one does.
    pub jwt_secret: Option<Zeroizing<Vec<u8>>>,
    /// Lifetime of an access token.
    pub token_lifetime: Duration,
    /// Concurrent argon2 runs. Each takes one core for about 50 ms and 19 MiB of memory.
    pub hash_permits: usize,
    /// Runs first on every argon2 thread: lowers its priority below that of the threads that serve requests.
    pub hash_thread: fn(),
    /// Verifications that may wait for a permit. The next one is refused with 503.
    pub hash_queue_max: usize,
    /// How long a secret that argon2 verified is accepted without another run.
    pub verified_for: Duration,
}

/// One version of `ENCRYPTION_KEY`.
#[derive(Debug, Clone)]
pub struct EncryptionKey {
    /// Stored with every value this key sealed.
    pub version: u8,
    pub key: Zeroizing<[u8; 32]>,
}
