//! Versions of the workspace: what its files were at a moment. What an ignore rule keeps out is in none.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    OpenCode,
    error::{Code, Error, Result},
    id::{ToolCallId, TurnId},
    list::{List, Order, PageQuery},
    store::VersionRow,
    workspace::{Lack, LackReason, lacks_from},
};

/// A version of the workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// `v` and a number, never used again for another version.
    pub id: String,
    /// Id of the tree: equal trees have equal files.
    pub tree: String,
    /// When it was taken.
    pub at: Timestamp,
    /// The turn that it was taken for, if one is behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// Why it was taken.
    pub cause: VersionCause,
    /// Something could not be looked at in time, so that the version says nothing about it; `left_out` names it.
    pub partial: bool,
    /// Files that differ from the version before.
    pub files_changed: u32,
    /// What the version says nothing about, the first 100 paths, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<PathReason>,
}

/// Why a version was taken, and by whom files were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VersionCause {
    /// The state that the session began with.
    Baseline,
    /// A turn began.
    BeforeTurn,
    /// A turn ended.
    AfterTurn,
    /// A client wrote or deleted a file.
    Write,
    /// Files were brought back.
    Revert,
    /// A client asked what changed.
    Request,
    /// Something other than this server changed files.
    Outside,
}

impl VersionCause {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::BeforeTurn => "before_turn",
            Self::AfterTurn => "after_turn",
            Self::Write => "write",
            Self::Revert => "revert",
            Self::Request => "request",
            Self::Outside => "outside",
        }
    }
}

/// A path, and why it was left out or skipped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct PathReason {
    /// Path relative to the workspace; a directory stands for all that is below it.
    pub path: String,
    /// Why, in one word: `ignored` (an ignore rule keeps it out of every version), `time` and `bytes` (the limits of one
    /// look at the workspace), `unreadable`, `changing`, `too_deep`, `submodule`, `too_large`, `gone`, `denied`,
    /// `no_room` (on the disk of the workspace), `in_the_way`, `patch_too_large`, `name` (`git apply` refuses it).
    pub reason: String,
}

/// A file that changed, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangedFile {
    /// Path relative to the workspace; of a rename the new one.
    pub path: String,
    /// What happened to it.
    #[serde(rename = "type")]
    pub change: FileChangeType,
    /// Of a rename the path before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_path: Option<String>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileChangeType {
    /// It was not there before.
    Created,
    /// Its content or mode is another.
    Modified,
    /// It is there no more.
    Deleted,
    /// It has another path; told only where renames were asked for.
    Renamed,
    /// A file, link or submodule became another of these.
    TypeChanged,
}

/// Who changed a file last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// `after_turn` (a turn), `write` (a client), `revert`, or `outside` (something other than this server).
    pub by: VersionCause,
    /// The version that has the change first; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When that version was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// The call of `write` or `edit` that wrote the file last in its turn; absent where a command may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<ToolCallId>,
}

impl Origin {
    /// A turn that runs.
    pub(super) fn of_running(turn_id: TurnId) -> Self {
        Self { by: VersionCause::AfterTurn, version: None, at: None, turn_id: Some(turn_id), tool_call_id: None }
    }
}

/// Paths that a version names as left out.
const MAX_LEFT_OUT: usize = 100;

impl OpenCode {
    /// The versions of the workspace, newest first.
    pub async fn list_versions(&self, page: PageQuery) -> Result<List<Version>> {
        let page = PageQuery { order: Some(Order::Desc), ..page };
        let checked = page.check("v")?;
        let page = checked.page;
        let read = self
            .read(move |snapshot| {
                let page = snapshot.versions(page)?;
                let items = page.items.into_iter().map(Version::from).collect();
                Ok(super::store::Page { items, total: page.total, next: page.next })
            })
            .await?;
        Ok(checked.answer(read))
    }

    /// The version of that name.
    pub(super) async fn version(&self, field: &str, name: &str) -> Result<VersionRow> {
        let number = number(name).ok_or_else(|| {
            Error::field(field, "is no version: they are named v1, v2 and so on; GET /files/versions lists them")
        })?;
        let read = self.read(move |snapshot| Ok((snapshot.version(number)?, snapshot.latest_version()?.1)));
        let (row, next) = read.await?.value;
        row.ok_or_else(|| match (1..next).contains(&number) {
            true => Error::new(
                Code::NotFound,
                format!(
                    "version \"{name}\" was given up, as old ones are; GET /files/versions lists those that are kept"
                ),
            ),
            false => Error::not_found("version", name),
        })
    }
}

/// The number in `v12`.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix('v').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

impl VersionRow {
    pub(super) fn name(&self) -> String {
        format!("v{}", self.id)
    }
}

impl From<VersionRow> for Version {
    fn from(row: VersionRow) -> Self {
        let lacks = lacks_from(&row.lacks);
        Self {
            id: row.name(),
            tree: row.tree,
            at: row.at,
            turn_id: row.turn_id,
            cause: row.cause,
            partial: is_partial(&lacks),
            files_changed: row.files_changed,
            left_out: lacks.iter().take(MAX_LEFT_OUT).map(PathReason::from).collect(),
        }
    }
}

/// Whether more is lacking than what a rule ignores.
pub(super) fn is_partial(lacks: &[Lack]) -> bool {
    lacks.iter().any(|lack| lack.reason != LackReason::Ignored)
}

impl From<&Lack> for PathReason {
    fn from(lack: &Lack) -> Self {
        Self { path: shown(&lack.path), reason: lack.reason.as_str().to_owned() }
    }
}

/// A path as clients see it: U+FFFD stands for what is not UTF-8, `.` for the workspace itself.
pub(super) fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}
