//! The header fields of a request that the gateway uses, found in one pass.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use metamcp_core::frame::Span;
use metamcp_core::protocol::header;
use metamcp_http::UpstreamRequest;

/// The header fields of one request. Clones share the text. Boxed, since they are passed through a dozen
/// functions.
#[derive(Clone)]
pub struct Fields(Box<FieldSpans>);

#[derive(Clone)]
struct FieldSpans {
    /// The text that the spans refer to: the received head, or a copy of the relevant fields.
    text: Bytes,
    /// The spans of the values, indexed by [`Field`]. [`ABSENT`] for fields that were not sent.
    values: [Span; Field::COUNT],
    /// One bit per field that was sent more than once.
    doubled: u32,
    /// The names and values of `Mcp-Param-*` fields.
    params: Vec<(Span, Span)>,
}

const ABSENT: Span = Span { start: u32::MAX, end: 0 };

/// A header field that the gateway uses. All others are neither read nor forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    Accept,
    Authorization,
    Baggage,
    ContentEncoding,
    ContentLength,
    ContentType,
    Host,
    LastEventId,
    McpMethod,
    McpName,
    McpProtocolVersion,
    McpSessionId,
    Origin,
    Traceparent,
    Tracestate,
    XApiKey,
}

/// What the name of a header field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldName {
    Known(Field),
    /// The header of a parameter, `Mcp-Param-*`.
    Param,
    Other,
}

impl FieldName {
    pub fn of(name: &[u8]) -> Self {
        match Field::named(name) {
            Some(field) => Self::Known(field),
            None if is_param(name) => Self::Param,
            None => Self::Other,
        }
    }
}

impl Field {
    const COUNT: usize = Self::XApiKey as usize + 1;

    /// The fields that are forwarded to servers, besides `Mcp-Param-*`. Credentials, cookies and hop-by-hop
    /// fields are not.
    const FORWARDED: [(Self, HeaderName); 6] = [
        (Self::McpProtocolVersion, header::PROTOCOL_VERSION),
        (Self::McpMethod, header::METHOD),
        (Self::McpName, header::NAME),
        (Self::Traceparent, HeaderName::from_static("traceparent")),
        (Self::Tracestate, HeaderName::from_static("tracestate")),
        (Self::Baggage, HeaderName::from_static("baggage")),
    ];

    /// Finds a field by its name, ignoring case.
    fn named(name: &[u8]) -> Option<Self> {
        // The length and the first letter leave at most one candidate.
        let (usual, field) = match (name.len(), name.first()?.to_ascii_lowercase()) {
            (4, b'h') => ("Host", Self::Host),
            (6, b'a') => ("Accept", Self::Accept),
            (6, b'o') => ("Origin", Self::Origin),
            (7, b'b') => ("baggage", Self::Baggage),
            (8, b'm') => ("Mcp-Name", Self::McpName),
            (9, b'x') => ("X-API-Key", Self::XApiKey),
            (10, b'm') => ("Mcp-Method", Self::McpMethod),
            (10, b't') => ("tracestate", Self::Tracestate),
            (11, b't') => ("traceparent", Self::Traceparent),
            (12, b'c') => ("Content-Type", Self::ContentType),
            (13, b'a') => ("Authorization", Self::Authorization),
            (13, b'l') => ("Last-Event-ID", Self::LastEventId),
            (14, b'c') => ("Content-Length", Self::ContentLength),
            (14, b'm') => ("Mcp-Session-Id", Self::McpSessionId),
            (16, b'c') => ("Content-Encoding", Self::ContentEncoding),
            (20, b'm') => ("MCP-Protocol-Version", Self::McpProtocolVersion),
            _ => return None,
        };
        // The spelling of the specification is the most common and needs no case folding.
        (name == usual.as_bytes() || name.eq_ignore_ascii_case(usual.as_bytes())).then_some(field)
    }

    /// Whether several values are equivalent to one, separated by commas (RFC 9110, section 5.3; W3C Trace
    /// Context, Baggage).
    fn is_list(self) -> bool {
        matches!(self, Self::Accept | Self::Tracestate | Self::Baggage)
    }
}

impl Fields {
    /// Starts without fields. Spans that are added later refer to `text`.
    pub fn of(text: Bytes) -> Self {
        Self(Box::new(FieldSpans { text, values: [ABSENT; Field::COUNT], doubled: 0, params: Vec::new() }))
    }

    /// Adds a field whose name and value lie in the text.
    pub fn add(&mut self, name: Span, value: Span) {
        let kind = FieldName::of(name.slice(&self.0.text));
        self.add_kind(kind, name, value);
    }

