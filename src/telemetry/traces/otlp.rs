//! Spans as OTLP messages (`ExportTraceServiceRequest` of opentelemetry-proto).

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status, span,
};
use prost::Message as _;

use super::context::TraceContext;
use super::span::{Span, SpanKind, SpanTarget};
use crate::telemetry::otlp::{attribute, instrumentation_scope, service_attributes};
use metamcp_config::sections::TraceConfig;

const HAS_IS_REMOTE: u32 = SpanFlags::ContextHasIsRemoteMask as u32;
const IS_REMOTE: u32 = SpanFlags::ContextIsRemoteMask as u32;

/// Encodes one batch. `instance` becomes `service.instance.id`, which distinguishes the processes of one
/// service.
pub fn encode_batch(config: &TraceConfig, instance: &str, spans: &[Box<Span>]) -> Vec<u8> {
    let scope = instrumentation_scope();
    let spans = spans.iter().map(|span| convert_span(span)).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
    let resource = Resource { attributes: resource_attributes(config, instance), ..Resource::default() };
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: String::new() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// Returns how many spans of a batch the collector rejected. Zero for a body that is no
/// `ExportTraceServiceResponse`.
pub fn rejected_spans(body: &[u8]) -> u64 {
    let response = ExportTraceServiceResponse::decode(body).ok();
    let partial = response.and_then(|response| response.partial_success);
    partial.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or_default()
}

/// Configured attributes override the built-in ones, except `service.name`, which has a setting of its own.
fn resource_attributes(config: &TraceConfig, instance: &str) -> Vec<KeyValue> {
    let built_in = service_attributes(&config.service, instance);
    let is_overridden = |key: &str| config.attributes.iter().any(|(configured, _)| configured == key);
    let built_in = built_in.into_iter().filter(|(key, _)| *key == "service.name" || !is_overridden(key));
    let configured = config.attributes.iter().filter(|(key, _)| key != "service.name");
    let configured = configured.map(|(key, value)| (key.as_str(), value.as_str()));
    built_in.chain(configured).map(|(key, value)| attribute(key, value)).collect()
}

fn convert_span(span: &Span) -> OtlpSpan {
    let target = span.target.as_ref().map(|target| match target {
        SpanTarget::Tool(name) | SpanTarget::Prompt(name) => name,
    });
    let name = target.map_or_else(|| span.method.to_string(), |target| format!("{} {target}", span.method));
    let is_remote = if span.is_parent_remote { IS_REMOTE } else { 0 };
    let kind = match span.kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
    };
    OtlpSpan {
        trace_id: span.context.trace.0.to_vec(),
        span_id: span.context.span.0.to_vec(),
        trace_state: span.tracestate.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        flags: u32::from(span.context.flags) | HAS_IS_REMOTE | is_remote,
        name,
        kind: kind.into(),
        start_time_unix_nano: span.began_ns,
        end_time_unix_nano: span.ended_ns,
        attributes: span_attributes(span),
        links: span.link.iter().map(convert_link).collect(),
        status: span.error.as_ref().map(|_| Status { code: StatusCode::Error.into(), ..Status::default() }),
        ..OtlpSpan::default()
    }
}

fn convert_link(context: &TraceContext) -> span::Link {
    span::Link {
        trace_id: context.trace.0.to_vec(),
        span_id: context.span.0.to_vec(),
        flags: u32::from(context.flags) | HAS_IS_REMOTE | IS_REMOTE,
        ..span::Link::default()
    }
}

/// The attributes of OpenTelemetry's semantic conventions for MCP, and those with the prefix `metamcp.` that
/// the conventions do not define.
fn span_attributes(span: &Span) -> Vec<KeyValue> {
    let (tool, prompt) = match &span.target {
        Some(SpanTarget::Tool(name)) => (Some(&**name), None),
        Some(SpanTarget::Prompt(name)) => (None, Some(&**name)),
        None => (None, None),
    };
    let code = span.code.map(|code| code.to_string());
    let endpoint_or_server = match span.kind {
        SpanKind::Server => "metamcp.endpoint",
        SpanKind::Client => "metamcp.server",
    };
    let attributes = [
        ("mcp.method.name", Some(&*span.method)),
        ("gen_ai.operation.name", tool.map(|_| "execute_tool")),
        ("gen_ai.tool.name", tool),
        ("gen_ai.prompt.name", prompt),
        ("jsonrpc.request.id", span.id.as_deref()),
        ("mcp.protocol.version", span.protocol),
        (endpoint_or_server, Some(&*span.endpoint_or_server)),
        ("metamcp.outcome", Some(span.outcome)),
        ("error.type", span.error.as_deref()),
        ("rpc.response.status_code", code.as_deref()),
    ];
    attributes.into_iter().filter_map(|(key, value)| Some(attribute(key, value?))).collect()
}
