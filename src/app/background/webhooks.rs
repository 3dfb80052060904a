//! The webhooks: each has a position in the log of events.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use metamcp_core::base::ShutdownPhase;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::super::error::AppError;
use super::http_sender::HttpSender;
use crate::telemetry::events::{EventFilter, EventLog, Receiver, SignedEvent, deliver};
use crate::telemetry::exporter::PostError;
use metamcp_config::sections::WebhookConfig;
use metamcp_config::server::{ServerAddress, address};
use metamcp_http::TlsRoots;

/// Starts the delivery to all webhooks, which ends some time after `events_ended` has changed.
pub fn start(
    webhooks: &[WebhookConfig],
    events: &Arc<EventLog>,
    roots: &TlsRoots,
    events_ended: &watch::Sender<ShutdownPhase>,
) -> Result<Vec<JoinHandle<()>>, AppError> {
    let start = |webhook: &WebhookConfig| {
        let reader = events.read(EventFilter::new(&webhook.kinds, webhook.severity), None);
        let json = HeaderValue::from_static("application/json");
        let sender = HttpSender::new(&webhook.url, (json, Vec::new()), webhook.timeout, roots);
        let sender = sender.map_err(AppError::Webhook)?;
        let post = async move |event: SignedEvent| sender.post(event.body.clone(), headers(&event)?).await;
        let address = address::format_redacted(&ServerAddress::Http(webhook.url.clone()));
        let receiver = Receiver { address, secret: webhook.secret.0.clone(), post };
        Ok(spawn_local(deliver(reader, receiver, events_ended.subscribe())))
    };
    webhooks.iter().map(start).collect()
}

/// Those of Standard Webhooks.
fn headers(event: &SignedEvent) -> Result<[(HeaderName, HeaderValue); 3], PostError> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| PostError(error.to_string()));
    Ok([
        (HeaderName::from_static("webhook-id"), value(&event.id)?),
        (HeaderName::from_static("webhook-timestamp"), event.timestamp.into()),
        (HeaderName::from_static("webhook-signature"), value(&event.signature)?),
    ])
}
