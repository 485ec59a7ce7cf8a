//! Projections: the rows that are read often, written in the transaction of the event that changes them.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    permission_rows,
    read::{AgentRow, ContextRow},
    turn_rows, waiting,
};
use crate::domain::{
    cursor::Cursor,
    event::{EventKind, MessageEvent, SessionEvent, ToolCallCompleted},
    id::{MessageId, TurnId},
    message::{Message, Role},
    part::{Part, ToolResult},
    status::Activity,
    turn::TurnStatus,
    usage::Spent,
};

/// Set in `meta` while content that was deleted may still be found in the files.
pub(super) const ERASE: &str = "erase";

/// What of the conversation a model is told, in `meta`.
const CONTEXT: &str = "context";
/// In `meta`: what the model of the next turn is told.
pub(super) const NOTES: &str = "notes";

/// Where and when an event happens.
pub(super) struct At<'a> {
    pub(super) cursor: Cursor,
    pub(super) at: Timestamp,
    pub(super) turn_id: Option<&'a TurnId>,
}

impl<'a> At<'a> {
    /// For what is noted without an event.
    pub(super) fn nowhere(turn_id: &'a TurnId) -> Self {
        Self { cursor: Cursor { epoch: 0, seq: 0 }, at: Timestamp::UNIX_EPOCH, turn_id: Some(turn_id) }
    }
}

/// Writes what follows from an event. Answers the event as it is logged, and the new floor if it moves one.
pub(super) fn apply(
    tx: &Transaction<'_>,
    here: &At<'_>,
    kind: EventKind,
) -> rusqlite::Result<(EventKind, Option<u64>)> {
    let seq = here.cursor.seq;
    let kind = match kind {
        EventKind::SessionCreated(event) => EventKind::SessionCreated(put_session(tx, event)?),
        EventKind::SessionUpdated(event) => EventKind::SessionUpdated(put_session(tx, event)?),
        EventKind::SessionReset(event) => {
            delete_messages(tx)?;
            tx.execute_batch("DELETE FROM queued; DELETE FROM steered")?;
            // A title may be made of a message's words, and nobody can read the old session any more.
            tx.execute_batch("UPDATE sessions SET title = ''; DELETE FROM grants")?;
            // The new session has no baseline before its own is there, whatever happens until then.
            tx.execute("DELETE FROM meta WHERE key IN (?1, ?2)", [NOTES, super::version_rows::BASELINE])?;
            put(tx, ERASE, &true)?;
            return Ok((EventKind::SessionReset(put_session(tx, event)?), Some(seq)));
        }
        EventKind::MessagesCleared(event) => {
            delete_messages(tx)?;
            touch(tx, here.at)?;
            put(tx, ERASE, &true)?;
            return Ok((EventKind::MessagesCleared(event), Some(seq)));
        }
        EventKind::MessageCreated(event) => {
            if event.message.role == Role::User {
                waiting::taken(tx, &event.message.id)?;
            }
            EventKind::MessageCreated(put_message(tx, here, event.message)?)
        }
        EventKind::MessageUpdated(event) => EventKind::MessageUpdated(put_message(tx, here, event.message)?),
        other => {
            follow(tx, here, &other)?;
            other.view()
        }
    };
    Ok((kind, None))
}

/// The message that an event adds to without writing its row: such events are found again when an unfinished message
/// is read.
pub(super) fn grows(kind: &EventKind) -> Option<&MessageId> {
    match kind {
        EventKind::ContentDelta(delta) | EventKind::ReasoningDelta(delta) => Some(&delta.message_id),
        EventKind::ToolInputDelta(delta) | EventKind::ToolOutputDelta(delta) => Some(&delta.message_id),
        EventKind::ToolCallCompleted(completed) => Some(&completed.message_id),
        EventKind::SessionCreated(_)
        | EventKind::SessionUpdated(_)
        | EventKind::SessionReset(_)
        | EventKind::TurnStarted(_)
        | EventKind::MessageCreated(_)
        | EventKind::MessageUpdated(_)
        | EventKind::ToolCallStarted(_)
        | EventKind::MessageCompleted(_)
        | EventKind::MessageDeleted(_)
        | EventKind::MessagesCleared(_)
        | EventKind::ModelRetry(_)
        | EventKind::ModelChanged(_)
        | EventKind::ContextCompacted(_)
        | EventKind::PermissionRequested(_)
        | EventKind::PermissionResolved(_)
        | EventKind::AgentStatusChanged(_)
        | EventKind::FilesChanged(_)
        | EventKind::TurnFailed(_)
        | EventKind::TurnCompleted(_) => None,
    }
}

