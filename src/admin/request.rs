//! Reads requests apart from their path: query, body and preconditions.

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::entity_tag::EntityTag;
use super::member_names::{RefusedName, check_member_names};
use super::problem::Problem;
use metamcp_config::strict_json::{self, StrictJsonError};
use metamcp_core::frame::Scanner;
use metamcp_store::definition::{FieldError, child_pointer};
use metamcp_store::store::{PAGE_ITEMS_MAX, VersionMatch};

/// The query string, read parameter by parameter.
pub struct QueryReader {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

/// The requested page of a list.
#[derive(Debug)]
pub struct PageRequest<C> {
    /// The page starts after this position.
    pub after: Option<C>,
    /// The largest number of items.
    pub items: usize,
}

impl QueryReader {
    pub fn new(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let pairs = pairs.take(PAIRS_MAX + 1).map(|(name, value)| (name.into_owned(), value.into_owned()));
        Self { pairs: pairs.collect(), errors: Vec::new() }
    }

    /// Returns the value of a parameter.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let mut found = None;
        let mut twice = false;
        self.pairs.retain_mut(|(other, value)| {
            let is_it = other == name;
            if is_it {
                twice |= found.is_some();
                found = Some(std::mem::take(value));
            }
            !is_it
        });
        if twice {
            self.fail(name, "is a duplicate");
        }
        if found.as_ref().is_some_and(|text| text.contains('\0')) {
            self.fail(name, "contains a NUL character");
        }
        found
    }

    /// Returns a whole number.
    pub fn number(&mut self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && *number <= NUMBER_MAX);
        if number.is_none() {
            self.fail(name, "is not a whole number");
        }
        number
    }

    /// Returns a value that `parse` accepts. `form` lists the accepted values.
    pub fn keyword<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>, form: &str) -> Option<T> {
        let text = self.text(name)?;
        let found = parse(&text);
        if found.is_none() {
            self.fail(name, format!("is not one of: {form}"));
        }
        found
    }

    /// Returns what `parse` makes of a value; its error says what is wrong with it.
    pub fn parsed<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|error| self.fail(name, error.to_string())).ok()
    }

    /// Returns the page requested with `limit` and `cursor`.
    pub fn page<C: DeserializeOwned>(&mut self) -> PageRequest<C> {
        let items = self.number("limit").map_or(ITEMS_DEFAULT, |n| usize::try_from(n).unwrap_or(0));
        if !(1..=PAGE_ITEMS_MAX).contains(&items) {
            self.fail("limit", format!("is not a whole number from 1 to {PAGE_ITEMS_MAX}"));
        }
        let after = self.text("cursor").and_then(|text| {
            let cursor = read_cursor(&text);
            if cursor.is_none() {
                self.fail("cursor", "is not a cursor of this list; start again without it");
            }
            cursor
        });
        PageRequest { after, items }
    }

    /// Returns all errors, including parameters that were not read.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let name: String = name.chars().take(SHOWN_CHARS_MAX).collect();
            self.fail(&name, "is not a parameter of this route");
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::fields(StatusCode::BAD_REQUEST, self.errors))
        }
    }

    fn fail(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(FieldError::new(format!("?{name}"), detail));
    }
}

/// Parses the body as JSON without duplicate members. The content type must be JSON.
pub fn json_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, Problem> {
    check_media(headers)?;
    strict_json::parse(body).map_err(unreadable_json)
}

fn unreadable_json(error: StrictJsonError) -> Problem {
    match error {
        StrictJsonError::Malformed { line, column } => Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the body is not valid JSON: line {line}, column {column}"),
        ),
        StrictJsonError::DuplicateMember(path) => refused_member(&path, DUPLICATE),
    }
}

const DUPLICATE: &str = "is a duplicate; leave one of them out";

/// The problem with the member at this path.
fn refused_member(path: &[String], detail: &str) -> Problem {
    let pointer = path.iter().fold(String::new(), |pointer, key| child_pointer(&pointer, key));
    Problem::fields(StatusCode::BAD_REQUEST, vec![FieldError::new(pointer, detail)])
}

/// Returns the body as JSON text, to be passed on as the `arguments` of a call, without the white space around it. The content
/// type must be JSON. Escaped surrogates without a partner, except in names, and numbers of any size are accepted, as in
/// messages of MCP.
pub fn arguments_body(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, Problem> {
    check_media(headers)?;
    match strict_json::parse(body) {
        Err(StrictJsonError::Malformed { .. }) if is_json_of_mcp(body) => check_names(body)?,
        parsed => drop(parsed.map_err(unreadable_json)?),
    }
    Ok(body.slice_ref(body.trim_ascii()))
}

/// Refuses duplicate members, and names that cannot be compared.
fn check_names(body: &[u8]) -> Result<(), Problem> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"));
    };
    check_member_names(text).map_err(|refused| match refused {
        RefusedName::Duplicate(path) => refused_member(&path, DUPLICATE),
        RefusedName::Unreadable(path) => {
            refused_member(&path, "has a member whose name has half of a surrogate pair")
        }
    })
}

