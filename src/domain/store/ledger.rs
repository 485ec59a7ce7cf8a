//! The ledger: one row per provider call, attempts included. Sums of turn and session follow in the same transaction.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{
    project,
    read::{Page, PageRequest, Snapshot, parse, time},
};
use crate::domain::{
    agent::Used,
    id::{MessageId, TurnId},
    ledger::{CallKind, LedgerEntry},
    model::Price,
    money::Picodollars,
    usage::{Spent, Tokens},
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
    /// What it was for.
    pub kind: CallKind,
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
    /// The price that was used; absent when unknown.
    pub price: Option<Price>,
}

/// A provider call that runs.
#[derive(Clone, Debug)]
pub(crate) struct OpenCall {
    /// The turn that it is made for.
    pub turn_id: TurnId,
    /// When it began.
    pub at: Timestamp,
    /// What it is for.
    pub kind: CallKind,
    /// The model, as `provider/id`.
    pub model: String,
    /// 1 for the first try, and one more for each retry.
    pub attempt: u32,
}

/// Notes a call that begins.
pub(super) fn open(tx: &Transaction<'_>, call: &OpenCall) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO calls (turn, kind, at, model, attempt) VALUES (?1,?2,?3,?4,?5)")?
        .execute(params![call.turn_id.as_str(), call.kind.as_str(), call.at.to_string(), call.model, call.attempt])
        .map(drop)
}

