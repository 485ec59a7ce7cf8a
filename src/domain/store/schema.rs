//! The tables, and how an older file becomes a current one.

use rusqlite::Connection;

use super::OpenError;

/// The format that this binary reads and writes; a file of a higher one is refused.
const VERSION: i64 = 2;

/// How long a connection waits for another's lock.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

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
  view TEXT NOT NULL);
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

/// What format 2 has beside format 1, where messages had a number that nobody has read.
const VERSIONS: &str = "
-- One row per version of the workspace; lacks: what it says nothing about. A number is never used again.
CREATE TABLE versions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, tree TEXT NOT NULL, at TEXT NOT NULL, turn TEXT, cause TEXT NOT NULL,
  files_changed INTEGER NOT NULL, lacks BLOB NOT NULL);
-- Who changed a file last.
CREATE TABLE origins (
  path BLOB PRIMARY KEY, version INTEGER NOT NULL, cause TEXT NOT NULL, at TEXT NOT NULL, turn TEXT, tool_call TEXT)
  WITHOUT ROWID;
";
const FROM_1: &str = "ALTER TABLE messages DROP COLUMN seq";

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
    let change = match found {
        0 => TABLES,
        1 => FROM_1,
        VERSION => return Ok(connection),
        _ => return Err(OpenError::Newer { found, known: VERSION }),
    };
    let transaction = connection.transaction()?;
    transaction.execute_batch(change)?;
    transaction.execute_batch(VERSIONS)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
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
    fn a_file_of_format_1_becomes_a_current_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("log");
        let old = Connection::open(&file).expect("a file");
        old.execute_batch(TABLES).expect("tables");
        old.execute_batch("ALTER TABLE messages ADD COLUMN seq INTEGER NOT NULL DEFAULT 0").expect("a column");
        old.pragma_update(None, "user_version", 1).expect("a version");
        drop(old);
        let insert = "INSERT INTO messages (id, role, open, view) VALUES ('a', 'user', 0, '{}')";
        for _ in 0..2 {
            let current = open(&file).expect("it opens");
            assert!(current.prepare("SELECT seq FROM messages").is_err());
            current.execute_batch("DELETE FROM messages").expect("a table");
            current.execute_batch(insert).expect("a row");
        }
    }
}
