//! The calls under way on one process, by the ids that it knows them by.
//!
//! Every client counts from 0. On a process that they share, each call gets a number that no other call of
//! the process has or had; the answer gets its own id back, exactly as it was written.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

/// Calls of one process. The number of each is also its progress token, and stands for its subscription.
pub struct CallTable<C> {
    next: u64,
    open: HashMap<u64, CallEntry<C>, RandomState>,
}

/// A call, and what its client calls it.
pub struct CallEntry<C> {
    /// The raw id.
    pub id: Bytes,
    /// The raw progress token, when it has one.
    pub token: Option<Bytes>,
    /// Whose it is.
    pub call: C,
}

/// What a raw id of a process stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum IdMatch {
    /// A call under way.
    Open(u64),
    /// One that is over: given up, or answered before.
    Over,
    /// Nothing that was ever asked.
    Foreign,
}

impl<C> CallTable<C> {
    /// Without a call.
    pub fn new() -> Self {
        Self { next: 1, open: HashMap::default() }
    }

    /// The number of a new call.
    pub fn mint(&mut self, id: Bytes, token: Option<Bytes>, call: C) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, CallEntry { id, token, call });
        number
    }

    /// What the process means by a raw id. Only a number in the one form that we wrote it in is ours.
    pub fn find(&self, raw: &[u8]) -> IdMatch {
        let number = str::from_utf8(raw).ok().and_then(|text| text.parse::<u64>().ok());
        // `007` reads as a number too.
        let Some(number) = number.filter(|number| number.to_string().as_bytes() == raw) else {
            return IdMatch::Foreign;
        };
        match number {
            _ if self.open.contains_key(&number) => IdMatch::Open(number),
            1.. if number < self.next => IdMatch::Over,
            _ => IdMatch::Foreign,
        }
    }

    /// A call under way.
    pub fn get(&mut self, number: u64) -> Option<&mut CallEntry<C>> {
        self.open.get_mut(&number)
    }

    /// The call is over.
    pub fn remove(&mut self, number: u64) -> Option<CallEntry<C>> {
        self.open.remove(&number)
    }

    /// All calls under way, with their numbers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &CallEntry<C>)> {
        self.open.iter().map(|(number, minted)| (*number, minted))
    }

    /// Takes all.
    pub fn drain(&mut self) -> impl Iterator<Item = CallEntry<C>> {
        self.open.drain().map(|(_, minted)| minted)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_its_own_numbers() {
        let mut table = CallTable::new();
        // Four clients that all begin with 0, and one with a number that no double holds.
        let ids = ["0", "0", "\"0\"", "0", "9007199254740993"];
        let numbers: Vec<u64> = ids.iter().map(|id| table.mint((*id).into(), None, *id)).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert_eq!(table.remove(2).unwrap().id, "0");
        let check = |raw: &str, expected| assert_eq!(table.find(raw.as_bytes()), expected, "{raw}");
        check("1", IdMatch::Open(1));
        check("5", IdMatch::Open(5));
        check("2", IdMatch::Over);
        for foreign in ["0", "6", "\"1\"", "01", "+1", "1.0", "-1", "null", "", "99999999999999999999999"] {
            check(foreign, IdMatch::Foreign);
        }
        assert_eq!(table.get(5).unwrap().id, "9007199254740993");
        assert_eq!((table.len(), table.iter().count(), table.drain().count()), (4, 4, 4));
    }
}
