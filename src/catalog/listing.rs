//! One merged list, as the bytes of its pages.

use std::hash::{BuildHasher, Hasher};

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::FixedState;

use super::cursor;
use super::list::ListKind;
use crate::route::{Destination, NameIndex};

/// A list merged from the servers of an endpoint.
#[derive(Default)]
pub struct Listing {
    /// The keys in ascending order, each with its item as advertised.
    items: Vec<(String, Bytes)>,
    /// The server of each item.
    pub names: NameIndex,
    /// The first page: what nearly every request asks for.
    first_page: Bytes,
    /// What follows the items on each page.
    tail: Bytes,
    /// The same for clients that do not see every item.
    restricted_tail: Bytes,
    page_items: usize,
    /// A digest of the items, by which a change of the list is detected.
    pub digest: u64,
}

impl Listing {
    /// Creates a list from its items in ascending order of their keys. `tails` are the ends of each page: for
    /// clients that see everything, and for those that do not.
    pub(super) fn new(
        kind: ListKind,
        entries: impl ExactSizeIterator<Item = (String, Bytes, Destination)>,
        tails: [Bytes; 2],
        page_items: usize,
    ) -> Self {
        let mut names = NameIndex::with_capacity(entries.len());
        let mut hasher = FixedState::default().build_hasher();
        let mut items = Vec::with_capacity(entries.len());
        for (key, json, destination) in entries {
            hasher.write(&json);
            names.insert(&key, destination);
            items.push((key, json));
        }
        let digest = hasher.finish();
        let [tail, restricted_tail] = tails;
        let first_page = Bytes::new();
        let mut listing = Self { items, names, first_page, tail, restricted_tail, page_items, digest };
        listing.first_page = listing.page(kind, &listing.items, &listing.tail);
        listing
    }

    /// Whether a client would notice no difference.
    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        (self.digest, &self.tail) == (other.digest, &other.tail)
    }

    /// Returns the advertised keys that are longer than that.
    pub(super) fn keys_longer_than(&self, bytes: usize) -> Vec<String> {
        let long = self.items.iter().filter(|(key, _)| key.len() > bytes);
        long.map(|(key, _)| key.clone()).collect()
    }

    /// Returns the `result` of the page after `cursor`; `None` if that is not a cursor of this list.
    pub fn page_result(&self, kind: ListKind, cursor: Option<&str>) -> Option<Bytes> {
        let Some(cursor) = cursor else { return Some(self.first_page.clone()) };
        let last_key = cursor::parse(kind, cursor)?;
        Some(self.page(kind, self.items_after(Some(&last_key)), &self.tail))
    }

    /// Returns the same with only the items that `is_allowed` accepts, for this client alone.
    pub fn restricted_page_result(
        &self,
        kind: ListKind,
        cursor: Option<&str>,
        is_allowed: impl Fn(&str) -> bool,
    ) -> Option<Bytes> {
        let rest = match cursor {
            None => &self.items[..],
            Some(cursor) => self.items_after(Some(&cursor::parse(kind, cursor)?)),
        };
        let rest: Vec<_> = rest.iter().filter(|(key, _)| is_allowed(key)).cloned().collect();
        Some(self.page(kind, &rest, &self.restricted_tail))
    }

    /// Returns the advertised item with that key.
    pub fn item(&self, key: &str) -> Option<&Bytes> {
        let at = self.items.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
        Some(&self.items[at].1)
    }

    /// Returns the items after `key`, each with its key.
    pub fn items_after(&self, key: Option<&str>) -> &[(String, Bytes)] {
        let start = key.map_or(0, |key| self.items.partition_point(|(other, _)| other.as_str() <= key));
        &self.items[start..]
    }

    /// Returns the first page of the rest of the list.
    fn page(&self, kind: ListKind, rest: &[(String, Bytes)], tail: &Bytes) -> Bytes {
        let items = &rest[..rest.len().min(self.page_items.max(1))];
        let bytes: usize = items.iter().map(|(_, json)| json.len() + 1).sum();
        let mut page = BytesMut::with_capacity(bytes + tail.len() + 128);
        page.put_slice(b"{\"");
        page.put_slice(kind.member().as_bytes());
        page.put_slice(b"\":[");
        for (index, (_, json)) in items.iter().enumerate() {
            if index > 0 {
                page.put_u8(b',');
            }
            page.put_slice(json);
        }
        page.put_u8(b']');
        if let Some((last_key, _)) = items.last().filter(|_| items.len() < rest.len()) {
            page.put_slice(b",\"nextCursor\":\"");
            page.put_slice(cursor::encode(kind, last_key).as_bytes());
            page.put_u8(b'"');
        }
        page.put_slice(tail);
        page.freeze()
    }
}
