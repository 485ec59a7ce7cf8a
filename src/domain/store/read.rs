//! Reads: each in one transaction, together with the cursor up to which it holds.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Store, permission_rows, project, schema, tail::Logged};
use crate::domain::{
    cursor::Cursor,
    event::EventType,
    id::{MessageId, SessionId, ToolCallId, TurnId},
    permission::PermissionMode,
    session::{Session, SessionStats},
    status::Activity,
    turn::{Turn, TurnStatus},
    usage::{Spent, Usage},
};

/// Connections kept open for reading; more are opened under load and closed again.
const KEPT: usize = 3;
/// Reads at once.
const AT_ONCE: usize = 4;

/// The pool of reading connections, opened when first needed.
pub(super) struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// Bounds the threads and connections that reading takes, however many readers are behind.
    at_once: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, idle: Mutex::default(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Waits for a turn to read.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed, so that this cannot fail.
        Arc::clone(&self.at_once).acquire_owned().await.ok()
    }

    /// Runs a query in a read transaction. Blocks.
    pub(super) fn with<T>(&self, query: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.file)?,
        };
        let tx = connection.transaction()?;
        let answer = query(&Snapshot { tx: &tx });
        drop(tx);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(connection);
        }
        answer
    }
}

/// The state of the store at one moment.
pub(crate) struct Snapshot<'a> {
    pub(super) tx: &'a Transaction<'a>,
}

/// Which page of a list is wanted; checked by the noun that owns the list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRequest {
    /// At most this many.
    pub limit: u32,
    /// Skips this many from the beginning.
    pub offset: u64,
    /// Goes on after the row of this number.
    pub after: Option<i64>,
    /// Newest first.
    pub descending: bool,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// How many there are on all pages.
    pub total: u64,
    /// Number of the last row here, where more follow.
    pub next: Option<i64>,
}

/// The session with its sums.
#[derive(Clone, Debug)]
pub(super) struct SessionRow {
    id: SessionId,
    title: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Of the user, of models, of tools.
    pub(super) counts: [u64; 3],
    spent: Spent,
    models: Vec<String>,
    summary: Option<MessageId>,
    permission_mode: PermissionMode,
}

/// What the agent does, as the log has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AgentRow {
    /// The status.
    pub status: Activity,
    /// What it does beside running tools.
    pub operation: Option<String>,
    /// Since when the status holds.
    pub since: Option<Timestamp>,
    /// The model of the running or last turn.
    pub model: Option<String>,
    /// The turn that runs.
    pub turn_id: Option<TurnId>,
    /// The turn that ended last.
    pub last_turn_id: Option<TurnId>,
    /// The tool calls that run.
    pub tools: Vec<(ToolCallId, String)>,
}

/// What of the conversation a model is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ContextRow {
    /// The message with the summary of what came before it.
    pub summary: Option<MessageId>,
    /// The first message whose tool output is told.
    pub kept_from: Option<MessageId>,
}