    /// Adds a field of this name. `name` and `value` are where they lie in the text, which may be set later.
    pub fn add_kind(&mut self, kind: FieldName, name: Span, value: Span) {
        match kind {
            FieldName::Known(field) => {
                let place = &mut self.0.values[field as usize];
                if *place == ABSENT {
                    *place = value;
                } else {
                    self.0.doubled |= 1 << field as u32;
                }
            }
            FieldName::Param => self.0.params.push((name, value)),
            FieldName::Other => {}
        }
    }

    /// Sets the text that the spans refer to.
    pub fn set_text(&mut self, text: Bytes) {
        self.0.text = text;
    }

    /// Collects the fields of a head that hyper parsed, and copies their text.
    pub fn from_map(headers: &HeaderMap) -> Self {
        let mut text = BytesMut::with_capacity(TEXT_BYTES_USUAL);
        let mut found = Vec::with_capacity(FIELDS_USUAL);
        let put = |text: &mut BytesMut, part: &[u8]| {
            let start = span_end(text);
            text.put_slice(part);
            Span { start, end: span_end(text) }
        };
        for name in headers.keys() {
            let field = Field::named(name.as_str().as_bytes());
            if field.is_none() && !is_param(name.as_str().as_bytes()) {
                continue;
            }
            let name_span = put(&mut text, name.as_str().as_bytes());
            if field.is_some_and(Field::is_list) {
                let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                found.push((name_span, put(&mut text, &values.join(&b", "[..]))));
                continue;
            }
            for value in headers.get_all(name) {
                found.push((name_span, put(&mut text, value.as_bytes())));
            }
        }
        let mut fields = Self::of(text.freeze());
        for (name, value) in found {
            fields.add(name, value);
        }
        fields
    }

    /// The value of a field. The first one if it was sent more than once.
    pub fn get(&self, field: Field) -> Option<&[u8]> {
        let span = self.0.values[field as usize];
        (span != ABSENT).then(|| span.slice(&self.0.text))
    }

    /// The value of a field, if it is visible ASCII (RFC 9110, section 5.5).
    pub fn text(&self, field: Field) -> Option<&str> {
        let value = self.get(field)?;
        let is_visible = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        is_visible.then(|| std::str::from_utf8(value).ok()).flatten()
    }

    pub fn has(&self, field: Field) -> bool {
        self.0.values[field as usize] != ABSENT
    }

    pub fn is_doubled(&self, field: Field) -> bool {
        self.0.doubled & (1 << field as u32) != 0
    }

    /// Replaces the value of a field, or removes it. Copies the text.
    pub fn replace(&mut self, field: Field, value: Option<&[u8]>) {
        self.0.doubled &= !(1 << field as u32);
        let Some(value) = value else {
            self.0.values[field as usize] = ABSENT;
            return;
        };
        let mut text = BytesMut::with_capacity(self.0.text.len() + value.len());
        text.put_slice(&self.0.text);
        let start = span_end(&text);
        text.put_slice(value);
        self.0.values[field as usize] = Span { start, end: span_end(&text) };
        self.0.text = text.freeze();
    }

    /// Whether any field was sent more than once.
    pub fn any_doubled(&self) -> bool {
        self.0.doubled != 0
    }

    /// The value of a field, for forwarding.
    pub fn value(&self, field: Field) -> Option<HeaderValue> {
        let span = self.0.values[field as usize];
        (span != ABSENT).then(|| self.shared(span)).flatten()
    }

    /// The fields to forward: the names, and the spans of the values.
    fn seen(&self) -> impl Iterator<Item = (HeaderName, Span)> + '_ {
        let known = Field::FORWARDED.into_iter().map(|(field, name)| (name, self.0.values[field as usize]));
        let params = self.0.params.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.slice(&self.0.text)).ok()?;
            Some((name, *value))
        });
        known.filter(|(_, value)| *value != ABSENT).chain(params)
    }

    /// The fields to forward.
    pub fn forwarded(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        self.seen().filter_map(|(name, value)| Some((name, self.shared(value)?)))
    }

    /// Adds the fields to forward to an upstream request. `original_name` replaces the value of `Mcp-Name`.
    pub fn copy_to(&self, request: &mut UpstreamRequest, original_name: Option<&[u8]>) {
        self.seen().for_each(|(name, sent)| {
            let value = original_name.filter(|_| name == header::NAME).unwrap_or(sent.slice(&self.0.text));
            request.put_header(name.as_str(), value);
        });
    }

    fn shared(&self, span: Span) -> Option<HeaderValue> {
        let range = span.start as usize..span.end as usize;
        HeaderValue::from_maybe_shared(self.0.text.slice(range)).ok()
    }
}

/// Initial capacities, sufficient for a common request.
const FIELDS_USUAL: usize = 12;
const TEXT_BYTES_USUAL: usize = 512;

