//! Calls that wait for an answer, by the ids that their sender gave them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::message_id::canonical_id;

/// The in-flight calls of one sender, `MAX` at most. Ids are equal as [`is_same_id`](super::is_same_id) says: the
/// string `"1"` and the number `1` are two ids, a string in two spellings is one.
///
/// The ids that it returns are canonical: the same JSON value as the sender wrote.
#[derive(Debug)]
pub struct CallsById<V, const MAX: usize> {
    /// Keyed by the canonical form of the id.
    calls: HashMap<Bytes, V, RandomState>,
}

/// Why a call is not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// Another call has the id (JSON-RPC 2.0, section 4: the sender's mistake).
    IdInUse,
    TooMany,
}

impl<V, const MAX: usize> Default for CallsById<V, MAX> {
    fn default() -> Self {
        Self { calls: HashMap::default() }
    }
}

impl<V, const MAX: usize> CallsById<V, MAX> {
    pub const MAX: usize = MAX;

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.len() >= MAX
    }

    /// Adds a call, unless one with its id is in flight. The raw id is kept, so the caller copies
    /// an id that is a slice of a large message.
    pub fn insert(&mut self, id: Bytes, call: V) -> Result<(), InsertError> {
        let is_full = self.is_full();
        match self.calls.entry(canonical(id)) {
            Entry::Occupied(_) => Err(InsertError::IdInUse),
            Entry::Vacant(_) if is_full => Err(InsertError::TooMany),
            Entry::Vacant(entry) => {
                entry.insert(call);
                Ok(())
            }
        }
    }

    /// Adds a call, in the place of one with its id. Returns false if there is no room for another id. The raw id is
    /// kept, as by [`Self::insert`].
    pub fn insert_or_replace(&mut self, id: Bytes, call: V) -> bool {
        let is_full = self.is_full();
        match self.calls.entry(canonical(id)) {
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(entry) => drop(entry.insert(call)),
            Entry::Occupied(mut entry) => drop(entry.insert(call)),
        }
        true
    }

    pub fn contains(&self, id: &[u8]) -> bool {
        self.get(id).is_some()
    }

    pub fn get(&self, id: &[u8]) -> Option<&V> {
        self.calls.get(&*canonical_id(id))
    }

    pub fn get_mut(&mut self, id: &[u8]) -> Option<&mut V> {
        self.calls.get_mut(&*canonical_id(id))
    }

    /// Removes a call that was answered or cancelled.
    pub fn remove(&mut self, id: &[u8]) -> Option<V> {
        self.calls.remove(&*canonical_id(id))
    }

    /// Removes the call with this id if the predicate holds.
    pub fn remove_if(&mut self, id: &[u8], predicate: impl FnOnce(&V) -> bool) -> Option<V> {
        let id = canonical_id(id);
        self.calls.get(&*id).filter(|call| predicate(call))?;
        self.calls.remove(&*id)
    }

    /// Removes all calls for which the predicate holds, and returns their ids.
    pub fn remove_all(&mut self, predicate: impl Fn(&V) -> bool) -> Vec<Bytes> {
        self.calls.extract_if(|_, call| predicate(call)).map(|(id, _)| id).collect()
    }

    /// Iterates over all calls and their ids, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &V)> {
        self.calls.iter()
    }

    pub fn clear(&mut self) {
        self.calls.clear();
    }
}

/// Returns an id in canonical form, without a copy if it is.
fn canonical(id: Bytes) -> Bytes {
    match canonical_id(&id) {
        Cow::Borrowed(_) => id,
        Cow::Owned(canonical) => canonical.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Calls = CallsById<usize, 8>;

    /// Ids that a client may use side by side.
    const DISTINCT: [&str; 8] =
        ["1", "1.0", "\"1\"", "\"1.0\"", "null", "9007199254740993", "9007199254740992", "\"é\""];

    fn id(raw: &str) -> Bytes {
        Bytes::copy_from_slice(raw.as_bytes())
    }

    fn full() -> Calls {
        let mut calls = Calls::default();
        for (value, raw) in DISTINCT.iter().enumerate() {
            assert_eq!(calls.insert(id(raw), value), Ok(()), "{raw}");
        }
        calls
    }

    #[test]
    fn ids_that_differ_are_distinct() {
        let mut calls = full();
        for (value, raw) in DISTINCT.iter().enumerate() {
            assert_eq!(calls.get(raw.as_bytes()), Some(&value), "{raw}");
            assert_eq!(calls.insert(id(raw), 99), Err(InsertError::IdInUse), "{raw}");
        }
        for unknown in ["", "01", "+1", "1.00", "1e0", "\"null\"", "\"9007199254740993\"", "\"e\""] {
            assert!(!calls.contains(unknown.as_bytes()), "{unknown}");
        }
        for (value, raw) in DISTINCT.iter().enumerate() {
            assert_eq!(calls.remove(raw.as_bytes()), Some(value), "{raw}");
            assert_eq!(calls.remove(raw.as_bytes()), None, "{raw}: once");
        }
        assert!(calls.is_empty());
    }

    #[test]
    fn spellings_of_a_string_are_one_id() {
        for (one, other) in [(r#""req\/1""#, r#""req/1""#), (r#""req/1""#, r#""\u0072eq/1""#)] {
            let mut calls = Calls::default();
            assert_eq!(calls.insert(id(one), 1), Ok(()));
            assert_eq!(calls.insert(id(other), 2), Err(InsertError::IdInUse), "{other}");
            assert!(calls.insert_or_replace(id(other), 3) && calls.len() == 1, "{other}");
            *calls.get_mut(other.as_bytes()).expect("in flight") += 1;
            assert_eq!(calls.iter().collect::<Vec<_>>(), [(&id(r#""req/1""#), &4)]);
            assert_eq!(calls.remove(one.as_bytes()), Some(4), "{one}");
        }
        let mut calls = Calls::default();
        assert_eq!(calls.insert(id(r#""\u0061""#), 1), Ok(()));
        assert_eq!(calls.remove_if(b"\"a\"", |call| *call == 2), None);
        assert_eq!(calls.remove_if(b"\"a\"", |call| *call == 1), Some(1));
    }

    #[test]
    fn calls_are_bounded() {
        let mut calls = full();
        assert!(calls.is_full() && calls.len() == Calls::MAX);
        assert_eq!(calls.insert(id("2"), 9), Err(InsertError::TooMany));
        assert_eq!(
            calls.insert(id("1"), 9),
            Err(InsertError::IdInUse),
            "the mistake of the sender comes first"
        );
        assert!(!calls.insert_or_replace(id("2"), 9));
        assert_eq!(calls.remove_all(|value| *value < 2).len(), 2);
        assert!(calls.insert_or_replace(id("2"), 9) && calls.insert(id("1"), 9).is_ok() && calls.is_full());
        calls.clear();
        assert!(calls.is_empty() && !calls.is_full());
    }
}
