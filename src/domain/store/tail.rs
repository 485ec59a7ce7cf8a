//! The newest events, in memory, shared by every reader that is up to date.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, RwLock},
};

use bytes::Bytes;

use crate::domain::{
    cursor::Cursor,
    event::{Event, EventType},
};

/// Most bytes of JSON that the tail holds.
const TAIL_BYTES: usize = 2 * 1024 * 1024;
/// Most events that the tail holds.
const TAIL_EVENTS: usize = 4096;

/// A stored event as it is handed to readers: serialised once, rendered once by each door.
pub struct Logged {
    /// Its place in the log.
    pub cursor: Cursor,
    /// Its type.
    pub event_type: EventType,
    /// The turn behind it.
    pub turn_id: Option<Box<str>>,
    /// The event as JSON on one line.
    pub json: Bytes,
    rendered: OnceLock<Bytes>,
    event: OnceLock<Option<Box<Event>>>,
}

impl Logged {
    pub(super) fn new(cursor: Cursor, event_type: EventType, turn_id: Option<&str>, json: Bytes) -> Self {
        let turn_id = turn_id.map(Into::into);
        Self { cursor, event_type, turn_id, json, rendered: OnceLock::new(), event: OnceLock::new() }
    }

    /// What a door makes of the event, made for the first reader and shared by all.
    pub fn rendered(&self, render: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.rendered.get_or_init(|| render(self)).clone()
    }

    /// The event itself; `None` if the log holds a type that this binary does not know.
    pub fn event(&self) -> Option<&Event> {
        self.event.get_or_init(|| serde_json::from_slice(&self.json).ok()).as_deref()
    }
}

/// The newest events without a gap.
pub(super) struct Tail(RwLock<Ring>);

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<Logged>>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new() -> Self {
        Self(RwLock::default())
    }

    pub(super) fn push(&self, events: impl IntoIterator<Item = Arc<Logged>>) {
        let mut ring = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for event in events {
            ring.bytes += event.json.len();
            ring.events.push_back(event);
        }
        while ring.events.len() > TAIL_EVENTS || (ring.bytes > TAIL_BYTES && ring.events.len() > 1) {
            if let Some(event) = ring.events.pop_front() {
                ring.bytes -= event.json.len();
            }
        }
    }

    /// Forgets what lies before `floor`.
    pub(super) fn drop_before(&self, floor: u64) {
        let mut ring = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        while ring.events.front().is_some_and(|event| event.cursor.seq < floor) {
            if let Some(event) = ring.events.pop_front() {
                ring.bytes -= event.json.len();
            }
        }
    }

    /// The events after `seq`, up to about `max_bytes` of them and at least one; `None` if the tail begins later.
    pub(super) fn after(&self, seq: u64, max_bytes: usize) -> Option<Vec<Arc<Logged>>> {
        let ring = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = ring.events.front()?.cursor.seq;
        if seq + 1 < first {
            return None;
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        for event in ring.events.iter().skip((seq + 1 - first) as usize) {
            if bytes > 0 && bytes + event.json.len() > max_bytes {
                break;
            }
            bytes += event.json.len();
            events.push(Arc::clone(event));
        }
        Some(events)
    }
}