/// Whether a text is one JSON value that a message may contain.
fn is_json_of_mcp(text: &[u8]) -> bool {
    let start = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":"#;
    let message = [&start[..], text, b"}}"].concat();
    // The scanner checks the message as a whole, so the text alone must be a value too.
    serde_json::from_slice::<&RawValue>(text).is_ok() && Scanner::new().scan(&Bytes::from(message)).is_ok()
}

/// Returns the body as text. The content type must be JSON; the text may be JSON with comments.
pub fn text_body<'a>(headers: &HeaderMap, body: &'a Bytes) -> Result<&'a str, Problem> {
    check_media(headers)?;
    std::str::from_utf8(body).map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"))
}

fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let media_types = ["application/json", "application/merge-patch+json"];
    if headers.contains_key(CONTENT_ENCODING)
        || !media_types.iter().any(|media_type| essence.eq_ignore_ascii_case(media_type))
    {
        let detail = "send `Content-Type: application/json`, and the body without a Content-Encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    Ok(())
}

/// A condition on the current state of the object that a request changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition<'a> {
    /// The request has no precondition.
    None,
    /// `If-Match: *`: the object exists.
    Exists,
    /// `If-Match`: the object has one of these `ETag`s.
    OneOf(&'a str),
    /// `If-None-Match: *`: the object does not exist.
    Absent,
}

impl<'a> Precondition<'a> {
    /// Reads the condition from the headers of a request.
    pub fn from_headers(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let single = |name: &HeaderName| -> Result<Option<&'a str>, Problem> {
            let mut values = headers.get_all(name).iter();
            let first = values.next().map(HeaderValue::to_str).transpose();
            match (first, values.next()) {
                (Ok(first), None) => Ok(first.map(str::trim)),
                _ => Err(Problem::new(StatusCode::BAD_REQUEST, format!("send one `{name}`, in ASCII"))),
            }
        };
        match (single(&IF_MATCH)?, single(&IF_NONE_MATCH)?) {
            (None, None) => Ok(Self::None),
            (Some("*"), None) => Ok(Self::Exists),
            (Some(tags), None) if !tags.is_empty() => Ok(Self::OneOf(tags)),
            (None, Some("*")) => Ok(Self::Absent),
            (Some(_), None) => {
                let detail = "`If-Match` is empty; send the ETag of the object, or `*` for any, or leave the header out";
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
            (None, Some(_)) => {
                let detail =
                    "`If-None-Match` supports only `*` here: create the object only if it does not exist";
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
            _ => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "send either `If-Match` or `If-None-Match`, not both",
            )),
        }
    }

    /// Checks the condition against the ETag and version of the object. Returns the version that the change
    /// must apply to.
    pub fn check(self, found: Option<(EntityTag, u64)>) -> Result<VersionMatch, Problem> {
        let holds = match (self, &found) {
            (Self::None, _) | (Self::Exists, Some(_)) | (Self::Absent, None) => true,
            (Self::OneOf(tags), Some((tag, _))) => tag.matches_any(tags),
            _ => false,
        };
        if !holds {
            let detail =
                "the precondition failed; read the object again and apply the change to its current state";
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
        }
        Ok(found.map_or(VersionMatch::Any, |(_, version)| VersionMatch::Version(version)))
    }
}

/// Responds with 200 and JSON.
pub fn ok_response(value: &Value) -> Response<Bytes> {
    json_response(StatusCode::OK, value)
}

pub fn json_response(status: StatusCode, value: &Value) -> Response<Bytes> {
    let mut response = json_bytes_response(Bytes::from(value.to_string()));
    *response.status_mut() = status;
    response
}

/// Responds with 200 and serialized JSON.
pub fn json_bytes_response(bytes: Bytes) -> Response<Bytes> {
    let mut response = Response::new(bytes);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Responds with JSON and an ETag.
pub fn tagged_response(status: StatusCode, value: &Value, tag: &str) -> Response<Bytes> {
    let mut response = json_response(status, value);
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Responds to a read: with 304 if the client already has this ETag.
pub fn conditional_response(headers: &HeaderMap, value: &Value, tag: &str) -> Response<Bytes> {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = |tags: &str| {
        tags.split(',').map(str::trim).any(|other| other == "*" || other.trim_start_matches("W/") == tag)
    };
    if known.into_iter().any(is_known) {
        let mut response = tagged_response(StatusCode::NOT_MODIFIED, &Value::Null, tag);
        *response.body_mut() = Bytes::new();
        response.headers_mut().remove(CONTENT_TYPE);
        return response;
    }
    tagged_response(StatusCode::OK, value, tag)
}

/// Responds with one page of a list.
pub fn page_response<C: Serialize>(items: Vec<impl Serialize>, next: Option<&C>) -> Response<Bytes> {
    let page = Page { items, next_cursor: next.map(write_cursor) };
    json_bytes_response(serde_json::to_vec(&page).expect("items and text serialize to JSON").into())
}

/// A page of a list.
#[derive(Serialize)]
struct Page<T> {
    items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

fn write_cursor<C: Serialize>(cursor: &C) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(cursor).expect("strings and numbers serialize to JSON"))
}

fn read_cursor<C: DeserializeOwned>(text: &str) -> Option<C> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|_| text.len() <= CURSOR_BYTES_MAX)?;
    // PostgreSQL cannot store a NUL in a text.
    let is_plain = !String::from_utf8_lossy(&bytes).contains("\\u0000");
    serde_json::from_slice(&bytes).ok().filter(|_| is_plain)
}