impl Snapshot<'_> {
    /// The cursor up to which everything read here holds.
    pub(crate) fn as_of(&self, store: &Store) -> rusqlite::Result<Cursor> {
        let seq: Option<i64> = self
            .tx
            .prepare_cached("SELECT seq FROM events ORDER BY seq DESC LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        // A log that retention has emptied cannot be: it never drops the last events.
        Ok(Cursor { epoch: store.0.shared.epoch, seq: seq.unwrap_or(0) as u64 })
    }

    /// The session, if there is one.
    pub(crate) fn session(&self) -> rusqlite::Result<Option<Session>> {
        Ok(session(self.tx)?.map(|row| row.session()))
    }

    /// The session's counts; `current_model` is for the caller to fill.
    pub(crate) fn stats(&self) -> rusqlite::Result<Option<SessionStats>> {
        Ok(session(self.tx)?.map(|row| {
            let usage = Usage::from(row.spent);
            SessionStats {
                total_messages: row.counts.iter().sum(),
                user_messages: row.counts[0],
                assistant_messages: row.counts[1],
                tool_messages: row.counts[2],
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                total_cost: usage.cost,
                usage,
                last_activity: row.updated_at,
                models_used: row.models,
                current_model: None,
            }
        }))
    }

    /// The model that was set last.
    pub(crate) fn model(&self) -> rusqlite::Result<Option<String>> {
        project::get(self.tx, "model")
    }

    /// What the model of the next turn is told.
    pub(crate) fn notes(&self) -> rusqlite::Result<Vec<String>> {
        Ok(project::get(self.tx, project::NOTES)?.unwrap_or_default())
    }

    /// What the agent does.
    pub(crate) fn agent(&self) -> rusqlite::Result<Option<AgentRow>> {
        project::get(self.tx, "agent")
    }

    /// What of the conversation a model is told.
    pub(crate) fn context(&self) -> rusqlite::Result<ContextRow> {
        project::context(self.tx)
    }

    /// A turn, of this session or one before.
    pub(crate) fn turn(&self, id: &str) -> rusqlite::Result<Option<Turn>> {
        turn(self.tx, id)
    }

    /// The turns that have no end yet.
    pub(crate) fn running_turns(&self) -> rusqlite::Result<Vec<Turn>> {
        let mut statement = self.tx.prepare("SELECT turn, spent FROM turns WHERE status = 'running' ORDER BY ord")?;
        statement.query_map([], turn_row)?.collect()
    }

    /// A page of this session's turns.
    pub(crate) fn turns(&self, page: PageRequest) -> rusqlite::Result<Page<Turn>> {
        let Some((_, session)) = project::current_session(self.tx)? else {
            return Ok(Page { items: Vec::new(), total: 0, next: None });
        };
        let total: i64 = self
            .tx
            .prepare_cached("SELECT COUNT(*) FROM turns WHERE session = ?1")?
            .query_row([&session], |row| row.get(0))?;
        let mut statement = self.tx.prepare_cached(
            "SELECT turn, spent, ord FROM turns WHERE session = ?1 AND ord < ?2 ORDER BY ord DESC LIMIT ?3 OFFSET ?4",
        )?;
        let rows = statement
            .query_map(params![session, page.after.unwrap_or(i64::MAX), page.limit + 1, page.offset as i64], |row| {
                Ok((turn_row(row)?, row.get::<_, i64>(2)?))
            })?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = rows.len() > page.limit as usize;
        rows.truncate(page.limit as usize);
        let next = if more { rows.last().map(|(_, ord)| *ord) } else { None };
        let mut turns: Vec<Turn> = rows.into_iter().map(|(turn, _)| turn).collect();
        // A page of them is to stay below its bound.
        turns.iter_mut().filter_map(|turn| turn.timeline.as_mut()).for_each(|timeline| timeline.tools.clear());
        Ok(Page { items: turns, total: total as u64, next })
    }

    /// The events after `seq`, up to about `max_bytes` of them and at least one.
    pub(super) fn events_after(&self, seq: u64, max_bytes: usize) -> rusqlite::Result<Vec<Arc<Logged>>> {
        let mut statement = self.tx.prepare_cached(
            "SELECT e.seq, p.name, e.type, e.turn_id, e.json FROM events e JOIN epochs p ON p.id = e.epoch
             WHERE e.seq > ?1 ORDER BY e.seq",
        )?;
        let mut rows = statement.query([seq as i64])?;
        let mut events = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let json = row.get_ref(4)?.as_bytes()?;
            bytes += json.len();
            if bytes > max_bytes && !events.is_empty() {
                break;
            }
            let cursor = Cursor { epoch: row.get::<_, i64>(1)? as u64, seq: row.get::<_, i64>(0)? as u64 };
            // A type that this binary does not know cannot be: a file of a newer format is not opened.
            let Some(event_type) = EventType::parse(row.get_ref(2)?.as_str()?) else {
                continue;
            };
            let turn_id = row.get_ref(3)?.as_str_or_null()?;
            events.push(Arc::new(Logged::new(cursor, event_type, turn_id, Bytes::copy_from_slice(json))));
        }
        Ok(events)
    }

    /// The epoch of the first event after `seq`; `None` if there is none.
    pub(super) fn epoch_after(&self, seq: u64) -> rusqlite::Result<Option<u64>> {
        self.tx
            .query_row(
                "SELECT p.name FROM events e JOIN epochs p ON p.id = e.epoch WHERE e.seq > ?1 ORDER BY e.seq LIMIT 1",
                [seq as i64],
                |row| row.get::<_, i64>(0).map(|name| name as u64),
            )
            .optional()
    }

    /// First and last number of an epoch; `None` if this log has no such epoch.
    pub(super) fn epoch(&self, name: u64) -> rusqlite::Result<Option<(u64, u64)>> {
        self.tx
            .query_row(
                "SELECT first_seq, COALESCE((SELECT first_seq - 1 FROM epochs n WHERE n.id > e.id ORDER BY n.id LIMIT 1),
                 (SELECT MAX(seq) FROM events), 0) FROM epochs e WHERE name = ?1",
                [name as i64],
                |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)),
            )
            .optional()
    }
}

