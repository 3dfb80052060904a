//! Calls that wait for an answer, by numbers of the gateway's own.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// The in-flight calls of one channel. Every client counts from 0: on a channel that they share, each call gets a
/// number that no other call of the channel has or had. The number is its id, and its progress token and
/// subscription id if it has them.
///
/// Not bounded: whoever adds a call holds a permit for it.
#[derive(Debug)]
pub struct CallsByNumber<V> {
    /// The number given last.
    last: u64,
    calls: HashMap<u64, V, RandomState>,
}

impl<V> Default for CallsByNumber<V> {
    fn default() -> Self {
        Self { last: 0, calls: HashMap::default() }
    }
}

impl<V> CallsByNumber<V> {
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds a call and returns its number, from 1.
    pub fn insert(&mut self, call: V) -> u64 {
        let number = self.take_number();
        self.calls.insert(number, call);
        number
    }

    /// Returns a number for what is not a call, and that no call will have.
    pub fn take_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Returns the number of the in-flight call that a raw id refers to.
    pub fn find(&self, raw: &[u8]) -> Option<u64> {
        parse_call_number(raw).filter(|number| self.calls.contains_key(number))
    }

    pub fn contains(&self, number: u64) -> bool {
        self.calls.contains_key(&number)
    }

    pub fn get(&self, number: u64) -> Option<&V> {
        self.calls.get(&number)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut V> {
        self.calls.get_mut(&number)
    }

    /// Removes a call that was answered or cancelled.
    pub fn remove(&mut self, number: u64) -> Option<V> {
        self.calls.remove(&number)
    }

    /// Iterates over all calls and their numbers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.calls.iter().map(|(number, call)| (*number, call))
    }

    /// Removes and returns all calls.
    pub fn drain(&mut self) -> impl Iterator<Item = V> {
        self.calls.drain().map(|(_, call)| call)
    }
}

/// Parses a raw id or progress token as the number of a call: only in the form in which the gateway writes it.
pub fn parse_call_number(raw: &[u8]) -> Option<u64> {
    // `+7` and `007` parse as a number too.
    let is_canonical = raw == b"0" || matches!(raw, [b'1'..=b'9', ..]);
    str::from_utf8(raw).ok().filter(|_| is_canonical)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_twice() {
        let mut calls = CallsByNumber::default();
        assert_eq!(["a", "b", "c"].map(|call| calls.insert(call)), [1, 2, 3]);
        assert_eq!((calls.remove(3), calls.remove(3)), (Some("c"), None));
        assert_eq!((calls.take_number(), calls.insert("d")), (4, 5));
        assert!(!calls.contains(3) && !calls.contains(4) && calls.contains(5));
        *calls.get_mut(5).expect("in flight") = "e";
        assert_eq!((calls.get(5), calls.get(4)), (Some(&"e"), None));
        assert_eq!((calls.len(), calls.iter().count(), calls.drain().count()), (3, 3, 3));
        assert!(calls.is_empty());
        assert_eq!(calls.insert("f"), 6);
    }

    #[test]
    fn a_raw_id_finds_a_call_in_flight() {
        let mut calls = CallsByNumber::default();
        let numbers: Vec<u64> = (0..12).map(|call| calls.insert(call)).collect();
        assert_eq!(numbers.last(), Some(&12));
        calls.remove(2);
        let check = |raw: &str, expected| assert_eq!(calls.find(raw.as_bytes()), expected, "{raw}");
        check("1", Some(1));
        check("12", Some(12));
        for unknown in
            ["2", "0", "13", "\"1\"", "01", "+1", "1.0", "1e0", "-1", " 1", "1 ", "null", "", "1_", "\u{661}"]
        {
            check(unknown, None);
        }
    }

    #[test]
    fn call_numbers_are_parsed_as_they_are_written() {
        let check = |raw: &str, expected| assert_eq!(parse_call_number(raw.as_bytes()), expected, "{raw}");
        check("0", Some(0));
        check("9007199254740993", Some(9_007_199_254_740_993));
        check("18446744073709551615", Some(u64::MAX));
        for other in
            ["18446744073709551616", "99999999999999999999999", "00", "-0", "0x1", "1.0", "\"1\"", "null", ""]
        {
            check(other, None);
        }
        assert_eq!(parse_call_number(b"1\xff"), None);
    }
}
