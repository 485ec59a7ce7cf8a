//! The RPCs of the agent, and their conversions.

use tonic::Response;

use super::{
    Result, pb,
    session::{signed, text, time, with_cursor},
};
use crate::domain::{Activity, AgentState, CancelAgent, Canceled, OpenCode, Read};

pub(super) async fn cancel_agent(domain: &OpenCode, wish: pb::CancelAgentRequest) -> Result<pb::CancelAgentResponse> {
    let canceled = domain.cancel_agent(CancelAgent { turn_id: text(wish.turn_id) }).await?;
    Ok(Response::new(canceled.into()))
}

pub(super) async fn get_agent_status(domain: &OpenCode) -> Result<pb::GetAgentStatusResponse> {
    let Read { value, as_of } = domain.get_agent_status().await?;
    Ok(with_cursor(value.into(), as_of))
}

impl From<Activity> for pb::AgentStatus {
    fn from(status: Activity) -> Self {
        match status {
            Activity::Idle => Self::Idle,
            Activity::Processing => Self::Processing,
            Activity::WaitingPermission => Self::WaitingPermission,
            Activity::Error => Self::Error,
        }
    }
}

impl From<AgentState> for pb::GetAgentStatusResponse {
    fn from(state: AgentState) -> Self {
        let AgentState { status, current_operation, started_at, model, turn_id, error, last_turn } = state;
        let error =
            error.map(|message| pb::ErrorDetail { code: "insufficient_storage".into(), message, field: String::new() });
        Self {
            status: pb::AgentStatus::from(status).into(),
            current_operation: current_operation.unwrap_or_default(),
            started_at: started_at.map(time),
            model: model.unwrap_or_default(),
            turn_id: turn_id.map(|id| id.to_string()).unwrap_or_default(),
            error,
            last_turn: last_turn.map(Into::into),
        }
    }
}

impl From<Canceled> for pb::CancelAgentResponse {
    fn from(canceled: Canceled) -> Self {
        let Canceled { canceled, turn_id, processes_ended, processes_left, processes_unnamed, took_ms } = canceled;
        Self {
            canceled,
            turn_id: turn_id.map(|id| id.to_string()).unwrap_or_default(),
            processes_ended: processes_ended.into_iter().map(Into::into).collect(),
            processes_left: processes_left.into_iter().map(Into::into).collect(),
            took_ms: signed(took_ms),
            processes_unnamed: signed(processes_unnamed),
        }
    }
}