fn follow(tx: &Transaction<'_>, here: &At<'_>, kind: &EventKind) -> rusqlite::Result<()> {
    match kind {
        EventKind::TurnStarted(event) => turn_rows::start_turn(tx, here, event),
        EventKind::TurnFailed(error) => turn_rows::change_turn(tx, here, |turn| turn.error = Some(error.clone())),
        EventKind::MessageCompleted(event) => {
            // A summary is no answer.
            if context(tx)?.summary.as_ref() == Some(&event.message_id) {
                return Ok(());
            }
            turn_rows::change_turn(tx, here, |turn| turn.message_id = Some(event.message_id.clone()))
        }
        EventKind::ContextCompacted(event) => {
            let row = match (&event.summary_message_id, &event.kept_from_message_id) {
                (Some(summary), _) => ContextRow { summary: Some(summary.clone()), kept_from: None },
                (None, kept_from) => ContextRow { kept_from: kept_from.clone(), ..context(tx)? },
            };
            put(tx, CONTEXT, &row)
        }
        EventKind::TurnCompleted(event) => {
            touch(tx, here.at)?;
            turn_rows::change_turn(tx, here, |turn| {
                turn.status = TurnStatus::Completed;
                turn.finish_reason = Some(event.finish_reason);
                turn.message_id.clone_from(&event.message_id);
                turn.version_before.clone_from(&event.version_before);
                turn.version_after.clone_from(&event.version_after);
                turn.finished_at = Some(here.at);
                if let (Some(timeline), Some(started)) = (&mut turn.timeline, turn.started_at) {
                    timeline.close(turn.created_at, started, here.at);
                }
                turn.last_cursor = Some(here.cursor.to_string());
            })?;
            // One that never ran takes nothing from the one that does.
            let running = get::<AgentRow>(tx, "agent")?.and_then(|agent| agent.turn_id);
            if running.as_ref() != here.turn_id {
                return here.turn_id.map_or(Ok(()), |id| waiting::dequeue(tx, id));
            }
            turn_rows::count_time(tx, here)?;
            tx.execute("DELETE FROM meta WHERE key = ?1", [NOTES])?;
            change_agent(tx, |agent| {
                agent.turn_id = None;
                agent.last_turn_id = here.turn_id.cloned();
            })
        }
        EventKind::AgentStatusChanged(event) => change_agent(tx, |agent| {
            // Who waits for a permission, and goes on, still runs its tools.
            if ![agent.status, event.status].contains(&Activity::WaitingPermission) {
                agent.tools.clear();
            }
            agent.status = event.status;
            agent.operation.clone_from(&event.current_operation);
            agent.since = Some(here.at);
        }),
        EventKind::ToolCallStarted(event) => change_agent(tx, |agent| {
            agent.tools.push((event.tool_call_id.clone(), event.tool_name.clone()));
        }),
        EventKind::ToolCallCompleted(event) => {
            put_result(tx, event)?;
            change_agent(tx, |agent| agent.tools.retain(|(id, _)| *id != event.tool_call_id))
        }
        EventKind::PermissionRequested(event) => permission_rows::request(tx, &event.permission),
        EventKind::PermissionResolved(event) => permission_rows::resolve(tx, here, event),
        EventKind::ModelChanged(event) => put(tx, "model", &event.model),
        // Nothing deletes a single message yet.
        EventKind::MessageDeleted(_)
        | EventKind::ContentDelta(_)
        | EventKind::ReasoningDelta(_)
        | EventKind::ToolInputDelta(_)
        | EventKind::ToolOutputDelta(_)
        | EventKind::ModelRetry(_)
        | EventKind::FilesChanged(_)
        | EventKind::SessionCreated(_)
        | EventKind::SessionUpdated(_)
        | EventKind::SessionReset(_)
        | EventKind::MessageCreated(_)
        | EventKind::MessageUpdated(_)
        | EventKind::MessagesCleared(_) => Ok(()),
    }
}

/// Stores title and times, and answers the session with the counts that its rows have.
fn put_session(tx: &Transaction<'_>, event: SessionEvent) -> rusqlite::Result<SessionEvent> {
    let session = event.session;
    tx.prepare_cached(
        "INSERT INTO sessions (id, title, created_at, updated_at, spent, permission_mode)
         VALUES (?1, ?2, ?3, ?4, ?5, (SELECT permission_mode FROM sessions ORDER BY ord DESC LIMIT 1))
         ON CONFLICT (id) DO UPDATE SET title = excluded.title, updated_at = excluded.updated_at",
    )?
    .execute(params![
        session.id.as_str(),
        session.title,
        session.created_at.to_string(),
        session.updated_at.to_string(),
        json(&Spent::default())?,
    ])?;
    Ok(SessionEvent { session: super::read::session(tx)?.map_or(session, |row| row.session()) })
}

