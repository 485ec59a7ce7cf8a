//! Reads of messages: a row, what its view left out, and the deltas since it was written.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, params};

use super::{
    project,
    read::{Page, PageRequest, Snapshot, parse, session},
};
use crate::domain::{
    event::{Event, EventKind},
    message::{Message, Role},
    part::{Part, Reasoning, Text},
};

/// Most bytes of message JSON that one page carries; it may end early.
const PAGE_BYTES: usize = 2 * 1024 * 1024 + 512 * 1024;

impl Snapshot<'_> {
    /// A page of the messages, as lists show them.
    pub(crate) fn messages(&self, role: Option<Role>, page: PageRequest) -> rusqlite::Result<Page<Message>> {
        let counts = session(self.tx)?.map_or([0; 3], |row| row.counts);
        let total = match role {
            Some(Role::User) => counts[0],
            Some(Role::Assistant) => counts[1],
            Some(Role::Tool) => counts[2],
            None => counts.iter().sum(),
        };
        let (comparison, order) = if page.descending { ("<", "DESC") } else { (">", "ASC") };
        let by_role = if role.is_some() { "role = ?1 AND" } else { "?1 = '' AND" };
        let after = page.after.unwrap_or(if page.descending { i64::MAX } else { 0 });
        let mut statement = self.tx.prepare_cached(&format!(
            "SELECT ord, view FROM messages WHERE {by_role} ord {comparison} ?2 ORDER BY ord {order} LIMIT ?3 OFFSET ?4"
        ))?;
        let role = role.map_or("", project::role);
        let mut rows = statement.query(params![role, after, page.limit + 1, page.offset as i64])?;
        let mut found = Page { items: Vec::new(), total, next: None };
        let (mut last, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let view: String = row.get(1)?;
            let message = self.shown(&view)?;
            // One that grows has more to show than its row.
            bytes += if message.finished_at.is_some() { view.len() } else { message.shown_bytes().max(view.len()) };
            if found.items.len() == page.limit as usize || (bytes > PAGE_BYTES && !found.items.is_empty()) {
                found.next = Some(last);
                break;
            }
            last = row.get(0)?;
            found.items.push(message);
        }
        Ok(found)
    }

    /// A message, as lists show it.
    pub(crate) fn message(&self, id: &str) -> rusqlite::Result<Option<Message>> {
        let view: Option<String> = self
            .tx
            .prepare_cached("SELECT view FROM messages WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        view.map(|view| self.shown(&view)).transpose()
    }

    /// A message with all its parts whole.
    pub(crate) fn whole_message(&self, id: &str) -> rusqlite::Result<Option<Message>> {
        let view: Option<String> = self
            .tx
            .prepare_cached("SELECT view FROM messages WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        view.map(|view| self.unfold(&view)).transpose()
    }

    /// All messages with all their parts whole, in order: what a model is told.
    pub(crate) fn history(&self) -> rusqlite::Result<Vec<Message>> {
        let mut statement = self.tx.prepare_cached("SELECT view FROM messages ORDER BY ord")?;
        let views = statement.query_map([], |row| row.get::<_, String>(0))?;
        views.map(|view| self.unfold(&view?)).collect()
    }

    /// The messages that have no end yet, whole.
    pub(super) fn open_messages(&self) -> rusqlite::Result<Vec<Message>> {
        let mut statement = self.tx.prepare("SELECT view FROM messages WHERE open ORDER BY ord")?;
        let views = statement.query_map([], |row| row.get::<_, String>(0))?;
        views.map(|view| self.unfold(&view?)).collect()
    }

    /// A message from its row as lists show it, with what streamed since; that may have grown past what is cut.
    fn shown(&self, view: &str) -> rusqlite::Result<Message> {
        let message = self.fold(parse(view)?)?;
        Ok(if message.finished_at.is_some() { message } else { message.view() })
    }

    /// A message from its row: what lists cut is whole again, and what streamed since is in it.
    fn unfold(&self, view: &str) -> rusqlite::Result<Message> {
        self.fold(self.whole(parse(view)?, |_| true)?)
    }

    /// Adds what came after the row of an unfinished message was written: deltas, and the results of tools.
    fn fold(&self, mut message: Message) -> rusqlite::Result<Message> {
        if message.finished_at.is_some() {
            return Ok(message);
        }
        let mut statement =
            self.tx.prepare_cached("SELECT json FROM events WHERE seq > ?1 AND message_id = ?2 ORDER BY seq")?;
        let later =
            statement.query_map(params![message.seq as i64, message.id.as_str()], |row| row.get::<_, String>(0))?;
        let mut completed = HashSet::new();
        for json in later {
            let event: Event = parse(&json?)?;
            if let EventKind::ToolCallCompleted(event) = &event.kind {
                completed.insert(event.part_index as usize);
            }
            fold(&mut message, event);
        }
        // The events have them cut.
        if completed.is_empty() { Ok(message) } else { self.whole(message, |index| completed.contains(&index)) }
    }

    /// Replaces what lists and events cut by the whole, in the parts that are wanted.
    fn whole(&self, mut message: Message, wanted: impl Fn(usize) -> bool) -> rusqlite::Result<Message> {
        let mut statement = self.tx.prepare_cached(
            "SELECT idx, whole FROM parts WHERE message = (SELECT ord FROM messages WHERE id = ?1) ORDER BY idx",
        )?;
        let parts =
            statement.query_map([message.id.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        for part in parts {
            let (index, whole) = part?;
            if let Some(part) = message.parts.get_mut(index as usize).filter(|_| wanted(index as usize)) {
                *part = parse::<Part>(&whole)?;
            }
        }
        Ok(message)
    }
}

/// Applies an event to the message that it adds to.
fn fold(message: &mut Message, event: Event) {
    match event.kind {
        EventKind::ContentDelta(delta) => {
            message.append(delta.part_index as usize, &delta.text, || Part::Text(Text::default()));
        }
        EventKind::ReasoningDelta(delta) => {
            message.append(delta.part_index as usize, &delta.text, || Part::Reasoning(Reasoning::default()));
        }
        EventKind::ToolInputDelta(delta) | EventKind::ToolOutputDelta(delta)
            if (delta.part_index as usize) < message.parts.len() =>
        {
            message.append(delta.part_index as usize, &delta.text, || Part::Text(Text::default()));
        }
        EventKind::ToolCallCompleted(completed) => {
            if let Some(Part::ToolResult(result)) = message.parts.get_mut(completed.part_index as usize) {
                (result.content, result.metadata, result.is_error) =
                    (completed.output, completed.metadata, completed.is_error);
            }
        }
        _ => {}
    }
    message.seq = event.seq;
}
