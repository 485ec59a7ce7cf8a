//! What is appended in one transaction.

use std::sync::Arc;

use super::{LedgerRow, NewKey, NewVersion, PermissionRow, QueuedTurn, ledger::OpenCall};
use crate::domain::{access::Caller, event::EventKind, id::TurnId, message::Message, timeline::Timeline};

/// Events and rows that are stored together or not at all.
pub(in crate::domain) struct Batch {
    pub(super) entries: Vec<Entry>,
    /// Whether the reserve may be used for it: the ending of a turn that a full disk stopped.
    pub(super) ending: bool,
}

pub(super) enum Entry {
    Event {
        turn_id: Option<TurnId>,
        token_id: Option<Arc<str>>,
        kind: Box<EventKind>,
    },
    /// A provider call that begins: it has a row of the ledger whatever becomes of this process.
    Call(Box<OpenCall>),
    Ledger(Box<LedgerRow>),
    Version(Box<NewVersion>),
    /// The version that a turn began with.
    VersionBefore {
        turn_id: TurnId,
        version: u64,
    },
    /// Where the time of a turn went that ends in the same transaction.
    Timeline {
        turn_id: TurnId,
        timeline: Box<Timeline>,
    },
    /// Versions that are given up.
    Forget(Vec<u64>),
    /// What the model of the next turn is told.
    Note(String),
    Permission(PermissionRow),
    /// The key under which a request was accepted.
    Key(Box<NewKey>),
    /// A turn that waits for the one before it.
    Queue(Box<QueuedTurn>),
    /// A message that waits for the running turn to take it.
    Steer {
        turn_id: TurnId,
        message: Box<Message>,
    },
}

impl Batch {
    /// An empty batch.
    pub(in crate::domain) fn new() -> Self {
        Self { entries: Vec::new(), ending: false }
    }

    /// Whether there is nothing to append.
    pub(in crate::domain) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an event; `turn_id` names the turn behind it. Who calls now has caused it.
    pub(in crate::domain) fn event(mut self, turn_id: Option<&TurnId>, kind: EventKind) -> Self {
        let token_id = Caller::current().and_then(|caller| caller.token_id().cloned());
        self.entries.push(Entry::Event { turn_id: turn_id.cloned(), token_id, kind: Box::new(kind) });
        self
    }

    /// Notes that a provider is called, until the ledger has its row.
    pub(in crate::domain) fn call(mut self, call: OpenCall) -> Self {
        self.entries.push(Entry::Call(Box::new(call)));
        self
    }

    /// Adds a row to the ledger.
    pub(in crate::domain) fn ledger(mut self, row: LedgerRow) -> Self {
        self.entries.push(Entry::Ledger(Box::new(row)));
        self
    }

    /// Adds a version of the workspace.
    pub(in crate::domain) fn version(mut self, version: NewVersion) -> Self {
        self.entries.push(Entry::Version(Box::new(version)));
        self
    }

    /// Notes the version that a turn began with.
    pub(in crate::domain) fn version_before(mut self, turn_id: &TurnId, version: u64) -> Self {
        self.entries.push(Entry::VersionBefore { turn_id: turn_id.clone(), version });
        self
    }

    /// Notes where a turn's time went, before the event of its end.
    pub(in crate::domain) fn timeline(mut self, turn_id: &TurnId, timeline: Timeline) -> Self {
        self.entries.push(Entry::Timeline { turn_id: turn_id.clone(), timeline: Box::new(timeline) });
        self
    }

    /// Notes what the model of the next turn is told.
    pub(in crate::domain) fn note(mut self, words: String) -> Self {
        self.entries.push(Entry::Note(words));
        self
    }

    /// Adds the key under which what is in here was accepted, if there is one.
    pub(in crate::domain) fn key(mut self, key: Option<NewKey>) -> Self {
        self.entries.extend(key.map(|key| Entry::Key(Box::new(key))));
        self
    }

    /// Adds a turn that waits for the one before it.
    pub(in crate::domain) fn queue(mut self, queued: QueuedTurn) -> Self {
        self.entries.push(Entry::Queue(Box::new(queued)));
        self
    }

    /// Adds a message that waits for the turn to take it: until it is created, or the turn ends.
    pub(in crate::domain) fn steer(mut self, turn_id: &TurnId, message: Message) -> Self {
        self.entries.push(Entry::Steer { turn_id: turn_id.clone(), message: Box::new(message) });
        self
    }

    /// Gives versions up.
    pub(in crate::domain) fn forget(mut self, versions: Vec<u64>) -> Self {
        self.entries.push(Entry::Forget(versions));
        self
    }

    /// Adds what is stored of permissions beside events.
    pub(in crate::domain) fn permission(mut self, row: PermissionRow) -> Self {
        self.entries.push(Entry::Permission(row));
        self
    }

    /// Marks it as the ending of a turn, which may use the reserve when the disk is full.
    pub(in crate::domain) fn ending(mut self) -> Self {
        self.ending = true;
        self
    }

    pub(super) fn is_act(&self) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::Event { kind, .. } => kind.is_act(),
            Entry::Ledger(_) | Entry::Version(_) | Entry::Forget(_) | Entry::Note(_) | Entry::Key(_) => true,
            Entry::Permission(_) | Entry::Queue(_) | Entry::Steer { .. } => true,
            Entry::Call(_) | Entry::VersionBefore { .. } | Entry::Timeline { .. } => false,
        })
    }
}
