//! `/files/changes`, `/files/versions`, `/files/revert`.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    accept::wants_patch,
    error::{Problem, Result},
    extract::{Body, NoParams, Query, Replayed, idempotency_key},
    message::EventCursor,
};
use crate::domain::{
    Answered, FileChange, FileChanges, GetFileChanges, OpenCode, PageParams, PageQuery, Pagination, PathReason,
    RevertFiles, Reverted, Version,
};

/// Which changes are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeParams {
    /// A version (`v12`), or a revision of the git repository in the workspace (`git:HEAD`, `git:main`). Default: the
    /// session's baseline.
    since_version: Option<String>,
    /// A version. Default: the workspace as it is now.
    #[param(pattern = "^(v[0-9]+)?$")]
    until_version: Option<String>,
    /// The changes of this turn; not together with a version.
    turn_id: Option<String>,
    /// Only this file, or what is below this directory.
    path: Option<String>,
    /// Lines around each change, 0 to 1,000. Default: 3.
    #[param(minimum = 0, maximum = 1000)]
    context: Option<i64>,
    /// Tell a deleted and a created file that belong together as `renamed`.
    #[serde(default)]
    renames: bool,
    /// 1 to 200; zero or absent is 50. A page may end early.
    #[param(minimum = 0, maximum = 200)]
    limit: Option<i64>,
    /// `pagination.next_cursor` of the page before.
    cursor: Option<String>,
    /// With `Accept: text/x-diff`: also a patch that lacks something.
    #[serde(default)]
    partial: bool,
}

/// What changed.
#[derive(Serialize, ToSchema)]
pub(super) struct FileChangeList {
    /// The changes, in the order of their paths.
    changes: Vec<FileChange>,
    /// The newest version of the workspace.
    current_version: String,
    /// Whether all changes are told, in this page and the others, with their content. False where a file is over 256 KiB,
    /// or something was left out for another reason than an ignore rule.
    complete: bool,
    /// What was left out, and why. What ignore rules name is in no version: it is one entry, with reason `ignored`.
    left_out: Vec<PathReason>,
    /// What the changes start from.
    since_version: String,
    /// The version that they end at; absent for the workspace as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_version: Option<String>,
    /// Where the page stands.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Number of the event at `as_of`.
    as_of_seq: u64,
}

/// Versions of the workspace.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionList {
    /// The versions.
    versions: Vec<Version>,
    /// Where the page stands.
    pagination: Pagination,
    /// Follow the events from here.
    as_of: String,
    /// Number of the event at `as_of`.
    as_of_seq: u64,
}

/// What changed in the workspace between two versions, or in a turn.
///
/// With `Accept: text/x-diff` one patch of at most 3 MiB that `git apply` takes, binary files included; 422
/// `patch_incomplete` where it would lack something, unless `partial` is set.
#[utoipa::path(get, path = "/files/changes", tag = "files", params(ChangeParams,
    ("If-None-Match" = Option<String>, Header, description = "Tag of an answer that the client has"),
), responses(
    (status = 200, description = "The changes", content((FileChangeList = "application/json"), (String = "text/x-diff")),
        headers(("ETag" = String, description = "Tag of this answer"), ("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = 304, description = "The answer is still the one of `If-None-Match`"),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get_file_changes(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    Query(params): Query<ChangeParams>,
) -> Result<Response> {
    let ChangeParams { since_version, until_version, turn_id, path, context, renames, limit, cursor, partial } = params;
    let if_none_match = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).map(str::to_owned);
    let patch = wants_patch(&headers)?;
    let wish = GetFileChanges {
        since_version,
        until_version,
        turn_id,
        path,
        context,
        renames,
        limit,
        offset: None,
        cursor,
        if_none_match,
        patch,
        partial,
    };
    Ok(answer(domain.get_file_changes(wish).await?))
}

fn answer(found: FileChanges) -> Response {
    let FileChanges {
        changes,
        current_version,
        complete,
        left_out,
        etag,
        since_version,
        until_version,
        pagination,
        as_of,
        not_modified,
        patch,
    } = found;
    let head = (EventCursor(as_of), [(header::ETAG, format!("\"{etag}\"")), (header::VARY, "Accept".to_owned())]);
    if not_modified {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    if let Some(patch) = patch {
        return (head, [(header::CONTENT_TYPE, "text/x-diff"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], patch)
            .into_response();
    }
    let list = FileChangeList {
        changes,
        current_version,
        complete,
        left_out,
        since_version,
        until_version,
        pagination,
        as_of: as_of.to_string(),
        as_of_seq: as_of.seq,
    };
    (head, Json(list)).into_response()
}

/// The versions of the workspace, newest first.
///
/// Versions are taken at the start, before and after each turn, when a client writes, reverts or asks for changes, and
/// after changes from outside. Old ones are given up (`OPENCODE_VERSIONS_KEPT`, `OPENCODE_VERSIONS_BYTES`).
#[utoipa::path(get, path = "/files/versions", tag = "files", params(PageParams), responses(
    (status = 200, description = "The versions", body = VersionList, headers(("Event-Cursor" = String, description = "Follow the events from here"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_versions(
    State(domain): State<OpenCode>,
    Query(page): Query<PageParams>,
) -> Result<(EventCursor, Json<VersionList>)> {
    let PageParams { limit, offset, cursor } = page;
    let list = domain.list_versions(PageQuery { limit, offset, cursor, order: None }).await?;
    let versions = VersionList {
        versions: list.items,
        pagination: list.pagination,
        as_of: list.as_of.to_string(),
        as_of_seq: list.as_of.seq,
    };
    Ok((EventCursor(list.as_of), Json(versions)))
}

/// Brings files of the workspace back to a version.
///
/// A version is taken first, so that a revert can be reverted. What no version holds (ignored files, files over 10 MiB) is
/// left as it is and named in `skipped`. Refused with `agent_busy` while a turn runs; the model of the next turn is told.
#[utoipa::path(post, path = "/files/revert", tag = "files", request_body = RevertFiles, params(
    ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters, kept for 24 h: a repeat is answered again and reverts nothing", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
), responses(
    (status = 200, description = "What was brought back", body = Reverted, headers(
        ("Idempotent-Replayed" = Option<bool>, description = "The answer was given before"))),
    (status = "default", description = "An error", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn revert_files(
    State(domain): State<OpenCode>,
    headers: HeaderMap,
    _: Query<NoParams>,
    Body(wish): Body<RevertFiles>,
) -> Result<(Replayed, Json<Reverted>)> {
    let idempotency_key = idempotency_key(&headers)?;
    let Answered { value, replayed } = domain.revert_files(RevertFiles { idempotency_key, ..wish }).await?;
    Ok((Replayed(replayed), Json(value)))
}
