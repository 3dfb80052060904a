//! A worker's own side of its table: finding the slot of a name, and adding to it. No lock, no system call;
//! memory is allocated for a new name only.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::OTHER;
use super::count::Count;
use super::table::{KEY_BYTES_MAX, Names, OTHER_SLOT, SERVER_BYTES_MAX, TOOL_BYTES_MAX, Table};

/// The counters of one worker. Stays on its thread.
pub struct Counters(Rc<Desk>);

/// A place to add to. While it is held the place keeps its names, so hold it for a request, not for ever.
pub struct Slot {
    desk: Rc<Desk>,
    place: usize,
}

/// What the worker knows of its table. Gives it back when the last handle goes.
struct Desk {
    table: Arc<Table>,
    uses: Box<[Use]>,
    book: RefCell<Book>,
}

/// How a slot is used at present.
#[derive(Default)]
struct Use {
    handles: Cell<u32>,
    /// Asked for since the last sweep.
    recent: Cell<bool>,
}

/// Invariant: each slot but the one for others is in exactly one of the three.
struct Book {
    places: HashMap<Names, usize, RandomState>,
    free: Vec<usize>,
    /// Names damaged, counts not yet in the journal.
    orphans: Vec<usize>,
    /// [`Table::settled`] at the last sweep.
    swept: Option<u64>,
}

impl Counters {
    pub(super) fn take(table: &Arc<Table>) -> Option<Self> {
        if !table.take() {
            return None;
        }
        if table.names(OTHER_SLOT) != Some(Names::other()) {
            table.occupy(OTHER_SLOT, &Names::other());
        }
        let uses = std::iter::repeat_with(Use::default).take(table.slots()).collect();
        let book = RefCell::new(Book::of(table));
        Some(Self(Rc::new(Desk { table: Arc::clone(table), uses, book })))
    }

    /// The place of a key, server and tool. When there are more of them than slots, or a name is longer than any
    /// that is allowed, it is counted under [`OTHER`].
    #[inline]
    pub fn slot(&self, key: &str, server: &str, tool: &str) -> Slot {
        let desk = &self.0;
        let names = [fit(key, KEY_BYTES_MAX), fit(server, SERVER_BYTES_MAX), fit(tool, TOOL_BYTES_MAX)];
        let found = desk.book.borrow().places.get(&names as &dyn Parts).copied();
        let place = found.unwrap_or_else(|| desk.new_place(names));
        let used = &desk.uses[place];
        used.recent.set(true);
        used.handles.set(used.handles.get() + 1);
        Slot { desk: Rc::clone(desk), place }
    }
}

fn fit(name: &str, bytes_max: usize) -> &str {
    if name.len() <= bytes_max { name } else { OTHER }
}

impl Slot {
    /// Adds. When it returns, the count outlives the process.
    #[inline]
    pub fn add(&self, count: Count) {
        self.desk.table.add(self.place, count);
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        let handles = &self.desk.uses[self.place].handles;
        handles.set(handles.get() + 1);
        Self { desk: Rc::clone(&self.desk), place: self.place }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let handles = &self.desk.uses[self.place].handles;
        handles.set(handles.get() - 1);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.table.give_back();
    }
}

impl Desk {
    #[cold]
    fn new_place(&self, names: [&str; 3]) -> usize {
        let mut book = self.book.borrow_mut();
        if book.free.is_empty() {
            book.sweep(&self.table, &self.uses);
        }
        let Some(place) = book.free.pop() else { return OTHER_SLOT };
        let names = Names::new(names[0], names[1], names[2]);
        self.table.occupy(place, &names);
        book.places.insert(names, place);
        place
    }
}

impl Book {
    fn of(table: &Table) -> Self {
        let mut book =
            Self { places: HashMap::default(), free: Vec::new(), orphans: Vec::new(), swept: None };
        for place in (OTHER_SLOT + 1..table.slots()).rev() {
            match table.names(place).map(|names| book.places.entry(names)) {
                Some(Entry::Vacant(entry)) => drop(entry.insert(place)),
                _ if table.live(place) == table.base(place) => book.free.push(place),
                _ => book.orphans.push(place),
            }
        }
        book
    }

    /// Frees what nobody holds, nobody asked for since the last sweep, and whose counts are all on disk. At most
    /// once for each time that counts got there, so that a flood of new names costs little.
    fn sweep(&mut self, table: &Table, uses: &[Use]) {
        let settled = Some(table.settled());
        if self.swept == settled {
            return;
        }
        self.swept = settled;
        let is_settled = |place: usize| table.live(place) == table.base(place);
        let free = &mut self.free;
        self.places.retain(|_, place| {
            let keep = uses[*place].recent.replace(false) || uses[*place].handles.get() > 0;
            if keep || !is_settled(*place) {
                return true;
            }
            free.push(*place);
            false
        });
        self.orphans.retain(|place| {
            let settled = is_settled(*place);
            free.extend(settled.then_some(*place));
            !settled
        });
    }
}

/// Names, owned or not: what the map is asked with, so that asking allocates nothing.
trait Parts {
    fn parts(&self) -> [&str; 3];
}

impl Parts for Names {
    fn parts(&self) -> [&str; 3] {
        Names::parts(self)
    }
}

impl Parts for [&str; 3] {
    fn parts(&self) -> [&str; 3] {
        *self
    }
}

impl Hash for dyn Parts + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Parts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Parts + '_ {}

impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Names::parts(self).hash(state);
    }
}

impl<'a> Borrow<dyn Parts + 'a> for Names {
    fn borrow(&self) -> &(dyn Parts + 'a) {
        self
    }
}
