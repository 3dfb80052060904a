//! Spans as a collector reads them: `opentelemetry/proto/trace/v1/trace.proto` and `collector/trace/v1/trace_service.proto`
//! of opentelemetry-proto 1.9, as far as anything is said here. Fields that are not known to a reader are passed over.

use prost::Message;

use super::Config;
use super::context::Context;
use super::span::{Side, Span, Target};

#[derive(Clone, PartialEq, Message)]
pub struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resources>,
}

#[derive(Clone, PartialEq, Message)]
struct Resources {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scopes>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Scopes {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_ns: u64,
    #[prost(fixed64, tag = "8")]
    end_ns: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(fixed32, tag = "6")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

/// The one kind of value that is used here.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

/// What a collector answers.
#[derive(Clone, PartialEq, Message)]
struct Exported {
    #[prost(message, optional, tag = "1")]
    partial: Option<Partial>,
}

#[derive(Clone, PartialEq, Message)]
struct Partial {
    #[prost(int64, tag = "1")]
    rejected: i64,
}

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const IS_SAID: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// One batch. `instance`: tells this process from others of its kind.
pub fn encode(config: &Config, instance: &str, spans: &[Box<Span>]) -> Vec<u8> {
    let own = [
        ("service.name", config.service.as_str()),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
    ];
    let is_said = |key: &str| config.attributes.iter().any(|(said, _)| said == key);
    let own = own.into_iter().filter(|(key, _)| *key == "service.name" || !is_said(key));
    let said = config.attributes.iter().filter(|(key, _)| key != "service.name");
    let said = said.map(|(key, value)| (key.as_str(), value.as_str()));
    let resource =
        Resource { attributes: own.chain(said).map(|(key, value)| attribute(key, value)).collect() };
    let scope = Scope { name: "metamcp".into(), version: env!("CARGO_PKG_VERSION").into() };
    let spans = spans.iter().map(|span| wire(span)).collect();
    let scopes = vec![Scopes { scope: Some(scope), spans }];
    Export { resources: vec![Resources { resource: Some(resource), scopes }] }.encode_to_vec()
}

/// How many of a batch the collector did not want after all. What is no answer of the form says nothing.
pub fn rejected(answer: &[u8]) -> u64 {
    let partial = Exported::decode(answer).ok().and_then(|answer| answer.partial);
    partial.and_then(|partial| u64::try_from(partial.rejected).ok()).unwrap_or_default()
}

fn wire(span: &Span) -> WireSpan {
    let target = span.target.as_ref().map(|target| match target {
        Target::Tool(name) | Target::Prompt(name) => name,
    });
    let name = target.map_or_else(|| span.method.to_string(), |target| format!("{} {target}", span.method));
    let remote = if span.is_parent_remote { IS_REMOTE } else { 0 };
    WireSpan {
        trace_id: span.context.trace.0.to_vec(),
        span_id: span.context.span.0.to_vec(),
        trace_state: span.tracestate.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        name,
        kind: match span.side {
            Side::Server => SERVER,
            Side::Client => CLIENT,
        },
        start_ns: span.began_ns,
        end_ns: span.ended_ns,
        attributes: attributes(span),
        links: span.link.iter().map(link).collect(),
        status: span.error.as_ref().map(|_| Status { code: ERROR }),
        flags: u32::from(span.context.flags) | IS_SAID | remote,
    }
}

fn link(to: &Context) -> Link {
    Link {
        trace_id: to.trace.0.to_vec(),
        span_id: to.span.0.to_vec(),
        flags: u32::from(to.flags) | IS_SAID | IS_REMOTE,
    }
}

/// As in the semantic conventions of OpenTelemetry for MCP; what these do not name begins with `metamcp.`.
fn attributes(span: &Span) -> Vec<Attribute> {
    let (tool, prompt) = match &span.target {
        Some(Target::Tool(name)) => (Some(&**name), None),
        Some(Target::Prompt(name)) => (None, Some(&**name)),
        None => (None, None),
    };
    let code = span.code.map(|code| code.to_string());
    let place = match span.side {
        Side::Server => "metamcp.endpoint",
        Side::Client => "metamcp.server",
    };
    let all = [
        ("mcp.method.name", Some(&*span.method)),
        ("gen_ai.operation.name", tool.map(|_| "execute_tool")),
        ("gen_ai.tool.name", tool),
        ("gen_ai.prompt.name", prompt),
        ("jsonrpc.request.id", span.id.as_deref()),
        ("mcp.protocol.version", span.protocol),
        (place, Some(&*span.place)),
        ("metamcp.outcome", Some(span.outcome)),
        ("error.type", span.error.as_deref()),
        ("rpc.response.status_code", code.as_deref()),
    ];
    all.into_iter().filter_map(|(key, value)| Some(attribute(key, value?))).collect()
}

fn attribute(key: &str, value: &str) -> Attribute {
    Attribute { key: key.to_owned(), value: Some(Text { text: Some(value.to_owned()) }) }
}
