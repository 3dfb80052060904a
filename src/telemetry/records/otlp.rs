//! Records as OTLP messages (`ExportLogsServiceRequest` of opentelemetry-proto).

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::json::endpoint_name;
use super::record::{CallRecord, TargetKind};
use crate::telemetry::otlp::{attribute, instrumentation_scope, number_attribute, service_attributes};
use metamcp_core::base::ServerName;

/// The name of the event that a log record stands for.
const EVENT_NAME: &str = "metamcp.call";

const NANOSECONDS_PER_MS: u64 = 1_000_000;

/// Encodes one batch. `instance` becomes `service.instance.id`.
pub fn encode_batch(service: &str, instance: &str, records: &[CallRecord]) -> Vec<u8> {
    let log_records = records.iter().map(convert_record).collect();
    let scope_logs =
        ScopeLogs { scope: Some(instrumentation_scope()), log_records, schema_url: String::new() };
    let attributes = service_attributes(service, instance);
    let attributes = attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
    let resource = Resource { attributes, ..Resource::default() };
    let resource_logs =
        ResourceLogs { resource: Some(resource), scope_logs: vec![scope_logs], schema_url: String::new() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }.encode_to_vec()
}

/// Returns how many records of a batch the collector rejected. Zero for a body that is no `ExportLogsServiceResponse`.
pub fn rejected_records(body: &[u8]) -> u64 {
    let response = ExportLogsServiceResponse::decode(body).ok();
    let partial = response.and_then(|response| response.partial_success);
    partial.and_then(|partial| u64::try_from(partial.rejected_log_records).ok()).unwrap_or_default()
}

fn convert_record(record: &CallRecord) -> LogRecord {
    let ended_unix_ms = record.began_unix_ms.saturating_add(record.duration_ms);
    LogRecord {
        time_unix_nano: record.began_unix_ms.saturating_mul(NANOSECONDS_PER_MS),
        observed_time_unix_nano: ended_unix_ms.saturating_mul(NANOSECONDS_PER_MS),
        severity_number: SeverityNumber::Info.into(),
        event_name: EVENT_NAME.to_owned(),
        trace_id: record.call.trace.map_or_else(Vec::new, |trace| trace.bytes().to_vec()),
        attributes: attributes(record),
        ..LogRecord::default()
    }
}

/// The attributes of OpenTelemetry's semantic conventions for MCP, and those with the prefix `metamcp.` that the conventions
/// do not define.
fn attributes(record: &CallRecord) -> Vec<KeyValue> {
    let call = &record.call;
    let named = |kind| call.target.as_ref().filter(|target| target.kind == kind).map(|target| &*target.name);
    let endpoint = call.scope.as_deref().map(endpoint_name);
    let (key_id, request_id) = (call.identity.key_id(), record.request_id.to_string());
    let texts = [
        ("metamcp.key.id", Some(key_id.as_str())),
        ("metamcp.key.name", Some(call.identity.name())),
        ("metamcp.endpoint", endpoint.as_deref()),
        ("metamcp.server", record.server.as_ref().map(ServerName::as_str)),
        ("mcp.method.name", Some(&*call.method)),
        ("gen_ai.tool.name", named(TargetKind::Tool)),
        ("gen_ai.prompt.name", named(TargetKind::Prompt)),
        ("mcp.resource.uri", named(TargetKind::Resource)),
        ("metamcp.outcome", Some(record.outcome.as_str())),
        ("error.type", record.error),
        ("metamcp.request.id", Some(&*request_id)),
        ("jsonrpc.request.id", call.id.as_deref()),
    ];
    let numbers = [
        ("metamcp.duration_ms", record.duration_ms),
        ("metamcp.request.bytes", call.bytes_in),
        ("metamcp.response.bytes", record.bytes_out),
    ];
    let texts = texts.into_iter().filter_map(|(key, value)| Some(attribute(key, value?)));
    texts.chain(numbers.map(|(key, value)| number_attribute(key, value))).collect()
}
