//! Turns: a user's message and all that the agent does about it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    OpenCode, Read,
    error::{Error, Result},
    id::{MessageId, TurnId},
    list::{List, Order, PageQuery},
    part::FinishReason,
    store::{Filter, Start, has_ended},
    timeline::Timeline,
    usage::Usage,
};

/// A user's message and all that the agent did about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// Its id.
    pub id: TurnId,
    /// How far it is.
    pub status: TurnStatus,
    /// Why it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Why it did not end well, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TurnError>,
    /// The model that it was sent to, as `provider/id`.
    pub model: String,
    /// The user message that began it; of a queued turn the id that its message will have.
    pub user_message_id: MessageId,
    /// The model's last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// Version of the workspace before the turn; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_before: Option<String>,
    /// Version of the workspace after the turn; absent while there is none, also after the end where it was not ready in
    /// time: a `files_changed` event follows then if files changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_after: Option<String>,
    /// What all model calls of the turn used so far.
    pub usage: Usage,
    /// Where its time went, until now while it runs; absent where the server ended in the middle of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Cursor of its first event, the user's message; of a queued turn where the log stood when it was accepted.
    pub first_cursor: String,
    /// Cursor of its last event; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_cursor: Option<String>,
}

/// How far a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// It waits for the turn before it.
    Queued,
    /// It runs.
    Running,
    /// It has ended.
    Completed,
}

/// Why a turn did not end well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TurnError {
    /// One of the codes of turns: `provider_error`, `provider_unavailable`, `provider_timeout`, `canceled`,
    /// `permission_denied`, `budget_exhausted`, `max_tokens`, `interrupted`, `insufficient_storage`, `internal`.
    pub code: TurnErrorCode,
    /// What happened and what to do about it.
    pub message: String,
    /// Whether sending the message again may help.
    pub retryable: bool,
    /// Figures beside the words, such as the provider's status. Of `budget_exhausted`: `which` (`model_calls`, `seconds`,
    /// `tokens`, `usd`), `scope` (`turn`, `session`), `limit`, `used`, `needed` by the next call, the `setting` that raises
    /// it, and the `field` where the message had set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// The codes of turns that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnErrorCode {
    /// The provider rejected the request.
    ProviderError,
    /// The provider could not be reached, or was overloaded, for all retries.
    ProviderUnavailable,
    /// The provider stalled.
    ProviderTimeout,
    /// The turn was cancelled.
    Canceled,
    /// A permission was answered `stop`.
    PermissionDenied,
    /// A budget is used up.
    BudgetExhausted,
    /// The model reached its output limit.
    MaxTokens,
    /// The server ended while the turn ran.
    Interrupted,
    /// The disk is full.
    InsufficientStorage,
    /// The server failed.
    Internal,
}

impl TurnErrorCode {
    /// The code as clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProviderError => "provider_error",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::ProviderTimeout => "provider_timeout",
            Self::Canceled => "canceled",
            Self::PermissionDenied => "permission_denied",
            Self::BudgetExhausted => "budget_exhausted",
            Self::MaxTokens => "max_tokens",
            Self::Interrupted => "interrupted",
            Self::InsufficientStorage => "insufficient_storage",
            Self::Internal => "internal",
        }
    }
}

/// Longest that a read of a turn waits for its end, in seconds.
const MAX_WAIT: i64 = 60;

impl OpenCode {
    /// A turn, of this session or one before; waits up to `wait` seconds (0 to 60) for its end.
    pub async fn get_turn(&self, id: &str, wait: i64) -> Result<Read<Turn>> {
        let wait = wait_time("wait", wait, MAX_WAIT)?;
        let read = self.read_turn(id).await?;
        if wait.is_zero() || has_ended(&read.value) {
            return Ok(read);
        }
        let filter = Filter { turn_id: Some(read.value.id.clone()), ..Filter::default() };
        let _view = self.0.views.watch(&read.value.id);
        let mut events = self.0.store.subscribe(Start::After(read.as_of), filter, self.0.closing.clone()).await?;
        let _ = tokio::time::timeout(wait, async { while events.next().await.is_some() {} }).await;
        self.read_turn(id).await
    }

    /// The session's turns, newest first.
    pub async fn list_turns(&self, page: PageQuery) -> Result<List<Turn>> {
        let page = PageQuery { order: Some(Order::Desc), ..page };
        let checked = page.check("t")?;
        let page = checked.page;
        Ok(checked.answer(self.read(move |snapshot| snapshot.turns(page)).await?))
    }

    pub(super) async fn read_turn(&self, id: &str) -> Result<Read<Turn>> {
        let wanted = id.to_owned();
        let read = self.read(move |snapshot| snapshot.turn(&wanted)).await?;
        let as_of = read.as_of;
        let mut value = read.value.ok_or_else(|| Error::not_found("turn", id))?;
        if let Some(running) = self.running().filter(|running| running.id().as_str() == id && !has_ended(&value)) {
            let mut timeline = running.clock().read();
            if let Some(started) = value.started_at {
                let ended = started.saturating_add(std::time::Duration::from_millis(timeline.wall_ms));
                timeline.close(value.created_at, started, ended.unwrap_or(started));
            }
            value.timeline = Some(timeline);
        }
        Ok(Read { value, as_of })
    }
}

/// Checks a number of seconds to wait.
pub(super) fn wait_time(field: &str, seconds: i64, most: i64) -> Result<Duration> {
    if !(0..=most).contains(&seconds) {
        return Err(Error::field(field, format!("must be 0 to {most} seconds")));
    }
    Ok(Duration::from_secs(seconds.unsigned_abs()))
}
