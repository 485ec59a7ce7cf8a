//! `/agent`.

use axum::{Json, extract::State};

use super::{
    error::{Problem, Result},
    extract::{Body, NoParams, OptionalBody, Query},
    message::EventCursor,
};
use crate::domain::{AgentState, CancelAgent, Canceled, ModelInfo, OpenCode, SetModel};

/// What the agent is doing.
#[utoipa::path(get, path = "/agent/status", tag = "agent", responses(
    (status = 200, description = "The status", body = AgentState, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_agent_status(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
) -> Result<(EventCursor, Json<AgentState>)> {
    let read = domain.get_agent_status().await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}

/// Ends the running turn: its model call, its processes, its open tool calls. With the id of a queued turn, takes that
/// out; what else is queued goes on.
///
/// Answers when the turn's end is in the log. With nothing running, `canceled` is false.
#[utoipa::path(post, path = "/agent/cancel", tag = "agent", request_body(content = Option<CancelAgent>), responses(
    (status = 200, description = "What was ended", body = Canceled),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn cancel_agent(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
    OptionalBody(wish): OptionalBody<CancelAgent>,
) -> Result<Json<Canceled>> {
    Ok(Json(domain.cancel_agent(wish).await?))
}

/// Sets the model; it holds from the next turn on, also after a restart.
#[utoipa::path(put, path = "/agent/model", tag = "agent", request_body = SetModel, responses(
    (status = 200, description = "The model", body = ModelInfo),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn set_model(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
    Body(wish): Body<SetModel>,
) -> Result<Json<ModelInfo>> {
    Ok(Json(domain.set_model(wish).await?))
}