impl SessionRow {
    pub(super) fn session(&self) -> Session {
        let usage = Usage::from(self.spent);
        Session {
            id: self.id.clone(),
            parent_session_id: None,
            title: self.title.clone(),
            message_count: self.counts.iter().sum(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            summary_message_id: self.summary.clone(),
            cost: usage.cost,
            created_at: self.created_at,
            updated_at: self.updated_at,
            permission_mode: self.permission_mode,
        }
    }
}

pub(super) fn session(connection: &Connection) -> rusqlite::Result<Option<SessionRow>> {
    let summary = project::context(connection)?.summary;
    connection
        .prepare_cached(
            "SELECT id, title, created_at, updated_at, user_messages, assistant_messages, tool_messages, spent, models,
             permission_mode FROM sessions ORDER BY ord DESC LIMIT 1",
        )?
        .query_row([], |row| {
            let count = |index| row.get::<_, i64>(index).map(|count| count.max(0) as u64);
            Ok(SessionRow {
                id: row.get::<_, String>(0)?.into(),
                title: row.get(1)?,
                created_at: time(row, 2)?,
                updated_at: time(row, 3)?,
                counts: [count(4)?, count(5)?, count(6)?],
                spent: parse(&row.get::<_, String>(7)?)?,
                models: parse(&row.get::<_, String>(8)?)?,
                summary: summary.clone(),
                permission_mode: permission_rows::mode(connection, row.get(9)?)?,
            })
        })
        .optional()
}

pub(super) fn turn(connection: &Connection, id: &str) -> rusqlite::Result<Option<Turn>> {
    connection.prepare_cached("SELECT turn, spent FROM turns WHERE id = ?1")?.query_row([id], turn_row).optional()
}

fn turn_row(row: &Row<'_>) -> rusqlite::Result<Turn> {
    let mut turn: Turn = parse(&row.get::<_, String>(0)?)?;
    turn.usage = parse::<Spent>(&row.get::<_, String>(1)?)?.into();
    Ok(turn)
}

pub(super) fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    row.get::<_, String>(index)?.parse().map_err(|error: jiff::Error| broken(error.into()))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| broken(error.into()))
}

/// A row that this binary cannot read: reported as SQLite's own errors are.
fn broken(cause: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, cause)
}

/// Whether a turn has ended.
pub(crate) fn has_ended(turn: &Turn) -> bool {
    match turn.status {
        TurnStatus::Completed => true,
        TurnStatus::Queued | TurnStatus::Running => false,
    }
}
