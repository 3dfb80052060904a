//! The reasons for which a request is refused.

/// Why a request was not authenticated.
///
/// The text is what the client may see. An unknown key, a wrong secret and a revoked key read the same, so
/// that a client cannot learn which keys exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthDenial {
    /// The request has no credential.
    #[error("send `Authorization: Bearer` with an API key or a token, or `X-API-Key` with an API key")]
    Missing,
    /// The credential is malformed, unknown, wrong, revoked, or a key that has expired.
    #[error("the credential is not valid: it is mistyped, unknown, expired or was revoked")]
    Invalid,
    /// The access token is genuine and has expired.
    #[error("the token has expired; ask for a new one with your API key")]
    Expired,
    /// The credential could not be verified now. The client may try again.
    #[error(
        "the credential cannot be verified now: too many wait for it, or the database is away; try again in a moment"
    )]
    Busy,
    /// The certificate of the connection stands for an API key, and one of them ended.
    #[error(
        "the client certificate, or the API key that it stands for, has expired, was revoked or is unknown; ask an \
         administrator to look at both"
    )]
    Certificate,
    /// The configuration excludes the certificate of the connection.
    #[error("this client certificate is excluded here; ask an administrator, or connect with another")]
    CertificateExcluded,
    /// No usable key signs tokens, so none are issued. The client can continue with its API key.
    #[error(
        "no token can be issued: no signing key is usable now; use the API key itself, and have an administrator look \
         at /ready"
    )]
    Unsigned,
}

impl AuthDenial {
    /// The metric label of the reason.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Busy => "busy",
            Self::Certificate => "certificate",
            Self::CertificateExcluded => "certificate_excluded",
            Self::Unsigned => "unsigned",
        }
    }
}