/// The default size of a page.
const ITEMS_DEFAULT: usize = 100;

/// Parameters of one request; no route has ten.
const PAIRS_MAX: usize = 32;

/// Keeps the names of parameters in errors short.
const SHOWN_CHARS_MAX: usize = 64;

/// The largest number that a column can hold.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// Enough for four names and a number.
const CURSOR_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use metamcp_store::store::{SealedValue, ServerKind, ServerRow, Uuid};

    #[track_caller]
    fn check(query: &str, expected: &[&str]) {
        let mut read = QueryReader::new(Some(query));
        let _ = (read.text("name"), read.number("from"), read.page::<String>());
        let told: Vec<String> = match read.finish() {
            Ok(()) => Vec::new(),
            Err(problem) => problem.into_parts().1.into_iter().map(|error| error.pointer).collect(),
        };
        assert_eq!(told, expected, "{query}");
    }

    #[test]
    fn every_query_error_is_reported() {
        check("", &[]);
        check("name=a%20b&from=5&limit=500", &[]);
        check(&format!("cursor={}", write_cursor(&"x")), &[]);
        check("name=a&name=b", &["?name"]);
        check("name=%00", &["?name"]);
        check("from=-1&limit=0&cursor=x", &["?from", "?limit", "?cursor"]);
        check("from=9223372036854775808&limit=501", &["?from", "?limit"]);
        check("from=+1&other=1", &["?from", "?other"]);
        check(&format!("cursor={}", write_cursor(&7)), &["?cursor"]);
        check(&format!("cursor={}", write_cursor(&"\0")), &["?cursor"]);
    }

    #[track_caller]
    fn precondition(headers: &[(HeaderName, &str)], found: Option<&ServerRow>, expected: bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().expect("a header value"));
        }
        let holds = Precondition::from_headers(&map).is_ok_and(|wanted| {
            wanted.check(found.map(|row| (EntityTag::for_server(row), row.version))).is_ok()
        });
        assert_eq!(holds, expected, "{headers:?}");
    }

    #[test]
    fn preconditions() {
        let row = |id, version| ServerRow {
            id: Uuid::from_u128(id),
            name: "a".into(),
            kind: ServerKind::Http,
            definition: json!({}),
            secrets: SealedValue::default(),
            version,
            created_at: 0,
            changed_at: 0,
        };
        let (this, later, other) = (row(1, 3), row(1, 4), row(2, 3));
        let there = Some(&this);
        let tag = EntityTag::for_server(&this).to_etag(&json!({"served": true}));
        let before =
            EntityTag::for_server(&this).to_etag(&json!({"served": false, "reason": "not served yet"}));
        // The ETag that readers see changes; the part that writers compare does not.
        assert_ne!(tag, before);
        precondition(&[(IF_MATCH, &before)], there, true);
        precondition(&[], None, true);
        precondition(&[], there, true);
        precondition(&[(IF_MATCH, "*")], there, true);
        precondition(&[(IF_MATCH, "*")], None, false);
        precondition(&[(IF_MATCH, &tag)], there, true);
        precondition(&[(IF_MATCH, &format!("\"x\", {tag}"))], there, true);
        precondition(&[(IF_MATCH, &format!("W/{tag}"))], there, false);
        precondition(&[(IF_MATCH, tag.trim_matches('"'))], there, false);
        precondition(&[(IF_MATCH, &tag)], Some(&later), false);
        precondition(&[(IF_MATCH, &tag)], Some(&other), false);
        precondition(&[(IF_MATCH, &tag)], None, false);
        precondition(&[(IF_NONE_MATCH, "*")], None, true);
        precondition(&[(IF_NONE_MATCH, "*")], there, false);
        precondition(&[(IF_NONE_MATCH, &tag)], None, false);
        precondition(&[(IF_MATCH, &tag), (IF_MATCH, &tag)], there, false);
        precondition(&[(IF_MATCH, &tag), (IF_NONE_MATCH, "*")], there, false);
    }
}
