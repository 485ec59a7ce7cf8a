//! `/session`.

use axum::{Json, extract::State, http::HeaderMap};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    error::{Problem, Result},
    extract::{Body, NoParams, OptionalBody, Query, Replayed, idempotency_key, reply_token},
    message::EventCursor,
};
use crate::domain::{
    Answered, LedgerEntry, List, ListLedger, OpenCode, Order, PageQuery, Pagination, ResetSession, Session,
    SessionStats, UpdateSession,
};

/// Which rows of the ledger are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LedgerParams {
    /// 1 to 200; zero or absent is 50.
    #[param(minimum = 0, maximum = 200)]
    limit: Option<i64>,
    /// Skips this many rows; not together with `cursor`.
    #[param(minimum = 0, maximum = 2147483647)]
    offset: Option<i64>,
    /// `pagination.next_cursor` of the page before.
    cursor: Option<String>,
    /// `asc`, oldest first, or `desc`.
    #[param(inline)]
    order: Option<Order>,
    /// Only calls that were made for this turn, which may be of a session before.
    turn_id: Option<String>,
}

/// A page of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerList {
    /// The calls.
    calls: Vec<LedgerEntry>,
    /// Where the page stands.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Its number.
    as_of_seq: u64,
}

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

/// Changes the session's title or its permission mode.
///
/// Loosening the mode takes the scope `permissions:reply` too; where nobody is asked for tokens, the reply token.
#[utoipa::path(patch, path = "/session", tag = "session", request_body = UpdateSession, params(
    ("X-Reply-Token" = Option<String>, Header, description = "The reply token, to loosen the permission mode where nobody is asked for tokens"),
), responses(
    (status = 200, description = "The session as it is now", body = Session, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn update_session(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    _: Query<NoParams>,
    Body(change): Body<UpdateSession>,
) -> Result<(EventCursor, Json<Session>)> {
    let read = domain.update_session(UpdateSession { token: reply_token(&headers), ..change }).await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}

/// Puts a new session in the place of this one.
///
/// A running turn is cancelled first; all messages go and their content is erased from the log. The workspace stays.
#[utoipa::path(post, path = "/session/reset", tag = "session", request_body(content = Option<ResetSession>), params(
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters, kept for 24 h: a repeat is answered again and resets nothing", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
), responses(
    (status = 200, description = "The new session", body = Session, headers(
        ("Event-Cursor" = String, description = "Follow the events from here"),
        ("Idempotent-Replayed" = Option<bool>, description = "The answer was given before"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn reset_session(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    _: Query<NoParams>,
    OptionalBody(wish): OptionalBody<ResetSession>,
) -> Result<(Replayed, EventCursor, Json<Session>)> {
    let idempotency_key = idempotency_key(&headers)?;
    let wish = ResetSession { idempotency_key, ..wish };
    let Answered { value: read, replayed } = domain.reset_session(wish).await?;
    Ok((Replayed(replayed), EventCursor(read.as_of), Json(read.value)))
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

/// Every call of a provider that was made in this session, attempts included, in pages.
///
/// Their `usage` adds up to that of `GET /session/stats` and, with `turn_id`, to that of the turn, to the last digit.
/// Clearing the messages leaves the ledger as it is; a reset begins a new one.
#[utoipa::path(get, path = "/session/ledger", tag = "session", params(LedgerParams), responses(
    (status = 200, description = "A page", body = LedgerList, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_ledger(
    State(domain): State<OpenCode>,
    Query(params): Query<LedgerParams>,
) -> Result<(EventCursor, Json<LedgerList>)> {
    let LedgerParams { limit, offset, cursor, order, turn_id } = params;
    let wish = ListLedger { page: PageQuery { limit, offset, cursor, order }, turn_id };
    let List { items, pagination, as_of } = domain.list_ledger(wish).await?;
    let list = LedgerList { calls: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}
