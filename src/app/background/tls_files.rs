//! Reads the files of TLS again when they change. Connections keep what they have; the next handshake uses what was read.

use std::sync::Arc;

use crate::app::file_watch::FileWatch;
use crate::runtime::run_blocking;
use crate::server::{ReloadOutcome, SharedState};
use metamcp_config::sections::TlsFiles;

/// Follows the files, also to the paths of a reloaded configuration. Never ends with TLS, and at once without.
pub async fn follow(shared: Arc<SharedState>) {
    let Some(tls) = &shared.tls else { return };
    let mut files = tls.files();
    loop {
        let paths = files.borrow_and_update().paths().map(Into::into).collect();
        let mut watch = FileWatch::new(paths);
        // Also what changed after the files were last read and before this watch began.
        read(&shared, None).await;
        tokio::select! {
            () = watch.changed() => {}
            // Never an error: `shared` has the sender.
            _ = files.changed() => {}
        }
    }
}

/// Uses the files of a reloaded configuration from now on. TLS is turned on or off by a restart alone.
pub async fn reload(shared: &Arc<SharedState>, files: Option<&TlsFiles>) {
    if let Some(files) = files {
        read(shared, Some(files.clone())).await;
    }
}

/// Reads the files, or others from now on. What cannot be used is logged and changes nothing.
async fn read(shared: &Arc<SharedState>, others: Option<TlsFiles>) {
    let shared = Arc::clone(shared);
    let reloaded = run_blocking(move || shared.tls.as_ref().map(|tls| tls.reload(others.as_ref()))).await;
    match reloaded {
        Ok(Some(Ok(ReloadOutcome::Replace))) => {
            tracing::info!("TLS files reloaded; new connections use them, open ones keep theirs");
        }
        Ok(Some(Err(error))) => {
            tracing::error!(%error, "TLS files not reloaded; the last ones stay in use: correct the file, which is then read again");
        }
        // Unchanged, or the gateway stops. A panic is reported by its thread.
        Ok(Some(Ok(ReloadOutcome::Keep)) | None) | Err(_) => {}
    }
}