/// Stores a row and adds it to the sums of its turn and session.
pub(super) fn record(tx: &Transaction<'_>, row: &LedgerRow) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM calls WHERE turn = ?1 AND kind = ?2")?
        .execute([row.turn_id.as_str(), row.kind.as_str()])?;
    let tokens = row.spent.tokens;
    let Some((ord, session)) = project::current_session(tx)? else {
        return Ok(());
    };
    tx.prepare_cached(
        "INSERT INTO ledger (session, turn, message, at, kind, model, attempt, outcome, duration_ms, prompt, completion,
         cache_read, cache_write, reasoning, price, cost, complete)
         VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)",
    )?
    .execute(params![
        session,
        row.turn_id.as_str(),
        row.message_id.as_ref().map(MessageId::as_str),
        row.at.to_string(),
        row.kind.as_str(),
        row.model,
        row.attempt,
        row.outcome,
        row.duration_ms as i64,
        tokens.prompt as i64,
        tokens.completion as i64,
        tokens.cache_read as i64,
        tokens.cache_write as i64,
        tokens.reasoning as i64,
        row.price.map(stored_price).transpose()?,
        row.spent.cost.map(|cost| cost.0),
        row.spent.unpriced_calls == 0,
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
    let mut models: Vec<String> = parse(&models)?;
    if !models.contains(&row.model) {
        models.push(row.model.clone());
        let models = serde_json::to_string(&models).unwrap_or_default();
        tx.execute("UPDATE sessions SET models = ?2 WHERE ord = ?1", params![ord, models])?;
    }
    Ok(())
}

fn add(tx: &Transaction<'_>, select: &str, update: &str, id: &str, spent: Spent) -> rusqlite::Result<()> {
    let before: String = tx.prepare_cached(select)?.query_row([id], |row| row.get(0))?;
    let before: Spent = parse(&before)?;
    let after = serde_json::to_string(&before.plus(spent)).unwrap_or_default();
    tx.prepare_cached(update)?.execute(params![id, after])?;
    Ok(())
}

/// A price as the column has it: picodollars for a token.
#[derive(Serialize, Deserialize)]
struct StoredPrice {
    input: i64,
    output: i64,
    cache_read: i64,
    cache_write: i64,
}

fn stored_price(price: Price) -> rusqlite::Result<String> {
    let Price { input, output, cache_read, cache_write } = price;
    let stored = StoredPrice { input: input.0, output: output.0, cache_read: cache_read.0, cache_write: cache_write.0 };
    serde_json::to_string(&stored).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

impl Snapshot<'_> {
    /// What the session has used, for its budgets; the time of a turn that runs is not in it.
    pub(crate) fn used(&self) -> rusqlite::Result<Used> {
        let used = self.tx.query_row("SELECT spent, busy_ms FROM sessions ORDER BY ord DESC LIMIT 1", [], |row| {
            let spent = parse(&row.get::<_, String>(0)?)?;
            Ok(Used { spent, time: Duration::from_millis(row.get::<_, i64>(1)?.max(0) as u64) })
        });
        Ok(used.optional()?.unwrap_or_default())
    }

    /// A page of this session's ledger, or of that of one turn, of whichever session.
    pub(crate) fn ledger(&self, page: PageRequest, turn: Option<&str>) -> rusqlite::Result<Page<LedgerEntry>> {
        let (column, of) = match (turn, project::current_session(self.tx)?) {
            (Some(turn), _) => ("turn", turn.to_owned()),
            (None, Some((_, session))) => ("session", session),
            (None, None) => return Ok(Page { items: Vec::new(), total: 0, next: None }),
        };
        let total: i64 = self
            .tx
            .prepare_cached(&format!("SELECT COUNT(*) FROM ledger WHERE {column} = ?1"))?
            .query_row([&of], |row| row.get(0))?;
        let (beyond, order, from) = if page.descending { ("<", "DESC", i64::MAX) } else { (">", "ASC", 0) };
        let mut statement = self.tx.prepare_cached(&format!(
            "SELECT id, at, turn, message, kind, model, attempt, outcome, duration_ms, prompt, completion, cache_read,
             cache_write, reasoning, price, cost, complete FROM ledger
             WHERE {column} = ?1 AND id {beyond} ?2 ORDER BY id {order} LIMIT ?3 OFFSET ?4"
        ))?;
        let wanted = params![of, page.after.unwrap_or(from), page.limit + 1, page.offset as i64];
        let rows = statement.query_map(wanted, |row| Ok((entry(row)?, row.get::<_, i64>(0)?)))?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = rows.len() > page.limit as usize;
        rows.truncate(page.limit as usize);
        let next = if more { rows.last().map(|(_, id)| *id) } else { None };
        Ok(Page { items: rows.into_iter().map(|(entry, _)| entry).collect(), total: total as u64, next })
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let count = |index| row.get::<_, i64>(index).map(|count| count.max(0) as u64);
    let tokens = Tokens {
        prompt: count(9)?,
        completion: count(10)?,
        cache_read: count(11)?,
        cache_write: count(12)?,
        reasoning: count(13)?,
    };
    let cost = row.get::<_, Option<i64>>(15)?.map(Picodollars);
    let spent = Spent { tokens, cost, unpriced_calls: u64::from(!row.get::<_, bool>(16)?), ..Spent::default() };
    let price: Option<StoredPrice> = row.get::<_, Option<String>>(14)?.map(|price| parse(&price)).transpose()?;
    let price = price.map(|price| Price {
        input: Picodollars(price.input),
        output: Picodollars(price.output),
        cache_read: Picodollars(price.cache_read),
        cache_write: Picodollars(price.cache_write),
    });
    Ok(LedgerEntry {
        id: format!("c{}", row.get::<_, i64>(0)?),
        at: time(row, 1)?,
        turn_id: row.get::<_, String>(2)?.into(),
        message_id: row.get::<_, Option<String>>(3)?.map(Into::into),
        // A kind that this binary does not know cannot be: a file of a newer format is not opened.
        kind: CallKind::named(row.get_ref(4)?.as_str()?).unwrap_or(CallKind::Turn),
        model: row.get(5)?,
        attempt: row.get(6)?,
        outcome: row.get(7)?,
        duration_ms: count(8)?,
        usage: spent.into(),
        price: price.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The figure of the README: beside the sync, which the message's end needs anyway.
    #[test]
    fn a_row_adds_less_than_a_millisecond() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut connection = super::super::schema::open(&folder.path().join("log")).expect("a log");
        let spent = serde_json::to_string(&Spent::default()).expect("JSON");
        let insert = "INSERT INTO sessions (id, title, created_at, updated_at, spent) VALUES ('s', '', '', '', ?1)";
        connection.execute(insert, [&spent]).expect("a session");
        let insert = "INSERT INTO turns (id, session, status, first_seq, turn, spent) VALUES ('t', 's', '', 1, '', ?1)";
        connection.execute(insert, [&spent]).expect("a turn");
        let tokens = Tokens { prompt: 12_345, completion: 678, cache_read: 9_000, ..Tokens::default() };
        let price = Price { input: Picodollars(4_000_000), ..Price::default() };
        let row = LedgerRow {
            turn_id: "t".to_owned().into(),
            message_id: Some("m".to_owned().into()),
            at: Timestamp::UNIX_EPOCH,
            kind: CallKind::Turn,
            model: "anthropic/claude-opus-5-5".into(),
            attempt: 1,
            outcome: "ok",
            duration_ms: 1,
            spent: Spent::call(tokens, Some(price.cost(&tokens))),
            price: Some(price),
        };
        let mut times = Vec::new();
        for _ in 0..300 {
            let tx = connection.transaction().expect("a transaction");
            let began = Instant::now();
            record(&tx, &row).expect("a row");
            times.push(began.elapsed());
            tx.commit().expect("it is stored");
        }
        times.sort_unstable();
        println!("a row: median {:?}, 99 of 100 below {:?}", times[150], times[297]);
        assert!(times[150] < Duration::from_millis(1), "{:?}", times[150]);
    }
}
