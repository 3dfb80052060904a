//! Trace context: which trace a message belongs to, and how it is passed on to servers.
//!
//! A client states it in a header field, in `params._meta`, or in both (MCP 2026-07-28, basic). The message
//! takes precedence: a header belongs to the HTTP exchange, and a framed stream has one header for all its
//! messages.

use std::borrow::Cow;

use memchr::{memchr, memmem};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::trace_position::Trace;
use crate::route::EndpointShape;
use crate::server::http1::fields::Field;
use crate::server::worker::Metering;
use crate::telemetry::traces::{ActiveSpan, Span, SpanKind, SpanTarget, TraceContext, truncate_text};
use metamcp_core::frame::{IdForm, Span as Place, StringSpan};
use metamcp_core::protocol::{McpMethod, Revision};

/// The trace context that a client sent.
#[derive(Default)]
struct IncomingTrace {
    in_head: Option<TraceContext>,
    in_message: Option<TraceContext>,
    state_in_message: Option<String>,
    /// The span of `traceparent` in the message.
    place: Option<Place>,
}

/// The trace members of `_meta` (MCP 2026-07-28, basic: the only names without a prefix).
#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'a RawValue>,
}

/// Bytes of `tracestate` that are always propagated (W3C Trace Context, section 3.3.1.5).
const TRACESTATE_BYTES_MAX: usize = 512;

/// Starts the span of a sampled message. From now on, what goes to servers names this span as its parent.
pub fn begin(metering: &Metering, call: &mut Call) -> Option<ActiveSpan> {
    let tracer = metering.tracer.as_ref()?;
    let incoming = IncomingTrace::of(call);
    let parent = incoming.in_message.or(incoming.in_head);
    let server = tracer.sample(parent, metering.clock.now_s())?;
    let client = tracer.child_context(server);
    // A call to one server continues from the client span; calls to several servers continue from the
    // message's span.
    let is_split = call.endpoint.shape != EndpointShape::Single
        && matches!(call.method, Some(McpMethod::Listen | McpMethod::TasksList));
    let onward = if call.is_request() && !is_split { client } else { server };
    call.fields.replace(Field::Traceparent, Some(onward.traceparent().as_bytes()));
    if incoming.in_message.is_some() || incoming.in_head.is_none() {
        // The header's `tracestate` belongs to another trace, or to none.
        let state = incoming.state_in_message.as_ref().filter(|_| incoming.in_message.is_some());
        call.fields.replace(Field::Tracestate, state.map(String::as_bytes));
    }
    let state = call.fields.text(Field::Tracestate).filter(|state| state.len() <= TRACESTATE_BYTES_MAX);
    let tracestate: Option<Box<str>> = state.map(Into::into);
    let span = Span {
        parent: parent.map(|parent| parent.span),
        is_parent_remote: parent.is_some(),
        link: incoming.in_message.and(incoming.in_head).filter(|head| incoming.in_message != Some(*head)),
        ..of_call(call, server, tracestate.clone())
    };
    call.trace = Some(Box::new(Trace { server, client, onward, tracestate, in_message: incoming.place }));
    Some(tracer.start_span(span))
}

/// Starts the span of the call to one server, with the server's own name for the requested item.
pub fn begin_exchange(
    metering: &Metering,
    call: &Call,
    server: &str,
    original_name: Option<&str>,
) -> Option<ActiveSpan> {
    let (trace, tracer) = (call.trace.as_ref()?, metering.tracer.as_ref()?);
    let span = of_call(call, trace.client, trace.tracestate.clone());
    let target = span.target.map(|target| match (target, original_name) {
        (SpanTarget::Tool(_), Some(name)) => SpanTarget::Tool(truncate_text(name)),
        (SpanTarget::Prompt(_), Some(name)) => SpanTarget::Prompt(truncate_text(name)),
        (target, None) => target,
    });
    let parent = Some(trace.server.span);
    Some(tracer.start_span(Span {
        parent,
        target,
        kind: SpanKind::Client,
        endpoint_or_server: server.into(),
        ..span
    }))
}

fn of_call(call: &Call, context: TraceContext, tracestate: Option<Box<str>>) -> Span {
    let name = || call.text(call.envelope.params.name).map(|name| truncate_text(&name));
    let method = match call.method {
        Some(method) => Cow::Borrowed(method.as_str()),
        None => Cow::Owned(truncate_text(&call.text(call.envelope.method).unwrap_or_default()).into()),
    };
    let revision = call.fields.get(Field::McpProtocolVersion).and_then(Revision::parse);
    Span {
        context,
        parent: None,
        is_parent_remote: false,
        link: None,
        tracestate,
        kind: SpanKind::Server,
        began_ns: 0,
        ended_ns: 0,
        method,
        target: match call.method {
            Some(McpMethod::ToolsCall) => name().map(SpanTarget::Tool),
            Some(McpMethod::PromptsGet) => name().map(SpanTarget::Prompt),
            _ => None,
        },
        id: call.envelope.id.map(|id| match id.form {
            IdForm::String => truncate_text(&StringSpan { span: id.span, escaped: true }.decode(&call.body)),
            IdForm::Number | IdForm::Null => {
                truncate_text(&String::from_utf8_lossy(id.span.slice(&call.body)))
            }
        }),
        protocol: revision.map(Revision::as_str),
        endpoint_or_server: truncate_text(&call.endpoint.display_name()),
        outcome: "",
        error: None,
        code: None,
    }
}

impl IncomingTrace {
    fn of(call: &Call) -> Self {
        let in_head =
            call.fields.get(Field::Traceparent).filter(|_| !call.fields.is_doubled(Field::Traceparent));
        let incoming = Self { in_head: in_head.and_then(TraceContext::parse), ..Self::default() };
        let Some(meta) = call.envelope.params.meta.object.map(|place| place.slice(&call.body)) else {
            return incoming;
        };
        // Most messages have no trace context. A name that is written with escapes contains a backslash.
        if memmem::find(meta, b"traceparent").is_none() && memchr(b'\\', meta).is_none() {
            return incoming;
        }
        let Ok(meta) = serde_json::from_slice::<Meta<'_>>(meta) else { return incoming };
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        let Some((raw, value)) = meta.traceparent.and_then(|raw| Some((raw, text(raw)?))) else {
            return incoming;
        };
        let is_visible = |state: &String| state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        Self {
            in_message: TraceContext::parse(value.as_bytes()),
            state_in_message: meta.tracestate.and_then(text).filter(is_visible),
            place: Place::locate(&call.body, raw.get().as_bytes()),
            ..incoming
        }
    }
}
