//! Reads the files of TLS again when they change. Connections keep what they have; the next handshake uses what was read.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval_at};

use crate::app::file_watch::FileWatch;
use crate::runtime::run_blocking;
use crate::server::{ReloadOutcome, ServerTls, SharedState};
use metamcp_config::sections::TlsFiles;
use metamcp_core::base::unix_seconds;

/// Between two reminders that files are expired, or will soon be.
const REMINDER: Duration = Duration::from_hours(24);

/// Follows the files, also to the paths of a reloaded configuration. Never ends with TLS, and at once without.
pub async fn follow(shared: Arc<SharedState>) {
    let Some(tls) = &shared.tls else { return };
    let mut files = tls.files();
    // For the files of the start. Others are looked at when they are read.
    warn_of_dates(tls);
    let mut reminders = interval_at(Instant::now() + REMINDER, REMINDER);
    loop {
        let paths = files.borrow_and_update().paths().map(Into::into).collect();
        let mut watch = FileWatch::new(paths).await;
        // Also what changed after the files were last read and before this watch began.
        read(&shared, None).await;
        loop {
            tokio::select! {
                () = watch.changed() => break,
                // Never an error: `shared` has the sender.
                _ = files.changed() => break,
                _ = reminders.tick() => warn_of_dates(tls),
            }
        }
    }
}

/// Dates refuse nothing: the clock may be wrong, and a list past its next update still applies.
fn warn_of_dates(tls: &ServerTls) {
    let now_s = unix_seconds();
    for period in tls.current().validity_periods() {
        if let Some(problem) = period.problem(now_s) {
            tracing::warn!(file = %period.file.display(), date = problem.date, "{}", problem.text);
        }
    }
}

/// Uses the files of a reloaded configuration from now on; returns whether they can be used. TLS is turned on or off by a
/// restart alone.
pub async fn reload(shared: &Arc<SharedState>, files: Option<&TlsFiles>) -> bool {
    match files {
        Some(files) => read(shared, Some(files.clone())).await,
        None => true,
    }
}

/// Reads the files, or others from now on; returns whether they can be used. What cannot be used is logged and changes
/// nothing.
async fn read(shared: &Arc<SharedState>, others: Option<TlsFiles>) -> bool {
    let is_reload = others.is_some();
    let blocking = Arc::clone(shared);
    let reloaded = run_blocking(move || blocking.tls.as_ref().map(|tls| tls.reload(others.as_ref()))).await;
    match reloaded {
        Ok(Some(Ok(outcome @ (ReloadOutcome::Replace | ReloadOutcome::ReplaceClients)))) => {
            if outcome == ReloadOutcome::Replace {
                tracing::info!("TLS files reloaded; new connections use them, open ones keep theirs");
            } else {
                tracing::info!(
                    "TLS files reloaded; new connections use them, open ones with a client certificate end"
                );
            }
            shared.tls.iter().for_each(warn_of_dates);
            true
        }
        Ok(Some(Err(error))) => {
            let correction = if is_reload { "then reload again" } else { "which is then read again" };
            tracing::error!(%error, "TLS files not reloaded; the last ones stay in use: correct the file, {correction}");
            false
        }
        // Unchanged, or served without TLS.
        Ok(Some(Ok(ReloadOutcome::Keep)) | None) => true,
        // The gateway stops. A panic is reported by its thread.
        Err(_) => false,
    }
}
