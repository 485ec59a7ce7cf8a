//! What changed in the workspace: between two versions, since a version or a git revision until now, or in a turn.

use std::sync::Arc;

use git2::Oid;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod page;

use page::{Asked, Beside, etag};

use super::{
    OpenCode,
    agent::Running,
    cursor::Cursor,
    error::{Code, Error, Result},
    list::Pagination,
    snapshot::failed,
    store::VersionRow,
    turn::TurnStatus,
    version::{FileChangeType, Origin, PathReason, VersionCause, is_partial},
    workspace::{Ask, Lack, blocking, lacks_from},
};

/// Bytes of the largest file that is compared line by line.
const MAX_COMPARED: u64 = 1024 * 1024;
/// Paths that an answer names as left out.
const MAX_LEFT_OUT: usize = 1000;
/// Bytes of their paths.
const MAX_LEFT_OUT_BYTES: usize = 256 * 1024;

/// Which changes are wanted.
#[derive(Clone, Debug, Default)]
pub struct GetFileChanges {
    /// A version (`v12`) or a revision of the user's repository (`git:HEAD`, `git:main`); the session's baseline if absent.
    pub since_version: Option<String>,
    /// A version; the workspace as it is now if absent.
    pub until_version: Option<String>,
    /// The changes of this turn instead.
    pub turn_id: Option<String>,
    /// Only this file, or what is below this directory.
    pub path: Option<String>,
    /// Lines around each change; 3 if absent.
    pub context: Option<i64>,
    /// Tell a deleted and a created file that belong together as one.
    pub renames: bool,
    /// 1 to 200; zero or absent is 50.
    pub limit: Option<i64>,
    /// Only 0: changes are paged by cursor.
    pub offset: Option<i64>,
    /// `pagination.next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The etag of an answer that the client has.
    pub if_none_match: Option<String>,
    /// As one patch instead of a list.
    pub patch: bool,
    /// Also a patch that lacks something.
    pub partial: bool,
}

/// What changed.
#[derive(Clone, Debug)]
pub struct FileChanges {
    /// The changes in the order of their paths; empty where a patch was asked for.
    pub changes: Vec<FileChange>,
    /// The newest version of the workspace.
    pub current_version: String,
    /// Whether all changes are told, in this page and the others, with their content.
    pub complete: bool,
    /// What was left out, and why.
    pub left_out: Vec<PathReason>,
    /// Tag of this answer.
    pub etag: String,
    /// What the changes start from.
    pub since_version: String,
    /// The version that they end at; absent for the workspace as it is now.
    pub until_version: Option<String>,
    /// Where the page stands.
    pub pagination: Pagination,
    /// Follow from here.
    pub as_of: Cursor,
    /// The answer is still the one that the client has.
    pub not_modified: bool,
    /// The patch, where one was asked for.
    pub patch: Option<Vec<u8>>,
}

/// What changed in one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// Path relative to the workspace; of a rename the new one.
    pub path: String,
    /// What happened to it.
    #[serde(rename = "type")]
    pub change: FileChangeType,
    /// Of a rename the path before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
    /// Content before; absent where there was none, for a binary file and where it is too large (256 KiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_content: Option<String>,
    /// Content after; absent where there is none, for a binary file and where it is too large (256 KiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_content: Option<String>,
    /// When the version that has the change first was taken; absent where that is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// Unified diff; absent for a binary file and where it is too large (512 KiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Lines added; absent where they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additions: Option<u32>,
    /// Lines removed; absent where they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletions: Option<u32>,
    /// The file is no UTF-8 text.
    pub is_binary: bool,
    /// Contents or diff were left out since they are too large.
    pub truncated: bool,
    /// Size before in bytes, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_size: Option<u64>,
    /// Size after in bytes, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_size: Option<u64>,
    /// Git's file mode before, such as 33188 (octal 100644).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_mode: Option<u32>,
    /// Git's file mode after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_mode: Option<u32>,
    /// Who changed the file last, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// One end of a comparison.
struct End {
    /// Its name for the client; none for the workspace as it is now.
    name: Option<String>,
    tree: Oid,
    lacks: Vec<Lack>,
}

