//! A worker's side of its table: finds the slot for labels, and adds to it. No lock, no system call; allocates only for
//! new labels.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::count::CallCounts;
use super::labels::{CounterLabels, KEY_BYTES_MAX, OTHER, SERVER_BYTES_MAX, TOOL_BYTES_MAX};
use super::table::{OTHER_SLOT, Table};

/// The counters of one worker. Stays on its thread.
pub struct WorkerCounters(Rc<WorkerTable>);

/// A handle to a slot. The slot keeps its labels while a handle exists: hold one for a request, not forever.
pub struct CounterSlot {
    worker: Rc<WorkerTable>,
    slot: usize,
}

/// A worker's view of its table. Releases the table when the last handle is dropped.
struct WorkerTable {
    table: Arc<Table>,
    uses: Box<[SlotUse]>,
    index: RefCell<SlotIndex>,
}

/// How a slot is used at the moment.
#[derive(Default)]
struct SlotUse {
    handles: Cell<u32>,
    /// Requested since the last sweep.
    recent: Cell<bool>,
}

/// The slots by labels. Invariant: each slot except [`OTHER_SLOT`] is in exactly one of `by_labels`, `free` and `orphans`.
struct SlotIndex {
    by_labels: HashMap<CounterLabels, usize, RandomState>,
    free: Vec<usize>,
    /// Slots with damaged labels whose counts are not in the journal yet.
    orphans: Vec<usize>,
    /// [`Table::base_advances`] at the last sweep.
    swept: Option<u64>,
}

impl WorkerCounters {
    pub(super) fn claim(table: &Arc<Table>) -> Option<Self> {
        if !table.claim() {
            return None;
        }
        if table.labels(OTHER_SLOT) != Some(CounterLabels::other()) {
            table.occupy(OTHER_SLOT, &CounterLabels::other());
        }
        let uses = std::iter::repeat_with(SlotUse::default).take(table.slots()).collect();
        let index = RefCell::new(SlotIndex::from_table(table));
        Some(Self(Rc::new(WorkerTable { table: Arc::clone(table), uses, index })))
    }

    /// The slot for a key, server and tool. A name that is too long counts as [`OTHER`]. When all slots are in use, the
    /// slot whose labels are all [`OTHER`] is returned.
    #[inline]
    pub fn slot(&self, key: &str, server: &str, tool: &str) -> CounterSlot {
        let worker = &self.0;
        let labels =
            [limit(key, KEY_BYTES_MAX), limit(server, SERVER_BYTES_MAX), limit(tool, TOOL_BYTES_MAX)];
        let found = worker.index.borrow().by_labels.get(&labels as &dyn LabelParts).copied();
        let slot = found.unwrap_or_else(|| worker.assign_slot(labels));
        let used = &worker.uses[slot];
        used.recent.set(true);
        used.handles.set(used.handles.get() + 1);
        CounterSlot { worker: Rc::clone(worker), slot }
    }

    /// Whether there is a slot for one of many names: the key has one for it already, or enough are free.
    pub fn has_room(&self, key: &str, server: &str, name: &str) -> bool {
        let worker = &self.0;
        let mut index = worker.index.borrow_mut();
        let slots = worker.table.slots();
        if index.by_labels.contains_key(&[key, server, name] as &dyn LabelParts) {
            return true;
        }
        if index.by_labels.len() >= slots / ITEM_SHARE {
            index.sweep(&worker.table, &worker.uses);
        }
        index.by_labels.len() < slots / ITEM_SHARE
    }
}

/// Which part of the slots prompts and resources may take: the rest is for the tools of all keys. A server lists thousands of
/// resources, and clients read them one after the other.
const ITEM_SHARE: usize = 2;

/// The name, or [`OTHER`] if it is too long.
fn limit(name: &str, bytes_max: usize) -> &str {
    if name.len() <= bytes_max { name } else { OTHER }
}

impl CounterSlot {
    /// Whether the slot has the labels that it was requested for, and not [`OTHER`].
    pub fn has_labels(&self) -> bool {
        self.slot != OTHER_SLOT
    }

    /// Adds to the counters. Once it returns, the count survives the process.
    #[inline]
    pub fn add(&self, count: CallCounts) {
        self.worker.table.add(self.slot, count);
    }
}

impl Clone for CounterSlot {
    fn clone(&self) -> Self {
        let handles = &self.worker.uses[self.slot].handles;
        handles.set(handles.get() + 1);
        Self { worker: Rc::clone(&self.worker), slot: self.slot }
    }
}

impl Drop for CounterSlot {
    fn drop(&mut self) {
        let handles = &self.worker.uses[self.slot].handles;
        handles.set(handles.get() - 1);
    }
}

impl Drop for WorkerTable {
    fn drop(&mut self) {
        self.table.release();
    }
}

impl WorkerTable {
    #[cold]
    fn assign_slot(&self, labels: [&str; 3]) -> usize {
        let mut index = self.index.borrow_mut();
        if index.free.is_empty() {
            index.sweep(&self.table, &self.uses);
        }
        let Some(slot) = index.free.pop() else { return OTHER_SLOT };
        let labels = CounterLabels::new(labels[0], labels[1], labels[2]);
        self.table.occupy(slot, &labels);
        index.by_labels.insert(labels, slot);
        slot
    }
}

impl SlotIndex {
    fn from_table(table: &Table) -> Self {
        let mut index =
            Self { by_labels: HashMap::default(), free: Vec::new(), orphans: Vec::new(), swept: None };
        for slot in (OTHER_SLOT + 1..table.slots()).rev() {
            match table.labels(slot).map(|labels| index.by_labels.entry(labels)) {
                Some(Entry::Vacant(entry)) => drop(entry.insert(slot)),
                _ if table.live(slot) == table.base(slot) => index.free.push(slot),
                _ => index.orphans.push(slot),
            }
        }
        index
    }

    /// Frees slots without handles that were not requested since the last sweep and whose counts are all on disk. Does so
    /// at most once for each time that counts reached the disk, so that a flood of new names costs little.
    fn sweep(&mut self, table: &Table, uses: &[SlotUse]) {
        let advances = Some(table.base_advances());
        if self.swept == advances {
            return;
        }
        self.swept = advances;
        let is_settled = |slot: usize| table.live(slot) == table.base(slot);
        let free = &mut self.free;
        self.by_labels.retain(|_, slot| {
            let keep = uses[*slot].recent.replace(false) || uses[*slot].handles.get() > 0;
            if keep || !is_settled(*slot) {
                return true;
            }
            free.push(*slot);
            false
        });
        self.orphans.retain(|slot| {
            let settled = is_settled(*slot);
            free.extend(settled.then_some(*slot));
            !settled
        });
    }
}

/// Labels, owned or borrowed: the key for lookups in the map, so that a lookup allocates nothing.
trait LabelParts {
    fn parts(&self) -> [&str; 3];
}

impl LabelParts for CounterLabels {
    fn parts(&self) -> [&str; 3] {
        CounterLabels::parts(self)
    }
}

impl LabelParts for [&str; 3] {
    fn parts(&self) -> [&str; 3] {
        *self
    }
}

impl Hash for dyn LabelParts + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn LabelParts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn LabelParts + '_ {}

impl Hash for CounterLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        CounterLabels::parts(self).hash(state);
    }
}

impl<'a> Borrow<dyn LabelParts + 'a> for CounterLabels {
    fn borrow(&self) -> &(dyn LabelParts + 'a) {
        self
    }
}
