//! The time, the shutdown phase and the version of the keys, as of the last tick.

use std::cell::Cell;

use crate::server::http1::cached_credential::CredentialEpoch;
use crate::server::http1::date::{self, Date};
use metamcp_core::base::{ShutdownPhase, unix_seconds};

/// A worker's view of the time and of the gateway's state, at most a second old.
pub struct Clock {
    seconds: Cell<u64>,
    /// The same time, formatted for `Date`.
    date: Cell<Date>,
    phase: Cell<ShutdownPhase>,
    keys_version: Cell<u64>,
}

impl Clock {
    pub fn new(phase: ShutdownPhase) -> Self {
        Self {
            seconds: Cell::new(unix_seconds()),
            date: Cell::new(date::now()),
            phase: Cell::new(phase),
            keys_version: Cell::new(0),
        }
    }

    /// Seconds since the Unix epoch.
    pub fn now_s(&self) -> u64 {
        self.seconds.get()
    }

    /// The time, formatted for `Date`.
    pub fn date(&self) -> Date {
        self.date.get()
    }

    pub fn phase(&self) -> ShutdownPhase {
        self.phase.get()
    }

    /// The time and key version that cached credentials are valid for.
    pub fn credential_epoch(&self) -> CredentialEpoch {
        CredentialEpoch { second: self.seconds.get(), keys_version: self.keys_version.get() }
    }

    pub fn tick(&self) {
        self.seconds.set(unix_seconds());
        self.date.set(date::now());
    }

    /// Updates the shutdown phase and the version of the keys.
    pub fn set_state(&self, phase: ShutdownPhase, keys_version: u64) {
        self.phase.set(phase);
        self.keys_version.set(keys_version);
    }
}