/// Row and id of the current session.
pub(super) fn current_session(tx: &Transaction<'_>) -> rusqlite::Result<Option<(i64, String)>> {
    tx.prepare_cached("SELECT ord, id FROM sessions ORDER BY ord DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

fn touch(tx: &Transaction<'_>, at: Timestamp) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE sessions SET updated_at = ?1 WHERE ord = (SELECT MAX(ord) FROM sessions)")?
        .execute([at.to_string()])
        .map(drop)
}

/// Stores a message whole, and answers what is shown of it.
fn put_message(tx: &Transaction<'_>, here: &At<'_>, mut message: Message) -> rusqlite::Result<MessageEvent> {
    message.seq = here.cursor.seq;
    let view = message.view();
    let open = message.finished_at.is_none();
    let changed = tx.prepare_cached("UPDATE messages SET open = ?2, view = ?3 WHERE id = ?1")?.execute(params![
        message.id.as_str(),
        open,
        json(&view)?
    ])?;
    if changed == 0 {
        tx.prepare_cached("INSERT INTO messages (id, role, open, view) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            message.id.as_str(),
            role(message.role),
            open,
            json(&view)?
        ])?;
        count(tx, message.role)?;
        touch(tx, here.at)?;
    }
    let ord: i64 = tx
        .prepare_cached("SELECT ord FROM messages WHERE id = ?1")?
        .query_row([message.id.as_str()], |row| row.get(0))?;
    if changed > 0 {
        tx.prepare_cached("DELETE FROM parts WHERE message = ?1")?.execute([ord])?;
    }
    for (index, (whole, shown)) in message.parts.iter().zip(&view.parts).enumerate() {
        if whole != shown {
            tx.prepare_cached("INSERT INTO parts (message, idx, whole) VALUES (?1, ?2, ?3)")?.execute(params![
                ord,
                index as i64,
                json(whole)?
            ])?;
        }
    }
    Ok(MessageEvent { message: view })
}

/// Stores a tool's result whole, beside the row of its message: that is written again only with a `message_updated`.
/// A message that has its end stays as it is.
fn put_result(tx: &Transaction<'_>, event: &ToolCallCompleted) -> rusqlite::Result<()> {
    let part = Part::ToolResult(ToolResult {
        tool_call_id: event.tool_call_id.clone(),
        content: event.output.clone(),
        metadata: event.metadata.clone(),
        is_error: event.is_error,
        truncated: false,
        size: None,
    });
    tx.prepare_cached(
        "INSERT INTO parts (message, idx, whole) SELECT ord, ?2, ?3 FROM messages WHERE id = ?1 AND open
         ON CONFLICT (message, idx) DO UPDATE SET whole = excluded.whole",
    )?
    .execute(params![event.message_id.as_str(), event.part_index, json(&part)?])
    .map(drop)
}

/// The column of `sessions` that counts messages of a role.
fn count(tx: &Transaction<'_>, role: Role) -> rusqlite::Result<()> {
    let column = match role {
        Role::User => "user_messages",
        Role::Assistant => "assistant_messages",
        Role::Tool => "tool_messages",
    };
    tx.prepare_cached(&format!(
        "UPDATE sessions SET {column} = {column} + 1 WHERE ord = (SELECT MAX(ord) FROM sessions)"
    ))?
    .execute([])
    .map(drop)
}

/// A role as its column has it.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

fn delete_messages(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch("DELETE FROM parts; DELETE FROM messages; DELETE FROM permissions")?;
    tx.execute("DELETE FROM meta WHERE key = ?1", [CONTEXT])?;
    tx.execute(
        "UPDATE sessions SET user_messages = 0, assistant_messages = 0, tool_messages = 0
         WHERE ord = (SELECT MAX(ord) FROM sessions)",
        [],
    )
    .map(drop)
}

pub(super) fn change_agent(tx: &Transaction<'_>, change: impl FnOnce(&mut AgentRow)) -> rusqlite::Result<()> {
    let mut agent = get::<AgentRow>(tx, "agent")?.unwrap_or(AgentRow {
        status: Activity::Idle,
        operation: None,
        since: None,
        model: None,
        turn_id: None,
        last_turn_id: None,
        tools: Vec::new(),
    });
    change(&mut agent);
    put(tx, "agent", &agent)
}

/// What of the conversation a model is told.
pub(super) fn context(connection: &rusqlite::Connection) -> rusqlite::Result<ContextRow> {
    Ok(get(connection, CONTEXT)?.unwrap_or_default())
}

/// A value of `meta`.
pub(super) fn get<T: DeserializeOwned>(connection: &rusqlite::Connection, key: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    text.map(|text| super::read::parse(&text)).transpose()
}

pub(super) fn put(tx: &Transaction<'_>, key: &str, value: &impl Serialize) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute(params![key, json(value)?])
    .map(drop)
}

pub(super) fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
