//! What a turn has begun and not ended, for whoever ends it in its place.

use super::{
    OpenCall,
    read::{Snapshot, parse, time},
};
use crate::domain::{
    event::{Event, EventKind},
    id::TurnId,
    ledger::CallKind,
    message::Message,
    permission::Permission,
};

/// What a turn has begun and not ended.
pub(crate) struct Open {
    /// Messages, whole as far as they came.
    pub messages: Vec<Message>,
    /// The events of the tool calls, oldest first.
    pub tool_calls: Vec<Event>,
    /// Calls of providers.
    pub calls: Vec<OpenCall>,
    /// Permission requests.
    pub permissions: Vec<Permission>,
}

impl Snapshot<'_> {
    /// What this turn, the one that runs, has begun and not ended.
    pub(crate) fn open(&self, turn: &TurnId) -> rusqlite::Result<Open> {
        Ok(Open {
            messages: self.open_messages()?,
            tool_calls: self.open_tool_calls(turn)?,
            calls: self.open_calls(turn)?,
            permissions: self.open_permissions()?,
        })
    }

    fn open_tool_calls(&self, turn: &TurnId) -> rusqlite::Result<Vec<Event>> {
        let mut statement = self.tx.prepare(
            "SELECT json FROM events WHERE seq >= (SELECT first_seq FROM turns WHERE id = ?1) AND turn_id = ?1
             AND type IN ('tool_call_started', 'tool_call_completed') ORDER BY seq",
        )?;
        let mut open: Vec<Event> = Vec::new();
        for json in statement.query_map([turn.as_str()], |row| row.get::<_, String>(0))? {
            let event: Event = parse(&json?)?;
            if let EventKind::ToolCallCompleted(done) = &event.kind {
                open.retain(|open| match &open.kind {
                    EventKind::ToolCallStarted(started) => started.tool_call_id != done.tool_call_id,
                    _ => true,
                });
            } else {
                open.push(event);
            }
        }
        Ok(open)
    }

    fn open_calls(&self, turn: &TurnId) -> rusqlite::Result<Vec<OpenCall>> {
        let mut statement =
            self.tx.prepare_cached("SELECT at, kind, model, attempt FROM calls WHERE turn = ?1 ORDER BY at")?;
        let calls = statement.query_map([turn.as_str()], |row| {
            Ok(OpenCall {
                turn_id: turn.clone(),
                at: time(row, 0)?,
                kind: CallKind::named(row.get_ref(1)?.as_str()?).unwrap_or(CallKind::Turn),
                model: row.get(2)?,
                attempt: row.get(3)?,
            })
        });
        calls?.collect()
    }
}
