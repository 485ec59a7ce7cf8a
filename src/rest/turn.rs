//! `/turns`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    error::{Problem, Result},
    extract::{Path, Query},
    message::EventCursor,
};
use crate::domain::{List, OpenCode, PageParams, PageQuery, Pagination, Turn};

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitParams {
    /// Seconds (0 to 60) to wait for the turn's end.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<i64>,
}

/// A page of turns.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TurnList {
    /// The turns, newest first.
    turns: Vec<Turn>,
    /// Where the page stands.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Its number.
    as_of_seq: u64,
}

/// The session's turns, newest first.
#[utoipa::path(get, path = "/turns", tag = "turns", params(PageParams), responses(
    (status = 200, description = "A page", body = TurnList, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_turns(
    State(domain): State<OpenCode>,
    Query(params): Query<PageParams>,
) -> Result<(EventCursor, Json<TurnList>)> {
    let PageParams { limit, offset, cursor } = params;
    let List { items, pagination, as_of } = domain.list_turns(PageQuery { limit, offset, cursor, order: None }).await?;
    let list = TurnList { turns: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}

/// A turn: how far it is, how it ended, what it used.
#[utoipa::path(get, path = "/turns/{id}", tag = "turns", params(WaitParams, ("id" = String, Path, description = "The turn's id")), responses(
    (status = 200, description = "The turn", body = Turn, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_turn(
    State(domain): State<OpenCode>,
    Path(id): Path<String>,
    Query(params): Query<WaitParams>,
) -> Result<(EventCursor, Json<Turn>)> {
    let read = domain.get_turn(&id, params.wait.unwrap_or(0)).await?;
    Ok((EventCursor(read.as_of), Json(read.value)))
}
