//! The numbers, for Prometheus: what the workers counted, and how the parts are at the moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;

use super::Admin;
use super::problem::Problem;
use super::routes::{ROUTES, Route};
use crate::auth::{KeysFrom, Mode};
use crate::base::unix_s;
use crate::telemetry::metrics::{
    Family, Format, LABELS_MAX, Label, Metrics, OTHER, Row, Unit, Value, process, render,
};
use crate::topology::Topology;
use crate::upstream::stdio::Processes;
use crate::upstream::{Condition, Upstream};

/// Who may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrapes {
    /// Nobody, and nothing is counted.
    Off,
    /// Whoever has an administrator's key; everybody where nobody is asked for a key.
    Key,
    /// Everybody who reaches the address.
    Open,
}

/// Who looks, and what this plane counts itself.
pub struct Desk {
    /// Places for those who look or wait for it.
    waiting: Semaphore,
    /// Held by the one who looks: a look is a walk over all that was counted.
    turn: Mutex<()>,
    /// Answers by route, those without one at the end, and by the first digit of the status.
    answers: Box<[[AtomicU64; CLASSES.len()]]>,
    /// Seconds since 1970.
    began: u64,
}

/// Looks that wait for one another: a pair of Prometheus, and some people.
const WAITING_MAX: usize = 8;

/// Of a status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

const SERVER: &str = "metamcp_server";

impl Default for Desk {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(WAITING_MAX),
            turn: Mutex::default(),
            answers: (0..=ROUTES.len()).map(|_| Default::default()).collect(),
            began: unix_s(),
        }
    }
}

impl Desk {
    /// Counts an answer; `None`: there is no such route.
    pub fn note(&self, route: Option<&Route>, status: StatusCode) {
        let at = route.and_then(|route| ROUTES.iter().position(|known| std::ptr::eq(known, route)));
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.answers[at.unwrap_or(ROUTES.len())][class].fetch_add(1, Ordering::Relaxed);
    }

    fn family(&self) -> Family {
        let mut rows = Vec::new();
        for (at, answers) in self.answers.iter().enumerate() {
            let (method, path) = ROUTES.get(at).map_or((OTHER, OTHER), |route| (route.method, route.path));
            for (class, count) in CLASSES.iter().zip(answers) {
                let labels = [("http_request_method", method), ("http_route", path), ("status", *class)];
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    rows.push(Row::new(labels, Value::Count(count)));
                }
            }
        }
        let help = "Answers of the control plane, by route and the first digit of the status";
        Family::counter("metamcp_control_responses", help, Unit::None, rows)
    }
}

impl Admin {
    /// Whether nobody is asked for a key for the numbers.
    pub(super) fn shows_metrics_to_all(&self) -> bool {
        let is_open = matches!(self.parts.metrics, Some((_, Scrapes::Open)));
        is_open || self.parts.auth.mode() == Mode::Open
    }

