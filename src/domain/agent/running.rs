//! The turn that runs, as others see it: its id, a way to end it, and its end.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{clock::Clock, spending::Spending, steer::Steering};
use crate::{
    domain::{
        id::{ToolCallId, TurnId},
        permission::PermissionMode,
        snapshot::Budget,
    },
    keeper::wire::Outcome,
};

/// The turn that runs.
pub(in crate::domain) struct Running {
    id: TurnId,
    cancel: CancellationToken,
    fate: Mutex<Fate>,
    interrupted: AtomicBool,
    ending: AtomicBool,
    done: watch::Sender<bool>,
    outcomes: Mutex<Vec<Arc<Outcome>>>,
    changes: Changes,
    budget: Budget,
    spending: Arc<Spending>,
    steering: Steering,
    /// Its own permission mode, if its message has one.
    mode: OnceLock<PermissionMode>,
    clock: Clock,
}

/// Who ends a turn: of itself and a cancel just the one that comes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Canceled,
    Settled,
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
    /// A turn that begins, how long it waits for versions at most, and what it may spend.
    pub(in crate::domain) fn new(id: TurnId, wait: Duration, spending: Arc<Spending>) -> Arc<Self> {
        Arc::new(Self {
            id,
            cancel: CancellationToken::new(),
            fate: Mutex::new(Fate::Open),
            interrupted: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            done: watch::channel(false).0,
            outcomes: Mutex::default(),
            changes: Changes::default(),
            budget: Budget::new(wait),
            spending,
            steering: Steering::new(),
            mode: OnceLock::new(),
            clock: Clock::new(),
        })
    }

    /// Its own permission mode.
    pub(in crate::domain) fn mode(&self) -> Option<PermissionMode> {
        self.mode.get().copied()
    }

    /// Gives it a permission mode of its own, before it begins.
    pub(in crate::domain) fn set_mode(&self, mode: PermissionMode) {
        let _ = self.mode.set(mode);
    }

    pub(in crate::domain) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What it may still wait for versions.
    pub(in crate::domain) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Measures where its time goes.
    pub(in crate::domain) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What it may spend, and has spent.
    pub(super) fn spending(&self) -> &Arc<Spending> {
        &self.spending
    }

    /// What it is sent while it runs.
    pub(in crate::domain) fn steering(&self) -> &Steering {
        &self.steering
    }

    pub(in crate::domain) fn id(&self) -> &TurnId {
        &self.id
    }

    /// Ends the turn because a client asked for it. One that has come to its own end is let be, and so are its jobs.
    pub(in crate::domain) fn cancel(&self) {
        let mut fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
        if *fate == Fate::Open {
            *fate = Fate::Canceled;
            self.cancel.cancel();
        }
    }

    /// The turn has come to its own end, unless a cancel was before it; answers whether it has.
    pub(super) fn settle(&self) -> bool {
        let mut fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
        if *fate == Fate::Open {
            *fate = Fate::Settled;
        }
        *fate == Fate::Settled
    }

    /// Ends the turn because the server shuts down.
    pub(in crate::domain) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        self.cancel();
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

    /// Notes what was ended with the turn.
    pub(super) fn set_outcomes(&self, outcomes: Vec<Arc<Outcome>>) {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = outcomes;
    }

    /// What became of the processes that were ended with the turn.
    pub(in crate::domain) fn outcomes(&self) -> Vec<Arc<Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
