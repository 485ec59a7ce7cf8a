//! The turn that runs, as others see it: its id, a way to end it, and its end.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    id::{ToolCallId, TurnId},
    status::ProcessEnded,
    tools::EndedProcess,
};

/// The turn that runs.
pub(in crate::domain) struct Running {
    id: TurnId,
    cancel: CancellationToken,
    interrupted: AtomicBool,
    ending: AtomicBool,
    done: watch::Sender<bool>,
    ended: Arc<Mutex<Vec<EndedProcess>>>,
    changes: Changes,
}

/// What the tools of a turn may have changed.
#[derive(Clone, Default)]
pub(in crate::domain) struct Changes(Arc<ChangesInner>);

#[derive(Default)]
struct ChangesInner {
    may_have_written: AtomicBool,
    touched: Mutex<HashMap<PathBuf, ToolCallId>>,
}

impl Changes {
    /// A tool runs that may change files.
    pub(in crate::domain) fn begin(&self) {
        self.0.may_have_written.store(true, Ordering::Release);
    }

    pub(in crate::domain) fn may_have_written(&self) -> bool {
        self.0.may_have_written.load(Ordering::Acquire)
    }

    /// A tool call wrote this file, by its canonical path.
    pub(in crate::domain) fn touch(&self, path: PathBuf, call: ToolCallId) {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(path, call);
    }

    /// The files that tool calls wrote, each with the last one.
    pub(in crate::domain) fn touched(&self) -> HashMap<PathBuf, ToolCallId> {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Running {
    pub(in crate::domain) fn new(id: TurnId) -> Arc<Self> {
        Arc::new(Self {
            id,
            cancel: CancellationToken::new(),
            interrupted: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            done: watch::channel(false).0,
            ended: Arc::default(),
            changes: Changes::default(),
        })
    }

    pub(in crate::domain) fn changes(&self) -> &Changes {
        &self.changes
    }

    pub(in crate::domain) fn id(&self) -> &TurnId {
        &self.id
    }

    /// Ends the turn because a client asked for it.
    pub(in crate::domain) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends the turn because the server shuts down.
    pub(in crate::domain) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        self.cancel.cancel();
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    pub(super) fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Whether its last events are being stored: who has seen them may already send the next message.
    pub(in crate::domain) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    pub(super) fn set_ending(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Waits until the turn has ended and another one can begin.
    pub(in crate::domain) async fn done(&self) {
        // The sender lives as long as we do, so that this cannot fail.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    pub(super) fn set_done(&self) {
        self.done.send_replace(true);
    }

    pub(super) fn ended(&self) -> Arc<Mutex<Vec<EndedProcess>>> {
        Arc::clone(&self.ended)
    }

    /// The processes that were ended with the turn.
    pub(in crate::domain) fn processes_ended(&self) -> Vec<ProcessEnded> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = ended.iter().map(|process| ProcessEnded {
            pid: process.pid,
            command: process.command.clone(),
            how: process.how,
        });
        shown.collect()
    }
}
