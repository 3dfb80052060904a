//! Prefixes the ids of server requests with the server's name.
//!
//! On an aggregate endpoint two servers may use the same id for requests to the client at the same time. Each
//! id is forwarded as `"{server}~{the raw id, base64url}"`, so that any replica can route the client's answer
//! without a table.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};

use super::tasks::TaskIdTranslation;
use crate::route::Endpoint;
use crate::session::refusal_of;
use metamcp_core::base::ServerName;
use metamcp_core::frame::{Envelope, Event, MessageKind, Scanner, Span, splice, write_event};
use metamcp_core::protocol::{AnswerMatch, McpMethod, answer_id_edit};

/// Separates the server's name from the encoded id. It cannot occur in a server's name.
const MARK: char = '~';

/// The longest raw id that is prefixed; real ids are numbers or UUIDs.
const ID_BYTES_MAX: usize = 1024;

/// The prefixed form of a raw id, as JSON.
fn prefix_id(server: &ServerName, raw: &[u8]) -> Bytes {
    format!("\"{server}{MARK}{}\"", URL_SAFE_NO_PAD.encode(raw)).into()
}

/// The server's index and the raw id, if `text` is a prefixed id of a server of the endpoint.
pub fn parse_prefixed_id(endpoint: &Endpoint, text: &str) -> Option<(usize, Bytes)> {
    if text.len() > 2 * ID_BYTES_MAX {
        return None;
    }
    let (server, raw) = text.rsplit_once(MARK)?;
    let place = endpoint.servers.iter().position(|place| place.name.as_str() == server)?;
    let raw = URL_SAFE_NO_PAD.decode(raw).ok()?;
    // Only a JSON string or integer may be spliced into a message, because only those were taken out of one.
    serde_json::from_slice::<serde_json::Value>(&raw).ok().filter(|id| id.is_string() || id.is_number())?;
    Some((place, raw.into()))
}

/// Where an event comes from, and what may be forwarded of it.
#[derive(Clone, Copy)]
pub struct EventOrigin<'a> {
    pub server: &'a ServerName,
    /// The translation of task ids, if the server supports tasks.
    pub tasks: Option<&'a TaskIdTranslation>,
    pub requests: ServerRequests,
}

/// What happens to requests of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerRequests {
    /// The client gets them.
    Forward,
    /// The gateway refuses them, because the client cannot answer.
    Refuse,
}

/// An event from one of several servers, as it is forwarded.
pub enum ForwardedEvent {
    /// No id had to change.
    Untouched(Bytes),
    Rewritten(Bytes),
    /// The message must not be forwarded.
    Dropped,
    /// As received, and it notifies that one of the server's lists changed.
    ListChanged(Bytes),
    /// A request that the server is answered in the client's place, with the answer.
    Refused(Bytes),
}

