//! What is created and delivered of telemetry: metrics, traces, records of calls, and events.

use std::sync::Arc;

use metamcp_core::base::ShutdownPhase;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::error::AppError;
use super::call_records::{self, RecordDelivery};
use super::{trace_export, webhooks};
use crate::server::SharedState;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::CallRecords;
use metamcp_config::Config;
use metamcp_http::TlsRoots;

/// The registry for metrics and traces, and the queue of call records; each `None` if it is off.
pub fn new_registries(config: &Config) -> (Option<Arc<Metrics>>, Option<Arc<CallRecords>>) {
    let records = call_records::new_queue(config.records.as_ref());
    (trace_export::new_metrics(config, records.as_ref()), records)
}

/// What sends traces and records away.
pub struct TelemetryDelivery {
    traces: Option<JoinHandle<()>>,
    records: Option<RecordDelivery>,
    webhooks: Vec<JoinHandle<()>>,
    /// Changed when nothing more happens.
    events_ended: watch::Sender<ShutdownPhase>,
}

impl TelemetryDelivery {
    /// Starts the deliveries. `workers_ended` changes when nothing more is traced or recorded.
    pub fn start(
        config: &Config,
        shared: &SharedState,
        roots: &TlsRoots,
        workers_ended: &watch::Sender<ShutdownPhase>,
    ) -> Result<Self, AppError> {
        let records = shared.records.as_ref();
        let events_ended = watch::Sender::new(ShutdownPhase::Serve);
        Ok(Self {
            traces: trace_export::spawn_export(shared, roots, workers_ended.subscribe())?,
            records: call_records::start(records, roots, workers_ended.subscribe())?,
            webhooks: webhooks::start(&config.webhooks, &shared.events, roots, &events_ended)?,
            events_ended,
        })
    }

    /// Delivers what is queued, and ends. Bounded in time; to be called once `workers_ended` has changed.
    pub async fn stop(self) {
        if let Some(traces) = self.traces {
            // Fails only by a panic, which is reported.
            let _ = traces.await;
        }
        if let Some(records) = self.records {
            records.stop().await;
        }
        // The servers have been stopped by now, which are the last events.
        self.events_ended.send_replace(ShutdownPhase::Abort);
        for webhook in self.webhooks {
            // All have the same deadline, so they are not waited for one after the other.
            let _ = webhook.await;
        }
    }
}
