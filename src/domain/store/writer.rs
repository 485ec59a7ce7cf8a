//! The one writer: takes whatever is queued, commits it as one transaction, and only then shows it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};

use super::{
    AppendError, Batch, Entry, Head, Health, Names, OpenError, Pulse, Retention, Shared, keys, ledger, permission_rows,
    project, schema,
    streams::Streams,
    tail::{Logged, Tail},
    tally::Counting,
    turn_rows,
    upkeep::Due,
    version_rows, waiting,
};
use crate::domain::{
    cursor::Cursor,
    event::{Event, EventKind},
    id::{MessageId, TurnId},
    session::now,
};

/// Most batches that one transaction takes.
const GROUP: usize = 256;
/// Bytes of new events after which retention looks again.
const PRUNE_EVERY: u64 = 256 * 1024;
/// How long a full disk is left alone before it is looked at again; a command waits no longer.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(200);

/// The same where something is to be erased again.
const LOOK_TO_ERASE: Duration = Duration::from_millis(20);

/// A batch and where its answer goes.
pub(super) struct Command {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<u64, AppendError>>,
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) retention: Retention,
    pub(super) reserve: PathBuf,
    /// Row of this start in `epochs`.
    epoch_row: i64,
    /// Number of the last committed event.
    pub(super) last: u64,
    /// Bytes of JSON of all events ever stored.
    pub(super) total: u64,
    /// `total` when retention last looked.
    pruned_at: u64,
    /// Whether `synchronous` is FULL now.
    full_sync: bool,
    /// What could not be erased yet.
    pub(super) due: Option<Due>,
}

/// A log whose writer has panicked would leave every client waiting for ever: the process ends instead, and the next
/// start finds the log as it was after the last commit.
struct NeverHalf;

impl Drop for NeverHalf {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the log's writer panicked; the process ends");
            std::process::abort();
        }
    }
}

/// What is to be done once a transaction is committed.
#[derive(Default)]
struct Effects {
    events: Vec<Arc<Logged>>,
    last: u64,
    total: u64,
    floor: Option<u64>,
}

impl Writer {
    /// Opens the file, finds where the log stands, and stores this start's epoch, synced.
    pub(super) fn open(
        folder: &Path,
        file: &Path,
        retention: Retention,
        names: Names,
    ) -> Result<(Self, Arc<Shared>), OpenError> {
        let reserve = folder.join("reserve");
        let mut connection = match schema::open(file) {
            Err(OpenError::Sqlite(error)) if is_full(&error) => {
                let _ = std::fs::remove_file(&reserve);
                schema::open(file)?
            }
            other => other?,
        };
        let (last, total): (i64, i64) = connection
            .query_row("SELECT seq, total FROM events ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .or_else(none_is((0, 0)))?;
        let floor: i64 = connection
            .query_row("SELECT seq FROM events ORDER BY seq LIMIT 1", [], |row| row.get(0))
            .or_else(none_is(last + 1))?;
        // 48 random bits: short in a cursor, and two starts of one log never meet.
        let epoch = (uuid::Uuid::new_v4().as_u128() >> 80) as u64;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let tx = connection.transaction()?;
        tx.execute("INSERT INTO epochs (name, first_seq) VALUES (?1, ?2)", params![epoch as i64, last + 1])?;
        let epoch_row = tx.last_insert_rowid();
        tx.commit()?;
        let (refused, _) = watch::channel(0);
        let (head, _) = watch::channel(Head { seq: last as u64, health: Health::Writable, draining: None });
        let shared = Arc::new(Shared {
            tail: Tail::new(),
            head,
            pulse: Arc::new(Pulse::new()),
            counting: Counting::new(names),
            streams: Streams::default(),
            floor: AtomicU64::new(floor as u64),
            epoch,
            refused,
        });
        let mut writer = Self {
            connection,
            shared: Arc::clone(&shared),
            retention,
            reserve,
            epoch_row,
            last: last as u64,
            total: total as u64,
            pruned_at: 0,
            full_sync: true,
            due: None,
        };
        // Without room for the reserve the first write finds out; reading works all the same.
        writer.look_for_room();
        writer.erase_what_is_due();
        Ok((writer, shared))
    }

    /// Serves until every handle of the store is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let _guard = NeverHalf;
        let pulse = Arc::clone(&self.shared.pulse);
        let mut pruning = true;
        loop {
            let first = match queue.try_recv() {
                Ok(first) => first,
                Err(TryRecvError::Disconnected) => return,
                // Nobody waits: time for upkeep, one step at a time.
                Err(TryRecvError::Empty) if pruning => {
                    let _busy = pulse.begin();
                    pruning = self.prune_step();
                    continue;
                }
                Err(TryRecvError::Empty) if self.health() == Health::Full => {
                    std::thread::sleep(LOOK_FOR_ROOM);
                    self.look_for_room();
                    continue;
                }
                Err(TryRecvError::Empty) if self.due.is_some() => {
                    std::thread::sleep(LOOK_TO_ERASE);
                    let _busy = pulse.begin();
                    self.erase_again();
                    continue;
                }
                Err(TryRecvError::Empty) => match queue.blocking_recv() {
                    Some(first) => first,
                    None => return,
                },
            };
            let _busy = pulse.begin();
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.serve(group);
            if self.total.saturating_sub(self.pruned_at) >= PRUNE_EVERY {
                self.pruned_at = self.total;
                pruning = true;
            }
            // Also under a load that never leaves the queue empty.
            pruning = pruning && self.prune_step();
        }
    }

