//! The end of a turn: what is stored of it, in one transaction, whatever the way out was.

use std::sync::{Arc, atomic::Ordering};

use super::{Running, clock::Phase, recover, spending::Exhausted};
use crate::domain::{
    OpenCode,
    error::{Code, Error, Result},
    event::{AgentStatusChanged, EventKind, MessageEvent, TurnCompleted},
    id::{MessageId, TurnId},
    message::Message,
    part::FinishReason,
    snapshot::Taken,
    status::Activity,
    store::Batch,
    timeline::Timeline,
    turn::{TurnError, TurnErrorCode},
    usage::{Spent, Usage},
};

/// How a turn ends.
pub(in crate::domain) enum End {
    /// As the model wished.
    Finished(FinishReason),
    /// Not well.
    Failed(FinishReason, Box<TurnError>),
}

/// Stores the ending, and only then lets the next message in.
pub(super) async fn finish(domain: &OpenCode, running: &Arc<Running>, end: End) {
    let id = running.id().clone();
    let stored = async {
        if let End::Failed(..) = end {
            close(domain, &id).await?;
        }
        let wanted = id.clone();
        // What it was sent and has not taken is in the history all the same.
        if running.steering().close().await {
            // Behind whatever of them is still on its way into the log.
            domain.0.store.append(Batch::new().ending()).await?;
        }
        let read = domain.read(move |snapshot| Ok((snapshot.turn(wanted.as_str())?, snapshot.steered(&wanted)?)));
        let (turn, steered) = read.await?.value;
        // The last answer is the one that clients saw last, also where it was cut.
        let (usage, last, before) = turn.map_or_else(
            || (Usage::from(Spent::default()), None, None),
            |turn| (turn.usage, turn.message_id, turn.version_before),
        );
        let taken = match running.changes().may_have_written() {
            true => {
                let version = domain.version_after(running, end.waits_for_version());
                running.clock().during(Phase::Snapshots, version).await
            }
            false => None,
        };
        let versions = Versions::of(running, before, taken);
        running.set_ending();
        // What is not yet accounted for when the end is stored is the storing of it.
        running.clock().switch(Phase::Storing);
        let (batch, taken) = ending(&id, end, usage, last, versions, steered, Some(running.clock().read()));
        let stored = domain.0.store.append(batch).await?;
        if let Some(taken) = taken {
            taken.stored(domain);
        }
        Result::Ok(stored)
    };
    if let Err(error) = stored.await {
        tracing::error!(turn = %id, error = %error, cause = ?error.cause(), "the turn's ending is not stored yet");
        domain.0.unfinished.store(true, Ordering::Release);
        running.set_ending();
    }
    domain.set_running(None);
    running.set_done();
}

/// Closes messages and calls that a panic or a full disk left open.
async fn close(domain: &OpenCode, id: &TurnId) -> Result<()> {
    let wanted = id.clone();
    let open = domain.read(move |snapshot| snapshot.open(&wanted)).await?.value;
    open.permissions.iter().for_each(|permission| domain.0.requests.forget(&permission.id));
    let batch = recover::close(id, open, "the turn ended before this call did");
    if batch.is_empty() {
        return Ok(());
    }
    domain.0.store.append(batch.ending()).await.map(drop)
}

/// The versions of the workspace that a turn lies between.
#[derive(Default)]
pub(super) struct Versions {
    before: Option<String>,
    after: Option<String>,
    /// Taken for this ending, and stored with it.
    taken: Option<Taken>,
}

impl Versions {
    /// Those of a turn that was interrupted: nobody knows what came after.
    pub(super) fn interrupted(before: Option<String>) -> Self {
        Self { before, ..Self::default() }
    }

    fn of(running: &Running, before: Option<String>, taken: Option<Taken>) -> Self {
        let after = match &taken {
            Some(taken) => Some(taken.row.name()),
            // Nothing that could change a file has run.
            None if !running.changes().may_have_written() => before.clone(),
            None => None,
        };
        Self { before, after, taken }
    }
}

