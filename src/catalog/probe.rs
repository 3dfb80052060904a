//! A one-time probe of a server that is not in the catalog: which era it speaks, and what it lists.

use std::rc::Rc;

use super::fetch::{FetchError, FetchMode, discover, fetch_lists};
use super::list::ServerLists;
use crate::session::{ClientHandshake, UpstreamSessionSlot};
use crate::upstream::UpstreamPool;
use metamcp_config::sections::CatalogConfig;
use metamcp_config::server::EraChoice;
use metamcp_core::protocol::{ClientCapabilities, Era, Revision};

/// The result of a probe.
pub struct ProbeResult {
    /// The era in which the server answered.
    pub era: Era,
    pub lists: ServerLists,
}

/// Lists a server once, as the catalog does, and leaves nothing behind. The error text is for clients.
///
/// Not cancel safe: a session may be left behind at the server.
pub async fn probe(pool: &Rc<UpstreamPool>, config: &CatalogConfig) -> Result<ProbeResult, String> {
    let era = pool.upstream().config.settings.era;
    if era != EraChoice::Legacy {
        let fetched = match discover(pool).await {
            Ok(features) => fetch_lists(pool, config, &FetchMode::Modern(features)).await,
            Err(error) => Err(error),
        };
        match fetched {
            Ok(lists) => return Ok(ProbeResult { era: Era::Modern, lists }),
            Err(FetchError::OtherEra) if era == EraChoice::Auto => {}
            Err(error) => return Err(error_text(error)),
        }
    }
    let handshake = ClientHandshake::gateway(Revision::LEGACY_LATEST, ClientCapabilities::default());
    let opened = UpstreamSessionSlot::default().open(pool, &handshake, None).await;
    let upstream_session = opened.map_err(|fault| fault.for_client().to_owned())?;
    let fetched = fetch_lists(pool, config, &FetchMode::Legacy(&upstream_session)).await;
    upstream_session.terminate(pool).await;
    fetched.map(|lists| ProbeResult { era: Era::Legacy, lists }).map_err(error_text)
}

fn error_text(error: FetchError) -> String {
    match error {
        FetchError::OtherEra | FetchError::NotRequested => "it does not speak the configured era".to_owned(),
        FetchError::SessionLost => "it does not keep its sessions".to_owned(),
        FetchError::Failed(text) => text,
    }
}
