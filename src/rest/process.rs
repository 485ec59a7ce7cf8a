//! `/agent/processes`.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    error::{Problem, Result},
    extract::{NoParams, Path, Query},
    message::EventCursor,
};
use crate::domain::{AgentProcess, List, OpenCode, Pagination, ProcessesEnded};

/// The commands that run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProcessList {
    /// The commands, in the order of their start.
    processes: Vec<AgentProcess>,
    /// All are on one page.
    pagination: Pagination,
    /// The cursor up to which the log was written then.
    as_of: String,
    /// Its number.
    as_of_seq: u64,
}

/// The commands that run: the running turn's and all jobs.
#[utoipa::path(get, path = "/agent/processes", tag = "agent", responses(
    (status = 200, description = "The commands", body = ProcessList),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_processes(
    State(domain): State<OpenCode>,
    _: Query<NoParams>,
) -> Result<(EventCursor, Json<ProcessList>)> {
    let List { items, pagination, as_of } = domain.list_processes().await?;
    let list = ProcessList { processes: items, pagination, as_of: as_of.to_string(), as_of_seq: as_of.seq };
    Ok((EventCursor(as_of), Json(list)))
}

/// Ends a command with all the processes that it has started.
///
/// As a cancel ends them: SIGTERM, and SIGKILL 1 s later. The turn goes on; its model is told. Answers when nothing runs
/// any more, or with what is left after 2 s.
#[utoipa::path(delete, path = "/agent/processes/{id}", tag = "agent", params(("id" = String, Path, description = "The command's id")), responses(
    (status = 200, description = "What was ended", body = ProcessesEnded),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn end_process(
    State(domain): State<OpenCode>,
    Path(id): Path<String>,
    _: Query<NoParams>,
) -> Result<Json<ProcessesEnded>> {
    Ok(Json(domain.end_process(&id).await?))
}
