//! The rows of turns, written in the transactions of their events.

use rusqlite::{Transaction, params};

use super::{project, read, waiting};
use crate::domain::{
    cursor::Cursor,
    event::TurnStarted,
    id::TurnId,
    timeline::Timeline,
    turn::{Turn, TurnStatus},
    usage::{Spent, Usage},
};

pub(super) fn start_turn(tx: &Transaction<'_>, here: &project::At<'_>, event: &TurnStarted) -> rusqlite::Result<()> {
    let (Some(id), Some((_, session))) = (here.turn_id, project::current_session(tx)?) else {
        return Ok(());
    };
    // The user message is the event before: the turn's view begins with it.
    let first = Cursor { epoch: here.cursor.epoch, seq: here.cursor.seq.saturating_sub(1) };
    // One that was queued has its row, and keeps its place among the others.
    let queued = read::turn(tx, id.as_str())?;
    let turn = Turn {
        id: id.clone(),
        status: TurnStatus::Running,
        finish_reason: None,
        error: None,
        model: event.model.clone(),
        user_message_id: event.user_message_id.clone(),
        message_id: None,
        version_before: None,
        version_after: None,
        usage: Usage::from(Spent::default()),
        timeline: None,
        created_at: queued.map_or(here.at, |queued| queued.created_at),
        started_at: Some(here.at),
        finished_at: None,
        first_cursor: first.to_string(),
        last_cursor: None,
    };
    tx.prepare_cached(
        "INSERT INTO turns (id, session, status, first_seq, turn, spent) VALUES (?1, ?2, 'running', ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET status = 'running', first_seq = excluded.first_seq, turn = excluded.turn",
    )?
    .execute(params![
        id.as_str(),
        session,
        first.seq as i64,
        project::json(&turn)?,
        project::json(&Spent::default())?
    ])?;
    waiting::dequeue(tx, id)?;
    project::change_agent(tx, |agent| {
        agent.turn_id = Some(id.clone());
        agent.model = Some(event.model.clone());
    })
}

pub(super) fn change_turn(
    tx: &Transaction<'_>,
    here: &project::At<'_>,
    change: impl FnOnce(&mut Turn),
) -> rusqlite::Result<()> {
    let Some(id) = here.turn_id else { return Ok(()) };
    let Some(mut turn) = read::turn(tx, id.as_str())? else {
        return Ok(());
    };
    change(&mut turn);
    let status = match turn.status {
        TurnStatus::Queued => "queued",
        TurnStatus::Running => "running",
        TurnStatus::Completed => "completed",
    };
    tx.prepare_cached("UPDATE turns SET status = ?2, turn = ?3 WHERE id = ?1")?
        .execute(params![id.as_str(), status, project::json(&turn)?])
        .map(drop)
}

/// Notes the version that a turn began with.
pub(super) fn version_before(tx: &Transaction<'_>, id: &TurnId, version: u64) -> rusqlite::Result<()> {
    change_turn(tx, &project::At::nowhere(id), |turn| turn.version_before = Some(format!("v{version}")))
}

/// Notes where a turn's time went.
pub(super) fn timeline(tx: &Transaction<'_>, id: &TurnId, timeline: &Timeline) -> rusqlite::Result<()> {
    change_turn(tx, &project::At::nowhere(id), |turn| turn.timeline = Some(timeline.clone()))
}

/// Adds the time that a turn has taken to that of its session.
pub(super) fn count_time(tx: &Transaction<'_>, here: &project::At<'_>) -> rusqlite::Result<()> {
    let Some(id) = here.turn_id else { return Ok(()) };
    let Some(began) = read::turn(tx, id.as_str())?.and_then(|turn| turn.started_at) else { return Ok(()) };
    let took = here.at.duration_since(began).as_millis().max(0);
    tx.prepare_cached(
        "UPDATE sessions SET busy_ms = busy_ms + ?2 WHERE id = (SELECT session FROM turns WHERE id = ?1)",
    )?
    .execute(params![id.as_str(), i64::try_from(took).unwrap_or(i64::MAX)])
    .map(drop)
}
