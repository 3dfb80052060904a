//! Serves what the files and the store say, from now on: after SIGHUP, after a change made here, and after one made
//! elsewhere.

use std::io::{IsTerminal as _, stdin};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::sleep;

use super::join::{Files, Joined, Reading, Stored, join};
use super::publish::Publisher;
use super::reload::{Reload, read_again};
use super::stored::Source;
use crate::admin::Standing;
use crate::admin::definition::Serving;
use crate::auth::Sealer;
use crate::config::Config;
use crate::store::Seen;
use crate::topology::Topology;

/// What is served, as it was put together last, and of what.
pub struct Served {
    files: Files,
    /// `None`: nothing is known of it yet.
    stored: Option<Stored>,
    sealer: Arc<Sealer>,
    serving: Arc<Serving>,
    joined: Joined,
    standing: watch::Sender<Arc<Standing>>,
}

/// What makes it change.
pub struct Triggers {
    pub hangups: Signal,
    pub reload: Reload,
    /// What the gateway was started with.
    pub running: Config,
    pub source: Source,
    /// What is known of the store.
    pub seen: watch::Receiver<Seen>,
    /// Moves with each change made here: see `Admin::topology_changes`.
    pub changes: watch::Receiver<u64>,
}

/// Between two tries to read what is known to have changed.
const RETRY: Duration = Duration::from_secs(1);

impl Served {
    /// Before anything is served.
    pub fn new(config: &Config, stored: Option<Stored>, sealer: Arc<Sealer>, serving: Arc<Serving>) -> Self {
        let files = Files::from(config);
        let joined = join(&files, stored.as_ref(), Reading { sealer: &sealer, serving: &serving });
        Self { files, stored, sealer, serving, joined, standing: watch::Sender::default() }
    }

    /// What is to be served.
    pub fn joined(&self) -> &Joined {
        &self.joined
    }

    /// What became of every row.
    pub fn standing(&self) -> watch::Receiver<Arc<Standing>> {
        self.standing.subscribe()
    }

    /// That version is served.
    pub fn note(&self, topology: &Topology, changes: u64) {
        let standing = self.joined.standing(topology, changes);
        if standing.left_out != self.standing.borrow().left_out {
            for text in &standing.left_out {
                tracing::warn!("{text}");
            }
        }
        self.standing.send_replace(Arc::new(standing));
    }

    /// Puts it together again; whether it is other than it was.
    fn renew(&mut self) -> bool {
        let reading = Reading { sealer: &self.sealer, serving: &self.serving };
        let joined = join(&self.files, self.stored.as_ref(), reading);
        let is_other = joined != self.joined;
        self.joined = joined;
        is_other
    }

    async fn publish(&self, publisher: &mut Publisher) -> Arc<Topology> {
        publisher.publish(self.joined.servers.clone(), self.joined.endpoints.clone()).await
    }
}

/// Follows all of them. A store that goes away changes nothing.
///
/// Ends when the terminal that the gateway was started from is closed, which is told by SIGHUP too.
pub async fn follow(mut triggers: Triggers, mut served: Served, mut publisher: Publisher) {
    let had_terminal = stdin().is_terminal();
    // What was read last, of the counters that say whether to read again. At the start nothing is known of them.
    let (mut changes, mut epochs) = (0, None);
    let (mut is_behind, mut told) = (served.stored.is_none(), None);
    loop {
        tokio::select! {
            hangup = triggers.hangups.recv() => {
                if hangup.is_none() || (had_terminal && !stdin().is_terminal()) {
                    return;
                }
                if let Some(config) = read_again(&triggers.reload, &triggers.running) {
                    served.files = Files::from(&config);
                    served.renew();
                    let topology = served.publish(&mut publisher).await;
                    served.note(&topology, changes);
                    tracing::info!(epoch = topology.epoch, "configuration reloaded");
                }
                continue;
            }
            Ok(()) = triggers.changes.changed() => {}
            Ok(()) = triggers.seen.changed() => {}
            () = sleep(RETRY), if is_behind => {}
        }
        // Before it is read: what changes meanwhile is read once more.
        let now = *triggers.changes.borrow_and_update();
        let Seen { epochs: seen, away, .. } = triggers.seen.borrow_and_update().clone();
        let seen = Some((seen.servers, seen.endpoints));
        is_behind = now != changes || (away.is_none() && seen != epochs);
        if !is_behind {
            continue;
        }
        match triggers.source.read().await {
            Ok(stored) => {
                let stored = stored.with_known(served.stored.as_ref(), &served.sealer);
                // The disk is not waited for: the next change may be there already.
                triggers.source.keep(&stored);
                (served.stored, changes, epochs) = (Some(stored), now, seen);
                (is_behind, told) = (false, None);
                let topology =
                    if served.renew() { served.publish(&mut publisher).await } else { publisher.current() };
                served.note(&topology, changes);
            }
            // It is tried again each second, and said once.
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(
                        error = text,
                        "servers and endpoints could not be read again; what is served goes on"
                    );
                    told = Some(text);
                }
            }
        }
    }
}
