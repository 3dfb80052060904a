//! The requests of a run: which operation is next, and with which id and canary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::settings::RunSettings;
use crate::client::{Client, Completion, Target};
use crate::error::RequestError;
use crate::message::{self, RequestTemplate};
use crate::response::ExpectedResponse;
use crate::scenario::{Era, EraSelection, Operation, RequestIds};

/// The lowest id of a request. Smaller ones are used for `initialize` and the preflight.
const FIRST_ID: u64 = 2;

/// What all connections of a run share.
pub struct RequestSource {
    pub target: Arc<Target>,
    pub eras: EraSelection,
    operations: Vec<Operation>,
    /// By era and operation.
    templates: [Vec<RequestTemplate>; 2],
    /// The sum of all weights.
    weight: u64,
    /// A random number that tells the canaries of this run from those of others.
    run: u64,
    /// The number of the next request.
    next: AtomicU64,
    /// Set to end the run early.
    pub stop: Arc<AtomicBool>,
}

impl RequestSource {
    /// Encodes the templates of all operations.
    pub fn new(run: &RunSettings) -> Self {
        let operations = run.scenario.operations.clone();
        let templates =
            |era| operations.iter().map(|operation| RequestTemplate::for_operation(operation, era)).collect();
        Self {
            target: Arc::clone(&run.target),
            eras: run.scenario.era,
            templates: [templates(Era::Modern), templates(Era::Legacy)],
            weight: operations.iter().map(|operation| u64::from(operation.weight)).sum(),
            operations,
            run: random(),
            next: AtomicU64::new(0),
            stop: Arc::clone(&run.stop),
        }
    }

    /// The number of operations.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Sends an operation once, with the next request number.
    pub async fn call(&self, client: &mut Client, operation: usize) -> Result<Completion, RequestError> {
        self.send(client, operation, self.next_number()).await
    }

    /// Returns a request number that is unique within the run.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends an operation with a given request number.
    pub async fn send(
        &self,
        client: &mut Client,
        operation: usize,
        number: u64,
    ) -> Result<Completion, RequestError> {
        let id = match self.target.ids {
            RequestIds::Unique => FIRST_ID + number,
            RequestIds::Fixed => 1,
        };
        let checks = self.operations[operation].checks;
        let canary = message::canary(self.run, number);
        let expected = ExpectedResponse { id, canary, checks, era: client.era };
        let templates = &self.templates[usize::from(client.era == Era::Legacy)];
        client.call(&templates[operation], expected).await
    }

    /// Chooses the operation of a request by weight: evenly distributed, and the same in every run.
    pub fn operation_for(&self, number: u64) -> usize {
        let mut rest = mix(number) % self.weight.max(1);
        for (index, operation) in self.operations.iter().enumerate() {
            match rest.checked_sub(u64::from(operation.weight)) {
                Some(less) => rest = less,
                None => return index,
            }
        }
        0
    }
}

/// `SplitMix64` (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Differs between runs. It need not be unpredictable.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
