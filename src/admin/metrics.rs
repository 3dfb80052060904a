//! The metrics page for Prometheus: the counters of the workers, and gauges of the other modules.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::control_plane::ControlPlane;
use super::problem::Problem;
use crate::catalog::{Catalog, ServerState};
use crate::runtime::run_blocking;
use crate::telemetry::metrics::{
    ExpositionFormat, LABELS_MAX, LabelId, MetricFamily, MetricSample, MetricUnit, Metrics, SampleValue,
    collect_process_metrics, render,
};
use crate::topology::Topology;
use crate::upstream::stdio::ProcessStats;
use crate::upstream::{Upstream, UpstreamStatus};
use metamcp_config::sections::{AuthMode, MetricsAccess};
use metamcp_core::base::{MEMORY, unix_seconds};
use metamcp_store::auth::KeySource;

const SERVER: &str = "metamcp_server";

impl ControlPlane {
    /// Whether the metrics may be read without a key.
    pub(super) fn metrics_are_public(&self) -> bool {
        let is_open = matches!(self.parts.metrics, Some((_, MetricsAccess::Open)));
        is_open || self.parts.auth.mode() == AuthMode::Open
    }

    /// Builds the page, one reader at a time, and on a blocking thread: the text may have several MiB.
    pub(super) async fn metrics(&self, headers: &HeaderMap) -> Result<Response<Bytes>, Problem> {
        let Some((metrics, _)) = &self.parts.metrics else {
            let detail = "metrics are off; set telemetry.metrics in metamcp.toml and restart the gateway";
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        };
        let busy = || Problem::unavailable("too many readers of the metrics; try again in a moment");
        let _place = self.metrics_state.readers.try_acquire().map_err(|_| busy())?;
        let _turn = self.metrics_state.render_lock.lock().await;
        let format = negotiate_format(headers);
        let (metrics, topology, own) = (Arc::clone(metrics), self.topology(), self.own_families());
        let catalog = Arc::clone(&self.parts.catalog);
        let text = run_blocking(move || {
            let [endpoints, servers] = topology.table.labels();
            let mut families = metrics.families(endpoints, servers);
            families.extend(own);
            families.extend(server_families(&topology, &metrics, &catalog));
            families.extend(collect_process_metrics());
            render(families, format)
        });
        let failed = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "rendering the metrics failed");
        let text = text.await?.map_err(|_| failed())?;
        let mut response = Response::new(Bytes::from(text));
        let content_type = match format {
            ExpositionFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ExpositionFormat::Plain => "text/plain; version=0.0.4; charset=utf-8",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }

    /// Gauges of modules that exist once per gateway.
    fn own_families(&self) -> Vec<MetricFamily> {
        let parts = &self.parts;
        let health = parts.auth.health();
        let is_known_since = match (health.key_source, &health.outage) {
            (KeySource::Snapshot { written_at }, _) => Some(written_at),
            (KeySource::Store, away) => away.as_ref().map(|away| away.since),
        };
        let keyring_age = is_known_since.map_or(0, |since| unix_seconds().saturating_sub(since));
        let count = |count: usize| single_row(SampleValue::Level(i64::try_from(count).unwrap_or(i64::MAX)));
        let seconds =
            |seconds: u64| single_row(SampleValue::Level(i64::try_from(seconds).unwrap_or(i64::MAX)));
        let build = MetricSample::new([("version", env!("CARGO_PKG_VERSION"))], SampleValue::Level(1));
        vec![
            MetricFamily::gauge("metamcp_build_info", "The version of the program", vec![build]),
            MetricFamily::gauge(
                "metamcp_sessions",
                "Legacy sessions held in memory",
                count(parts.sessions.count()),
            ),
            MetricFamily::gauge(
                "metamcp_servers",
                "Servers that are served",
                count(self.topology().upstreams().count()),
            ),
            MetricFamily::gauge(
                "metamcp_fleet_epoch",
                "The version of the topology that is served",
                seconds(self.topology().epoch),
            ),
            MetricFamily::gauge(
                "metamcp_store_up",
                "Whether the store responds",
                count(usize::from(health.outage.is_none())),
            ),
            MetricFamily::gauge(
                "metamcp_keyring_age",
                "Time since the keys were last known to be those of the store; 0 if they are",
                seconds(keyring_age),
            )
            .in_unit(MetricUnit::Seconds),
            MetricFamily::counter(
                "metamcp_key_hash_runs",
                "Number of argon2 runs",
                MetricUnit::None,
                single_row(SampleValue::Count(parts.auth.hash_runs())),
            ),
            MetricFamily::gauge(
                "process_start_time",
                "Start time of the process, in seconds since 1970",
                seconds(self.metrics_state.started_at_s),
            )
            .in_unit(MetricUnit::Seconds),
            self.metrics_state.family(),
            self.catalog_ages(),
        ]
        .into_iter()
        .chain(memory_families())
        .collect()
    }

