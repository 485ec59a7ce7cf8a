//! The tables, and how an older file becomes a current one.

use rusqlite::Connection;

use super::OpenError;

/// How long a connection waits for another's lock.
pub(super) const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// What makes each format of the one before it, the first of an empty file. This binary reads and writes the last; a file
/// of a higher one is refused. A step that was shipped is never edited: what comes is one more.
const STEPS: [&str; 8] = [TABLES, VERSIONS, LEDGER, KEYS, BUDGETS, WAITING, PERMISSIONS, CALLS];
const VERSION: i64 = STEPS.len() as i64;

const TABLES: &str = "
-- One row per key: the chosen model, what the agent does, whether content is still to be erased.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- One row per start. An event's epoch is the last one whose first_seq is not above it.
CREATE TABLE epochs (id INTEGER PRIMARY KEY, name INTEGER NOT NULL UNIQUE, first_seq INTEGER NOT NULL);
-- total: bytes of json of this and all events before it, so that retention needs no sum.
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at INTEGER NOT NULL, total INTEGER NOT NULL,
  turn_id TEXT, message_id TEXT, type TEXT NOT NULL, json TEXT NOT NULL);
CREATE TABLE sessions (
  ord INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL, user_messages INTEGER NOT NULL DEFAULT 0, assistant_messages INTEGER NOT NULL DEFAULT 0,
  tool_messages INTEGER NOT NULL DEFAULT 0, spent TEXT NOT NULL, models TEXT NOT NULL DEFAULT '[]');
-- view: the message as events and lists show it, with the event that wrote it; later deltas are folded in when read.
CREATE TABLE messages (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, role TEXT NOT NULL, open INTEGER NOT NULL,
  view TEXT NOT NULL, seq INTEGER NOT NULL DEFAULT 0);
CREATE INDEX messages_by_role ON messages (role, ord);
-- Parts whose whole is more than the view shows.
CREATE TABLE parts (
  message INTEGER NOT NULL REFERENCES messages (ord) ON DELETE CASCADE, idx INTEGER NOT NULL, whole TEXT NOT NULL,
  PRIMARY KEY (message, idx)) WITHOUT ROWID;
CREATE TABLE turns (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, session TEXT NOT NULL, status TEXT NOT NULL,
  first_seq INTEGER NOT NULL, turn TEXT NOT NULL, spent TEXT NOT NULL);
CREATE INDEX turns_by_session ON turns (session, ord);
-- One row per provider call, attempts included. Money in picodollars; NULL where it is not known.
CREATE TABLE ledger (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, turn TEXT NOT NULL, message TEXT, at TEXT NOT NULL,
  kind TEXT NOT NULL, model TEXT NOT NULL, attempt INTEGER NOT NULL, outcome TEXT NOT NULL, duration_ms INTEGER NOT NULL,
  prompt INTEGER NOT NULL, completion INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL,
  reasoning INTEGER NOT NULL, price TEXT, cost INTEGER);
CREATE INDEX ledger_by_session ON ledger (session, id);
";

const VERSIONS: &str = "
-- Nobody has read it.
ALTER TABLE messages DROP COLUMN seq;
-- One row per version of the workspace; lacks: what it says nothing about. A number is never used again.
CREATE TABLE versions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, tree TEXT NOT NULL, at TEXT NOT NULL, turn TEXT, cause TEXT NOT NULL,
  files_changed INTEGER NOT NULL, lacks BLOB NOT NULL);
-- Who changed a file last.
CREATE TABLE origins (
  path BLOB PRIMARY KEY, version INTEGER NOT NULL, cause TEXT NOT NULL, at TEXT NOT NULL, turn TEXT, tool_call TEXT)
  WITHOUT ROWID;
";

const LEDGER: &str = "
-- Whether cost is all of it: price and tokens were known. Of older rows this follows from what came of them.
ALTER TABLE ledger ADD COLUMN complete INTEGER NOT NULL DEFAULT 0;
UPDATE ledger SET complete = cost IS NOT NULL AND CASE
  WHEN outcome = 'ok' THEN prompt + completion > 0
  ELSE outcome IN ('provider_error', 'provider_unavailable') AND message IS NULL AND prompt + completion = 0 END;
