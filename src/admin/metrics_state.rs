//! What the control plane counts about itself, and who may read the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use tokio::sync::{Mutex, Semaphore};

use super::routes::{ROUTES, Route};
use crate::telemetry::metrics::{MetricFamily, MetricSample, MetricUnit, OTHER, SampleValue};
use metamcp_core::base::unix_seconds;

/// Limits for readers of the metrics, and the response counters of the control plane.
pub struct ControlPlaneMetrics {
    /// Permits for readers, including those who wait.
    pub(super) readers: Semaphore,
    /// Held while the page is built, because that walks over all counters.
    pub(super) render_lock: Mutex<()>,
    /// Response counts by route, unknown routes last, and by class of the status code.
    responses: Box<[[AtomicU64; CLASSES.len()]]>,
    /// Unix time in seconds.
    pub(super) started_at_s: u64,
}

/// Readers that may wait: a pair of Prometheus servers, and some people.
const READERS_MAX: usize = 8;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Default for ControlPlaneMetrics {
    fn default() -> Self {
        Self {
            readers: Semaphore::new(READERS_MAX),
            render_lock: Mutex::default(),
            responses: (0..=ROUTES.len()).map(|_| Default::default()).collect(),
            started_at_s: unix_seconds(),
        }
    }
}

impl ControlPlaneMetrics {
    /// Counts a response. `None` stands for an unknown route.
    pub fn count_response(&self, route: Option<&Route>, status: StatusCode) {
        let at = route.and_then(|route| ROUTES.iter().position(|known| std::ptr::eq(known, route)));
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.responses[at.unwrap_or(ROUTES.len())][class].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn family(&self) -> MetricFamily {
        let mut rows = Vec::new();
        for (at, answers) in self.responses.iter().enumerate() {
            let (method, path) = ROUTES.get(at).map_or((OTHER, OTHER), |route| (route.method, route.path));
            for (class, count) in CLASSES.iter().zip(answers) {
                let labels = [("http_request_method", method), ("http_route", path), ("status", *class)];
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    rows.push(MetricSample::new(labels, SampleValue::Count(count)));
                }
            }
        }
        let help = "Responses of the control plane, by route and class of the status code";
        MetricFamily::counter("metamcp_control_responses", help, MetricUnit::None, rows)
    }
}
