//! `/session`.

use axum::{Json, extract::State, http::HeaderMap};

use super::{
    error::{Problem, Result},
    extract::{Body, NoParams, OptionalBody, Query, refuse_later_headers},
    message::EventCursor,
};
use crate::domain::{OpenCode, ResetSession, Session, SessionStats, UpdateSession};

/// The session; created on first use.
#[utoipa::path(get, path = "/session", tag = "session", responses(
    (status = 200, description = "The session", body = Session, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_session(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
) -> Result<(EventCursor, Json<Session>)> {
    let read = domain.get_session().await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}

/// Changes the session's title.
#[utoipa::path(patch, path = "/session", tag = "session", request_body = UpdateSession, responses(
    (status = 200, description = "The session as it is now", body = Session, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn update_session(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
    Body(change): Body<UpdateSession>,
) -> Result<(EventCursor, Json<Session>)> {
    let read = domain.update_session(change).await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}

/// Puts a new session in the place of this one.
///
/// A running turn is cancelled first; all messages go and their content is erased from the log. The workspace stays.
#[utoipa::path(post, path = "/session/reset", tag = "session", request_body(content = Option<ResetSession>), responses(
    (status = 200, description = "The new session", body = Session, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn reset_session(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    _: Query<NoParams>,
    OptionalBody(wish): OptionalBody<ResetSession>,
) -> Result<(EventCursor, Json<Session>)> {
    refuse_later_headers(&headers)?;
    let read = domain.reset_session(wish).await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}

/// Counts, tokens and cost of the session.
#[utoipa::path(get, path = "/session/stats", tag = "session", responses(
    (status = 200, description = "The counts", body = SessionStats, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_session_stats(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
) -> Result<(EventCursor, Json<SessionStats>)> {
    let read = domain.get_session_stats().await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}
