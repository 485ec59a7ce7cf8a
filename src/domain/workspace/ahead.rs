//! Reading directories ahead of whoever lists them: helpers take the directories that come next, the order stays.

use std::{
    num::NonZero,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::list::{Entry, Folder, Item, Listing};

/// Threads that read, the one that lists among them.
const MAX_THREADS: usize = 4;

/// A listing on its way.
pub(super) struct Ahead<'a> {
    listing: &'a Listing<'a>,
    /// Entries that may lie ready; more are not read before some are taken.
    bound: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Slots that nobody has taken up, the one that comes first at the end.
    next: Vec<usize>,
    /// Entries that were read ahead and not taken yet.
    ready: usize,
    over: bool,
}

/// A directory that was found.
enum Slot {
    Found(Folder),
    Reading,
    Read(Vec<Work>),
    Taken,
}

/// What is left to do, in order.
enum Work {
    Show(Entry),
    Descend(usize),
}

impl<'a> Ahead<'a> {
    pub(super) fn new(listing: &'a Listing<'a>, bound: usize) -> Self {
        Self { listing, bound, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Hands over every entry in order, from what the first directory gave, until `visit` answers false.
    pub(super) fn run(&self, first: Vec<Item>, visit: &mut dyn FnMut(Entry) -> bool) {
        let first = self.note(&mut self.lock(), first);
        let wide = self.listing.is_deep() && first.iter().any(|work| matches!(work, Work::Descend(_)));
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        thread::scope(|scope| {
            for _ in 1..if wide { threads } else { 1 } {
                scope.spawn(|| self.help());
            }
            // Also when `visit` panics: the scope waits for its helpers.
            let _over = Over(self);
            self.drive(first, visit);
        });
    }

    fn drive(&self, first: Vec<Work>, visit: &mut dyn FnMut(Entry) -> bool) {
        let mut open = vec![first.into_iter()];
        while let Some(last) = open.last_mut() {
            match last.next() {
                Some(Work::Show(entry)) => {
                    if !visit(entry) {
                        return;
                    }
                }
                Some(Work::Descend(slot)) => open.push(self.take(slot).into_iter()),
                None => drop(open.pop()),
            }
        }
    }

    /// What a directory gave: read by a helper, or here if none has begun.
    fn take(&self, slot: usize) -> Vec<Work> {
        let mut state = self.lock();
        loop {
            match std::mem::replace(&mut state.slots[slot], Slot::Taken) {
                Slot::Found(folder) => {
                    drop(state);
                    let items = self.listing.look(&folder);
                    return self.note(&mut self.lock(), items);
                }
                Slot::Reading => {
                    state.slots[slot] = Slot::Reading;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Slot::Read(works) => {
                    state.ready = state.ready.saturating_sub(works.len());
                    self.changed.notify_all();
                    return works;
                }
                Slot::Taken => return Vec::new(),
            }
        }
    }

    fn help(&self) {
        let mut state = self.lock();
        loop {
            if state.over {
                return;
            }
            let found = if state.ready < self.bound { state.next.pop() } else { None };
            let Some(slot) = found else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match std::mem::replace(&mut state.slots[slot], Slot::Reading) {
                Slot::Found(folder) => {
                    drop(state);
                    let items = self.listing.look(&folder);
                    state = self.lock();
                    let works = self.note(&mut state, items);
                    state.ready += works.len();
                    state.slots[slot] = Slot::Read(works);
                    self.changed.notify_all();
                }
                other @ (Slot::Reading | Slot::Read(_) | Slot::Taken) => state.slots[slot] = other,
            }
        }
    }

    /// Gives each directory that was found a slot.
    fn note(&self, state: &mut State, items: Vec<Item>) -> Vec<Work> {
        let begin = state.next.len();
        let works = items
            .into_iter()
            .map(|item| match item {
                Item::Show(entry) => Work::Show(entry),
                Item::Descend(folder) => {
                    let slot = state.slots.len();
                    state.slots.push(Slot::Found(folder));
                    state.next.push(slot);
                    Work::Descend(slot)
                }
            })
            .collect();
        if state.next.len() > begin {
            state.next[begin..].reverse();
            self.changed.notify_all();
        }
        works
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the helpers home.
struct Over<'a, 'b>(&'a Ahead<'b>);

impl Drop for Over<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}