/// What ends every turn, in one transaction.
pub(super) fn ending(
    id: &TurnId,
    end: End,
    usage: Usage,
    last: Option<MessageId>,
    versions: Versions,
    steered: Vec<Message>,
    timeline: Option<Timeline>,
) -> (Batch, Option<Taken>) {
    let mut batch = steered.into_iter().fold(Batch::new().ending(), |batch, message| {
        batch.event(Some(id), EventKind::MessageCreated(MessageEvent { message }))
    });
    if let Some(timeline) = timeline {
        batch = batch.timeline(id, timeline);
    }
    let finish_reason = match end {
        End::Finished(reason) => reason,
        End::Failed(reason, error) => {
            batch = batch.event(Some(id), EventKind::TurnFailed(*error));
            reason
        }
    };
    let Versions { before: version_before, after: version_after, mut taken } = versions;
    if let Some(taken) = &mut taken {
        batch = taken.add_to(batch, Some(id));
    }
    let idle = AgentStatusChanged { status: Activity::Idle, current_operation: None };
    let completed = TurnCompleted { finish_reason, usage, message_id: last, version_before, version_after };
    let batch =
        batch.event(Some(id), EventKind::AgentStatusChanged(idle)).event(Some(id), EventKind::TurnCompleted(completed));
    (batch, taken)
}

impl End {
    /// Whether a permission was answered `stop`.
    pub(super) fn is_by_permission(&self) -> bool {
        match self {
            Self::Finished(_) => false,
            Self::Failed(reason, _) => *reason == FinishReason::PermissionDenied,
        }
    }

    /// Whether the ending waits for versions, as far as the turn's budget goes: who cancels does not wait for them.
    pub(super) fn waits_for_version(&self) -> bool {
        match self {
            Self::Finished(_) => true,
            Self::Failed(_, error) => match error.code {
                TurnErrorCode::Canceled | TurnErrorCode::Interrupted => false,
                TurnErrorCode::ProviderError
                | TurnErrorCode::ProviderUnavailable
                | TurnErrorCode::ProviderTimeout
                | TurnErrorCode::PermissionDenied
                | TurnErrorCode::BudgetExhausted
                | TurnErrorCode::MaxTokens
                | TurnErrorCode::InsufficientStorage
                | TurnErrorCode::Internal => true,
            },
        }
    }

    /// How the turn ends after a last answer that ended like this.
    pub(super) fn of(reason: FinishReason) -> Self {
        match reason {
            FinishReason::MaxTokens => Self::failed(
                reason,
                TurnErrorCode::MaxTokens,
                "the model reached its output limit; send a message to let it go on".into(),
                None,
            ),
            FinishReason::ToolUse => Self::Finished(FinishReason::EndTurn),
            FinishReason::EndTurn
            | FinishReason::Stop
            | FinishReason::Canceled
            | FinishReason::Error
            | FinishReason::PermissionDenied
            | FinishReason::Refused
            | FinishReason::BudgetExhausted => Self::Finished(reason),
        }
    }

    pub(super) fn failed(
        reason: FinishReason,
        code: TurnErrorCode,
        message: String,
        details: Option<serde_json::Value>,
    ) -> Self {
        let retryable = match code {
            TurnErrorCode::ProviderUnavailable
            | TurnErrorCode::ProviderTimeout
            | TurnErrorCode::BudgetExhausted
            | TurnErrorCode::MaxTokens
            | TurnErrorCode::Interrupted
            | TurnErrorCode::InsufficientStorage => true,
            TurnErrorCode::ProviderError
            | TurnErrorCode::Canceled
            | TurnErrorCode::PermissionDenied
            | TurnErrorCode::Internal => false,
        };
        Self::Failed(reason, Box::new(TurnError { code, message, retryable, details }))
    }

    /// A limit is reached.
    pub(super) fn exhausted(exhausted: &Exhausted) -> Self {
        let (reason, code) = (FinishReason::BudgetExhausted, TurnErrorCode::BudgetExhausted);
        let (message, details) = (exhausted.message(), Some(exhausted.details()));
        let retryable = exhausted.is_retryable();
        Self::Failed(reason, Box::new(TurnError { code, message, retryable, details }))
    }

    pub(super) fn internal() -> Self {
        let message = "the server failed; its log has the cause under this turn's id".into();
        Self::failed(FinishReason::Error, TurnErrorCode::Internal, message, None)
    }

    /// The turn was cancelled, or the server is shutting down.
    pub(super) fn canceled(running: &Running) -> Self {
        if running.is_interrupted() {
            let message = "the server was stopped while this turn ran; send the message again or another one".into();
            return Self::failed(FinishReason::Error, TurnErrorCode::Interrupted, message, None);
        }
        Self::failed(FinishReason::Canceled, TurnErrorCode::Canceled, "the turn was cancelled".into(), None)
    }
}

/// A failure of the store ends the turn.
impl From<Error> for End {
    fn from(error: Error) -> Self {
        if error.code() == Code::InsufficientStorage {
            let message = "the disk of the data directory is full; free some room and send the message again".into();
            return Self::failed(FinishReason::Error, TurnErrorCode::InsufficientStorage, message, None);
        }
        tracing::error!(error = %error, cause = ?error.cause(), "the turn failed");
        Self::internal()
    }
}
