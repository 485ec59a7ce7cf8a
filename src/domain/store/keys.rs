//! The rows of idempotency keys: what was accepted under each, for a day.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};

use super::read::Snapshot;
use crate::domain::{cursor::Cursor, id::TurnId};

/// How long a key is kept, in milliseconds.
const KEPT_MS: i64 = crate::domain::repeat::KEPT.as_millis() as i64;
/// Most old rows that go with a new one: more than come, and few enough that nobody waits for them.
const FORGOTTEN: u32 = 100;

/// A key on its way into the log, in the transaction of what was accepted under it.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    /// The client's name for the request.
    pub name: String,
    /// What tells the request from others.
    pub fingerprint: Vec<u8>,
    /// What was accepted.
    pub accepted: Accepted,
}

/// What was accepted under a key.
#[derive(Clone, Debug)]
pub(crate) enum Accepted {
    /// A turn.
    Turn(TurnId),
    /// Something that was done at once; its answer as JSON.
    Answer(String),
}

/// A key that was used before.
#[derive(Clone, Debug)]
pub(crate) struct FoundKey {
    /// What tells its request from others.
    pub fingerprint: Vec<u8>,
    /// What was accepted.
    pub accepted: Accepted,
    /// Where the log stood then.
    pub as_of: Cursor,
}

/// Stores a key, and forgets some of those whose time is over.
pub(super) fn record(tx: &Transaction<'_>, key: &NewKey, here: Cursor) -> rusqlite::Result<()> {
    let NewKey { name, fingerprint, accepted } = key;
    let now = Timestamp::now().as_millisecond();
    let (turn, answer) = match accepted {
        Accepted::Turn(id) => (Some(id.as_str()), None),
        Accepted::Answer(json) => (None, Some(json)),
    };
    tx.prepare_cached(
        "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE at <= ?1 ORDER BY at LIMIT ?2) OR (key = ?3 AND at <= ?1)",
    )?
    .execute(params![now - KEPT_MS, FORGOTTEN, name])?;
    tx.prepare_cached(
        "INSERT INTO keys (key, at, epoch, seq, fingerprint, turn, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![name, now, here.epoch as i64, here.seq as i64, fingerprint, turn, answer])
    .map(drop)
}

impl Snapshot<'_> {
    /// What was accepted under a key in the last 24 h.
    pub(crate) fn key(&self, name: &str) -> rusqlite::Result<Option<FoundKey>> {
        let oldest = Timestamp::now().as_millisecond() - KEPT_MS;
        self.tx
            .prepare_cached("SELECT fingerprint, turn, answer, epoch, seq FROM keys WHERE key = ?1 AND at > ?2")?
            .query_row(params![name, oldest], |row| {
                let accepted = match row.get::<_, Option<String>>(1)? {
                    Some(id) => Accepted::Turn(id.into()),
                    None => Accepted::Answer(row.get(2)?),
                };
                let as_of = Cursor { epoch: row.get::<_, i64>(3)? as u64, seq: row.get::<_, i64>(4)? as u64 };
                Ok(FoundKey { fingerprint: row.get(0)?, accepted, as_of })
            })
            .optional()
    }
}
