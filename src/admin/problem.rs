//! What goes wrong, as problem details (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::definition::FieldError;
use super::definition::import::under;
use crate::auth::Denied;
use crate::base::{Fault, Kind};
use crate::limits::Refused;
use crate::store::StoreError;

/// Why a request was not done. The text says what to do, and names nothing that the caller may not know.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
    more: More,
}

/// What some statuses say in a header of their own.
#[derive(Debug)]
enum More {
    Nothing,
    Allow(String),
    /// In seconds.
    RetryAfter(&'static str),
    Challenge,
    /// The rest of the request is not read.
    Close,
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The status in words.
    pub title: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: &'a str,
    /// Every field that is wrong.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    #[schema(required = false)]
    pub errors: &'a [FieldError],
}

impl Problem {
    /// With a text for the caller.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), more: More::Nothing }
    }

    /// Fields that are wrong: of a body that is JSON, or of the query.
    pub fn fields(status: StatusCode, errors: Vec<FieldError>) -> Self {
        let count = errors.len();
        let fields = if count == 1 { "field is" } else { "fields are" };
        Self { errors, ..Self::new(status, format!("{count} {fields} wrong: see `errors`")) }
    }

    /// There is no such thing, or none that this key may know of.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    /// The method is not one of those.
    pub fn wrong_method(allow: &str) -> Self {
        let detail = format!("this path takes {allow}");
        Self { more: More::Allow(allow.to_owned()), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }

    /// It may well work in a moment.
    pub fn later(detail: impl Into<String>) -> Self {
        Self { more: More::RetryAfter(RETRY_AFTER_S), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// The key that began it is good for nothing any more.
    pub fn key_over() -> Self {
        let detail = "the key was switched off or changed, or it has expired; the call may have run";
        Self { more: More::Challenge, ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    /// The body was not taken, of which the route reads so many bytes.
    pub fn unread(fault: &Fault, bytes_max: usize) -> Self {
        let (status, detail) = match fault.kind {
            Kind::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is over the limit of {bytes_max} bytes that this route has"),
            ),
            Kind::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, fault.for_client().to_owned()),
            Kind::Overloaded => return Self::later(fault.for_client()),
            _ => (StatusCode::BAD_REQUEST, fault.for_client().to_owned()),
        };
        Self { more: More::Close, ..Self::new(status, detail) }
    }

    /// The answer.
    pub fn respond(&self) -> Response<Bytes> {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let body = serde_json::to_vec(&document).expect("texts and numbers are JSON");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.more.header() {
            headers.insert(name, value);
        }
        response
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The same of a part of what was sent: pointers begin there.
    #[must_use]
    pub fn under(mut self, pointer: &str) -> Self {
        self.errors = under(pointer, self.errors);
        self
    }

    /// What is wrong, for an answer about several things.
    pub fn into_parts(self) -> (String, Vec<FieldError>) {
        (self.detail, self.errors)
    }
}

impl More {
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Nothing => None,
            Self::Allow(methods) => HeaderValue::from_str(methods).ok().map(|value| (ALLOW, value)),
            Self::RetryAfter(seconds) => Some((RETRY_AFTER, HeaderValue::from_static(seconds))),
            Self::Close => Some((CONNECTION, HeaderValue::from_static("close"))),
            Self::Challenge => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"metamcp\""))),
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        if matches!(denied, Denied::Busy | Denied::Unsigned) {
            return Self::later(denied.to_string());
        }
        Self { more: More::Challenge, ..Self::new(StatusCode::UNAUTHORIZED, denied.to_string()) }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, refused.to_string());
        Self { more: More::RetryAfter(PLACE_AFTER_S), ..problem }
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
                "a server it names was taken out in the meantime; read the servers again",
            ),
            StoreError::Invalid(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            StoreError::Unsure(_) => {
                tracing::warn!(%error, "administration may have been done: the store was lost before it said so");
                Self::later(UNSURE)
            }
            _ if error.is_away() => {
                tracing::warn!(%error, "administration is refused: the store is away");
                Self::later("the store is not available now; nothing was changed")
            }
            _ => {
                tracing::error!(%error, "administration failed in the store");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed; the gateway's log says why")
            }
        }
    }
}

/// To be looked at, before it is asked for again.
const UNSURE: &str = "the store was lost when it had been asked to keep this change, so it may have been made or not: read \
                      what is there (GET) before you send it again";

/// A database that restarts is back in a few seconds.
const RETRY_AFTER_S: &str = "5";

/// A place among a key's requests may be free in a moment: what the data plane says too.
const PLACE_AFTER_S: &str = "1";

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
    fn what_may_have_been_done_is_not_said_to_be_undone() {
        check(StoreError::Unavailable("x".into()), 503, "not available", true);
        check(StoreError::Unsure("x".into()), 503, "may have been made or not: read what is there", false);
        check(StoreError::Conflict, 412, "changed in the meantime", false);
    }
}
