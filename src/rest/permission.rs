//! `/agent/permissions`.

use axum::{Json, extract::State, http::HeaderMap};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    error::{Problem, Result},
    extract::{Body, NoParams, Path, Query, reply_token},
    message::EventCursor,
};
use crate::domain::{
    EvaluatePermission, List, OpenCode, Pagination, Permission, PermissionEvaluation, ReplyPermission,
};

/// The permission requests that wait.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PermissionList {
    /// The requests, oldest first.
    permissions: Vec<Permission>,
    /// All are on one page.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Its number.
    as_of_seq: u64,
}

/// The permission requests that wait for an answer.
///
/// Who reads them is there: while no stream has been open and no list read for 10 s, a request's default decision holds at
/// once.
#[utoipa::path(get, path = "/agent/permissions", tag = "agent", responses(
    (status = 200, description = "The requests", body = PermissionList, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_permissions(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
) -> Result<(EventCursor, Json<PermissionList>)> {
    let List { items, pagination, as_of } = domain.list_permissions().await?;
    let list = PermissionList { permissions: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}

/// What the rules and the mode would say of a call, without making it.
#[utoipa::path(post, path = "/agent/permissions/evaluate", tag = "agent", request_body = EvaluatePermission, responses(
    (status = 200, description = "What would become of it", body = PermissionEvaluation),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn evaluate_permission(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
    Body(wish): Body<EvaluatePermission>,
) -> Result<Json<PermissionEvaluation>> {
    Ok(Json(domain.evaluate_permission(wish).await?))
}

/// Answers a permission request.
///
/// The first answer wins; a second one is `already_resolved`. It takes a token with the scope `permissions:reply`; where
/// nobody is asked for tokens, the reply token, which the server prints when it is started: a command that the agent runs could
/// call here too.
#[utoipa::path(post, path = "/agent/permissions/{id}", tag = "agent", request_body = ReplyPermission, params(
    ("id" = String, Path, description = "The request's id"),
    ("X-Reply-Token" = Option<String>, Header, description = "The reply token, where nobody is asked for tokens; without it the answer is `permission_denied`"),
), responses(
    (status = 200, description = "The request as it was resolved", body = Permission, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn reply_permission(
    State(domain): State<OpenCode>,
    Path(id): Path<String>,
    headers: HeaderMap,
    _: Query<NoParams>,
    Body(wish): Body<ReplyPermission>,
) -> Result<(EventCursor, Json<Permission>)> {
    let read = domain.reply_permission(&id, ReplyPermission { token: reply_token(&headers), ..wish }).await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}
