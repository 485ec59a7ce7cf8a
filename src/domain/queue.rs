//! Messages for an agent that is busy: those that wait for their turn, and those that the running turn takes.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    OpenCode,
    error::{Code, Error, Result},
    event::{EventKind, TurnCompleted},
    id::{MessageId, TurnId},
    part::FinishReason,
    send::Wanted,
    session::now,
    status::Canceled,
    store::{Accepted, Batch, QueuedTurn, QueuedWish},
    turn::{Turn, TurnError, TurnErrorCode, TurnStatus},
    usage::{Spent, Usage},
};

/// Most turns that wait, and most messages that wait for the running one.
pub(super) const MAX_WAITING: usize = 16;
/// How long the next turn is put off where it could not be begun, as on a full disk, at first and at most.
const AGAIN: Duration = Duration::from_secs(2);
const MAX_AGAIN: Duration = Duration::from_secs(30);

/// What is done with a message while a turn runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenBusy {
    /// It is refused with `agent_busy`.
    #[default]
    Reject,
    /// It is a turn of its own, with status `queued` until those before it have ended; at most 16 wait.
    Queue,
    /// The running turn takes it, between two calls of its model or before it ends; at most 16 wait.
    Steer,
}

/// The turns that wait, in order; the log has them too.
#[derive(Default)]
pub(super) struct Queue(Mutex<VecDeque<TurnId>>);

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn all(&self) -> Vec<TurnId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(super) fn holds(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|known| known.as_str() == id)
    }

    fn add(&self, id: TurnId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(id);
    }

    pub(super) fn remove(&self, id: &TurnId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known != id);
    }
}

impl OpenCode {
    /// What an earlier start left waiting goes on. Once, before anybody is served.
    pub async fn load_queue(&self) -> Result<()> {
        for (id, cancel_on_disconnect) in self.read(|snapshot| snapshot.queued()).await?.value {
            self.0.queue.add(id.clone());
            if cancel_on_disconnect {
                self.cancel_when_left(id);
            }
        }
        self.go_on();
        Ok(())
    }

    /// Takes a message as a turn that waits. For who holds the gate.
    pub(super) async fn queue(&self, wanted: Wanted) -> Result<TurnId> {
        if self.0.queue.len() >= MAX_WAITING {
            let detail = format!("{MAX_WAITING} messages wait already; wait for a turn_completed event, or cancel one");
            return Err(Error::new(Code::AgentBusy, detail));
        }
        let Wanted { model, parts, limits, key, cancel_on_disconnect, mode, may_loosen } = wanted;
        let id = TurnId::generate();
        let turn = Turn {
            id: id.clone(),
            status: TurnStatus::Queued,
            finish_reason: None,
            error: None,
            model: model.info.id,
            user_message_id: MessageId::generate(),
            message_id: None,
            version_before: None,
            version_after: None,
            usage: Usage::from(Spent::default()),
            timeline: None,
            created_at: now(),
            started_at: None,
            finished_at: None,
            first_cursor: self.0.store.head().to_string(),
            last_cursor: None,
        };
        let key = key.map(|key| key.accepted(Accepted::Turn(id.clone())));
        let wish = QueuedWish { parts, limits, cancel_on_disconnect, mode, may_loosen };
        self.0.store.append(Batch::new().queue(QueuedTurn { turn, wish }).key(key)).await?;
        self.0.queue.add(id.clone());
        if cancel_on_disconnect {
            self.cancel_when_left(id.clone());
        }
        // The turn that was in the way may have ended meanwhile.
        self.go_on();
        Ok(id)
    }

    /// Writes an ending that is missing, and begins the next turn that waits, if nothing runs.
    pub(super) fn go_on(&self) {
        if self.0.queue.len() == 0 && !self.0.unfinished.load(Ordering::Acquire) {
            return;
        }
        let domain = self.clone();
        self.0.tasks.spawn(async move {
            let mut later = AGAIN;
            while let Err(error) = domain.begin_next().await {
                tracing::warn!(%error, cause = ?error.cause(), "what comes next could not begin yet");
                tokio::select! {
                    // A disk may be full for days.
                    () = tokio::time::sleep(later) => later = (later * 2).min(MAX_AGAIN),
                    // The next start goes on with it.
                    () = domain.0.stopping.cancelled() => return,
                }
            }
        });
    }

    async fn begin_next(&self) -> Result<()> {
        loop {
            let _gate = self.0.gate.lock().await;
            if self.is_draining() || self.running().is_some() {
                return Ok(());
            }
            self.close_open_turns().await?;
            let Some(id) = self.0.queue.all().into_iter().next() else { return Ok(()) };
            let wanted = id.clone();
            let Some(queued) = self.read(move |snapshot| snapshot.queued_turn(&wanted)).await?.value else {
                self.0.queue.remove(&id);
                continue;
            };
            let QueuedTurn { turn, wish } = queued;
            match self.model_for(Some(&turn.model)).await {
                Ok(model) => {
                    let wanted = Wanted {
                        model,
                        parts: wish.parts,
                        limits: wish.limits,
                        key: None,
                        cancel_on_disconnect: false,
                        // The session's may have been tightened since.
                        mode: wish.mode.filter(|mode| wish.may_loosen || *mode >= self.0.requests.mode()),
                        may_loosen: wish.may_loosen,
                    };
                    self.accept(wanted, turn.id, turn.user_message_id).await?;
                    self.0.queue.remove(&id);
                    return Ok(());
                }
                Err(error) => {
                    let code = TurnErrorCode::ProviderError;
                    self.0.store.append(left(Batch::new(), &id, code, FinishReason::Error, error.detail())).await?;
                    self.0.queue.remove(&id);
                }
            }
        }
    }

    /// Takes a turn out of those that wait. For who holds the gate.
    pub(super) async fn cancel_queued(&self, id: &TurnId, began: Instant) -> Result<Canceled> {
        self.0.store.append(canceled(Batch::new(), id)).await?;
        self.0.queue.remove(id);
        Ok(Canceled {
            canceled: true,
            turn_id: Some(id.clone()),
            processes_ended: Vec::new(),
            processes_left: Vec::new(),
            processes_unnamed: 0,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// Adds the end of a turn that is cancelled before it began.
pub(super) fn canceled(batch: Batch, id: &TurnId) -> Batch {
    left(batch, id, TurnErrorCode::Canceled, FinishReason::Canceled, "the turn was cancelled before it began")
}

/// Adds the end of a turn that never began: it has no message, and the agent's status is not its.
fn left(batch: Batch, id: &TurnId, code: TurnErrorCode, finish_reason: FinishReason, words: &str) -> Batch {
    let error = TurnError { code, message: words.to_owned(), retryable: false, details: None };
    let completed = TurnCompleted {
        finish_reason,
        usage: Usage::from(Spent::default()),
        message_id: None,
        version_before: None,
        version_after: None,
    };
    batch.event(Some(id), EventKind::TurnFailed(error)).event(Some(id), EventKind::TurnCompleted(completed))
}