impl OpenCode {
    /// What changed in the workspace.
    pub async fn get_file_changes(&self, wish: GetFileChanges) -> Result<FileChanges> {
        let asked = Asked::check(&wish)?;
        let path = match wish.path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => Some(self.0.workspace.for_client(path)?.as_path().as_os_str().as_encoded_bytes().to_vec()),
            None => None,
        };
        // Before the look: whatever is in the log up to here, the look sees.
        let as_of = self.read(|_| Ok(())).await?.as_of;
        let (since, until, current) = self.ends(&wish).await?;
        let ask = Ask {
            path,
            renames: wish.renames,
            context: asked.context,
            max_bytes: if wish.patch { super::workspace::MAX_STORED } else { MAX_COMPARED },
            patch: wish.patch,
        };
        let engine = self.engine().await?;
        let now = until.name.is_none();
        let by_git = now && since.name.as_ref().is_some_and(|name| name.starts_with("git:"));
        let (known_to_git, ignores) = {
            let engine = engine.clone();
            let look = move || {
                let known = by_git.then(|| engine.as_git_sees_it()).transpose()?;
                std::io::Result::Ok((known, engine.ignores_anything()))
            };
            blocking(look).await.map_err(failed)?
        };
        // Until its version is there, what the workspace holds beyond the newest one is the running turn's.
        let running = self.running().filter(|_| now && until.tree.to_string() != current.tree);
        let beside = Beside {
            current: current.name(),
            ignores,
            git: known_to_git.as_ref().map(|view| view.tag()),
            running: running.as_ref().map(|running| running.id()),
        };
        let etag = etag(&ask, &asked, &wish, (&since, &until), &beside);
        let empty = FileChanges {
            changes: Vec::new(),
            current_version: current.name(),
            complete: true,
            left_out: Vec::new(),
            etag,
            since_version: since.name.clone().unwrap_or_default(),
            until_version: until.name.clone(),
            pagination: Pagination { total: 0, limit: asked.limit, offset: 0, next_cursor: None, has_more: false },
            as_of,
            not_modified: false,
            patch: None,
        };
        // A tag that was made weak on its way, as proxies that encode do it, is still the tag.
        let is_known = |tags: &str| {
            let mut tags = tags.split(',').map(str::trim);
            tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == empty.etag)
        };
        if wish.if_none_match.as_deref().is_some_and(is_known) {
            return Ok(FileChanges { not_modified: true, ..empty });
        }
        let is_patch = wish.patch;
        let (page, until_tree) = blocking(move || {
            let lacks: [&[Lack]; 2] = [&since.lacks, &until.lacks];
            let mut page = engine.compare((since.tree, until.tree), ask, &lacks, |mut compared| {
                if let Some(known) = known_to_git {
                    compared.list.retain(|found| !known.is_same(found));
                }
                Ok(if is_patch { asked.patch(&compared) } else { asked.page(&compared) })
            })?;
            let lacks = since.lacks.iter().chain(&until.lacks);
            page.complete &= !is_partial(&since.lacks) && !is_partial(&until.lacks);
            let mut left_out: Vec<PathReason> = lacks
                .filter(|lack| lack.reason != super::workspace::LackReason::Ignored)
                .map(PathReason::from)
                .collect();
            if ignores {
                left_out.push(PathReason { path: ".".into(), reason: "ignored".into() });
            }
            left_out.append(&mut page.left_out);
            // Both ends may lack the same.
            left_out.sort();
            left_out.dedup();
            left_out.truncate(MAX_LEFT_OUT);
            let mut bytes = 0;
            left_out.retain(|out| {
                bytes += out.path.len();
                bytes <= MAX_LEFT_OUT_BYTES
            });
            page.left_out = left_out;
            std::io::Result::Ok((page, until.tree))
        })
        .await
        .map_err(failed)?;
        if is_patch && !page.complete && !wish.partial {
            let names: Vec<String> = page
                .left_out
                .iter()
                .filter(|out| out.reason != "ignored")
                .take(5)
                .map(|out| format!("{} ({})", out.path, out.reason))
                .collect();
            let detail = format!("the patch would lack {}; take it so with partial=true", names.join(", "));
            return Err(Error::new(Code::PatchIncomplete, detail));
        }
        let changes = self.with_origins(page.changes, until_tree, running).await?;
        Ok(FileChanges {
            changes,
            complete: page.complete,
            left_out: page.left_out,
            pagination: page.pagination,
            patch: page.patch,
            ..empty
        })
    }

    /// Where the changes begin and end, and the newest version.
    async fn ends(&self, wish: &GetFileChanges) -> Result<(End, End, VersionRow)> {
        let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let (mut since, mut until) = (given(&wish.since_version), given(&wish.until_version));
        if let Some(turn) = given(&wish.turn_id) {
            if since.is_some() || until.is_some() {
                return Err(Error::field("turn_id", "cannot be combined with since_version and until_version"));
            }
            let turn = self.get_turn(&turn, 0).await?.value;
            let missing = || Error::new(Code::NotFound, format!("turn {} has no versions of the workspace", turn.id));
            since = Some(turn.version_before.clone().ok_or_else(missing)?);
            until = turn.version_after.clone();
            if until.is_none() && turn.status == TurnStatus::Completed {
                return Err(missing());
            }
        }
        // The first version of a workspace has to be there, whatever is compared with what.
        let baseline = self.baseline().await?;
        let until = match until {
            Some(name) => End::of(&self.version("until_version", &name).await?),
            None => self.now().await?,
        };
        let since = match since {
            None => End::of(&baseline),
            Some(name) => match name.strip_prefix("git:") {
                None => End::of(&self.version("since_version", &name).await?),
                Some(revision) => {
                    let (engine, wanted) = (self.engine().await?, revision.to_owned());
                    let tree = blocking(move || engine.revision(&wanted)).await.map_err(failed)?;
                    let tree = tree.ok_or_else(|| {
                        Error::new(
                            Code::NotFound,
                            format!("there is no revision {revision:?} in a git repository of this workspace"),
                        )
                    })?;
                    End { name: Some(name), tree, lacks: Vec::new() }
                }
            },
        };
        let newest = self.read(|snapshot| snapshot.latest_version()).await?.value.0;
        Ok((since, until, newest.unwrap_or(baseline)))
    }

    /// The workspace as it is now. While a turn runs, what it has done so far is no version of its own.
    async fn now(&self) -> Result<End> {
        if self.running().is_none()
            && let Some(row) = self.take_between_turns(VersionCause::Request).await?
        {
            return Ok(End { name: None, ..End::of(&row) });
        }
        let domain = self.clone();
        let looked = self.to_the_end(async move { domain.peek().await }).await?;
        Ok(End { name: None, tree: looked.tree, lacks: looked.lacks })
    }

    /// Who changed the files last.
    async fn with_origins(
        &self,
        mut changes: Vec<(Vec<u8>, FileChange)>,
        until: Oid,
        running: Option<Arc<Running>>,
    ) -> Result<Vec<FileChange>> {
        let fresh = match running {
            Some(running) => self.changed_so_far(until).await?.map(|paths| (running.id().clone(), paths)),
            None => None,
        };
        let read = self.read(move |snapshot| {
            for (path, change) in &mut changes {
                change.origin = snapshot.origin(path)?;
                change.timestamp = change.origin.as_ref().and_then(|origin| origin.at);
                if let Some((turn_id, _)) = fresh.as_ref().filter(|(_, paths)| paths.contains(path.as_slice())) {
                    change.origin = Some(Origin::of_running(turn_id.clone()));
                }
            }
            Ok(changes)
        });
        Ok(read.await?.value.into_iter().map(|(_, change)| change).collect())
    }
}

impl End {
    fn of(row: &VersionRow) -> Self {
        let lacks = lacks_from(&row.lacks);
        // What we stored ourselves is an id.
        Self { name: Some(row.name()), tree: Oid::from_str(&row.tree).unwrap_or(Oid::ZERO_SHA1), lacks }
    }
}