/// Prepares an event for a client of an aggregate endpoint.
///
/// Event ids are removed: they are the server's own, and another server may use the same ones. Only the first
/// answer to `awaited`, the raw id of a request, passes; it clears `awaited`. A server cannot answer a call
/// that was sent to another server.
pub fn rewrite_event(
    event: Event,
    EventOrigin { server, tasks, requests }: EventOrigin<'_>,
    awaited: &mut Option<Bytes>,
    scanner: &mut Scanner,
) -> ForwardedEvent {
    let Some(data) = event.data.filter(|data| !data.is_empty()) else { return ForwardedEvent::Dropped };
    let Ok(envelope) = scanner.scan(&data) else { return ForwardedEvent::Dropped };
    let mut id_edit = None;
    if matches!(envelope.kind, MessageKind::Response | MessageKind::Error) {
        let Some(call) = &*awaited else { return ForwardedEvent::Dropped };
        match AnswerMatch::of_envelope(&data, &envelope, call) {
            AnswerMatch::ThisCall => {}
            AnswerMatch::ErrorWithoutId => id_edit = answer_id_edit(&data, &envelope, call),
            _ => return ForwardedEvent::Dropped,
        }
        *awaited = None;
    }
    let method = envelope.method.map(|method| method.decode_bytes(&data));
    let method = method.as_deref().and_then(McpMethod::parse);
    if requests == ServerRequests::Refuse {
        if envelope.kind == MessageKind::Request {
            let refusal = refusal_of(&data, &envelope, "the client has no session, so it cannot be asked");
            return refusal
                .map_or(ForwardedEvent::Dropped, |refusal| ForwardedEvent::Refused(refusal.into()));
        }
        if method == Some(McpMethod::Cancelled) {
            // It cancels a request that the client never got.
            return ForwardedEvent::Dropped;
        }
    }
    let Some(mut edits) = edits(&envelope, method, &data, server) else { return ForwardedEvent::Dropped };
    if let Some(tasks) = tasks {
        edits.extend(tasks.edits(server, &data));
    }
    edits.extend(id_edit);
    edits.sort_by_key(|(span, _)| span.start);
    let is_written = !edits.is_empty() || event.id.is_some() || event.retry.is_some();
    let bytes = if edits.is_empty() {
        if is_written { write_event(&data) } else { complete_line_end(event.raw) }
    } else {
        let Ok(slices) = splice(&data, &edits) else { return ForwardedEvent::Dropped };
        let mut message = BytesMut::with_capacity(slices.remaining_bytes());
        slices.for_each(|slice| message.put_slice(&slice));
        write_event(&message)
    };
    match (is_list_change(method), is_written) {
        (true, _) => ForwardedEvent::ListChanged(bytes),
        (false, true) => ForwardedEvent::Rewritten(bytes),
        (false, false) => ForwardedEvent::Untouched(bytes),
    }
}

/// The spans to replace. `None` if an id is too long to be prefixed.
fn edits(
    envelope: &Envelope,
    method: Option<McpMethod>,
    data: &[u8],
    server: &ServerName,
) -> Option<Vec<(Span, Bytes)>> {
    let ids = match (envelope.kind, method) {
        (MessageKind::Request, _) => [envelope.id, envelope.params.meta.progress_token],
        (MessageKind::Notification, Some(McpMethod::Cancelled)) => [envelope.params.request_id, None],
        _ => return Some(Vec::new()),
    };
    let mut edits: Vec<(Span, Bytes)> = Vec::with_capacity(2);
    for id in ids.into_iter().flatten() {
        let raw = id.span.slice(data);
        if raw.len() > ID_BYTES_MAX {
            return None;
        }
        edits.push((id.span, prefix_id(server, raw)));
    }
    edits.sort_by_key(|(span, _)| span.start);
    Some(edits)
}

fn is_list_change(method: Option<McpMethod>) -> bool {
    matches!(
        method,
        Some(McpMethod::ToolsListChanged | McpMethod::PromptsListChanged | McpMethod::ResourcesListChanged)
    )
}

