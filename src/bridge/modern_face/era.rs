//! Whether a server speaks the Modern era: found out once, and again after it showed that it is otherwise.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::catalog::{FetchError, discover};
use crate::protocol::Era;
use crate::upstream::{Pool, UpstreamId};

/// What is being found out, by server.
#[derive(Default)]
pub struct Eras {
    /// Guards the table; a few lines at a time.
    looks: Mutex<HashMap<UpstreamId, Arc<Look>>>,
}

/// One at a time looks at a server. Holds until when it is not looked at again after a look that told
/// nothing.
type Look = tokio::sync::Mutex<Option<Instant>>;

/// A call waits so long for an answer to `server/discover`, which costs a server nothing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// After a look that told nothing (the server was away, overloaded, or refused the credentials) requests pass
/// as they are, and meet what the look met.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Servers that are gone leave an entry of some 100 bytes; beyond this many all are let go.
const LOOKS_MAX: usize = 4096;

impl Eras {
    /// Whether requests of the era are to go to the server as they are. Cancel safe: another caller looks
    /// then.
    pub async fn speaks_modern(&self, pool: &Rc<Pool>) -> bool {
        let upstream = pool.upstream();
        if let Some(known) = upstream.speaks(Era::Modern) {
            return known;
        }
        let look = self.look(upstream.id);
        let mut not_before = look.lock().await;
        if let Some(known) = upstream.speaks(Era::Modern) {
            return known;
        }
        if not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return true;
        }
        let looked = timeout(LOOK_TIMEOUT, discover(pool)).await;
        if let Ok(Ok(_) | Err(FetchError::OtherEra)) = looked {
            let speaks_modern = upstream.speaks(Era::Modern) != Some(false);
            tracing::info!(server = %upstream.name(), speaks_modern, "the era of a server was found out");
            return speaks_modern;
        }
        *not_before = Some(Instant::now() + LOOK_AGAIN);
        true
    }

    fn look(&self, id: UpstreamId) -> Arc<Look> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= LOOKS_MAX {
            looks.clear();
        }
        Arc::clone(looks.entry(id).or_default())
    }
}
