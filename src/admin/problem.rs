//! Errors of the control plane as problem details (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::limits::{AdmissionError, QuotaExceeded};
use crate::runtime::BlockingError;
use metamcp_core::base::{Fault, FaultKind, OutOfMemory};
use metamcp_store::auth::AuthDenial;
use metamcp_store::definition::FieldError;
use metamcp_store::definition::import::prefix_pointers;
use metamcp_store::store::StoreError;

/// Why a request failed. The text says what to do, and names nothing that the caller may not know.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
    more: ExtraHeader,
}

/// A header that some problems add to the response.
#[derive(Debug)]
enum ExtraHeader {
    Nothing,
    Allow(String),
    /// The value of `Retry-After`, in seconds.
    RetryAfter(u64),
    Challenge,
    /// The rest of the request is not read.
    Close,
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: the status is the type of the problem.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The reason phrase of the status.
    pub title: &'a str,
    /// The HTTP status code.
    pub status: u16,
    /// What is wrong, and what to do about it.
    pub detail: &'a str,
    /// Every field that is invalid, not only the first.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    #[schema(required = false)]
    pub errors: &'a [FieldError],
}

impl From<OutOfMemory> for Problem {
    fn from(error: OutOfMemory) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<BlockingError> for Problem {
    fn from(error: BlockingError) -> Self {
        match error {
            BlockingError::Panicked => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the gateway failed at this unexpectedly; its log says more",
            ),
            BlockingError::Stopped => Self::unavailable(error.to_string()),
        }
    }
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), more: ExtraHeader::Nothing }
    }

    /// Invalid fields of a JSON body or of the query.
    pub fn fields(status: StatusCode, errors: Vec<FieldError>) -> Self {
        let count = errors.len();
        let fields = if count == 1 { "field is" } else { "fields are" };
        Self { errors, ..Self::new(status, format!("{count} {fields} invalid; see `errors`")) }
    }

    /// The object does not exist, or this key may not know of it.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("no such {what}"))
    }

    /// The path has other methods only.
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail = format!("this path supports {allow}");
        Self {
            more: ExtraHeader::Allow(allow.to_owned()),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        }
    }

    /// A temporary condition; the client may retry.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            more: ExtraHeader::RetryAfter(RETRY_AFTER_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// The key of an in-flight call is no longer valid.
    pub fn key_invalidated() -> Self {
        let detail = "the key was revoked or changed, or it has expired; the call may have run";
        Self { more: ExtraHeader::Challenge, ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    /// The body could not be read. `bytes_max` is the limit of the route.
    pub fn unreadable_body(fault: &Fault, bytes_max: usize) -> Self {
        let (status, detail) = match fault.kind {
            FaultKind::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body exceeds the limit of {bytes_max} bytes for this route"),
            ),
            FaultKind::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, fault.for_client().to_owned()),
            FaultKind::Overloaded | FaultKind::OutOfMemory => return Self::unavailable(fault.for_client()),
            _ => (StatusCode::BAD_REQUEST, fault.for_client().to_owned()),
        };
        Self { more: ExtraHeader::Close, ..Self::new(status, detail) }
    }

    pub fn to_response(&self) -> Response<Bytes> {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let body = serde_json::to_vec(&document).expect("strings and numbers serialize to JSON");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.more.header() {
            headers.insert(name, value);
        }
        response
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Prepends `pointer` to the pointers of the fields, for an error in a part of the body.
    #[must_use]
    pub fn below_pointer(mut self, pointer: &str) -> Self {
        self.errors = prefix_pointers(pointer, self.errors);
        self
    }

    /// Returns the text and the fields, for a report on several objects.
    pub fn into_parts(self) -> (String, Vec<FieldError>) {
        (self.detail, self.errors)
    }
}

impl ExtraHeader {
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Nothing => None,
            Self::Allow(methods) => HeaderValue::from_str(methods).ok().map(|value| (ALLOW, value)),
            Self::RetryAfter(seconds) => Some((RETRY_AFTER, HeaderValue::from(*seconds))),
            Self::Close => Some((CONNECTION, HeaderValue::from_static("close"))),
            Self::Challenge => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"metamcp\""))),
        }
    }
}

impl From<AuthDenial> for Problem {
    fn from(denied: AuthDenial) -> Self {
        if matches!(denied, AuthDenial::Busy | AuthDenial::Unsigned) {
            return Self::unavailable(denied.to_string());
        }
        if denied == AuthDenial::CertificateExcluded {
            return Self::new(StatusCode::FORBIDDEN, denied.to_string());
        }
        Self { more: ExtraHeader::Challenge, ..Self::new(StatusCode::UNAUTHORIZED, denied.to_string()) }
    }
}

impl From<AdmissionError> for Problem {
    fn from(refused: AdmissionError) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, refused.to_string());
        Self { more: ExtraHeader::RetryAfter(PERMIT_RETRY_AFTER_S), ..problem }
    }
}

impl From<QuotaExceeded> for Problem {
    fn from(exceeded: QuotaExceeded) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, exceeded.to_string());
        Self { more: ExtraHeader::RetryAfter(exceeded.retry_after_s), ..problem }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict => Self::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
            StoreError::Exists { .. } | StoreError::Closed(_) => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            StoreError::NotFound(what) => Self::not_found(what),
            StoreError::Dangling => Self::new(
                StatusCode::CONFLICT,
                "a server that it names was removed in the meantime; read the servers again",
            ),
            StoreError::Invalid(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            StoreError::Unsure(_) => {
                tracing::warn!(%error, "the store became unavailable during a write; the outcome is unknown");
                Self::unavailable(UNKNOWN_OUTCOME)
            }
            _ if error.is_away() => {
                tracing::warn!(%error, "a request of the control plane failed: the store is unavailable");
                Self::unavailable("the store is unavailable; nothing was changed")
            }
            _ => {
                tracing::error!(%error, "a request of the control plane failed: the store failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed; see the gateway's log")
            }
        }
    }
}

/// The caller should check the state before it retries.
const UNKNOWN_OUTCOME: &str = "the store became unavailable while this change was written, so it may or may not have been made; read \
                      the current state (GET) before sending it again";

/// A database that restarts is back within a few seconds.
const RETRY_AFTER_S: u64 = 5;

/// Another request of the key may complete soon. The same value as on the data plane.
const PERMIT_RETRY_AFTER_S: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: StoreError, status: u16, said: &str, changed_nothing: bool) {
        let problem = Problem::from(error);
        assert_eq!(problem.status().as_u16(), status, "{problem:?}");
        assert!(problem.detail.contains(said), "{problem:?}");
        assert_eq!(problem.detail.contains("nothing was changed"), changed_nothing, "{problem:?}");
    }

    #[test]
    fn an_unknown_outcome_is_not_reported_as_unchanged() {
        check(StoreError::Unavailable("x".into()), 503, "is unavailable", true);
        check(
            StoreError::Unsure("x".into()),
            503,
            "may or may not have been made; read the current state",
            false,
        );
        check(StoreError::Conflict, 412, "changed in the meantime", false);
    }
}