    fn catalog_ages(&self) -> MetricFamily {
        let topology = self.topology();
        let row = |(name, upstream): (&str, &Arc<Upstream>)| {
            let age = self.parts.catalog.fetched_at(upstream.id)?.elapsed();
            Some(MetricSample::new([(SERVER, name)], SampleValue::Number(age.as_secs_f64())))
        };
        let rows = servers_by_name(&topology).into_iter().filter_map(row).collect();
        MetricFamily::gauge("metamcp_catalog_age", "Time since the lists of a server were fetched", rows)
            .in_unit(MetricUnit::Seconds)
    }
}

/// The account of the memory that messages take.
fn memory_families() -> [MetricFamily; 3] {
    let level = |bytes: usize| single_row(SampleValue::Level(i64::try_from(bytes).unwrap_or(i64::MAX)));
    [
        MetricFamily::gauge(
            "metamcp_memory_charged",
            "Memory that messages take which the gateway holds",
            level(MEMORY.charged_bytes()),
        )
        .in_unit(MetricUnit::Bytes),
        MetricFamily::gauge("metamcp_memory_max", "The limit of that memory", level(MEMORY.bytes_max()))
            .in_unit(MetricUnit::Bytes),
        MetricFamily::counter(
            "metamcp_memory_refusals",
            "Messages and parts of messages that were refused for lack of memory",
            MetricUnit::None,
            single_row(SampleValue::Count(MEMORY.refusals())),
        ),
    ]
}

fn single_row(value: SampleValue) -> Vec<MetricSample> {
    vec![MetricSample::new([], value)]
}

/// The servers, up to the limit of labels.
fn servers_by_name(topology: &Topology) -> Vec<(&str, &Arc<Upstream>)> {
    let mut servers: Vec<_> =
        topology.upstreams().map(|upstream| (upstream.name().as_str(), upstream)).collect();
    servers.sort_unstable_by_key(|(name, _)| *name);
    servers.truncate(LABELS_MAX);
    servers
}

