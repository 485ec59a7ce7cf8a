//! The streams that are open, and how far each has come.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// All of them, by the address of their place.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<usize, Arc<AtomicU64>>>>);

/// One that is open. Dropping it is its end.
pub(super) struct Shown {
    streams: Streams,
    place: Arc<AtomicU64>,
}

impl Streams {
    pub(super) fn open(&self, seq: u64) -> Shown {
        let place = Arc::new(AtomicU64::new(seq));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::as_ptr(&place) as usize, Arc::clone(&place));
        Shown { streams: self.clone(), place }
    }

    /// How many there are, and the place of the one that is furthest behind.
    pub(super) fn read(&self) -> (usize, Option<u64>) {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (streams.len(), streams.values().map(|place| place.load(Ordering::Relaxed)).min())
    }
}

impl Shown {
    /// It has come to this event.
    pub(super) fn at(&self, seq: u64) {
        self.place.store(seq, Ordering::Relaxed);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let place = Arc::as_ptr(&self.place) as usize;
        self.streams.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
    }
}
