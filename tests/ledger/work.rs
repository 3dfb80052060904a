//! The arguments of a call, which tell the scripted server what to do, and the text of its answer.

use std::borrow::Cow;

use serde::Deserialize;

use crate::fault::Fault;
use crate::kind::Kind;
use crate::random::mix;
use crate::tag::{Canary, Tag};

/// Arguments as they are sent.
#[derive(Clone, Debug, Deserialize)]
pub struct Work<'a> {
    #[serde(borrow)]
    tag: Cow<'a, str>,
    #[serde(borrow)]
    canary: Cow<'a, str>,
    kind: u8,
    fault: u8,
    /// What the fault needs: a number of bytes, or of milliseconds.
    pub number: u32,
    #[serde(borrow)]
    pub pad: Cow<'a, str>,
}

impl<'a> Work<'a> {
    pub fn new(tag: Tag, seed: u64, kind: Kind, fault: Fault, number: u32, pad: &'a str) -> Self {
        Self {
            tag: tag.to_string().into(),
            canary: tag.canary(seed).to_string().into(),
            kind: kind as u8,
            fault: fault as u8,
            number,
            pad: pad.into(),
        }
    }

    pub fn tag(&self) -> Option<Tag> {
        Tag::parse(&self.tag)
    }

    pub fn canary(&self) -> Option<Canary> {
        Canary::parse(&self.canary)
    }

    pub fn kind(&self) -> Option<Kind> {
        Kind::ALL.get(usize::from(self.kind)).copied()
    }

    pub fn fault(&self) -> Fault {
        Fault::ALL.get(usize::from(self.fault)).copied().unwrap_or(Fault::None)
    }

    pub fn json(&self) -> String {
        format!(
            r#"{{"tag":"{}","canary":"{}","kind":{},"fault":{},"number":{},"pad":"{}"}}"#,
            self.tag, self.canary, self.kind, self.fault, self.number, self.pad
        )
    }

    /// What was executed, as a number that differs if any argument does.
    fn digest(&self) -> u64 {
        let numbers = u64::from(self.kind) << 40 | u64::from(self.fault) << 32 | u64::from(self.number);
        let texts = [&self.tag, &self.canary, &self.pad];
        texts
            .iter()
            .flat_map(|text| text.bytes())
            .fold(mix(numbers), |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
    }

    /// The text of the answer to the call, once it was executed.
    pub fn answer_text(&self) -> String {
        format!("{} {} {:016x}", self.tag, self.canary, self.digest())
    }
}
