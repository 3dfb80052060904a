//! What a client has set in its session. A server that has lost the session is told it again.

use metamcp_core::base::{MemoryCharge, OutOfMemory};
use metamcp_core::protocol::LogLevel;

/// The log level and the subscriptions of one client session, at all servers. Charged for.
#[derive(Default)]
pub struct ClientSettings {
    log_level: Option<LogLevel>,
    subscriptions: Vec<Subscription>,
    charge: MemoryCharge,
}

/// A resource that the client has subscribed to.
struct Subscription {
    /// The id of the server's upstream.
    upstream: u32,
    /// Decoded: one URI can be written in JSON in several ways.
    uri: Box<str>,
}

/// Subscriptions that are repeated, of one client session at all servers. Each takes a request.
const SUBSCRIPTIONS_MAX: usize = 256;

/// Longer URIs are not repeated, so that one client session keeps at most half a MiB.
const URI_BYTES_MAX: usize = 2048;

impl ClientSettings {
    /// The log level that the client set last.
    pub fn log_level(&self) -> Option<LogLevel> {
        self.log_level
    }

    pub fn set_log_level(&mut self, level: LogLevel) {
        self.log_level = Some(level);
    }

    /// Adds a subscription, unless there is no place or memory for it. Then it is not repeated.
    pub fn subscribe(&mut self, upstream: u32, uri: &str) {
        let may_add = uri.len() <= URI_BYTES_MAX && self.subscriptions.len() < SUBSCRIPTIONS_MAX;
        if !may_add || self.is_subscribed(upstream, uri) {
            return;
        }
        self.subscriptions.push(Subscription { upstream, uri: uri.into() });
        if self.charge_for_all().is_err() {
            self.subscriptions.pop();
        }
    }

    /// Removes a subscription, if there is one.
    pub fn unsubscribe(&mut self, upstream: u32, uri: &str) {
        self.retain(|known| known.upstream != upstream || *known.uri != *uri);
    }

    /// Removes the subscriptions at all upstreams but those.
    pub fn retain_upstreams(&mut self, is_kept: impl Fn(u32) -> bool) {
        self.retain(|known| is_kept(known.upstream));
    }

    pub fn is_subscribed(&self, upstream: u32, uri: &str) -> bool {
        self.subscriptions.iter().any(|known| known.upstream == upstream && *known.uri == *uri)
    }

    /// The URIs that the client has subscribed to at an upstream, in the order in which it did.
    pub fn subscriptions(&self, upstream: u32) -> Vec<Box<str>> {
        let here = self.subscriptions.iter().filter(|known| known.upstream == upstream);
        here.map(|known| known.uri.clone()).collect()
    }

    fn retain(&mut self, is_kept: impl FnMut(&Subscription) -> bool) {
        self.subscriptions.retain(is_kept);
        // Never more than before, which cannot fail.
        let _ = self.charge_for_all();
    }

    fn charge_for_all(&mut self) -> Result<(), OutOfMemory> {
        let bytes = |known: &Subscription| size_of::<Subscription>() + known.uri.len();
        self.charge.resize(self.subscriptions.iter().map(bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use metamcp_core::base::MemoryAccount;

    use super::*;

    fn settings(bytes_max: usize) -> (ClientSettings, &'static MemoryAccount) {
        let account = Box::leak(Box::new(MemoryAccount::new()));
        account.set_bytes_max(bytes_max);
        (ClientSettings { charge: account.charge(), ..ClientSettings::default() }, account)
    }

    #[test]
    fn a_subscription_is_of_one_upstream() {
        let (mut settings, _) = settings(usize::MAX);
        for (upstream, uri) in [(1, "x:1"), (2, "x:1"), (1, "x:2"), (1, "x:1")] {
            settings.subscribe(upstream, uri);
        }
        settings.unsubscribe(2, "x:2");
        assert_eq!(settings.subscriptions(1), [Box::from("x:1"), Box::from("x:2")]);
        assert_eq!(settings.subscriptions(2), [Box::from("x:1")]);
        settings.unsubscribe(1, "x:1");
        assert!(!settings.is_subscribed(1, "x:1") && settings.is_subscribed(2, "x:1"));
        settings.retain_upstreams(|upstream| upstream == 2);
        assert_eq!((settings.subscriptions(1).len(), settings.subscriptions(2).len()), (0, 1));
    }

    /// Subscribes to `count` URIs of that length at each of two upstreams. `expected` is how many are kept in all.
    #[track_caller]
    fn check_bound(bytes_max: usize, count: usize, uri_bytes: usize, expected: usize) {
        let (mut settings, account) = settings(bytes_max);
        for upstream in [1, 2] {
            for number in 0..count {
                settings.subscribe(upstream, &format!("{number:0uri_bytes$}"));
            }
        }
        let kept = settings.subscriptions(1).len() + settings.subscriptions(2).len();
        assert_eq!(kept, expected, "{count} of {uri_bytes} bytes, {bytes_max} bytes of memory");
        assert!(account.charged_bytes() <= bytes_max);
        assert_eq!(account.charged_bytes() > 0, kept * uri_bytes > 16 << 10);
        settings.retain_upstreams(|_| false);
        assert_eq!(account.charged_bytes(), 0);
    }

    #[test]
    fn subscriptions_of_a_session_have_a_bound_and_are_charged_for() {
        check_bound(usize::MAX, 100, 10, 200);
        check_bound(usize::MAX, 200, 10, SUBSCRIPTIONS_MAX);
        check_bound(usize::MAX, 200, URI_BYTES_MAX, SUBSCRIPTIONS_MAX);
        check_bound(usize::MAX, 200, URI_BYTES_MAX + 1, 0);
        // One step of 16 KiB is not charged for.
        check_bound(0, 200, URI_BYTES_MAX, 7);
    }
}
