//! The rows of workspace versions, and of who changed a file last.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{
    project,
    read::{Page, PageRequest, Snapshot},
};
use crate::domain::{
    id::{ToolCallId, TurnId},
    version::{Origin, VersionCause},
};

/// The number of the version that the session began with, among the store's own values.
pub(super) const BASELINE: &str = "baseline";
/// Most files of one version whose origin is kept: past it, who changed them is known by the version alone.
const MAX_ORIGINS: usize = 10_000;

/// Bytes of what versions lack that one page carries; it may end early.
const PAGE_BYTES: usize = 1024 * 1024;
/// Bytes of it that one version may show, which names but the first of them.
const MAX_LACKS: usize = 256 * 1024;

/// A version as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct VersionRow {
    /// Its number.
    pub id: u64,
    /// Id of its tree, in hex.
    pub tree: String,
    /// When it was taken.
    pub at: Timestamp,
    /// The turn that it was taken for.
    pub turn_id: Option<TurnId>,
    /// Why it was taken.
    pub cause: VersionCause,
    /// Files that differ from the version before.
    pub files_changed: u32,
    /// What it says nothing about, as the workspace writes it.
    pub lacks: Vec<u8>,
}

/// A version on its way into the log.
#[derive(Clone, Debug)]
pub(crate) struct NewVersion {
    /// Its row.
    pub row: VersionRow,
    /// The session begins with it.
    pub is_baseline: bool,
    /// Who changed its files: the author, and the tool call where it is known.
    pub changed: Vec<(Vec<u8>, Option<ToolCallId>)>,
    /// By whom they were changed.
    pub by: VersionCause,
}

/// Stores a version and who changed its files.
pub(super) fn record(tx: &Transaction<'_>, new: &NewVersion) -> rusqlite::Result<()> {
    let NewVersion { row, is_baseline, changed, by } = new;
    let turn = row.turn_id.as_ref().map(TurnId::as_str);
    tx.prepare_cached(
        "INSERT INTO versions (id, tree, at, turn, cause, files_changed, lacks) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        row.id as i64,
        row.tree,
        row.at.to_string(),
        turn,
        row.cause.as_str(),
        row.files_changed,
        row.lacks
    ])?;
    if *is_baseline {
        project::put(tx, BASELINE, &row.id)?;
    }
    let mut origin = tx.prepare_cached(
        "INSERT INTO origins (path, version, cause, at, turn, tool_call) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (path) DO UPDATE SET version = excluded.version, cause = excluded.cause, at = excluded.at,
         turn = excluded.turn, tool_call = excluded.tool_call",
    )?;
    let turn = turn.filter(|_| *by == VersionCause::AfterTurn);
    for (path, tool_call) in changed.iter().take(MAX_ORIGINS) {
        let tool_call = tool_call.as_ref().map(ToolCallId::as_str);
        origin.execute(params![path, row.id as i64, by.as_str(), row.at.to_string(), turn, tool_call])?;
    }
    Ok(())
}

/// Forgets versions, by number.
pub(super) fn forget(tx: &Transaction<'_>, ids: &[u64]) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached("DELETE FROM versions WHERE id = ?1")?;
    for id in ids {
        statement.execute([*id as i64])?;
    }
    Ok(())
}

/// Most notes for the next turn; older ones give way.
const MAX_NOTES: usize = 10;

/// Keeps what the model of the next turn is told.
pub(super) fn note(tx: &Transaction<'_>, words: &str) -> rusqlite::Result<()> {
    let mut notes: Vec<String> = project::get(tx, project::NOTES)?.unwrap_or_default();
    notes.push(words.to_owned());
    let over = notes.len().saturating_sub(MAX_NOTES);
    notes.drain(..over);
    project::put(tx, project::NOTES, &notes)
}

impl Snapshot<'_> {
    /// A version.
    pub(crate) fn version(&self, id: u64) -> rusqlite::Result<Option<VersionRow>> {
        let Ok(id) = i64::try_from(id) else { return Ok(None) };
        self.tx.prepare_cached(&select("WHERE id = ?1"))?.query_row([id], row).optional()
    }

    /// The newest version, and the number that the next one takes.
    pub(crate) fn latest_version(&self) -> rusqlite::Result<(Option<VersionRow>, u64)> {
        let last: Option<i64> = self
            .tx
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'versions'", [], |row| row.get(0))
            .optional()?;
        let row = self.tx.query_row(&select("ORDER BY id DESC LIMIT 1"), [], row).optional()?;
        Ok((row, last.unwrap_or(0) as u64 + 1))
    }

    /// The number of the version that the session began with.
    pub(crate) fn baseline(&self) -> rusqlite::Result<Option<u64>> {
        project::get(self.tx, BASELINE)
    }

    /// A page of versions, newest first.
    pub(crate) fn versions(&self, page: PageRequest) -> rusqlite::Result<Page<VersionRow>> {
        let total: i64 = self.tx.query_row("SELECT COUNT(*) FROM versions", [], |row| row.get(0))?;
        let mut statement = self.tx.prepare_cached(&select("WHERE id < ?1 ORDER BY id DESC LIMIT ?2 OFFSET ?3"))?;
        let rows =
            statement.query_map(params![page.after.unwrap_or(i64::MAX), page.limit + 1, page.offset as i64], row)?;
        let (mut items, mut bytes, mut more) = (Vec::new(), 0, false);
        for row in rows {
            let row = row?;
            bytes += row.lacks.len().min(MAX_LACKS);
            if items.len() == page.limit as usize || (bytes > PAGE_BYTES && !items.is_empty()) {
                more = true;
                break;
            }
            items.push(row);
        }
        let next = if more { items.last().map(|row| row.id as i64) } else { None };
        Ok(Page { items, total: total as u64, next })
    }

    /// All versions, oldest first: numbers and trees.
    pub(crate) fn all_versions(&self) -> rusqlite::Result<Vec<(u64, String)>> {
        let mut statement = self.tx.prepare("SELECT id, tree FROM versions ORDER BY id")?;
        statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))?.collect()
    }

    /// Who changed a file last, as far as it is known.
    pub(crate) fn origin(&self, path: &[u8]) -> rusqlite::Result<Option<Origin>> {
        self.tx
            .prepare_cached("SELECT version, cause, at, turn, tool_call FROM origins WHERE path = ?1")?
            .query_row([path], |row| {
                Ok(Origin {
                    version: Some(format!("v{}", row.get::<_, i64>(0)?)),
                    by: cause(row, 1)?,
                    at: Some(super::read::time(row, 2)?),
                    turn_id: row.get::<_, Option<String>>(3)?.map(TurnId::from),
                    tool_call_id: row.get::<_, Option<String>>(4)?.map(ToolCallId::from),
                })
            })
            .optional()
    }
}

fn select(rest: &str) -> String {
    format!("SELECT id, tree, at, turn, cause, files_changed, lacks FROM versions {rest}")
}

fn row(row: &Row<'_>) -> rusqlite::Result<VersionRow> {
    Ok(VersionRow {
        id: row.get::<_, i64>(0)? as u64,
        tree: row.get(1)?,
        at: super::read::time(row, 2)?,
        turn_id: row.get::<_, Option<String>>(3)?.map(TurnId::from),
        cause: cause(row, 4)?,
        files_changed: row.get(5)?,
        lacks: row.get(6)?,
    })
}

fn cause(row: &Row<'_>, index: usize) -> rusqlite::Result<VersionCause> {
    let name: String = row.get(index)?;
    super::read::parse(&format!("\"{name}\""))
}