CREATE INDEX ledger_by_turn ON ledger (turn, id);
-- Was dollars for a million tokens, a missing cache price being that of input; now picodollars for a token.
UPDATE ledger SET price = json_object(
  'input', CAST(ROUND(price ->> 'input' * 1e6) AS INTEGER),
  'output', CAST(ROUND(price ->> 'output' * 1e6) AS INTEGER),
  'cache_read', CAST(ROUND(COALESCE(price ->> 'cache_read', price ->> 'input') * 1e6) AS INTEGER),
  'cache_write', CAST(ROUND(COALESCE(price ->> 'cache_write', price ->> 'input') * 1e6) AS INTEGER))
  WHERE price IS NOT NULL;
";

const KEYS: &str = "
-- One row per idempotency key: what was accepted under it, where the log then stood, and a hash of the request. A turn
-- is joined by its id, any other answer is given again.
CREATE TABLE keys (
  key TEXT PRIMARY KEY, at INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, fingerprint BLOB NOT NULL,
  turn TEXT, answer TEXT) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (at);
";

const BUDGETS: &str = "
-- Wall time of all turns of the session that have ended.
ALTER TABLE sessions ADD COLUMN busy_ms INTEGER NOT NULL DEFAULT 0;
UPDATE sessions SET busy_ms = (SELECT COALESCE(SUM(CAST(ROUND(86400000 *
  (julianday(turn ->> 'finished_at') - julianday(turn ->> 'started_at'))) AS INTEGER)), 0)
  FROM turns WHERE session = sessions.id AND status = 'completed');
UPDATE sessions SET spent = json_set(spent, '$.calls', (SELECT COUNT(*) FROM ledger
  WHERE session = sessions.id AND NOT (complete AND prompt + completion = 0 AND outcome <> 'ok')));
";

const WAITING: &str = "
-- What a turn with status queued begins with, in order.
CREATE TABLE queued (ord INTEGER PRIMARY KEY AUTOINCREMENT, turn TEXT NOT NULL UNIQUE, wish TEXT NOT NULL);
-- Messages for a running turn that it has not taken yet, in order. Those that are left at its end are created then.
CREATE TABLE steered (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, turn TEXT NOT NULL, message TEXT NOT NULL UNIQUE, content TEXT NOT NULL);
";

const PERMISSIONS: &str = "
-- The session's own mode; NULL: as the server is set.
ALTER TABLE sessions ADD COLUMN permission_mode TEXT;
-- One row per request, the newest ones.
CREATE TABLE permissions (
  ord INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, open INTEGER NOT NULL, permission TEXT NOT NULL);
CREATE INDEX permissions_open ON permissions (ord) WHERE open;
-- What was allowed until the session is reset.
CREATE TABLE grants (session TEXT NOT NULL, granted TEXT NOT NULL, PRIMARY KEY (session, granted)) WITHOUT ROWID;
";

const CALLS: &str = "
-- Provider calls that run: one of a kind at a time. What a crash leaves here becomes a row of the ledger.
CREATE TABLE calls (
  turn TEXT NOT NULL, kind TEXT NOT NULL, at TEXT NOT NULL, model TEXT NOT NULL, attempt INTEGER NOT NULL,
  PRIMARY KEY (turn, kind)) WITHOUT ROWID;
";

/// Opens the writer's connection and brings the file up to date.
pub(super) fn open(file: &std::path::Path) -> Result<Connection, OpenError> {
    let mut connection = Connection::open(file)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Kibibytes. The log is read from the tail in memory; SQLite's own default would double our idle size.
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.set_prepared_statement_cache_capacity(64);
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let missing = usize::try_from(found).ok().and_then(|done| STEPS.get(done..));
    let missing = missing.ok_or(OpenError::Newer { found, known: VERSION })?;
    if !missing.is_empty() {
        let transaction = connection.transaction()?;
        missing.iter().try_for_each(|step| transaction.execute_batch(step))?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// Opens a connection for reading.
pub(super) fn open_reader(file: &std::path::Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -512)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_each_older_format_becomes_a_current_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let tables = |connection: &Connection| -> Vec<String> {
            let sql = "SELECT name || ': ' || sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
            let mut statement = connection.prepare(sql).expect("a statement");
            statement.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("names")
        };
        let fresh = tables(&open(&folder.path().join("fresh")).expect("it opens"));
        for format in 1..STEPS.len() {
            let file = folder.path().join(format.to_string());
            let old = Connection::open(&file).expect("a file");
            STEPS[..format].iter().for_each(|step| old.execute_batch(step).expect("a step"));
            old.pragma_update(None, "user_version", format as i64).expect("a version");
            drop(old);
            for _ in 0..2 {
                assert_eq!(tables(&open(&file).expect("it opens")), fresh, "from format {format}");
            }
        }
    }
}