/// The metrics of each server.
fn server_families(topology: &Topology, metrics: &Metrics, catalog: &Catalog) -> Vec<MetricFamily> {
    let places = topology.table.server_endpoints().map(|endpoint| &endpoint.servers[0]);
    let labels: HashMap<u32, LabelId> = places.map(|place| (place.upstream, place.label)).collect();
    let looks: Vec<_> = servers_by_name(topology)
        .into_iter()
        .map(|(name, upstream)| (name, upstream, upstream.status()))
        .collect();
    let gauge = |name, help, value: &dyn Fn(&Upstream, &UpstreamStatus) -> Option<u64>| {
        let row = |(name, upstream, condition): &(&str, &Arc<Upstream>, UpstreamStatus)| {
            let level = i64::try_from(value(upstream, condition)?).unwrap_or(i64::MAX);
            Some(MetricSample::new([(SERVER, *name)], SampleValue::Level(level)))
        };
        MetricFamily::gauge(name, help, looks.iter().filter_map(row).collect())
    };
    let counter = |name, help, value: fn(&ProcessStats) -> u64| {
        let row = |(name, _, condition): &(&str, &Arc<Upstream>, UpstreamStatus)| {
            Some(MetricSample::new(
                [(SERVER, *name)],
                SampleValue::Count(value(condition.processes.as_ref()?)),
            ))
        };
        MetricFamily::counter(name, help, MetricUnit::None, looks.iter().filter_map(row).collect())
    };
    vec![
        gauge("metamcp_server_in_flight", "Calls in flight to a server", &|upstream, _| {
            Some(upstream.load().0 as u64)
        }),
        gauge("metamcp_server_in_flight_max", "Limit of calls in flight to a server", &|upstream, _| {
            Some(upstream.config.settings.in_flight_max as u64)
        }),
        gauge("metamcp_server_queued", "Calls queued for a server", &|upstream, _| {
            Some(upstream.load().1 as u64)
        }),
        gauge("metamcp_server_idle_connections", "Idle connections to a server", &|upstream, _| {
            Some(metrics.idle_connections(labels.get(&upstream.id.0).copied()?))
        }),
        gauge(
            "metamcp_server_up",
            "Whether the last request reached a server and its lists can be fetched; missing until it has answered or failed",
            &|upstream, _| match catalog.server_state(upstream) {
                ServerState::Unknown => None,
                ServerState::Ok => Some(1),
                ServerState::Failing(_) => Some(0),
            },
        ),
        gauge(
            "metamcp_server_left_alone",
            "Whether the circuit breaker of a server is open",
            &|_, condition| Some(u64::from(condition.retry_in.is_some())),
        ),
        gauge(
            "metamcp_server_failures_in_a_row",
            "Consecutive requests that did not reach a server",
            &|_, condition| Some(condition.failures_in_a_row.into()),
        ),
        gauge("metamcp_server_processes", "Running processes of a server", &|_, condition| {
            Some(condition.processes.as_ref()?.running as u64)
        }),
        counter("metamcp_server_process_starts", "Processes started", |processes| processes.started),
        counter(
            "metamcp_server_process_restarts",
            "Processes started to replace a failed one",
            |processes| processes.restarts,
        ),
        counter(
            "metamcp_server_process_failures",
            "Processes that exited unexpectedly, or did not start",
            |processes| processes.failed,
        ),
    ]
}

/// Negotiates the exposition format. Without a preference it is the older one, which every reader supports.
fn negotiate_format(headers: &HeaderMap) -> ExpositionFormat {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut open, mut plain) = (0.0, 0.0);
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        match media.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => open = quality.max(open),
            "text/plain" => plain = quality.max(plain),
            _ => {}
        }
    }
    if open > plain { ExpositionFormat::OpenMetrics } else { ExpositionFormat::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: Option<&'static str>, expected: ExpositionFormat) {
        let mut headers = HeaderMap::new();
        headers.extend(accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept))));
        assert_eq!(negotiate_format(&headers), expected, "{accept:?}");
    }

    #[test]
    fn readers_get_the_form_they_ask_for() {
        check(None, ExpositionFormat::Plain);
        check(Some("*/*"), ExpositionFormat::Plain);
        check(Some("text/plain"), ExpositionFormat::Plain);
        check(Some("application/openmetrics-text"), ExpositionFormat::OpenMetrics);
        check(Some("application/openmetrics-text;q=0, text/plain"), ExpositionFormat::Plain);
        check(
            Some("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.5"),
            ExpositionFormat::Plain,
        );
        // The header that Prometheus 3 sends.
        check(
            Some(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;\
                  version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;\
                  q=0.2,*/*;q=0.1",
            ),
            ExpositionFormat::OpenMetrics,
        );
    }
}
