//! Long lists, a piece at a time.

use super::value::Value;

/// A piece of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Paged<T, C> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// Where the next piece begins; `None`: this was the last one.
    pub next: Option<C>,
}

/// One piece: what an answer over HTTP should hold at most.
pub const PAGE_ITEMS_MAX: usize = 500;

pub(super) fn limit(asked: usize) -> usize {
    asked.clamp(1, PAGE_ITEMS_MAX)
}

/// One more than is given out, which tells whether there are more.
pub(super) fn fetched(limit: usize) -> Value {
    Value::from(limit as u64 + 1)
}

/// `cursor` of the last item given out is where the next piece begins.
pub(super) fn paged<T, C>(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Paged<T, C> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    Paged { items, next }
}
