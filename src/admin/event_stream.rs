//! The streams of `/api/v1/events`: what happens in the gateway, and how it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{StreamExt as _, unfold};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::authenticated_request::AuthenticatedRequest;
use super::body::{ControlPlaneBody, EventBody};
use super::control_plane::ControlPlane;
use super::events::KeyInvalidation;
use super::problem::Problem;
use super::request::QueryReader;
use crate::limits::Permit;
use crate::runtime::run_blocking;
use crate::session::SessionTable;
use crate::telemetry::events::{EventFilter, EventId, EventRead, EventReader};
use crate::telemetry::metrics::{ConnectionCounts, Metrics, ProcessUsage};
use metamcp_core::base::{MEMORY, ShutdownPhase, unix_seconds};
use metamcp_core::protocol::header;
use metamcp_store::auth::format_time;

/// A silent stream has a comment this often, as event streams of MCP have: proxies close connections that are silent for long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Between two events of the gateway's health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// Events that are ready are sent together up to this size.
const CHUNK_BYTES: usize = 32 << 10;

/// How long a client waits before it connects again, in milliseconds, if it reads the field.
const BEGIN: &[u8] = b"retry: 2000\n\n";

const COMMENT: &[u8] = b": keep-alive\n\n";

/// What ends a stream from outside.
struct StreamEnd {
    key_over: KeyInvalidation,
    phase: watch::Receiver<ShutdownPhase>,
    _permit: Permit,
}

/// Produces the next part of a stream.
trait EventSource {
    async fn next(&mut self) -> Bytes;
}

struct LogSource(EventReader);

/// How the gateway is, sampled as long as somebody reads it.
struct HealthSource {
    metrics: Option<Arc<Metrics>>,
    sessions: Arc<SessionTable>,
    started_at_s: u64,
    ticks: tokio::time::Interval,
    /// The CPU time at the last sample, and when that was.
    last: Option<(f64, Instant)>,
}

