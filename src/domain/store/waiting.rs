//! The rows of messages that were accepted and wait: for the turn before theirs, or for the running turn to take them.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{
    project,
    read::{Snapshot, parse},
};
use crate::domain::{
    budget::Limits,
    cursor::Cursor,
    id::{MessageId, TurnId},
    message::Message,
    part::Part,
    permission::PermissionMode,
    turn::Turn,
    usage::Spent,
};

/// A turn that waits for the one before it.
#[derive(Clone, Debug)]
pub(crate) struct QueuedTurn {
    /// Its row; the first cursor is where the log stood when it was accepted, until it begins.
    pub turn: Turn,
    /// What it begins with.
    pub wish: QueuedWish,
}

/// What a turn that waits begins with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct QueuedWish {
    /// The parts of the user's message.
    pub parts: Vec<Part>,
    /// What it may use.
    pub limits: Limits,
    /// It ends with its watchers.
    pub cancel_on_disconnect: bool,
    /// Its own permission mode.
    #[serde(default)]
    pub mode: Option<PermissionMode>,
    /// Whether who sent it may loosen the session's mode.
    #[serde(default)]
    pub may_loosen: bool,
}

/// Stores a turn that waits.
pub(super) fn queue(tx: &Transaction<'_>, queued: &QueuedTurn) -> rusqlite::Result<()> {
    let QueuedTurn { turn, wish } = queued;
    let first = turn.first_cursor.parse::<Cursor>().map_or(0, |cursor| cursor.seq);
    let session = project::current_session(tx)?.map(|(_, id)| id).unwrap_or_default();
    tx.prepare_cached(
        "INSERT INTO turns (id, session, status, first_seq, turn, spent) VALUES (?1, ?2, 'queued', ?3, ?4, ?5)",
    )?
    .execute(params![
        turn.id.as_str(),
        session,
        first as i64,
        project::json(turn)?,
        project::json(&Spent::default())?
    ])?;
    tx.prepare_cached("INSERT INTO queued (turn, wish) VALUES (?1, ?2)")?
        .execute(params![turn.id.as_str(), project::json(wish)?])
        .map(drop)
}

/// A turn waits no more.
pub(super) fn dequeue(tx: &Transaction<'_>, id: &TurnId) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM queued WHERE turn = ?1")?.execute([id.as_str()]).map(drop)
}

/// Stores a message for the running turn.
pub(super) fn steer(tx: &Transaction<'_>, turn: &TurnId, message: &Message) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO steered (turn, message, content) VALUES (?1, ?2, ?3)")?
        .execute(params![turn.as_str(), message.id.as_str(), project::json(message)?])
        .map(drop)
}

/// A message waits no more.
pub(super) fn taken(tx: &Transaction<'_>, message: &MessageId) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM steered WHERE message = ?1")?.execute([message.as_str()]).map(drop)
}

impl Snapshot<'_> {
    /// The turns that wait, in order, and whether each ends with its watchers.
    pub(crate) fn queued(&self) -> rusqlite::Result<Vec<(TurnId, bool)>> {
        let mut statement = self.tx.prepare("SELECT turn, wish ->> 'cancel_on_disconnect' FROM queued ORDER BY ord")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
        rows.collect()
    }

    /// A turn that waits.
    pub(crate) fn queued_turn(&self, id: &TurnId) -> rusqlite::Result<Option<QueuedTurn>> {
        let wish: Option<String> = self
            .tx
            .prepare_cached("SELECT wish FROM queued WHERE turn = ?1")?
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        let (Some(wish), Some(turn)) = (wish, self.turn(id.as_str())?) else { return Ok(None) };
        Ok(Some(QueuedTurn { turn, wish: parse(&wish)? }))
    }

    /// The messages that a turn was sent and has not taken, in order.
    pub(crate) fn steered(&self, turn: &TurnId) -> rusqlite::Result<Vec<Message>> {
        let mut statement = self.tx.prepare_cached("SELECT content FROM steered WHERE turn = ?1 ORDER BY ord")?;
        let rows = statement.query_map([turn.as_str()], |row| row.get::<_, String>(0))?;
        rows.map(|content| parse(&content?)).collect()
    }
}