/// The bytes of an event, with the line feed that a chunk boundary cut off its last line. Without it, readers
/// that look for `\r\n\r\n` would miss the end. If lines end with carriage returns alone, an extra line feed
/// is harmless.
pub fn complete_line_end(raw: Bytes) -> Bytes {
    if !raw.ends_with(b"\r") {
        return raw;
    }
    let mut complete = BytesMut::with_capacity(raw.len() + 1);
    complete.put_slice(&raw);
    complete.put_u8(b'\n');
    complete.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{EndpointId, EndpointShape, RoutedServer};
    use crate::telemetry::metrics::LabelId;
    use metamcp_config::sections::NamePrefix;
    use metamcp_core::frame::EventReader;

    fn endpoint() -> Endpoint {
        let place = |name| RoutedServer::unfiltered(ServerName::new(name).unwrap(), 0);
        Endpoint {
            id: EndpointId(0),
            scope: "e/x".into(),
            shape: EndpointShape::Aggregate(NamePrefix::Always),
            servers: vec![place("a"), place("b")],
            label: LabelId::OTHER,
        }
    }

    #[track_caller]
    fn check(stream: &str, expected: Option<&str>) {
        check_awaiting("1", stream, expected);
    }

    #[track_caller]
    fn check_awaiting(awaited: &'static str, stream: &str, expected: Option<&str>) {
        check_origin(ServerRequests::Forward, awaited, stream, expected);
    }

    #[track_caller]
    fn check_origin(requests: ServerRequests, awaited: &'static str, stream: &str, expected: Option<&str>) {
        let mut awaited = Some(Bytes::from(awaited));
        let mut reader = EventReader::new();
        reader.push(Bytes::copy_from_slice(stream.as_bytes()));
        let event = reader.next().unwrap().expect("one event");
        let server = ServerName::new("b").unwrap();
        let origin = EventOrigin { server: &server, tasks: None, requests };
        let passed = match rewrite_event(event, origin, &mut awaited, &mut Scanner::new()) {
            ForwardedEvent::Untouched(bytes)
            | ForwardedEvent::Rewritten(bytes)
            | ForwardedEvent::ListChanged(bytes)
            | ForwardedEvent::Refused(bytes) => Some(bytes),
            ForwardedEvent::Dropped => None,
        };
        assert_eq!(passed.as_deref().map(|bytes| std::str::from_utf8(bytes).unwrap()), expected);
    }

    #[test]
    fn events_are_forwarded_with_prefixed_ids() {
        let answer = "data: {\"jsonrpc\":\"2.0\", \"id\":1,\"result\":{}}\n\n";
        check(answer, Some(answer));
        check(
            "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n",
            Some("event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"),
        );
        check(
            "data: {\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"ping\"}\n\n",
            Some("event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"b~NQ\",\"method\":\"ping\"}\n\n"),
        );
        // The reader has not seen the line feed that follows.
        check(&format!("{}\r\n\r", answer.trim_end()), Some(&format!("{}\r\n\r\n", answer.trim_end())));
        check_awaiting("2", answer, None);
        check_awaiting("\"1\"", answer, None);
        let text = "data: {\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{}}\n\n";
        check_awaiting("\"\\u0061\"", text, Some(text));
        for id in ["", "\"id\":null,"] {
            check(
                &format!("data: {{{id}\"jsonrpc\":\"2.0\",\"error\":{{\"code\":1,\"message\":\"m\"}}}}\n\n"),
                Some(
                    "event: message\ndata: {\"id\":1,\"jsonrpc\":\"2.0\",\"error\":{\"code\":1,\"message\":\"m\"}}\n\n",
                ),
            );
        }
        check("id: 1\ndata:\n\n", None);
        check(": comment\n\n", None);
        check("data: no json\n\n", None);
    }

    #[test]
    fn requests_are_refused_where_the_client_cannot_answer() {
        let check = |stream: &str, expected: Option<&str>| {
            check_origin(ServerRequests::Refuse, "1", stream, expected);
        };
        check(
            "data: {\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\"}\n\n",
            Some("{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{}}"),
        );
        check(
            "data: {\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"roots/list\"}\n\n",
            Some(
                "{\"jsonrpc\":\"2.0\",\"id\":5,\"error\":{\"code\":-32601,\"message\":\"the client has no session, so it cannot be asked\"}}",
            ),
        );
        let long = "x".repeat(ID_BYTES_MAX);
        check(&format!("data: {{\"jsonrpc\":\"2.0\",\"id\":\"{long}\",\"method\":\"ping\"}}\n\n"), None);
        check(
            "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":5}}\n\n",
            None,
        );
        for passed in ["\"id\":1,\"result\":{}", "\"method\":\"notifications/message\",\"params\":{}"] {
            let event = format!("data: {{\"jsonrpc\":\"2.0\",{passed}}}\n\n");
            check(&event, Some(&event));
        }
    }

    #[test]
    fn a_prefixed_id_is_parsed_back() {
        for raw in ["0", "\"x\"", "\"ä\\\"\"", "12345678901234567890123"] {
            let tagged = prefix_id(&ServerName::new("b").unwrap(), raw.as_bytes());
            let text: String = serde_json::from_slice(&tagged).unwrap();
            assert_eq!(
                parse_prefixed_id(&endpoint(), &text),
                Some((1, Bytes::copy_from_slice(raw.as_bytes())))
            );
        }
        for text in ["", "b~", "c~NQ", "b~!!", "b", "b~e30", "~NQ"] {
            assert_eq!(parse_prefixed_id(&endpoint(), text), None, "{text}");
        }
    }
}
