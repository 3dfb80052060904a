//! What stands in for a server towards those who ask in an era that it does not speak.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Answered, BackendError, EraChoice, Lane, Outgoing, Pool};

/// Stands in for servers that do not speak the Modern era, or of which that is not known yet. To whoever asks it is the
/// server, which then speaks both eras.
pub trait Face: Send + Sync {
    /// Answers a Modern request. Dropped, the call is given up.
    fn answer(self: Arc<Self>, pool: Rc<Pool>, request: Outgoing, lane: Lane) -> Answering;
}

/// An answer to come.
pub type Answering = Pin<Box<dyn Future<Output = Result<Box<Answered>, BackendError>>>>;

/// Whether a server speaks an era, as far as is known. Read with every request, so it is one byte and no lock.
pub struct Spoken(AtomicU8);

const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

impl Spoken {
    /// The Modern era, as configured.
    pub fn modern(era: EraChoice) -> Self {
        Self(AtomicU8::new(match era {
            EraChoice::Auto => UNKNOWN,
            EraChoice::Modern => YES,
            EraChoice::Legacy => NO,
        }))
    }

    /// What is known.
    pub fn is_spoken(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            YES => Some(true),
            NO => Some(false),
            _ => None,
        }
    }

    /// From now on that is known; `None`: nothing is.
    pub fn note(&self, is_spoken: Option<bool>) {
        let value = is_spoken.map_or(UNKNOWN, |yes| if yes { YES } else { NO });
        // Read first: a store moves the cache line between the workers.
        if self.0.load(Ordering::Relaxed) != value {
            self.0.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known() {
        let check = |era, expected| assert_eq!(Spoken::modern(era).is_spoken(), expected, "{era:?}");
        check(EraChoice::Auto, None);
        check(EraChoice::Modern, Some(true));
        check(EraChoice::Legacy, Some(false));
        let spoken = Spoken::modern(EraChoice::Auto);
        for known in [Some(true), Some(false), Some(false), None] {
            spoken.note(known);
            assert_eq!(spoken.is_spoken(), known);
        }
    }
}
