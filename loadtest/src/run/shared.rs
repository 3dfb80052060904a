//! What all connections of a run know, and how one request is made of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Run;
use crate::answer::{Expected, Wrong};
use crate::client::{Answered, Client, Target};
use crate::message::{self, Template};
use crate::scenario::{Era, Eras, Ids, Operation};

/// Ids below are of our own questions.
const FIRST_ID: u64 = 2;

/// What all connections of a run know.
pub struct Shared {
    /// Whom to ask.
    pub target: Arc<Target>,
    /// What connections speak.
    pub eras: Eras,
    operations: Vec<Operation>,
    /// By era and operation.
    templates: [Vec<Template>; 2],
    weight: u64,
    run: u64,
    /// Of the next request.
    next: AtomicU64,
    /// Somebody wants to end early.
    pub stop: Arc<AtomicBool>,
}

impl Shared {
    /// Of a run, with every request made ready.
    pub fn new(run: &Run) -> Self {
        let operations = run.scenario.operations.clone();
        let of = |era| operations.iter().map(|operation| Template::of(operation, era)).collect();
        Self {
            target: Arc::clone(&run.target),
            eras: run.scenario.era,
            templates: [of(Era::Modern), of(Era::Legacy)],
            weight: operations.iter().map(|operation| u64::from(operation.weight)).sum(),
            operations,
            run: random(),
            next: AtomicU64::new(0),
            stop: Arc::clone(&run.stop),
        }
    }

    /// How many there are.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Sends the operation of that number once.
    pub async fn call(&self, client: &mut Client, operation: usize) -> Result<Answered, Wrong> {
        self.send(client, operation, self.number()).await
    }

    /// One that no other request has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// As [`call`](Self::call), with the number of the request.
    pub async fn send(&self, client: &mut Client, operation: usize, number: u64) -> Result<Answered, Wrong> {
        let id = match self.target.ids {
            Ids::Unique => FIRST_ID + number,
            Ids::Fixed => 1,
        };
        let checks = self.operations[operation].checks;
        let expected = Expected { id, canary: message::canary(self.run, number), checks, era: client.era };
        let templates = &self.templates[usize::from(client.era == Era::Legacy)];
        client.call(&templates[operation], expected).await
    }

    /// Which operation a request is: by weight, spread evenly and the same in every run.
    pub fn operation(&self, number: u64) -> usize {
        let mut left = spread(number) % self.weight.max(1);
        for (at, operation) in self.operations.iter().enumerate() {
            match left.checked_sub(u64::from(operation.weight)) {
                Some(rest) => left = rest,
                None => return at,
            }
        }
        0
    }
}

/// `SplitMix64` (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn spread(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Different in every run; that nobody can guess it does not matter.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
