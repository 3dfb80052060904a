//! Which eras of MCP a server speaks.

use std::sync::atomic::{AtomicU8, Ordering};

use metamcp_config::server::EraChoice;
use metamcp_core::protocol::Era;

/// Whether a server speaks one era, as far as is known.
#[derive(Default)]
pub struct EraSupport {
    /// Read with every request, so it is one byte and no lock.
    spoken: AtomicU8,
}

const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

impl EraSupport {
    /// Creates the state that follows from the configuration.
    pub fn new(era: Era, choice: EraChoice) -> Self {
        let support = Self::default();
        support.set_spoken(match choice {
            EraChoice::Auto => None,
            EraChoice::Modern => Some(era == Era::Modern),
            EraChoice::Legacy => Some(era == Era::Legacy),
        });
        support
    }

    /// Whether the server speaks the era; `None` when that is unknown.
    pub fn is_spoken(&self) -> Option<bool> {
        match self.spoken.load(Ordering::Relaxed) {
            YES => Some(true),
            NO => Some(false),
            _ => None,
        }
    }

    /// Records the result of a probe; `None` when it is unknown again.
    pub fn set_spoken(&self, is_spoken: Option<bool>) {
        let value = is_spoken.map_or(UNKNOWN, |yes| if yes { YES } else { NO });
        // Read first: a store moves the cache line between the workers.
        if self.spoken.load(Ordering::Relaxed) != value {
            self.spoken.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_and_detected_eras() {
        let check = |choice, expected: [Option<bool>; 2]| {
            let known = [Era::Legacy, Era::Modern].map(|era| EraSupport::new(era, choice).is_spoken());
            assert_eq!(known, expected, "{choice:?}");
        };
        check(EraChoice::Auto, [None, None]);
        check(EraChoice::Legacy, [Some(true), Some(false)]);
        check(EraChoice::Modern, [Some(false), Some(true)]);
        let support = EraSupport::new(Era::Legacy, EraChoice::Auto);
        for known in [Some(true), Some(false), Some(false), None] {
            support.set_spoken(known);
            assert_eq!(support.is_spoken(), known);
        }
    }
}
