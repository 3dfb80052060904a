//! What a client sends to say who it is.

use std::fmt;

use super::denied::Denied;
use super::key::{ApiKey, Parsed};

/// A credential that has the right form. Nothing is proven yet.
#[derive(Clone, Copy)]
pub struct Credential<'a>(pub(super) Kind<'a>);

#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Key(Parsed<'a>),
    Token(&'a str),
}

impl<'a> Credential<'a> {
    /// Takes the values of `Authorization` and `X-API-Key`. `None`: the client sent neither.
    ///
    /// `Authorization: Bearer` carries a token or an API key, `X-API-Key` an API key. Two that differ are
    /// refused: which of them counts would depend on who reads them. Another scheme beside `X-API-Key` is for
    /// a proxy in front of us, and left alone.
    pub fn from_headers(
        authorization: Option<&'a [u8]>,
        x_api_key: Option<&'a [u8]>,
    ) -> Result<Option<Self>, Denied> {
        match (authorization.map(bearer), x_api_key) {
            (None, None) => Ok(None),
            (None | Some(None), Some(key)) => Self::key(key).map(Some),
            (Some(None), None) => Err(Denied::Invalid),
            (Some(Some(bearer)), Some(key)) if bearer != key => Err(Denied::Invalid),
            (Some(Some(bearer)), _) => Self::bearer(bearer).map(Some),
        }
    }

    fn bearer(value: &'a [u8]) -> Result<Self, Denied> {
        if ApiKey::is_meant(value) {
            return Self::key(value);
        }
        if value.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Invalid);
        }
        let token = std::str::from_utf8(value).map_err(|_| Denied::Invalid)?;
        Ok(Self(Kind::Token(token)))
    }

    fn key(value: &'a [u8]) -> Result<Self, Denied> {
        let text = std::str::from_utf8(value).map_err(|_| Denied::Invalid)?;
        let parsed = ApiKey::parse(text).map_err(|_| Denied::Invalid)?;
        Ok(Self(Kind::Key(parsed)))
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Key(key) => key.fmt(f),
            Kind::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// What follows the scheme `Bearer`, which is case-insensitive (RFC 9110, section 11.1); `None`: another scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Ours take some 330 bytes; what is longer is not worth hashing.
const TOKEN_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(authorization: Option<&str>, x_api_key: Option<&str>, expected: &str) {
        let result = Credential::from_headers(authorization.map(str::as_bytes), x_api_key.map(str::as_bytes));
        let seen = match result {
            Ok(None) => "none",
            Ok(Some(Credential(Kind::Key(_)))) => "key",
            Ok(Some(Credential(Kind::Token(token)))) => token,
            Err(Denied::Invalid) => "invalid",
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
        assert!(matches!(bytes, Err(Denied::Invalid)));
    }
}
