//! The credential of a request, as sent in its headers.

use std::fmt;

use super::denial::AuthDenial;
use super::key::{ApiKey, ParsedApiKey};

/// A well-formed credential. Nothing is verified yet.
#[derive(Clone, Copy)]
pub struct Credential<'a>(pub(super) CredentialKind<'a>);

#[derive(Clone, Copy)]
pub(super) enum CredentialKind<'a> {
    Key(ParsedApiKey<'a>),
    Token(&'a str),
}

impl<'a> Credential<'a> {
    /// Parses the values of `Authorization` and `X-API-Key`. `None` when the client sent neither.
    ///
    /// `Authorization: Bearer` carries an access token or an API key, `X-API-Key` an API key. Two values that differ are
    /// refused, because which of them counts would depend on the reader. `Authorization` with another scheme, beside
    /// `X-API-Key`, is meant for a proxy in front of the gateway and is ignored.
    pub fn from_headers(
        authorization: Option<&'a [u8]>,
        x_api_key: Option<&'a [u8]>,
    ) -> Result<Option<Self>, AuthDenial> {
        match (authorization.map(bearer_value), x_api_key) {
            (None, None) => Ok(None),
            (None | Some(None), Some(key)) => Self::key(key).map(Some),
            (Some(None), None) => Err(AuthDenial::Invalid),
            (Some(Some(bearer)), Some(key)) if bearer != key => Err(AuthDenial::Invalid),
            (Some(Some(bearer)), _) => Self::bearer(bearer).map(Some),
        }
    }

    fn bearer(value: &'a [u8]) -> Result<Self, AuthDenial> {
        if ApiKey::has_key_prefix(value) {
            return Self::key(value);
        }
        if value.len() > TOKEN_BYTES_MAX || !value.iter().copied().all(is_token_byte) {
            return Err(AuthDenial::Invalid);
        }
        let token = std::str::from_utf8(value).map_err(|_| AuthDenial::Invalid)?;
        Ok(Self(CredentialKind::Token(token)))
    }

    fn key(value: &'a [u8]) -> Result<Self, AuthDenial> {
        let text = std::str::from_utf8(value).map_err(|_| AuthDenial::Invalid)?;
        let parsed = ApiKey::parse(text).map_err(|_| AuthDenial::Invalid)?;
        Ok(Self(CredentialKind::Key(parsed)))
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            CredentialKind::Key(key) => key.fmt(f),
            CredentialKind::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// The value of the scheme `Bearer`, which is case-insensitive (RFC 9110, section 11.1). `None` for another scheme.
fn bearer_value(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// A JSON Web Token is three base64url texts without padding, joined by dots (RFC 7515, sections 2 and 3.1). The decoder
/// of signatures is more lenient.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Tokens issued by this program take about 330 bytes. A longer text is not worth hashing.
const TOKEN_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(authorization: Option<&str>, x_api_key: Option<&str>, expected: &str) {
        let result = Credential::from_headers(authorization.map(str::as_bytes), x_api_key.map(str::as_bytes));
        let seen = match result {
            Ok(None) => "none",
            Ok(Some(Credential(CredentialKind::Key(_)))) => "key",
            Ok(Some(Credential(CredentialKind::Token(token)))) => token,
            Err(AuthDenial::Invalid) => "invalid",
            Err(_) => "another refusal",
        };
        assert_eq!(seen, expected, "{authorization:?} {x_api_key:?}");
    }

    #[test]
    fn headers_give_a_key_a_token_nothing_or_a_refusal() {
        let (key, other) = (ApiKey::generate(), ApiKey::generate());
        let (key, other) = (key.expose(), other.expose());
        let bearer = format!("Bearer {key}");
        check(None, None, "none");
        check(Some(&bearer), None, "key");
        check(None, Some(key), "key");
        check(Some(&bearer), Some(key), "key");
        check(Some(&bearer), Some(other), "invalid");
        check(Some("Bearer a.b.c"), Some(key), "invalid");
        check(Some("Bearer a.b.c"), None, "a.b.c");
        check(Some("bEaReR   a.b.c "), None, "a.b.c");
        check(Some("Bearera.b.c"), None, "invalid");
        for lenient in ["a.b.c d", "a.b. c", "a.b.c\t", "a.b.c=", "a.b.c+", "a.b.c/", "a.b.é", "a.b.c,"] {
            let expected = if lenient.trim_ascii() == "a.b.c" { "a.b.c" } else { "invalid" };
            check(Some(&format!("Bearer {lenient}")), None, expected);
        }
        check(Some("Bearer"), None, "invalid");
        check(Some(key), None, "invalid");
        check(Some("Basic dTpw"), None, "invalid");
        check(Some("Basic dTpw"), Some(key), "key");
        check(Some(""), None, "invalid");
        check(None, Some(""), "invalid");
        check(None, Some("a.b.c"), "invalid");
        check(Some("Bearer mcp_short"), None, "invalid");
        check(Some(&format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1))), None, "invalid");
        let bytes = Credential::from_headers(Some(b"Bearer \xff\xfe"), None);
        assert!(matches!(bytes, Err(AuthDenial::Invalid)));
    }
}
