//! What stands in for a server towards those who ask in an era that it does not speak.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use super::{EraChoice, RequestKind, UpstreamError, UpstreamPool, UpstreamRequest, UpstreamResponse};
use metamcp_core::protocol::Era;

/// Stands in for servers that do not speak an era, or of which that is not known yet. To whoever asks it is the server,
/// which then speaks both eras.
pub trait EraAdapter: Send + Sync {
    /// Answers a request of the era that it stands in for. Dropped, the call is given up.
    fn answer(
        self: Arc<Self>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        lane: RequestKind,
    ) -> ResponseFuture;

    /// Whether clients that ask which eras there are hear of this one too. Those that speak both would then choose it, also
    /// where more passes in the other.
    fn is_announced(&self) -> bool {
        true
    }
}

/// An answer to come.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Box<UpstreamResponse>, UpstreamError>>>>;

/// A server, as those see it who ask in one era.
#[derive(Default)]
pub struct EraSupport {
    /// Whether it speaks the era, as far as is known. Read with every request, so it is one byte and no lock.
    spoken: AtomicU8,
    face: OnceLock<Arc<dyn EraAdapter>>,
}

const UNKNOWN: u8 = 0;
const YES: u8 = 1;
const NO: u8 = 2;

impl EraSupport {
    /// Of an era, with what the configuration says of it.
    pub fn new(era: Era, choice: EraChoice) -> Self {
        let side = Self::default();
        side.note(match choice {
            EraChoice::Auto => None,
            EraChoice::Modern => Some(era == Era::Modern),
            EraChoice::Legacy => Some(era == Era::Legacy),
        });
        side
    }

    /// What is known.
    pub fn is_spoken(&self) -> Option<bool> {
        match self.spoken.load(Ordering::Relaxed) {
            YES => Some(true),
            NO => Some(false),
            _ => None,
        }
    }

    /// From now on that is known; `None`: nothing is.
    pub fn note(&self, is_spoken: Option<bool>) {
        let value = is_spoken.map_or(UNKNOWN, |yes| if yes { YES } else { NO });
        // Read first: a store moves the cache line between the workers.
        if self.spoken.load(Ordering::Relaxed) != value {
            self.spoken.store(value, Ordering::Relaxed);
        }
    }

    /// From now on this stands in. Only the first counts.
    pub fn set_face(&self, face: Arc<dyn EraAdapter>) {
        let _ = self.face.set(face);
    }

    /// Whether it is not spoken, and clients are not to be told of what stands in.
    pub fn is_hidden(&self) -> bool {
        self.is_spoken() == Some(false) && self.face.get().is_some_and(|face| !face.is_announced())
    }

    /// What stands in, unless the server is known to speak the era.
    pub fn face(&self) -> Option<&Arc<dyn EraAdapter>> {
        if self.is_spoken() == Some(true) { None } else { self.face.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known() {
        let check = |choice, expected: [Option<bool>; 2]| {
            let known = [Era::Legacy, Era::Modern].map(|era| EraSupport::new(era, choice).is_spoken());
            assert_eq!(known, expected, "{choice:?}");
        };
        check(EraChoice::Auto, [None, None]);
        check(EraChoice::Legacy, [Some(true), Some(false)]);
        check(EraChoice::Modern, [Some(false), Some(true)]);
        let side = EraSupport::new(Era::Legacy, EraChoice::Auto);
        for known in [Some(true), Some(false), Some(false), None] {
            side.note(known);
            assert_eq!(side.is_spoken(), known);
        }
    }
}
