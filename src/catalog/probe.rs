//! A one-time probe of a server that is not in the catalog: which era it speaks, and what it lists.

use std::rc::Rc;

use super::Config;
use super::fetch::{Asker, FetchError, discover, lists};
use super::merge::ServerLists;
use crate::session::{ClientHandshake, UpstreamSessionSlot};
use crate::upstream::{EraChoice, UpstreamPool};
use metamcp_core::protocol::{ClientCapabilities, Era, Revision};

/// The result of a probe.
pub struct Probed {
    /// The era in which the server answered.
    pub era: Era,
    pub lists: ServerLists,
}

/// Lists a server once, as the catalog does, and leaves nothing behind. The error text is for clients.
///
/// Not cancel safe: a session may be left behind at the server.
pub async fn probe(pool: &Rc<UpstreamPool>, config: &Config) -> Result<Probed, String> {
    let era = pool.upstream().config.era;
    if era != EraChoice::Legacy {
        let looked = match discover(pool).await {
            Ok(features) => lists(pool, config, &Asker::Modern(features)).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(lists) => return Ok(Probed { era: Era::Modern, lists }),
            Err(FetchError::OtherEra) if era == EraChoice::Auto => {}
            Err(error) => return Err(text(error)),
        }
    }
    let introduction = ClientHandshake::ours(Revision::LEGACY_LATEST, ClientCapabilities::default());
    let opened = UpstreamSessionSlot::default().open(pool, &introduction, None).await;
    let ready = opened.map_err(|fault| fault.for_client().to_owned())?;
    let looked = lists(pool, config, &Asker::Legacy(&ready)).await;
    ready.part(pool).await;
    looked.map(|lists| Probed { era: Era::Legacy, lists }).map_err(text)
}

fn text(error: FetchError) -> String {
    match error {
        FetchError::OtherEra | FetchError::Unasked => {
            "it does not speak the era that it is asked in".to_owned()
        }
        FetchError::SessionLost => "it loses its sessions".to_owned(),
        FetchError::Failed(text) => text,
    }
}
