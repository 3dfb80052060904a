//! The settings of `[server]`, which a reload replaces while requests are served.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use crate::server::http1::guard::OriginGuard;
use metamcp_config::sections::HttpConfig;

/// The settings of `[server]`, and what is made of them. Never changes: another one is published.
#[derive(Clone)]
pub struct HttpSettings {
    pub config: HttpConfig,
    /// Checks Host and Origin.
    pub guard: OriginGuard,
}

impl HttpSettings {
    pub fn new(config: HttpConfig) -> Self {
        Self { guard: OriginGuard::new(&config), config }
    }
}

/// The settings that one worker uses: a copy of its own, so that requests of different threads share no counter.
pub struct SettingsFollower {
    published: RefCell<watch::Receiver<Arc<HttpSettings>>>,
    current: RefCell<Rc<HttpSettings>>,
}

impl SettingsFollower {
    pub fn new(mut published: watch::Receiver<Arc<HttpSettings>>) -> Self {
        let current = Rc::new(HttpSettings::clone(&published.borrow_and_update()));
        Self { published: RefCell::new(published), current: RefCell::new(current) }
    }

    /// The current settings. To be loaded once per request or connection.
    pub fn current(&self) -> Rc<HttpSettings> {
        Rc::clone(&self.current.borrow())
    }

    /// Uses the newest settings from now on; returns whether they are others. Takes a lock, so it is not for requests.
    pub fn follow(&self) -> bool {
        let mut published = self.published.borrow_mut();
        // A closed channel has no newer settings.
        let has_changed = published.has_changed().unwrap_or(false);
        if has_changed {
            let settings = HttpSettings::clone(&published.borrow_and_update());
            self.current.replace(Rc::new(settings));
        }
        has_changed
    }
}
