//! The ledger: one row per provider call, attempts included.

use jiff::Timestamp;
use rusqlite::{Transaction, params};

use crate::domain::{
    id::{MessageId, TurnId},
    usage::Spent,
};

/// A provider call, whatever came of it.
#[derive(Clone, Debug)]
pub(crate) struct LedgerRow {
    /// The turn that it was made for.
    pub turn_id: TurnId,
    /// The message that it gave, if any.
    pub message_id: Option<MessageId>,
    /// When it began.
    pub at: Timestamp,
    /// What it was for: `turn` (an answer), `title`, or `compaction` (a summary).
    pub kind: &'static str,
    /// The model, as `provider/id`.
    pub model: String,
    /// 1 for the first try, and one more for each retry.
    pub attempt: u32,
    /// `ok`, `canceled`, or the code of what went wrong.
    pub outcome: &'static str,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Tokens and cost.
    pub spent: Spent,
    /// The price that was used, as JSON (dollars per million tokens by class); absent when unknown.
    pub price: Option<String>,
}

/// Stores a row and adds it to the sums of its turn and session.
pub(super) fn record(tx: &Transaction<'_>, row: &LedgerRow) -> rusqlite::Result<()> {
    let tokens = row.spent.tokens;
    let Some((ord, session)) = super::project::current_session(tx)? else {
        return Ok(());
    };
    tx.prepare_cached(
        "INSERT INTO ledger (session, turn, message, at, kind, model, attempt, outcome, duration_ms, prompt, completion,
         cache_read, cache_write, reasoning, price, cost) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)",
    )?
    .execute(params![
        session,
        row.turn_id.as_str(),
        row.message_id.as_ref().map(MessageId::as_str),
        row.at.to_string(),
        row.kind,
        row.model,
        row.attempt,
        row.outcome,
        row.duration_ms as i64,
        tokens.prompt as i64,
        tokens.completion as i64,
        tokens.cache_read as i64,
        tokens.cache_write as i64,
        tokens.reasoning as i64,
        row.price,
        row.spent.cost.map(|cost| cost.0),
    ])?;
    add(
        tx,
        "SELECT spent FROM turns WHERE id = ?1",
        "UPDATE turns SET spent = ?2 WHERE id = ?1",
        row.turn_id.as_str(),
        row.spent,
    )?;
    add(
        tx,
        "SELECT spent FROM sessions WHERE id = ?1",
        "UPDATE sessions SET spent = ?2 WHERE id = ?1",
        &session,
        row.spent,
    )?;
    let models: String = tx.query_row("SELECT models FROM sessions WHERE ord = ?1", [ord], |row| row.get(0))?;
    let mut models: Vec<String> = super::read::parse(&models)?;
    if !models.contains(&row.model) {
        models.push(row.model.clone());
        let models = serde_json::to_string(&models).unwrap_or_default();
        tx.execute("UPDATE sessions SET models = ?2 WHERE ord = ?1", params![ord, models])?;
    }
    Ok(())
}

fn add(tx: &Transaction<'_>, select: &str, update: &str, id: &str, spent: Spent) -> rusqlite::Result<()> {
    let before: String = tx.prepare_cached(select)?.query_row([id], |row| row.get(0))?;
    let before: Spent = super::read::parse(&before)?;
    let after = serde_json::to_string(&before.plus(spent)).unwrap_or_default();
    tx.prepare_cached(update)?.execute(params![id, after])?;
    Ok(())
}
