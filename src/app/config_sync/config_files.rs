//! The files of the configuration, watched for changes if `server.watch` is set.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::app::file_watch::FileWatch;
use crate::runtime::run_blocking;
use metamcp_config::Config;

/// The files of the configuration. Runs in a `LocalSet`.
pub struct ConfigFiles {
    /// Empty if they are not watched.
    paths: Vec<PathBuf>,
    changes: watch::Receiver<u64>,
}

/// The time of a file may be so much behind the clock: the kernel takes it from its last tick.
const TICK_MAX: Duration = Duration::from_millis(20);

impl ConfigFiles {
    /// Watches the files of this configuration. What changed since it was loaded counts as a change.
    pub fn new(config: &Config) -> Self {
        let (paths, sources, loaded_at) = (Self::watched(config), config.sources.clone(), config.loaded_at);
        let (sender, changes) = watch::channel(0);
        // A task, because the pause between two looks would begin anew with every other event of the caller's loop, and a look
        // at a network file system may take long.
        if !paths.is_empty() {
            let watched = paths.clone();
            spawn_local(async move {
                let mut watch = FileWatch::new(watched.clone()).await;
                let has_changed = move || {
                    watched.iter().any(|path| has_changed_since(path, loaded_at, sources.contains(path)))
                };
                if run_blocking(has_changed).await.unwrap_or(false) {
                    sender.send_modify(|version| *version += 1);
                }
                loop {
                    tokio::select! {
                        () = watch.changed() => sender.send_modify(|version| *version += 1),
                        () = sender.closed() => return,
                    }
                }
            });
        }
        Self { paths, changes }
    }

    /// Watches as that configuration says, which was just loaded.
    pub fn follow(&mut self, config: &Config) {
        if Self::watched(config) != self.paths {
            *self = Self::new(config);
        }
    }

    /// Waits for a change; forever if the files are not watched. Cancel safe.
    pub async fn changed(&mut self) {
        if self.paths.is_empty() || self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn watched(config: &Config) -> Vec<PathBuf> {
        if config.server.watch { config.candidates.clone() } else { Vec::new() }
    }
}

/// Whether a file was written or replaced at that time or later, or has vanished since it was read.
fn has_changed_since(path: &Path, time: SystemTime, was_read: bool) -> bool {
    let Ok(metadata) = path.metadata() else { return was_read };
    let changed_s = u64::try_from(metadata.ctime()).unwrap_or(0);
    let changed_ns = u64::try_from(metadata.ctime_nsec()).unwrap_or(0);
    let changed = UNIX_EPOCH + Duration::from_secs(changed_s) + Duration::from_nanos(changed_ns);
    changed + TICK_MAX >= time
}
