//! Long lists, one page at a time.

use super::value::Value;

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PagedRows<T, C> {
    pub items: Vec<T>,
    /// The cursor of the next page; `None` on the last one.
    pub next: Option<C>,
}

/// The largest page: as much as an HTTP response should hold.
pub const PAGE_ITEMS_MAX: usize = 500;

/// Clamps a requested page size.
pub(super) fn page_size(requested: usize) -> usize {
    requested.clamp(1, PAGE_ITEMS_MAX)
}

/// The number of rows to fetch for a page: one more than it holds, which tells whether there is another page.
pub(super) fn fetch_limit(page_size: usize) -> Value {
    Value::from(page_size as u64 + 1)
}

/// Makes a page of the fetched rows. `cursor` of its last item is where the next page starts.
pub(super) fn to_page<T, C>(
    mut items: Vec<T>,
    page_size: usize,
    cursor: impl Fn(&T) -> C,
) -> PagedRows<T, C> {
    let has_more = items.len() > page_size;
    items.truncate(page_size);
    let next = items.last().filter(|_| has_more).map(cursor);
    PagedRows { items, next }
}
