//! The RPCs of turns, and their conversions.

use super::{
    Result,
    message::page_query,
    pb,
    session::{page, signed, time, with_cursor},
};
use crate::domain::{OpenCode, Read, Timeline, ToolTime, Turn, TurnError, TurnStatus};

pub(super) async fn get_turn(domain: &OpenCode, wish: pb::GetTurnRequest) -> Result<pb::GetTurnResponse> {
    let pb::GetTurnRequest { turn_id, wait } = wish;
    let Read { value, as_of } = domain.get_turn(&turn_id, wait.into()).await?;
    Ok(with_cursor(pb::GetTurnResponse { turn: Some(value.into()) }, as_of))
}

pub(super) async fn list_turns(domain: &OpenCode, wish: pb::ListTurnsRequest) -> Result<pb::ListTurnsResponse> {
    let list = domain.list_turns(page_query(wish.pagination)).await?;
    Ok(page(list, |turns, pagination, as_of, as_of_seq| pb::ListTurnsResponse { turns, pagination, as_of, as_of_seq }))
}

impl From<Turn> for pb::Turn {
    fn from(turn: Turn) -> Self {
        let Turn {
            id,
            status,
            finish_reason,
            error,
            model,
            user_message_id,
            message_id,
            version_before,
            version_after,
            usage,
            timeline,
            created_at,
            started_at,
            finished_at,
            first_cursor,
            last_cursor,
        } = turn;
        let status = match status {
            TurnStatus::Queued => pb::TurnStatus::Queued,
            TurnStatus::Running => pb::TurnStatus::Running,
            TurnStatus::Completed => pb::TurnStatus::Completed,
        };
        Self {
            id: id.to_string(),
            status: status.into(),
            finish_reason: finish_reason.map_or(pb::FinishReason::Unspecified, Into::into).into(),
            error: error.map(Into::into),
            model,
            user_message_id: Some(user_message_id.to_string()),
            message_id: message_id.map(|id| id.to_string()),
            usage: Some(usage.into()),
            timeline: timeline.map(Into::into),
            version_before,
            version_after,
            created_at: Some(time(created_at)),
            started_at: started_at.map(time),
            finished_at: finished_at.map(time),
            first_cursor: Some(first_cursor),
            last_cursor,
        }
    }
}

impl From<TurnError> for pb::TurnError {
    fn from(error: TurnError) -> Self {
        let TurnError { code, message, retryable, details } = error;
        let details = details.map(|value| value.to_string()).unwrap_or_default();
        Self { code: code.as_str().into(), message, details, retryable }
    }
}

impl From<Timeline> for pb::Timeline {
    fn from(timeline: Timeline) -> Self {
        let Timeline {
            wall_ms,
            queue_ms,
            model_wait_ms,
            model_stream_ms,
            retry_wait_ms,
            tools_ms,
            permission_ms,
            snapshots_ms,
            storing_ms,
            other_ms,
            tools,
        } = timeline;
        Self {
            wall_ms: signed(wall_ms),
            queue_ms: signed(queue_ms),
            model_wait_ms: signed(model_wait_ms),
            model_stream_ms: signed(model_stream_ms),
            retry_wait_ms: signed(retry_wait_ms),
            tools_ms: signed(tools_ms),
            permission_ms: signed(permission_ms),
            snapshots_ms: signed(snapshots_ms),
            storing_ms: signed(storing_ms),
            other_ms: signed(other_ms),
            tools: tools.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ToolTime> for pb::ToolTime {
    fn from(tool: ToolTime) -> Self {
        let ToolTime { tool_call_id, name, ms } = tool;
        Self { tool_call_id: tool_call_id.to_string(), name, ms: signed(ms) }
    }
}