    fn serve(&mut self, group: Vec<Command>) {
        let group = match self.health() {
            Health::Writable => group,
            Health::Full => self.admit_when_full(group),
        };
        if group.is_empty() {
            return;
        }
        let (batches, waiting): (Vec<_>, Vec<_>) =
            group.into_iter().map(|command| (command.batch, command.done)).unzip();
        let ending = batches.iter().any(|batch| batch.ending);
        match self.commit(&batches) {
            Ok((ends, cleared)) => {
                // Before the answer: who is told that it is gone may look.
                if cleared {
                    self.erase_what_is_due();
                }
                for (done, end) in waiting.into_iter().zip(ends) {
                    let _ = done.send(Ok(end));
                }
            }
            Err(error) if is_full(&error) => {
                tracing::error!(%error, "the log cannot be written");
                let freed = ending && std::fs::remove_file(&self.reserve).is_ok();
                self.set_health(Health::Full);
                if freed {
                    let group = batches.into_iter().zip(waiting).map(|(batch, done)| Command { batch, done }).collect();
                    return self.serve_endings(group);
                }
                for done in waiting {
                    self.refuse(done, AppendError::Full);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a transaction of the log failed");
                let cause: Arc<str> = error.to_string().into();
                for done in waiting {
                    self.refuse(done, AppendError::Failed(Arc::clone(&cause)));
                }
            }
        }
    }

    /// On a full disk: back to normal if there is room for the reserve again; else only endings are tried.
    fn admit_when_full(&mut self, group: Vec<Command>) -> Vec<Command> {
        if self.look_for_room() {
            return group;
        }
        let (endings, others): (Vec<_>, Vec<_>) = group.into_iter().partition(|command| command.batch.ending);
        for command in others {
            self.refuse(command.done, AppendError::Full);
        }
        if !endings.is_empty() {
            let _ = std::fs::remove_file(&self.reserve);
            self.serve_endings(endings);
        }
        Vec::new()
    }

    fn serve_endings(&mut self, group: Vec<Command>) {
        for Command { batch, done } in group {
            let answer = if batch.ending {
                self.commit(std::slice::from_ref(&batch)).map(|(ends, _)| ends[0]).map_err(|error| {
                    tracing::error!(%error, "a turn's ending could not be stored; the next start writes it");
                    AppendError::Full
                })
            } else {
                Err(AppendError::Full)
            };
            let _ = done.send(answer);
        }
    }

    /// Commits the batches and shows them. Answers the last number of each, and whether content is to be erased.
    fn commit(&mut self, batches: &[Batch]) -> rusqlite::Result<(Vec<u64>, bool)> {
        let began = Instant::now();
        let full_sync = batches.iter().any(Batch::is_act);
        if full_sync != self.full_sync {
            self.connection.pragma_update(None, "synchronous", if full_sync { "FULL" } else { "NORMAL" })?;
            self.full_sync = full_sync;
        }
        let mut effects = Effects { last: self.last, total: self.total, ..Effects::default() };
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ends = Vec::with_capacity(batches.len());
        for batch in batches {
            for entry in &batch.entries {
                match entry {
                    Entry::Event { turn_id, token_id, kind } => {
                        let by = (turn_id.as_ref(), token_id.clone());
                        store(&tx, &mut effects, self.shared.epoch, self.epoch_row, by, kind)?;
                    }
                    Entry::Call(call) => ledger::open(&tx, call)?,
                    Entry::Ledger(row) => ledger::record(&tx, row)?,
                    Entry::Version(version) => version_rows::record(&tx, version)?,
                    Entry::VersionBefore { turn_id, version } => turn_rows::version_before(&tx, turn_id, *version)?,
                    Entry::Permission(row) => permission_rows::record(&tx, row)?,
                    Entry::Timeline { turn_id, timeline } => turn_rows::timeline(&tx, turn_id, timeline)?,
                    Entry::Note(words) => version_rows::note(&tx, words)?,
                    Entry::Forget(versions) => version_rows::forget(&tx, versions)?,
                    Entry::Queue(queued) => waiting::queue(&tx, queued)?,
                    Entry::Steer { turn_id, message } => waiting::steer(&tx, turn_id, message)?,
                    Entry::Key(key) => {
                        let here = Cursor { epoch: self.shared.epoch, seq: effects.last };
                        keys::record(&tx, key, here)?;
                    }
                }
            }
            ends.push(effects.last);
        }
        tx.commit()?;
        self.shared.counting.count(batches, began.elapsed());
        let Effects { events, last, total, floor } = effects;
        (self.last, self.total) = (last, total);
        self.shared.tail.push(events);
        if let Some(floor) = floor {
            self.set_floor(floor);
        }
        self.shared.head.send_modify(|head| head.seq = last);
        Ok((ends, floor.is_some()))
    }

    /// Says that a batch was not stored, also to who does not ask before more comes.
    fn refuse(&self, done: oneshot::Sender<Result<u64, AppendError>>, why: AppendError) {
        let _ = done.send(Err(why));
        self.shared.refused.send_modify(|count| *count += 1);
    }

    pub(super) fn set_floor(&self, floor: u64) {
        self.shared.floor.store(floor, Ordering::Release);
        self.shared.tail.drop_before(floor);
    }

    pub(super) fn health(&self) -> Health {
        self.shared.head.borrow().health
    }

    pub(super) fn set_health(&self, health: Health) {
        self.shared.head.send_modify(|head| head.health = health);
    }
}

/// Stores one event and what follows from it.
fn store(
    tx: &Transaction<'_>,
    effects: &mut Effects,
    epoch: u64,
    epoch_row: i64,
    (turn_id, token_id): (Option<&TurnId>, Option<Arc<str>>),
    kind: &EventKind,
) -> rusqlite::Result<()> {
    let seq = effects.last + 1;
    let cursor = Cursor { epoch, seq };
    let at = now();
    let (kind, floor) = project::apply(tx, &project::At { cursor, at, turn_id }, kind.clone())?;
    let event = Event { seq, at, turn_id: turn_id.cloned(), token_id, kind };
    let json = serde_json::to_string(&event).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    effects.total += json.len() as u64;
    effects.last = seq;
    let event_type = event.kind.event_type();
    if let Some(floor) = floor {
        tx.execute("DELETE FROM events WHERE seq < ?1", [floor as i64])?;
        effects.floor = Some(floor);
    }
    tx.prepare_cached(
        "INSERT INTO events (seq, epoch, at, total, turn_id, message_id, type, json) VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
    )?
    .execute(params![
        seq as i64,
        epoch_row,
        at.as_millisecond(),
        effects.total as i64,
        turn_id.map(TurnId::as_str),
        project::grows(&event.kind).map(MessageId::as_str),
        event_type.as_str(),
        json,
    ])?;
    effects.events.push(Arc::new(Logged::new(cursor, event_type, turn_id.map(TurnId::as_str), Bytes::from(json))));
    Ok(())
}

/// Whether the disk (or whatever is below the file) does not take more.
fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

fn none_is<T>(value: T) -> impl FnOnce(rusqlite::Error) -> rusqlite::Result<T> {
    move |error| {
        if error == rusqlite::Error::QueryReturnedNoRows { Ok(value) } else { Err(error) }
    }
}
