//! `[[webhooks]]`: where events are posted to.

use std::fmt;
use std::time::Duration;

use metamcp_core::base::{EventKind, Severity};
use url::Url;
use zeroize::Zeroizing;

/// A receiver of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The URL that each event is posted to. It may hold a credential.
    pub url: Url,
    pub secret: WebhookSecret,
    /// The types that are posted; all if there are none.
    pub kinds: Vec<EventKind>,
    /// The least severity that is posted.
    pub severity: Severity,
    /// Time for one attempt, from connecting to the last byte of the response.
    pub timeout: Duration,
}

/// The key that events are signed with. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}