fn is_param(name: &[u8]) -> bool {
    let prefix = header::PARAM_PREFIX.as_bytes();
    name.len() > prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix)
}

/// A head is bounded far below 4 GiB.
fn span_end(text: &BytesMut) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

#[cfg(any(test, feature = "fuzzing"))]
impl Field {
    /// All fields, in the order of their indexes.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Accept,
        Self::Authorization,
        Self::Baggage,
        Self::ContentEncoding,
        Self::ContentLength,
        Self::ContentType,
        Self::Host,
        Self::LastEventId,
        Self::McpMethod,
        Self::McpName,
        Self::McpProtocolVersion,
        Self::McpSessionId,
        Self::Origin,
        Self::Traceparent,
        Self::Tracestate,
        Self::XApiKey,
    ];
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const NAMES: [&str; 20] = [
        "Accept",
        "Authorization",
        "baggage",
        "Content-Encoding",
        "Content-Length",
        "Content-Type",
        "HOST",
        "Last-Event-ID",
        "Mcp-Method",
        "mcp-name",
        "MCP-Protocol-Version",
        "Mcp-Session-Id",
        "Origin",
        "traceparent",
        "TraceState",
        "X-API-Key",
        "Mcp-Param-",
        "Mcp-Param-One",
        "MCP-PARAM-TWO",
        "Cookie",
    ];

    /// Reads the same head as the fast lane does and as hyper does.
    fn read_both(lines: &[(&str, Vec<u8>)]) -> (Fields, Fields) {
        let mut text = BytesMut::new();
        let mut spans = Vec::new();
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let mut put = |part: &[u8]| {
                let start = span_end(&text);
                text.put_slice(part);
                Span { start, end: span_end(&text) }
            };
            spans.push((put(name.as_bytes()), put(value)));
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        let mut noted = Fields::of(text.freeze());
        for (name, value) in spans {
            noted.add(name, value);
        }
        (noted, Fields::from_map(&map))
    }

    fn check(lines: &[(&str, Vec<u8>)]) {
        let (noted, mapped) = read_both(lines);
        for field in Field::ALL {
            // A repeated list field is joined in one case, and left to hyper in the other.
            if !(field.is_list() && noted.is_doubled(field)) {
                assert_eq!(noted.get(field), mapped.get(field), "{field:?} of {lines:?}");
                assert_eq!(noted.text(field), mapped.text(field), "{field:?} of {lines:?}");
                assert_eq!(noted.is_doubled(field), mapped.is_doubled(field), "{field:?} of {lines:?}");
            }
            assert_eq!(noted.has(field), mapped.has(field), "{field:?} of {lines:?}");
        }
        if !noted.any_doubled() {
            let sorted = |fields: &Fields| {
                let mut forwarded: Vec<_> = fields
                    .forwarded()
                    .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                    .collect();
                forwarded.sort();
                forwarded
            };
            assert_eq!(sorted(&noted), sorted(&mapped), "{lines:?}");
        }
    }

    #[test]
    fn each_name_is_found() {
        for (field, name) in Field::ALL.into_iter().zip(NAMES) {
            assert_eq!(Field::named(name.as_bytes()), Some(field), "{name}");
            check(&[(name, b"x".to_vec())]);
            check(&[(name, b"x".to_vec()), (name, Vec::new())]);
        }
        assert_eq!(Field::named(b"mcp_name"), None);
        assert!(!is_param(b"Mcp-Param-") && is_param(b"mcp-param-x"));
    }

    #[test]
    fn a_field_is_replaced() {
        let (fields, _) = read_both(&[("Host", b"a".to_vec()), ("tracestate", b"x=1".to_vec())]);
        for value in [None, Some(&b"y=2"[..])] {
            let mut replaced = fields.clone();
            replaced.replace(Field::Tracestate, value);
            replaced.replace(Field::Traceparent, value);
            for field in [Field::Tracestate, Field::Traceparent] {
                assert_eq!((replaced.get(field), replaced.has(field)), (value, value.is_some()));
            }
            assert_eq!(replaced.get(Field::Host), Some(&b"a"[..]));
        }
        let (mut doubled, _) = read_both(&[("traceparent", b"a".to_vec()), ("traceparent", b"b".to_vec())]);
        doubled.replace(Field::Traceparent, Some(b"c"));
        assert_eq!((doubled.get(Field::Traceparent), doubled.any_doubled()), (Some(&b"c"[..]), false));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn both_ways_find_the_same(
            lines in vec((select(NAMES.to_vec()), vec(select((b' '..=b'~').chain([b'\t', 0x80, 0xff]).collect::<Vec<u8>>()), 0..8)), 0..12)
        ) {
            check(&lines);
        }
    }
}
