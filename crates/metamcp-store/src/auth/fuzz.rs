//! The body of the fuzz target for credentials. It panics if an invariant does not hold.

use std::sync::OnceLock;
use std::time::Duration;

use metamcp_core::base::{KeyId, is_base62};
use metamcp_core::fuzz::{Choices, alter};

use super::config::EncryptionKey;
use super::credential::{Credential, CredentialKind};
use super::identity::Identity;
use super::jwt_keyring::JwtKeyring;
use super::key::ApiKey;
use super::mac::MacKey;
use super::seal::Sealer;
use super::secrets::random_bytes;
use super::token::TokenAuthority;
use crate::store::Grants;

/// Reads a credential from headers with any values, and one that was valid before it was altered. No token is accepted
/// that was not issued.
pub fn credential(bytes: &[u8]) {
    let (form, value) = bytes.split_first().unwrap_or((&0, &[]));
    let middle = value.len() / 2;
    match form % 4 {
        0 => check_headers(Some(value), None),
        1 => check_headers(None, Some(value)),
        2 => check_headers(Some(&value[..middle]), Some(&value[middle..])),
        _ => check_headers(Some(&[b"Bearer ", value].concat()), None),
    }
    altered_token(value);
    altered_key(value);
}

/// A sealer under a key that no input can know.
pub fn unguessable_sealer() -> &'static Sealer {
    static SEALER: OnceLock<Sealer> = OnceLock::new();
    SEALER.get_or_init(|| {
        let key = EncryptionKey { version: 1, key: random_bytes::<32>().into() };
        Sealer::new(&[key]).expect("one key contradicts none")
    })
}

fn check_headers(authorization: Option<&[u8]>, x_api_key: Option<&[u8]>) {
    let Ok(Some(credential)) = Credential::from_headers(authorization, x_api_key) else { return };
    let is_bearer =
        |value: &&[u8]| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    let sent = authorization.filter(is_bearer).map(|value| value[7..].trim_ascii());
    match credential.0 {
        CredentialKind::Key(key) => {
            let text = format!("{credential:?}");
            assert!(
                text.contains(key.key_id().as_str()) && text.ends_with("_…)"),
                "a key has no secret in logs"
            );
            assert!(
                x_api_key.is_none_or(|value| sent.is_none() || sent == Some(value)),
                "two keys that differ"
            );
        }
        CredentialKind::Token(token) => {
            assert!(sent == Some(token.as_bytes()));
            assert!(token.bytes().all(|byte| is_base62(byte) || b"-_.".contains(&byte)), "{token:?}");
            assert!(!is_accepted(token), "{token:?} was never issued");
        }
    }
}

const NOW: u64 = 1_800_000_000;

/// Signs tokens under a key that no input can know.
fn authority() -> &'static TokenAuthority {
    static AUTHORITY: OnceLock<TokenAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        TokenAuthority::new(JwtKeyring::from_secret(&random_bytes::<32>()), Duration::from_mins(15))
    })
}

/// Whether the token is accepted, with an empty cache.
fn is_accepted(token: &str) -> bool {
    let keyring = authority().keyring();
    let cached = keyring.token_cache();
    let tag = MacKey::random().tag(token.as_bytes());
    assert_eq!(cached.get(&tag), None);
    authority().verify(token, &tag, NOW).is_ok()
}

/// Only the issued token itself is accepted.
fn altered_token(bytes: &[u8]) {
    static TOKEN: OnceLock<String> = OnceLock::new();
    let token = TOKEN.get_or_init(|| {
        let key_id = KeyId::parse("AAAAAAAAAAAA").expect("it is an id");
        let identity = Identity::new(key_id, "laptop".into(), 7, &Grants::everything());
        authority().mint(&identity, None, NOW).expect("the authority has a key").access_token
    });
    let altered = alter(token.as_bytes(), &mut Choices::new(bytes));
    if let Ok(text) = std::str::from_utf8(&altered) {
        assert_eq!(is_accepted(text), text == token, "{text:?} is {token:?} altered");
    }
}

/// A key is accepted in one form only, and an altered one fails its checksum. Several changes may hit another checksum.
fn altered_key(bytes: &[u8]) {
    static KEY: OnceLock<ApiKey> = OnceLock::new();
    let key = KEY.get_or_init(ApiKey::generate).expose();
    let (at, byte) = (usize::from(bytes.first().copied().unwrap_or(0)), bytes.get(1).copied().unwrap_or(0));
    let mut altered = key.as_bytes().to_vec();
    if let Some(place) = altered.get_mut(at) {
        *place = byte;
    }
    let accepted = std::str::from_utf8(&altered).is_ok_and(|text| ApiKey::parse(text).is_ok());
    assert_eq!(accepted, altered == key.as_bytes(), "one altered byte");
    if let Ok(Ok(parsed)) = std::str::from_utf8(bytes).map(ApiKey::parse) {
        assert!(bytes.iter().all(|byte| is_base62(*byte) || *byte == b'_'));
        assert_eq!(
            ApiKey::parse(&format!("{}x", String::from_utf8_lossy(bytes))).ok().map(|key| key.key_id()),
            None
        );
        assert!(KeyId::parse(parsed.key_id().as_str()).is_some());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus() {
        metamcp_core::fuzz::run_corpus("credential", super::credential);
    }
}