impl ControlPlane {
    /// Streams what happens from now on, or since `Last-Event-ID`. Keys see what concerns them; administrators see all.
    pub(super) fn stream_events(
        &self,
        call: AuthenticatedRequest<'_>,
    ) -> Result<Response<ControlPlaneBody>, Problem> {
        let mut query = QueryReader::new(call.query());
        let mut filter = EventFilter::default();
        query.parsed("type", |text| filter.set_kinds(text));
        query.parsed("severity", |text| filter.set_severity(text));
        query.parsed("server", |text| filter.set_server(text));
        query.parsed("key", |text| filter.set_key(text));
        if let Some(endpoint) = query.text("endpoint") {
            filter.set_endpoint(&endpoint);
        }
        query.finish()?;
        let own = call.identity().key_id();
        if !call.is_admin() && !filter.confine_to(own) {
            let detail = "a key reads its own events; those of others are for administrators";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let after = match call.headers().get("last-event-id") {
            None => None,
            Some(value) => {
                let id = value.to_str().ok().and_then(EventId::parse);
                let unknown = || {
                    let detail = "Last-Event-ID is no id of this stream; connect without it";
                    Problem::new(StatusCode::BAD_REQUEST, detail)
                };
                Some(id.ok_or_else(unknown)?)
            }
        };
        self.respond_with(call, LogSource(self.parts.events.read(filter, after)))
    }

    /// Streams how the gateway is.
    pub(super) fn stream_health(
        &self,
        call: AuthenticatedRequest<'_>,
    ) -> Result<Response<ControlPlaneBody>, Problem> {
        QueryReader::new(call.query()).finish()?;
        let mut ticks = interval(HEALTH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let source = HealthSource {
            metrics: self.parts.metrics.as_ref().map(|(metrics, _)| Arc::clone(metrics)),
            sessions: Arc::clone(&self.parts.sessions),
            started_at_s: self.metrics_state.started_at_s,
            ticks,
            last: None,
        };
        self.respond_with(call, source)
    }

    fn respond_with(
        &self,
        call: AuthenticatedRequest<'_>,
        source: impl EventSource + 'static,
    ) -> Result<Response<ControlPlaneBody>, Problem> {
        let identity = call.identity().clone();
        let permit = call.permit.ok_or_else(|| Problem::unavailable("the key has no stream left"))?;
        let key_over = self.key_invalidation(identity.clone());
        let end = StreamEnd { key_over, phase: self.parts.phase.clone(), _permit: permit };
        Ok(stream_response(ControlPlaneBody::Stream(body_of(source, end), identity)))
    }
}

/// A response whose body is an event stream.
pub fn stream_response(body: ControlPlaneBody) -> Response<ControlPlaneBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(header::EVENT_STREAM));
    // Keeps caches and buffering proxies from delaying events.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The body of a stream: its beginning, and then what the source has, until it is ended from outside.
fn body_of(source: impl EventSource + 'static, end: StreamEnd) -> EventBody {
    let parts = unfold(Some((source, end)), async |state| {
        let (mut source, mut end) = state?;
        let part = tokio::select! {
            biased;
            () = &mut end.key_over => {
                let problem = Problem::key_invalidated();
                let mut last = Vec::new();
                append_event(&mut last, None, "error", problem.to_response().body());
                return Some((last.into(), None));
            }
            // Clients connect again, to another gateway or to the next process.
            _ = end.phase.wait_for(|phase| *phase >= ShutdownPhase::Drain) => return None,
            part = source.next() => part,
            () = sleep(KEEP_ALIVE) => Bytes::from_static(COMMENT),
        };
        Some((part, Some((source, end))))
    });
    let begun = futures_util::stream::once(std::future::ready(Bytes::from_static(BEGIN)));
    Box::pin(StreamBody::new(begun.chain(parts).map(|part| Ok(Frame::data(part)))))
}

impl EventSource for LogSource {
    async fn next(&mut self) -> Bytes {
        let mut read = self.0.next().await;
        let mut chunk = Vec::new();
        loop {
            match read {
                EventRead::Event(event) => {
                    let id = self.0.id_of(&event).to_string();
                    append_event(&mut chunk, Some(&id), event.kind.as_str(), &event.json);
                }
                EventRead::Missed { count, position } => {
                    let data = json!({"type": "missed", "data": {"count": count}}).to_string();
                    append_event(&mut chunk, Some(&position.to_string()), "missed", data.as_bytes());
                }
            }
            if chunk.len() >= CHUNK_BYTES {
                return chunk.into();
            }
            match self.0.try_next() {
                Some(next) => read = next,
                None => return chunk.into(),
            }
        }
    }
}

impl EventSource for HealthSource {
    async fn next(&mut self) -> Bytes {
        self.ticks.tick().await;
        let usage = run_blocking(ProcessUsage::read).await.unwrap_or_default();
        let event = json!({
            "type": "gateway.health",
            "timestamp": format_time(unix_seconds()),
            "severity": "info",
            "data": self.sample(&usage),
        });
        let mut chunk = Vec::new();
        append_event(&mut chunk, None, "gateway.health", event.to_string().as_bytes());
        chunk.into()
    }
}

impl HealthSource {
    fn sample(&mut self, usage: &ProcessUsage) -> Value {
        let now = Instant::now();
        let seconds = usage.cpu_seconds.unwrap_or_default();
        let before = self.last.replace((seconds, now));
        // Of one core; the first sample has nothing to compare with.
        let percent = before.map(|(before, at)| {
            let percent = (seconds - before) / (now - at).as_secs_f64().max(f64::MIN_POSITIVE) * 100.0;
            (percent * 10.0).round() / 10.0
        });
        let mut sample = json!({
            "uptime_s": unix_seconds().saturating_sub(self.started_at_s),
            "cpu_percent": percent,
            "cpu_seconds": usage.cpu_seconds,
            "resident_bytes": usage.resident_bytes,
            "open_files": usage.open_files,
            "open_files_max": usage.open_files_max,
            "memory_charged_bytes": MEMORY.charged_bytes(),
            "memory_max_bytes": MEMORY.bytes_max(),
            "sessions": self.sessions.count(),
        });
        if let Some(metrics) = &self.metrics {
            let ConnectionCounts { open, requests_in_flight, .. } = metrics.connection_counts();
            sample["connections"] = json!(open);
            sample["requests_in_flight"] = json!(requests_in_flight);
            sample["streams"] = json!(metrics.open_streams());
        }
        sample
    }
}

/// Appends an event of the format of event streams. The data has no line ends.
fn append_event(chunk: &mut Vec<u8>, id: Option<&str>, name: &str, data: &[u8]) {
    if let Some(id) = id {
        chunk.extend_from_slice(b"id: ");
        chunk.extend_from_slice(id.as_bytes());
        chunk.push(b'\n');
    }
    chunk.extend_from_slice(b"event: ");
    chunk.extend_from_slice(name.as_bytes());
    chunk.extend_from_slice(b"\ndata: ");
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\n\n");
}
