//! The in-flight calls of one channel, by the ids that the server knows them by.
//!
//! Every client counts from 0. On a channel that they share, each call gets a number that no other call of
//! the channel has or had. The response gets the client's id back, exactly as it was written.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

/// The in-flight calls of one channel. The number of a call is its id, its progress token and its
/// subscription id.
pub struct PendingCalls<C> {
    next: u64,
    entries: HashMap<u64, CallEntry<C>, RandomState>,
}

/// An in-flight call, with the client's own identifiers.
pub struct CallEntry<C> {
    /// The client's raw id.
    pub id: Bytes,
    /// The client's raw progress token, if it sent one.
    pub token: Option<Bytes>,
    pub call: C,
}

/// What a raw id from the server refers to.
#[derive(Debug, PartialEq, Eq)]
pub enum IdMatch {
    InFlight(u64),
    /// A call that was answered or cancelled before.
    Finished,
    /// No call that was ever sent.
    Unknown,
}

impl<C> PendingCalls<C> {
    pub fn new() -> Self {
        Self { next: 1, entries: HashMap::default() }
    }

    /// Adds a call and returns its number.
    pub fn insert(&mut self, id: Bytes, token: Option<Bytes>, call: C) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries.insert(number, CallEntry { id, token, call });
        number
    }

    /// Returns what a raw id refers to. Only numbers in the form that we wrote them are ours.
    pub fn match_id(&self, raw: &[u8]) -> IdMatch {
        let number = str::from_utf8(raw).ok().and_then(|text| text.parse::<u64>().ok());
        // `007` parses as a number too.
        let Some(number) = number.filter(|number| number.to_string().as_bytes() == raw) else {
            return IdMatch::Unknown;
        };
        match number {
            _ if self.entries.contains_key(&number) => IdMatch::InFlight(number),
            1.. if number < self.next => IdMatch::Finished,
            _ => IdMatch::Unknown,
        }
    }

    /// Returns the number of the in-flight call that a raw id refers to.
    pub fn find(&self, raw: &[u8]) -> Option<u64> {
        match self.match_id(raw) {
            IdMatch::InFlight(number) => Some(number),
            IdMatch::Finished | IdMatch::Unknown => None,
        }
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut CallEntry<C>> {
        self.entries.get_mut(&number)
    }

    /// Removes a call that has ended.
    pub fn remove(&mut self, number: u64) -> Option<CallEntry<C>> {
        self.entries.remove(&number)
    }

    /// Iterates over all calls and their numbers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &CallEntry<C>)> {
        self.entries.iter().map(|(number, entry)| (*number, entry))
    }

    pub fn drain(&mut self) -> impl Iterator<Item = CallEntry<C>> {
        self.entries.drain().map(|(_, entry)| entry)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_its_own_numbers() {
        let mut calls = PendingCalls::new();
        // Four clients that all begin with 0, and one with a number that no double holds.
        let ids = ["0", "0", "\"0\"", "0", "9007199254740993"];
        let numbers: Vec<u64> = ids.iter().map(|id| calls.insert((*id).into(), None, *id)).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert_eq!(calls.remove(2).unwrap().id, "0");
        let check = |raw: &str, expected| assert_eq!(calls.match_id(raw.as_bytes()), expected, "{raw}");
        check("1", IdMatch::InFlight(1));
        check("5", IdMatch::InFlight(5));
        check("2", IdMatch::Finished);
        for unknown in ["0", "6", "\"1\"", "01", "+1", "1.0", "-1", "null", "", "99999999999999999999999"] {
            check(unknown, IdMatch::Unknown);
        }
        assert_eq!((calls.find(b"5"), calls.find(b"2"), calls.find(b"6")), (Some(5), None, None));
        assert_eq!(calls.get_mut(5).unwrap().id, "9007199254740993");
        assert_eq!((calls.len(), calls.iter().count(), calls.drain().count()), (4, 4, 4));
    }
}