    /// One look. They wait for one another, and no worker works for them: the text may be some MiB.
    pub(super) async fn metrics(&self, headers: &HeaderMap) -> Result<Response<Bytes>, Problem> {
        let Some((metrics, _)) = &self.parts.metrics else {
            let detail = "metrics are off here: set telemetry.metrics in metamcp.toml and start again";
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        };
        let busy = || Problem::later("too many look at the metrics at once; try again in a moment");
        let _place = self.desk.waiting.try_acquire().map_err(|_| busy())?;
        let _turn = self.desk.turn.lock().await;
        let format = wanted(headers);
        let (metrics, topology, own) = (Arc::clone(metrics), self.topology(), self.own_families());
        let text = spawn_blocking(move || {
            let [endpoints, servers] = topology.table.labels();
            let mut families = metrics.families(endpoints, servers);
            families.extend(own);
            families.extend(of_servers(&topology, &metrics));
            families.extend(process());
            render(families, format)
        });
        let failed = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written");
        let text = text.await.ok().and_then(Result::ok).ok_or_else(failed)?;
        let mut response = Response::new(Bytes::from(text));
        let content_type = match format {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }

    /// How the parts are that are here once.
    fn own_families(&self) -> Vec<Family> {
        let parts = &self.parts;
        let health = parts.auth.health();
        let is_known_since = match (health.keys_from, &health.away) {
            (KeysFrom::Snapshot { written_at }, _) => Some(written_at),
            (KeysFrom::Store, away) => away.as_ref().map(|away| away.since),
        };
        let keyring_age = is_known_since.map_or(0, |since| unix_s().saturating_sub(since));
        let count = |count: usize| one(Value::Level(i64::try_from(count).unwrap_or(i64::MAX)));
        let seconds = |seconds: u64| one(Value::Level(i64::try_from(seconds).unwrap_or(i64::MAX)));
        let build = Row::new([("version", env!("CARGO_PKG_VERSION"))], Value::Level(1));
        vec![
            Family::gauge("metamcp_build_info", "Which program this is", vec![build]),
            Family::gauge(
                "metamcp_sessions",
                "Legacy sessions held in memory",
                count(parts.sessions.count()),
            ),
            Family::gauge(
                "metamcp_servers",
                "Servers that are served",
                count(self.topology().upstreams().count()),
            ),
            Family::gauge(
                "metamcp_fleet_epoch",
                "The version of servers and endpoints that is served",
                seconds(self.topology().epoch),
            ),
            Family::gauge(
                "metamcp_store_up",
                "Whether the store answers",
                count(usize::from(health.away.is_none())),
            ),
            Family::gauge(
                "metamcp_keyring_age",
                "How long ago it was certain that the keys are those of the store; 0: they are",
                seconds(keyring_age),
            )
            .in_unit(Unit::Seconds),
            Family::counter(
                "metamcp_key_hash_runs",
                "Times that argon2 ran",
                Unit::None,
                one(Value::Count(parts.auth.hash_runs())),
            ),
            Family::gauge(
                "process_start_time",
                "When it started, in seconds since 1970",
                seconds(self.desk.began),
            )
            .in_unit(Unit::Seconds),
            self.desk.family(),
            self.catalog_ages(),
        ]
    }

    fn catalog_ages(&self) -> Family {
        let topology = self.topology();
        let row = |(name, upstream): (&str, &Arc<Upstream>)| {
            let age = self.parts.catalog.listed_at(upstream.id)?.elapsed();
            Some(Row::new([(SERVER, name)], Value::Number(age.as_secs_f64())))
        };
        let rows = by_name(&topology).into_iter().filter_map(row).collect();
        Family::gauge("metamcp_catalog_age", "How long ago a server's lists were last fetched", rows)
            .in_unit(Unit::Seconds)
    }
}

fn one(value: Value) -> Vec<Row> {
    vec![Row::new([], value)]
}

/// The servers, as many as there are labels for.
fn by_name(topology: &Topology) -> Vec<(&str, &Arc<Upstream>)> {
    let mut servers: Vec<_> =
        topology.upstreams().map(|upstream| (upstream.name().as_str(), upstream)).collect();
    servers.sort_unstable_by_key(|(name, _)| *name);
    servers.truncate(LABELS_MAX);
    servers
}

/// How each server is.
fn of_servers(topology: &Topology, metrics: &Metrics) -> Vec<Family> {
    let places = topology.table.servers().map(|endpoint| &endpoint.servers[0]);
    let labels: HashMap<u32, Label> = places.map(|place| (place.upstream, place.label)).collect();
    let looks: Vec<_> = by_name(topology)
        .into_iter()
        .map(|(name, upstream)| (name, upstream, upstream.condition()))
        .collect();
    let gauge = |name, help, value: &dyn Fn(&Upstream, &Condition) -> Option<u64>| {
        let row = |(name, upstream, condition): &(&str, &Arc<Upstream>, Condition)| {
            let level = i64::try_from(value(upstream, condition)?).unwrap_or(i64::MAX);
            Some(Row::new([(SERVER, *name)], Value::Level(level)))
        };
        Family::gauge(name, help, looks.iter().filter_map(row).collect())
    };
    let counter = |name, help, value: fn(&Processes) -> u64| {
        let row = |(name, _, condition): &(&str, &Arc<Upstream>, Condition)| {
            Some(Row::new([(SERVER, *name)], Value::Count(value(condition.processes.as_ref()?))))
        };
        Family::counter(name, help, Unit::None, looks.iter().filter_map(row).collect())
    };
    vec![
        gauge("metamcp_server_in_flight", "Calls under way at a server", &|upstream, _| {
            Some(upstream.load().0 as u64)
        }),
        gauge("metamcp_server_in_flight_max", "How many there may be", &|upstream, _| {
            Some(upstream.config.in_flight_max as u64)
        }),
        gauge("metamcp_server_queued", "Calls that wait for their turn at a server", &|upstream, _| {
            Some(upstream.load().1 as u64)
        }),
        gauge(
            "metamcp_server_idle_connections",
            "Connections to a server that nothing uses",
            &|upstream, _| Some(metrics.idle(labels.get(&upstream.id.0).copied()?)),
        ),
        gauge("metamcp_server_left_alone", "Whether a server is left alone for a while", &|_, condition| {
            Some(u64::from(condition.left_alone.is_some()))
        }),
        gauge(
            "metamcp_server_failures_in_a_row",
            "Requests that did not reach a server, without an answer between them",
            &|_, condition| Some(condition.failures_in_a_row.into()),
        ),
        gauge("metamcp_server_processes", "Processes of a server that run", &|_, condition| {
            Some(condition.processes.as_ref()?.running as u64)
        }),
        counter("metamcp_server_process_starts", "Processes started", |processes| processes.started),
        counter(
            "metamcp_server_process_restarts",
            "Of these, in place of one that had failed",
            |processes| processes.restarts,
        ),
        counter(
            "metamcp_server_process_failures",
            "Processes that ended unasked, or did not start",
            |processes| processes.failed,
        ),
    ]
}

/// The form that the reader would rather have. Who says nothing gets the older one, which everybody reads.
fn wanted(headers: &HeaderMap) -> Format {
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
    if open > plain { Format::OpenMetrics } else { Format::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: Option<&'static str>, expected: Format) {
        let mut headers = HeaderMap::new();
        headers.extend(accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept))));
        assert_eq!(wanted(&headers), expected, "{accept:?}");
    }

    #[test]
    fn readers_get_the_form_they_ask_for() {
        check(None, Format::Plain);
        check(Some("*/*"), Format::Plain);
        check(Some("text/plain"), Format::Plain);
        check(Some("application/openmetrics-text"), Format::OpenMetrics);
        check(Some("application/openmetrics-text;q=0, text/plain"), Format::Plain);
        check(Some("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.5"), Format::Plain);
        // As Prometheus 3 asks.
        check(
            Some(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;\
                  version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;\
                  q=0.2,*/*;q=0.1",
            ),
            Format::OpenMetrics,
        );
    }
}
