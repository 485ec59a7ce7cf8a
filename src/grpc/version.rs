//! The RPCs of versions and changes, and their conversions.

use super::{
    Result,
    message::page_query,
    pb,
    session::{key, marked, time, with_cursor},
};
use crate::domain::{
    Answered, ChangedFile, FileChange, FileChangeType, FileChanges, GetFileChanges, List, OpenCode, Origin, PathReason,
    RevertFiles, Reverted, Version, VersionCause,
};

pub(super) async fn get_file_changes(
    domain: &OpenCode,
    wish: pb::GetFileChangesRequest,
) -> Result<pb::GetFileChangesResponse> {
    let pb::GetFileChangesRequest {
        since_version,
        until_version,
        turn_id,
        path,
        context,
        renames,
        pagination,
        if_none_match,
        patch,
        partial,
    } = wish;
    let page = page_query(pagination);
    let wish = GetFileChanges {
        since_version: Some(since_version),
        until_version: Some(until_version),
        turn_id: Some(turn_id),
        path: Some(path),
        context: context.map(Into::into),
        renames,
        limit: page.limit,
        offset: page.offset,
        cursor: page.cursor,
        if_none_match: Some(if_none_match).filter(|tag| !tag.is_empty()),
        patch,
        partial,
    };
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
    } = domain.get_file_changes(wish).await?;
    let answer = pb::GetFileChangesResponse {
        changes: changes.into_iter().map(Into::into).collect(),
        current_version,
        complete,
        left_out: left_out.into_iter().map(Into::into).collect(),
        etag,
        since_version,
        until_version,
        pagination: Some(pagination.into()),
        as_of: as_of.to_string(),
        as_of_seq: as_of.seq,
        not_modified,
        patch: patch.unwrap_or_default().into(),
    };
    Ok(with_cursor(answer, as_of))
}

pub(super) async fn list_versions(
    domain: &OpenCode,
    wish: pb::ListVersionsRequest,
) -> Result<pb::ListVersionsResponse> {
    let List { items, pagination, as_of } = domain.list_versions(page_query(wish.pagination)).await?;
    let answer = pb::ListVersionsResponse {
        versions: items.into_iter().map(Into::into).collect(),
        pagination: Some(pagination.into()),
        as_of: as_of.to_string(),
        as_of_seq: as_of.seq,
    };
    Ok(with_cursor(answer, as_of))
}

pub(super) async fn revert_files(domain: &OpenCode, wish: pb::RevertFilesRequest) -> Result<pb::RevertFilesResponse> {
    let pb::RevertFilesRequest { version, paths, dry_run, expected_version, idempotency_key } = wish;
    let expected_version = Some(expected_version).filter(|version| !version.is_empty());
    let wish = RevertFiles { version, paths, dry_run, expected_version, idempotency_key: key(&idempotency_key)? };
    let Answered { value, replayed } = domain.revert_files(wish).await?;
    let Reverted { changes, truncated, skipped, version_before, version_after } = value;
    let answer = tonic::Response::new(pb::RevertFilesResponse {
        changes: changes.into_iter().map(Into::into).collect(),
        truncated,
        skipped: skipped.into_iter().map(Into::into).collect(),
        version_before,
        version_after,
    });
    Ok(marked(answer, replayed))
}

impl From<FileChange> for pb::FileChange {
    fn from(found: FileChange) -> Self {
        let FileChange {
            path,
            change,
            old_path,
            old_content,
            new_content,
            timestamp,
            diff,
            additions,
            deletions,
            is_binary,
            truncated,
            old_size,
            new_size,
            old_mode,
            new_mode,
            origin,
        } = found;
        let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            path,
            r#type: pb::FileChangeType::from(change).into(),
            old_content: old_content.unwrap_or_default(),
            new_content: new_content.unwrap_or_default(),
            timestamp: timestamp.map(time),
            old_path: old_path.unwrap_or_default(),
            diff: diff.unwrap_or_default(),
            additions: additions.map(count),
            deletions: deletions.map(count),
            is_binary,
            truncated,
            old_size: old_size.map(size),
            new_size: new_size.map(size),
            old_mode,
            new_mode,
            origin: origin.map(Into::into),
        }
    }
}

impl From<Origin> for pb::Origin {
    fn from(origin: Origin) -> Self {
        let Origin { by, version, at, turn_id, tool_call_id } = origin;
        Self {
            by: pb::VersionCause::from(by).into(),
            version,
            at: at.map(time),
            turn_id: turn_id.map(|id| id.to_string()),
            tool_call_id: tool_call_id.map(|id| id.to_string()),
        }
    }
}

impl From<ChangedFile> for pb::ChangedFile {
    fn from(changed: ChangedFile) -> Self {
        let ChangedFile { path, change, old_path } = changed;
        Self { path, r#type: pb::FileChangeType::from(change).into(), old_path: old_path.unwrap_or_default() }
    }
}

impl From<PathReason> for pb::PathReason {
    fn from(out: PathReason) -> Self {
        let PathReason { path, reason } = out;
        Self { path, reason }
    }
}

impl From<Version> for pb::Version {
    fn from(version: Version) -> Self {
        let Version { id, tree, at, turn_id, cause, partial, files_changed, left_out } = version;
        Self {
            id,
            tree,
            at: Some(time(at)),
            turn_id: turn_id.map(|id| id.to_string()),
            cause: pb::VersionCause::from(cause).into(),
            partial,
            files_changed: i32::try_from(files_changed).unwrap_or(i32::MAX),
            left_out: left_out.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<VersionCause> for pb::VersionCause {
    fn from(cause: VersionCause) -> Self {
        match cause {
            VersionCause::Baseline => Self::Baseline,
            VersionCause::BeforeTurn => Self::BeforeTurn,
            VersionCause::AfterTurn => Self::AfterTurn,
            VersionCause::Write => Self::Write,
            VersionCause::Revert => Self::Revert,
            VersionCause::Request => Self::Request,
            VersionCause::Outside => Self::Outside,
        }
    }
}

impl From<FileChangeType> for pb::FileChangeType {
    fn from(change: FileChangeType) -> Self {
        match change {
            FileChangeType::Created => Self::Created,
            FileChangeType::Modified => Self::Modified,
            FileChangeType::Deleted => Self::Deleted,
            FileChangeType::Renamed => Self::Renamed,
            FileChangeType::TypeChanged => Self::TypeChanged,
        }
    }
}
