//! The writer's upkeep: retention, erasing, and the reserve for a full disk.

use std::{
    fs::OpenOptions,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use rustix::fs::{FallocateFlags, fallocate};

use super::{Health, project, schema, writer::Writer};

/// Events that one transaction of retention drops at most, so that nobody waits long behind it.
const PRUNE_EVENTS: u64 = 500;
/// Bytes set aside for the ending of a turn on a full disk.
const RESERVE: u64 = 1024 * 1024;
/// Bytes that have to be free beside the reserve before messages are taken again.
const ROOM: u64 = 256 * 1024;
/// How long content that could not be erased is left alone before that is tried again.
const ERASE_AGAIN: Duration = Duration::from_secs(5);
/// Longest that others who read the file are waited for then: nothing is stored meanwhile.
const ERASE_WAIT: Duration = Duration::from_millis(100);

/// Deleted content that is still in the file.
pub(super) struct Due {
    next: Instant,
    /// It is in the WAL alone.
    is_vacuumed: bool,
}

impl Writer {
    /// Whether there is room for the reserve and for a message; then the log takes events again.
    pub(super) fn look_for_room(&self) -> bool {
        let probe = self.reserve.with_extension("probe");
        let room = hold(&self.reserve, RESERVE).and_then(|()| hold(&probe, ROOM));
        // It may not even have been made.
        let _ = std::fs::remove_file(&probe);
        if room.is_ok() && self.health() == Health::Full {
            tracing::info!("there is room for the log again");
            self.set_health(Health::Writable);
        }
        room.is_ok()
    }

    /// After clear and reset: what was deleted is also gone from the file's free pages and from the WAL. What could
    /// not be erased is tried again, and what was cut short by a crash is erased at the next start.
    pub(super) fn erase_what_is_due(&mut self) {
        // Whatever was done of an earlier one: there is more now.
        self.due = None;
        if let Err(error) = self.erase() {
            tracing::warn!(%error, "deleted content is not erased from the file yet; it is tried again");
        }
    }

    /// Tries again if it is time to.
    pub(super) fn erase_again(&mut self) {
        if self.due.as_ref().is_none_or(|due| Instant::now() < due.next) {
            return;
        }
        let shortened = self.connection.busy_timeout(ERASE_WAIT);
        if shortened.and_then(|()| self.erase()).is_ok() {
            tracing::info!("deleted content is erased from the file now");
        }
        if let Err(error) = self.connection.busy_timeout(schema::BUSY_TIMEOUT) {
            tracing::error!(%error, "the log waits no longer for others who hold its file");
        }
    }

    fn erase(&mut self) -> rusqlite::Result<()> {
        let mut is_vacuumed = self.due.take().is_some_and(|due| due.is_vacuumed);
        let erased = self.try_erase(&mut is_vacuumed);
        if erased.is_err() {
            self.due = Some(Due { next: Instant::now() + ERASE_AGAIN, is_vacuumed });
        }
        erased
    }

    fn try_erase(&self, is_vacuumed: &mut bool) -> rusqlite::Result<()> {
        if project::get::<bool>(&self.connection, project::ERASE)? != Some(true) {
            return Ok(());
        }
        if !*is_vacuumed {
            self.connection.execute_batch("VACUUM")?;
            *is_vacuumed = true;
        }
        let busy: i64 = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        self.connection.execute("DELETE FROM meta WHERE key = ?1", [project::ERASE]).map(drop)
    }

    /// Drops some of what is too old or too much from the beginning of the log, never events of a turn that runs.
    /// Answers whether there may be more to drop.
    pub(super) fn prune_step(&mut self) -> bool {
        match self.try_prune() {
            Ok(dropped) => dropped,
            Err(error) => {
                tracing::warn!(%error, "retention failed; it is tried again later");
                false
            }
        }
    }

    fn try_prune(&mut self) -> rusqlite::Result<bool> {
        let floor = self.shared.floor.load(Ordering::Acquire);
        let age = i64::try_from(self.retention.age.as_millis()).unwrap_or(i64::MAX);
        let oldest = Timestamp::now().as_millisecond().saturating_sub(age);
        let too_much = i64::try_from(self.total.saturating_sub(self.retention.bytes)).unwrap_or(i64::MAX);
        let running: Option<i64> = self
            .connection
            .prepare_cached("SELECT MIN(first_seq) FROM turns WHERE status = 'running'")?
            .query_row([], |row| row.get(0))?;
        // The last event always stays: it says where the log stands.
        let end = running.unwrap_or(i64::MAX).min(self.last as i64).min((floor + PRUNE_EVENTS) as i64);
        let last: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT seq FROM events WHERE seq < ?1 AND (at < ?2 OR total <= ?3) ORDER BY seq DESC LIMIT 1",
            )?
            .query_row(params![end, oldest, too_much], |row| row.get(0))
            .optional()?;
        let Some(last) = last else { return Ok(false) };
        self.connection.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([last])?;
        self.set_floor(last as u64 + 1);
        Ok(last + 1 >= (floor + PRUNE_EVENTS) as i64)
    }
}

/// Makes a file hold that many bytes of the disk.
fn hold(path: &Path, bytes: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}
